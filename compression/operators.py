"""Operators between layers, which Keras 2 kept as layers of their own kind, written as layers of Keras 3."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
from keras import layers, ops

from edge_sdk.errors import CompressionError

__all__ = ["operator"]

_BOTH: dict[str, tuple[type, Callable[[float], dict[str, float]]]] = {
    # of two tensors: the layer; of a tensor and a number: how to rescale
    "__operators__.add": (layers.Add, lambda number: {"scale": 1.0, "offset": number}),
    "math.add": (layers.Add, lambda number: {"scale": 1.0, "offset": number}),
    "math.subtract": (layers.Subtract, lambda number: {"scale": 1.0, "offset": -number}),
    "math.multiply": (layers.Multiply, lambda number: {"scale": number}),
}
_RATIOS = frozenset({"math.divide", "math.truediv"})
_ACTIVATIONS = {
    "math.sigmoid": "sigmoid",
    "math.tanh": "tanh",
    "nn.gelu": "gelu",
    "nn.relu": "relu",
    "nn.relu6": "relu6",
    "nn.sigmoid": "sigmoid",
    "nn.silu": "silu",
    "nn.tanh": "tanh",
}
_SHAPES: dict[str, Callable[..., Any]] = {"expand_dims": ops.expand_dims, "squeeze": ops.squeeze}
_REDUCTIONS: dict[str, Callable[..., Any]] = {
    "math.reduce_max": ops.max,
    "math.reduce_mean": ops.mean,
    "math.reduce_sum": ops.sum,
}


def operator(name: str, function: str) -> Callable[..., Any]:
    """Return what computes an operator, called as Keras 2 called it.

    Parameters
    ----------
    name
        Of its layer; those of Keras 3 that it becomes are called the same.
    function
        Of TensorFlow, without ``tf.``

    Raises
    ------
    CompressionError
        It has no counterpart, or what it is called with has none.
    """
    if function in _BOTH or function in _RATIOS:
        return lambda x, y: _of_two(name, function, x, y)
    if function in _ACTIVATIONS:
        activate: Callable[..., Any] = layers.Activation(_ACTIVATIONS[function], name=name)
        return activate
    if function in _REDUCTIONS:
        return _REDUCTIONS[function]
    if function == "nn.softmax":
        return lambda x, axis=-1: layers.Softmax(axis, name=name)(x)
    if function == "reshape":
        return lambda x, shape: layers.Reshape(tuple(shape[1:]), name=name)(x)
    if function in _SHAPES:
        return _SHAPES[function]
    raise _missing(name, function)


def _of_two(name: str, function: str, x: Any, y: Any) -> Any:
    tensors = [isinstance(value, keras.KerasTensor) for value in (x, y)]
    if function in _RATIOS:
        number = y if isinstance(y, int | float) else None
        return layers.Rescaling(1.0 / number, name=name)(x) if tensors[0] and number else ops.divide(x, y)
    layer, rescaled = _BOTH[function]
    if all(tensors):
        return layer(name=name)([x, y])
    if tensors[0] and isinstance(y, int | float):
        return layers.Rescaling(**rescaled(float(y)), name=name)(x)
    if tensors[1] and isinstance(x, int | float):
        turned = {"scale": -1.0, "offset": float(x)} if function == "math.subtract" else rescaled(float(x))
        return layers.Rescaling(**turned, name=name)(y)
    raise _missing(name, function)


def _missing(name: str, function: str) -> CompressionError:
    return CompressionError(
        f"the operator {name!r} (tf.{function}) has no counterpart here; replace it by a layer, "
        "or use the model as a teacher"
    )
