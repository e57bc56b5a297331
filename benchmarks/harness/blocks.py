"""Blocks of layers, each in a small classifier that is trained on a task it can learn in seconds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import layers
from numpy.typing import NDArray

__all__ = ["BLOCKS", "POLICIES", "Task", "task", "trained"]

POLICIES = ("float32", "mixed_bfloat16", "mixed_float16")
CLASSES = 4
TOKENS = 32
BATCH = 64
STEPS = 80
TRAIN = 1024

Block = Callable[[Any], Any]
Task = tuple[NDArray[Any], NDArray[np.int64]]


def _images(*made: Any) -> Block:
    """Chain layers behind a convolution."""
    return lambda x: _chain(_stem(x), *made)


def _plain(*made: Any) -> Block:
    """Chain layers."""
    return lambda x: _chain(x, *made)


def _chain(x: Any, *made: Any) -> Any:
    for layer in made:
        x = layer()(x)
    return x


def _stem(x: Any, width: int = 8) -> Any:
    return layers.Conv2D(width, 3, strides=2, padding="same", activation="relu")(x)


def _conv_bn(x: Any) -> Any:
    return layers.ReLU()(layers.BatchNormalization(momentum=0.9)(layers.Conv2D(8, 3, use_bias=False)(_stem(x))))


def _residual(x: Any) -> Any:
    x = _stem(x)
    y = layers.BatchNormalization(momentum=0.9)(layers.Conv2D(8, 3, padding="same")(x))
    return layers.ReLU()(layers.Add()([x, y]))


def _inverted(x: Any) -> Any:
    x = _stem(x)
    y = layers.ReLU(6.0)(layers.Conv2D(24, 1)(x))
    y = layers.ReLU(6.0)(layers.DepthwiseConv2D(3, padding="same")(y))
    return layers.Add()([x, layers.Conv2D(8, 1)(y)])


def _concatenated(x: Any) -> Any:
    x = _stem(x)
    return layers.Concatenate()([layers.Conv2D(4, 1, activation="relu")(x), layers.Conv2D(4, 3, padding="same")(x)])


def _squeeze(x: Any) -> Any:
    x = _stem(x)
    y = layers.Dense(4, activation="relu")(layers.GlobalAveragePooling2D(keepdims=True)(x))
    return layers.Multiply()([x, layers.Dense(8, activation="sigmoid")(y)])


def _merged(x: Any) -> Any:
    x = _stem(x)
    y, z = layers.Conv2D(8, 1)(x), layers.Conv2D(8, 3, padding="same")(x)
    return layers.Subtract()([layers.Maximum()([x, y]), layers.Average()([y, z])])


def _nested(x: Any) -> Any:
    inner_in = keras.Input((6, 6, 8))
    inner = keras.Model(
        inner_in, layers.BatchNormalization(momentum=0.9)(layers.Conv2D(8, 3, padding="same")(inner_in))
    )
    deep = keras.Sequential([keras.Input((6, 6, 8)), inner, layers.ReLU()])
    return deep(_stem(x))


def _attention(x: Any) -> Any:
    x = layers.Dense(16)(x)
    return layers.LayerNormalization()(layers.Add()([x, layers.MultiHeadAttention(2, 8)(x, x)]))


def _normalized(x: Any) -> Any:
    rng = np.random.default_rng(0)
    return _stem(layers.Normalization(mean=rng.normal(0, 0.2, 3), variance=rng.uniform(0.5, 2, 3))(x))


BLOCKS: dict[str, tuple[str, Block]] = {
    # name: (kind of input, from input to features)
    "conv": ("image", _images(lambda: layers.Conv2D(8, 3, padding="same", activation="relu"))),
    "conv + batch norm": ("image", _conv_bn),
    "dilated conv": ("image", _images(lambda: layers.Conv2D(8, 3, dilation_rate=2, padding="same"))),
    "grouped conv": ("image", _images(lambda: layers.Conv2D(8, 3, groups=2, padding="same"))),
    "depthwise": ("image", _images(lambda: layers.DepthwiseConv2D(3, padding="same", activation="relu"))),
    "separable": ("image", _images(lambda: layers.SeparableConv2D(8, 3, padding="same", activation="relu"))),
    "inverted residual": ("image", _inverted),
    "residual": ("image", _residual),
    "batch norm alone": ("image", lambda x: _stem(layers.BatchNormalization(momentum=0.9)(x))),
    "PReLU": ("image", _images(lambda: layers.Conv2D(8, 1), lambda: layers.PReLU(shared_axes=[1, 2]))),
    "leaky ReLU": ("image", _images(lambda: layers.Conv2D(8, 1), layers.LeakyReLU)),
    "hard swish": ("image", _images(lambda: layers.Conv2D(8, 1, activation="hard_swish"))),
    "swish": ("image", _images(lambda: layers.Conv2D(8, 1, activation="swish"))),
    "GELU": ("image", _images(lambda: layers.Conv2D(8, 1, activation="gelu"))),
    "ELU": ("image", _images(lambda: layers.Conv2D(8, 1, activation="elu"))),
    "max pooling": ("image", _images(layers.MaxPooling2D)),
    "average pooling": ("image", _images(lambda: layers.AveragePooling2D(3, 2, padding="same"))),
    "global max pooling": ("image", _images(lambda: layers.Conv2D(16, 3), layers.GlobalMaxPooling2D)),
    "global average pooling": ("image", _images(lambda: layers.Conv2D(16, 3), layers.GlobalAveragePooling2D)),
    "concatenate": ("image", _concatenated),
    "squeeze and excite": ("image", _squeeze),
    "maximum, average, subtract": ("image", _merged),
    "transposed conv": ("image", _images(lambda: layers.Conv2DTranspose(8, 3, strides=2, padding="same"))),
    "upsampling, nearest": ("image", _images(layers.UpSampling2D, lambda: layers.Conv2D(4, 3))),
    "upsampling, bilinear": ("image", _images(lambda: layers.UpSampling2D(interpolation="bilinear"))),
    "padding and cropping": ("image", _images(lambda: layers.ZeroPadding2D(2), lambda: layers.Cropping2D((1, 2)))),
    "dropout": ("image", _images(lambda: layers.Dropout(0.2), lambda: layers.SpatialDropout2D(0.1))),
    "group norm": ("image", _images(lambda: layers.Conv2D(8, 1), lambda: layers.GroupNormalization(2))),
    "layer norm": ("image", _images(lambda: layers.Conv2D(8, 1), layers.LayerNormalization)),
    "rescaling": ("image", lambda x: _stem(layers.Rescaling(0.5, offset=0.25)(x))),
    "normalization": ("image", _normalized),
    "reshape, permute": ("image", _images(lambda: layers.Reshape((36, 8)), lambda: layers.Permute((2, 1)))),
    "nested models": ("image", _nested),
    "dense": ("vector", lambda x: layers.Dense(16, activation="tanh")(layers.Dense(32, activation="relu")(x))),
    "conv 1D": ("sequence", lambda x: layers.MaxPooling1D()(layers.Conv1D(8, 3, activation="relu")(x))),
    "attention": ("sequence", _attention),
    "LSTM": ("sequence", _plain(lambda: layers.LSTM(16))),
    "GRU": ("sequence", _plain(lambda: layers.GRU(16, return_sequences=True))),
    "bidirectional LSTM": ("sequence", _plain(lambda: layers.Bidirectional(layers.LSTM(8)))),
    "time distributed": ("sequence", _plain(lambda: layers.TimeDistributed(layers.Dense(8, activation="relu")))),
    "embedding": ("tokens", lambda x: layers.GlobalAveragePooling1D()(layers.Embedding(TOKENS, 8)(x))),
}
"""What is tried, by name."""

_SHAPES = {"image": (12, 12, 3), "vector": (24,), "sequence": (12, 6), "tokens": (16,)}


def task(kind: str, count: int, *, seed: int) -> Task:
    """Draw ``count`` inputs of four classes: a pattern of each class in noise, or tokens it prefers."""
    rng = np.random.default_rng([seed, count])
    labels = rng.integers(0, CLASSES, count)
    shape = _SHAPES[kind]
    if kind == "tokens":
        preferred = labels[:, None] * (TOKENS // CLASSES) + rng.integers(0, TOKENS // CLASSES, (count, *shape))
        return np.where(rng.random((count, *shape)) < 0.3, preferred, rng.integers(0, TOKENS, (count, *shape))).astype(
            np.int32
        ), labels
    patterns = np.random.default_rng(0).normal(0.0, 1.0, (CLASSES, *shape))
    if kind == "image":  # smooth, so that pooling leaves something of them
        patterns = patterns.reshape(CLASSES, 4, 3, 4, 3, 3).mean(axis=(2, 4), keepdims=True) * np.ones(
            (1, 1, 3, 1, 3, 1)
        )
        patterns = 2.5 * patterns.reshape(CLASSES, *shape)
    return (patterns[labels] + rng.normal(0.0, 2.0, (count, *shape))).astype(np.float32), labels


def trained(block: str, policy: str, *, seed: int = 0) -> keras.Model:
    """Build and train the classifier around a block, in a dtype policy; logits are float32."""
    kind, features = BLOCKS[block]
    keras.utils.set_random_seed(seed)
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        inputs = keras.Input(_SHAPES[kind], dtype="int32" if kind == "tokens" else "float32", name="processed")
        outputs = layers.Dense(CLASSES, dtype="float32", name="logits")(layers.Flatten()(features(inputs)))
        model = keras.Model(inputs, outputs, name="block")
        model.compile(
            keras.optimizers.Adam(5e-3), keras.losses.SparseCategoricalCrossentropy(from_logits=True), jit_compile=False
        )
        x, y = task(kind, TRAIN, seed=seed)
        model.fit(x, y, batch_size=BATCH, epochs=STEPS * BATCH // TRAIN, verbose=0)
    finally:
        keras.config.set_dtype_policy(before)
    return model
