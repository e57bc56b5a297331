"""Teachers: convolutional networks from processed tensors to float32 logits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
from keras import layers

__all__ = ["Architecture", "plain", "residual", "teacher"]

# (input shape [h, w, c], number of classes, dtype policy) -> model named "body"
Architecture = Callable[[tuple[int, int, int], int, str], keras.Model]

BATCHNORM_MOMENTUM = 0.9  # .99 has not settled after the few hundred steps we train or fine-tune
PLAIN_UP_TO = 32 * 32


def teacher(shape: tuple[int, int, int], classes: int, policy: str) -> keras.Model:
    """Choose by input: a plain network for small grey images, a residual one for the rest."""
    small_grey = shape[0] * shape[1] <= PLAIN_UP_TO and shape[2] == 1
    return (plain if small_grey else residual)(shape, classes, policy)


def plain(shape: tuple[int, int, int], classes: int, policy: str) -> keras.Model:
    """Five 3x3 convolutions, two poolings, global average: 141 thousand parameters for digits."""
    inputs = keras.Input(shape, name="processed")
    x = _conv(_conv(inputs, 32, policy), 32, policy)
    x = layers.MaxPooling2D(padding="same", dtype=policy)(x)
    x = _conv(_conv(x, 64, policy), 64, policy)
    x = layers.MaxPooling2D(padding="same", dtype=policy)(x)
    return _head(inputs, _conv(x, 128, policy), classes, policy)


def residual(shape: tuple[int, int, int], classes: int, policy: str) -> keras.Model:
    """Three stages of one residual block (He et al., 2016), after a stem that shrinks large images."""
    inputs = keras.Input(shape, name="processed")
    x = _conv(inputs, 32, policy, strides=1 if max(shape[:2]) <= 40 else 2)
    for width, strides in ((32, 1), (64, 2), (128, 2)):
        inner = _conv(_conv(x, width, policy, strides=strides), width, policy, activate=False)
        if strides > 1:
            x = _conv(x, width, policy, kernel=1, strides=strides, activate=False)
        x = layers.Activation("relu", dtype=policy)(layers.Add(dtype=policy)([x, inner]))
    return _head(inputs, x, classes, policy)


def _conv(x: Any, width: int, policy: str, *, kernel: int = 3, strides: int = 1, activate: bool = True) -> Any:
    x = layers.Conv2D(width, kernel, strides=strides, padding="same", use_bias=False, dtype=policy)(x)
    x = layers.BatchNormalization(momentum=BATCHNORM_MOMENTUM, dtype=policy)(x)
    return layers.Activation("relu", dtype=policy)(x) if activate else x


def _head(inputs: Any, x: Any, classes: int, policy: str) -> keras.Model:
    x = layers.GlobalAveragePooling2D(dtype=policy)(x)
    x = layers.Dropout(0.2, dtype=policy)(x)
    return keras.Model(inputs, layers.Dense(classes, dtype="float32", name="logits")(x), name="body")
