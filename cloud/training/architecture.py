"""Teachers: networks from processed tensors to float32 logits, and what one of somebody's own must be like."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
from keras import layers

from edge_sdk.errors import CompressionError

__all__ = ["Architecture", "checked", "dense", "name_of", "plain", "residual", "teacher", "windowed"]

Architecture = Callable[[Any, int, str], keras.Model]
"""(input shape without the batch, number of classes, dtype policy) -> model of logits."""

BATCHNORM_MOMENTUM = 0.9  # .99 has not settled after the few hundred steps we train or fine-tune
PLAIN_UP_TO = 32 * 32
PROBABLE = (keras.activations.softmax, keras.activations.sigmoid, keras.activations.log_softmax)


def teacher(shape: tuple[int, ...], classes: int, policy: str) -> keras.Model:
    """Choose by input: dense for rows, convolutions in time for windows, plain for small grey images, else residual."""
    if len(shape) == 1:
        return dense(shape, classes, policy)
    if len(shape) == 2:
        return windowed(shape, classes, policy)
    small_grey = shape[0] * shape[1] <= PLAIN_UP_TO and shape[2] == 1
    return (plain if small_grey else residual)(shape, classes, policy)


def dense(shape: tuple[int, ...], classes: int, policy: str) -> keras.Model:
    """Two dense layers, for rows of a table: 14 thousand parameters for 40 features."""
    inputs = x = keras.Input(shape, name="processed")
    for width in (128, 64):
        x = layers.Dense(width, activation="relu", dtype=policy)(x)
        x = layers.Dropout(0.1, dtype=policy)(x)
    return keras.Model(inputs, layers.Dense(classes, dtype="float32", name="logits")(x), name="body")


def windowed(shape: tuple[int, ...], classes: int, policy: str) -> keras.Model:
    """Two convolutions in time and their mean, for windows of rows: 11 thousand parameters for 3 columns."""
    inputs = x = keras.Input(shape, name="processed")
    for width in (32, 64):
        x = layers.Conv1D(width, 5, strides=2, padding="same", use_bias=False, dtype=policy)(x)
        x = layers.BatchNormalization(momentum=BATCHNORM_MOMENTUM, dtype=policy)(x)
        x = layers.Activation("relu", dtype=policy)(x)
    x = layers.GlobalAveragePooling1D(dtype=policy)(x)
    return keras.Model(inputs, layers.Dense(classes, dtype="float32", name="logits")(x), name="body")


def plain(shape: tuple[int, ...], classes: int, policy: str) -> keras.Model:
    """Five 3x3 convolutions, two poolings, global average: 141 thousand parameters for digits."""
    inputs = keras.Input(shape, name="processed")
    x = _conv(_conv(inputs, 32, policy), 32, policy)
    x = layers.MaxPooling2D(padding="same", dtype=policy)(x)
    x = _conv(_conv(x, 64, policy), 64, policy)
    x = layers.MaxPooling2D(padding="same", dtype=policy)(x)
    return _head(inputs, _conv(x, 128, policy), classes, policy)


def residual(shape: tuple[int, ...], classes: int, policy: str) -> keras.Model:
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


# ---- networks of others


def name_of(network: Architecture) -> str:
    """Name a network for the record of a run: a function by where it is, another object by its text."""
    name = getattr(network, "__qualname__", None)
    return str(network) if name is None else f"{network.__module__}:{name}"


def checked(model: Any, shape: tuple[int, ...], classes: int) -> keras.Model:
    """Return a network as a model named ``body``, or refuse it.

    Parameters
    ----------
    model
        What an `Architecture` gave.
    shape
        Of the processed tensor, without the batch.
    classes
        Number of logits it should give.

    Raises
    ------
    CompressionError
        It is no Keras model of one input and one output; it takes or gives another shape; it ends in
        probabilities; it keeps weights in less than float32.
    """
    if not isinstance(model, keras.Model) or not getattr(model, "inputs", None) or not model.outputs:
        raise CompressionError(
            "the network is not a Keras model of known inputs: build it by keras.Model(inputs, outputs), or by "
            "keras.Sequential with a keras.Input"
        )
    if len(model.inputs) != 1 or len(model.outputs) != 1:
        raise CompressionError(f"the network has {len(model.inputs)} inputs and {len(model.outputs)} outputs, not one")
    takes, gives = tuple(model.inputs[0].shape[1:]), tuple(model.outputs[0].shape[1:])
    fits = len(takes) == len(shape) and all(a in (None, b) for a, b in zip(takes, shape, strict=True))
    if not fits:
        raise CompressionError(f"the network takes {_extents(takes)}, and the processed data are {_extents(shape)}")
    if gives != (classes,):
        raise CompressionError(f"the network gives {_extents(gives)}, and there are {classes} classes")
    last: Any = model.layers[-1]
    while isinstance(last, keras.Model):
        last = last.layers[-1]
    if isinstance(last, layers.Softmax) or getattr(last, "activation", None) in PROBABLE:
        raise CompressionError(
            f"the output layer {last.name!r} gives probabilities; leave its activation out, so that it gives logits"
        )
    for variable in model.trainable_variables:
        if str(variable.dtype) != "float32":
            raise CompressionError(
                f"the weight {variable.path!r} is {variable.dtype}; take a mixed policy, which keeps it in float32"
            )
    return model if model.name == "body" else keras.Model(model.inputs, model.outputs, name="body")


def _extents(shape: tuple[int | None, ...]) -> str:
    return "[n, " + ", ".join("?" if extent is None else str(extent) for extent in shape) + "]"
