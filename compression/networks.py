"""A Keras model as a list of calls: which layer is called with what, and who uses the result."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import keras

from edge_sdk.compression.fitting import check_model, copied
from edge_sdk.compression.rebuild import leaves
from edge_sdk.errors import CompressionError

__all__ = ["Call", "Network", "norm_factors"]

LINEAR = (keras.layers.Conv1D, keras.layers.Conv2D, keras.layers.DepthwiseConv2D, keras.layers.Dense)


@dataclass(frozen=True, eq=False)
class Call:
    """One call of a layer.

    Attributes
    ----------
    layer
        A layer that is no model, or an operation such as ``x + y``.
    inputs, outputs
        Identities of the tensors.
    node
        Keras' record of it.
    """

    layer: Any
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    node: Any


class Network:
    """A copy of a model without models inside, as calls in an order in which they can be computed.

    Parameters
    ----------
    model
        Built of layers; it is not changed.

    Raises
    ------
    CompressionError
        The model is a class of its own, so that its calls cannot be known.

    Attributes
    ----------
    model
        The copy.
    calls
        Of the copy.
    original
        By identity of a layer of the copy: that of the model.
    """

    def __init__(self, model: keras.Model) -> None:
        check_model(model)
        inputs = keras.Input(model.inputs[0].shape[1:], dtype=model.inputs[0].dtype, name="processed")
        copy = copied(model)
        self.original = {id(one): other for one, other in zip(leaves(copy), leaves(model), strict=True)}
        self.model = keras.Model(inputs, _inlined(copy, inputs, {}), name=model.name)
        self.calls = _calls(self.model)
        self.users: dict[int, list[Call]] = {}
        for call in self.calls:
            for tensor in call.inputs:
                self.users.setdefault(tensor, []).append(call)
        times: dict[int, int] = {}
        for call in self.calls:
            times[id(call.layer)] = times.get(id(call.layer), 0) + 1
        self.reused = {layer for layer, count in times.items() if count > 1}
        self._output = id(self.model.outputs[0])

    def next(self, call: Call) -> Call | None:
        """Return the call that alone uses what this one computes; None where it is an output or used otherwise."""
        if len(call.outputs) != 1 or call.outputs[0] == self._output:
            return None
        users = self.users.get(call.outputs[0], [])
        return users[0] if len(users) == 1 and users[0].inputs == call.outputs else None

    def norm_after(self, call: Call) -> Call | None:
        """Return the BatchNormalization that can be folded into this convolution or dense layer."""
        layer, after = call.layer, self.next(call)
        if not isinstance(layer, LINEAR) or layer.activation is not keras.activations.linear or after is None:
            return None
        norm = after.layer
        if not isinstance(norm, keras.layers.BatchNormalization) or {id(layer), id(norm)} & self.reused:
            return None
        return after if norm.axis in (-1, len(call.node.outputs[0].shape) - 1) else None

    def rebuilt(
        self,
        visit: Callable[[Call, tuple[Any, ...], dict[str, Any]], Any],
        *,
        first: Callable[[Any], Any] | None = None,
    ) -> keras.Model:
        """Build another model of the same input: ``visit`` makes the output of each call from its arguments."""
        inputs = keras.Input(self.model.inputs[0].shape[1:], dtype=self.model.inputs[0].dtype, name="processed")
        made = {id(self.model.inputs[0]): inputs if first is None else first(inputs)}
        for call in self.calls:
            args, kwargs = call.node.arguments.fill_in(made)
            result = visit(call, args, kwargs)
            made |= dict(zip(call.outputs, keras.tree.flatten(result), strict=True))
        return keras.Model(inputs, made[self._output], name=self.model.name)


def norm_factors(norm: keras.layers.BatchNormalization) -> tuple[Any, Any]:
    """Return what a BatchNormalization does after training: a factor and a summand of each channel, float32."""
    mean, variance = (keras.ops.convert_to_numpy(value) for value in (norm.moving_mean, norm.moving_variance))
    gamma = keras.ops.convert_to_numpy(norm.gamma) if norm.scale else 1.0
    beta = keras.ops.convert_to_numpy(norm.beta) if norm.center else 0.0
    factor = gamma / (variance + norm.epsilon) ** 0.5
    return factor, beta - mean * factor


def _calls(model: keras.Model) -> list[Call]:
    nodes = model._nodes_by_depth  # noqa: SLF001 (Keras has no public way to its graph)
    found = []
    for depth in sorted(nodes, reverse=True):
        for node in nodes[depth]:
            if not node.is_input:
                inputs = tuple(id(tensor) for tensor in node.input_tensors)
                found.append(Call(node.operation, inputs, tuple(id(tensor) for tensor in node.outputs), node))
    return found


def _inlined(model: keras.Model, inputs: Any, names: dict[str, int]) -> Any:
    """Call the layers of a model, and those of models in it, on a tensor."""
    try:
        graph = keras.Model(model.inputs, model.outputs)  # of a Sequential, too
        calls = _calls(graph)
    except (AttributeError, TypeError, ValueError) as error:
        raise CompressionError(
            f"the layers of {model.name!r} cannot be looked through; build it by keras.Sequential or "
            "keras.Model(inputs, outputs)"
        ) from error
    made = {id(graph.inputs[0]): inputs}
    for call in calls:
        args, kwargs = call.node.arguments.fill_in(made)
        if isinstance(call.layer, keras.Model):
            if len(call.layer.inputs) != 1:
                raise CompressionError(
                    f"the inner model {call.layer.name!r} has several inputs; put its layers outside"
                )
            result = _inlined(call.layer, args[0], names)
        else:
            result = call.layer(*args, **kwargs)
            while names.setdefault(call.layer.name, id(call.layer)) != id(call.layer):
                call.layer.name = f"{model.name}_{call.layer.name}"
        made |= dict(zip(call.outputs, keras.tree.flatten(result), strict=True))
    outputs = [made[id(tensor)] for tensor in graph.outputs]
    return outputs[0] if len(outputs) == 1 else outputs
