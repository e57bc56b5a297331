"""A model of Keras 2, built anew of Keras 3 layers: layer by layer, from its configuration and weights.

The graphs are described alike; what differs are names of arguments, arguments that are gone, dtype
policies, and operators between layers, which Keras 2 kept as layers of their own kind.
Initializers, regularizers and constraints are left out: they are of the training that was.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
import numpy.typing as npt

from edge_sdk.compression.operators import operator
from edge_sdk.compression.rebuild import float32_default
from edge_sdk.errors import CompressionError, one_line

__all__ = ["bridged"]

_MODELS = frozenset({"Functional", "Model", "Sequential"})
_OPERATORS = frozenset({"TFOpLambda"})
_TRAINING = ("_initializer", "_regularizer", "_constraint")
_RENAMED: dict[str, dict[str, str]] = {"LeakyReLU": {"alpha": "negative_slope"}}
_CONSTANT = "_CONSTANT_VALUE"  # in the place of a layer's name
_COMMON = frozenset({"name", "dtype", "trainable"})


def bridged(
    config: Mapping[str, Any], weights: Mapping[str, list[npt.NDArray[Any]]], *, sequential: bool
) -> keras.Model:
    """Build the model in float32.

    Parameters
    ----------
    config, weights, sequential
        Of `legacy.Read`.

    Raises
    ------
    CompressionError
        Naming a layer that Keras 3 has not, or whose weights do not fit.
    """
    with float32_default():
        model = _sequential(config) if sequential else _graph(config)
    left = dict(weights)
    _set(model, left, "")
    if left:
        raise CompressionError(f"the layer {next(iter(left))!r} of {model.name!r} has no place in the rebuilt model")
    return model


def _set(model: keras.Model, weights: dict[str, list[npt.NDArray[Any]]], prefix: str) -> None:
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            _set(layer, weights, f"{prefix}{layer.name}/")
            continue
        given, wanted = weights.pop(f"{prefix}{layer.name}", []), layer.get_weights()
        if [value.shape for value in given] != [value.shape for value in wanted]:
            raise CompressionError(
                f"the layer {layer.name!r} has weights of shapes {[value.shape for value in given]} in Keras 2 and "
                f"{[value.shape for value in wanted]} in Keras 3"
            )
        layer.set_weights(given)
        if isinstance(layer, keras.layers.Normalization):
            layer.finalize_state()


def _sequential(config: Mapping[str, Any]) -> keras.Model:
    layers: list[Any] = []
    for data in config["layers"]:
        shape = data["config"].get("batch_input_shape")
        if data["class_name"] == "InputLayer" or (not layers and shape is not None):
            layers.append(_input(data["config"]))
        if data["class_name"] != "InputLayer":
            layers.append(_layer(data))
    return keras.Sequential(layers, name=config["name"])


def _graph(config: Mapping[str, Any]) -> keras.Model:
    layers: dict[str, Any] = {}
    made: dict[tuple[str, int], Any] = {}
    waiting: list[tuple[str, int, Any]] = []
    for data in config["layers"]:
        name = data["name"]
        if data["class_name"] == "InputLayer":
            made[name, 0] = _input(data["config"])
            continue
        layers[name] = (
            operator(name, str(data["config"].get("function"))) if data["class_name"] in _OPERATORS else _layer(data)
        )
        first = 1 if data["class_name"] in _MODELS else 0  # a model's own way through it is its node 0
        waiting += [(name, at, node) for at, node in enumerate(data["inbound_nodes"], first)]
    while waiting:
        later = []
        for name, at, node in waiting:
            if all((source, index) in made for source, index, _ in _sources(node)):
                args, options = _arguments(node, made)
                try:
                    made[name, at] = layers[name](*args, **options)
                except (TypeError, ValueError) as error:
                    said = one_line(error, 200)
                    raise CompressionError(f"the layer {name!r} cannot be called as in Keras 2: {said}") from error
            else:
                later.append((name, at, node))
        if len(later) == len(waiting):
            raise CompressionError(f"the layer {later[0][0]!r} of {config['name']!r} is not connected to an input")
        waiting = later
    ends = [[_tensor(made, ref) for ref in _references(config[end])] for end in ("input_layers", "output_layers")]
    return keras.Model(*ends, name=config["name"])


def _arguments(node: Any, made: Mapping[tuple[str, int], Any]) -> tuple[list[Any], dict[str, Any]]:
    calls = [node] if isinstance(node[0], str) else node
    tensors = [_tensor(made, call) for call in calls]
    options = {
        name: _tensor(made, value) if _is_reference(value) else value
        for name, value in (calls[0][3] if len(calls[0]) > 3 else {}).items()
        if name not in ("name", "training") and value is not None
    }
    return [tensors[0] if len(tensors) == 1 else tensors], options


def _sources(node: Any) -> list[Any]:
    calls = [node] if isinstance(node[0], str) else node
    inside = [value for call in calls if len(call) > 3 for value in call[3].values() if _is_reference(value)]
    return [reference[:3] for reference in (*calls, *inside) if reference[0] != _CONSTANT]


def _references(ends: Any) -> list[Any]:
    return [ends] if _is_reference(ends) else list(ends)


def _is_reference(value: Any) -> bool:
    return isinstance(value, list) and len(value) in (3, 4) and isinstance(value[0], str) and isinstance(value[1], int)


def _tensor(made: Mapping[tuple[str, int], Any], reference: Any) -> Any:
    name, node, at = reference[:3]
    if name == _CONSTANT:
        return at
    found = made[name, node]
    return found[at] if isinstance(found, list | tuple) else found


def _input(config: Mapping[str, Any]) -> Any:
    dtype = config.get("dtype", "float32")
    if not isinstance(dtype, str) or "float" in dtype:
        dtype = "float32"
    return keras.Input(tuple(config["batch_input_shape"][1:]), dtype=dtype, name=str(config["name"]).removesuffix(":0"))


def _layer(data: Mapping[str, Any]) -> Any:
    kind, config = data["class_name"], dict(data["config"])
    if kind in _MODELS:
        return _sequential(config) if kind == "Sequential" else _graph(config)
    known = getattr(keras.layers, kind, None)
    custom = data.get("registered_name") not in (None, kind)
    if known is None or custom or not isinstance(known, type):
        raise CompressionError(
            f"the layer {config.get('name', kind)!r} is of a class {kind!r} that Keras 3 has not; replace it, "
            "or use the model as a teacher"
        )
    if isinstance(config.get("layer"), dict):  # a wrapper's
        config["layer"] = _layer(config["layer"])
        config.pop("backward_layer", None)  # made of the other
    allowed = _COMMON | set(inspect.signature(known).parameters)
    renamed: dict[str, str] = _RENAMED.get(kind, {})
    plain: dict[str, Any] = {
        str(renamed.get(name, name)): value for name, value in config.items() if not name.endswith(_TRAINING)
    }
    plain = {name: _value(value, config) for name, value in plain.items() if name in allowed - {"dtype"}}
    if kind == "BatchNormalization" and isinstance(plain.get("axis"), list):
        plain["axis"] = plain["axis"][0]
    try:
        return known(**(plain | {"dtype": "float32"}))
    except (TypeError, ValueError) as error:
        said = one_line(error, 200)
        raise CompressionError(f"the layer {config.get('name', kind)!r} ({kind}) cannot be built: {said}") from error


def _value(value: Any, config: Mapping[str, Any]) -> Any:
    """Return an argument as Keras 3 takes it."""
    if isinstance(value, list):
        return np.asarray(value) if value and isinstance(value[0], list) else value
    if isinstance(value, dict) and "class_name" in value:
        raise CompressionError(
            f"the layer {config.get('name')!r} has an object of class {value['class_name']!r} that is not bridged; "
            "use one of Keras' own, named by text, or use the model as a teacher"
        )
    return value
