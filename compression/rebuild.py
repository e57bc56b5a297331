"""A second model from a changed configuration of the first: same layers, same weights, other settings."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import keras
import numpy as np

from edge_sdk.errors import CompressionError, one_line

__all__ = ["float32_default", "leaves", "rebuild"]

Change = Callable[[dict[str, Any]], Any]
"""Takes one serialised object, such as a layer's, and returns what it should be instead."""


def rebuild(model: keras.Model, change: Change) -> keras.Model:
    """Build a model anew from its configuration, changed, and copy the weights.

    Parameters
    ----------
    model
        Built; it is not touched.
    change
        Called with every serialised object in the configuration, the innermost first.

    Raises
    ------
    CompressionError
        If the configuration does not lead back to such a model.
    """
    try:
        config = keras.saving.serialize_keras_object(model)
        config.pop("compile_config", None)  # how it was trained is of no use here, and may name anything
        with float32_default():
            copy: keras.Model = keras.saving.deserialize_keras_object(_changed(config, change))
            if not copy.built:
                copy.build(model.input_shape)
    except (AttributeError, KeyError, RuntimeError, TypeError, ValueError) as error:
        said = one_line(error, 300)
        raise CompressionError(
            f"the model {model.name!r} cannot be rebuilt from its configuration: {said}; "
            "its layers and classes need get_config() and keras.saving.register_keras_serializable"
        ) from error
    weights = model.get_weights()
    if [value.shape for value in weights] != [value.shape for value in copy.get_weights()]:
        raise CompressionError(f"{model.name!r} rebuilt from its configuration has other weights than the original")
    copy.set_weights([np.asarray(value, dtype=_storable(value.dtype)) for value in weights])
    return copy


def leaves(model: Any) -> Iterator[Any]:
    """Yield every layer that is no model itself, wrapped and nested ones included, each once."""
    for layer in model._flatten_layers(include_self=False):  # noqa: SLF001 (Keras has no public walk)
        if not isinstance(layer, keras.Model):
            yield layer


@contextmanager
def float32_default() -> Iterator[None]:
    """Keep a global dtype policy of the caller's out of what is built inside."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("float32")
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)


def _changed(value: Any, change: Change) -> Any:
    if isinstance(value, dict):
        return change({name: _changed(item, change) for name, item in value.items()})
    if isinstance(value, list | tuple):
        return type(value)(_changed(item, change) for item in value)
    return value


def _storable(dtype: Any) -> Any:
    return dtype if np.dtype(dtype).kind in "iub" else np.float32
