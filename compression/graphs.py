"""The graph of an ONNX model, and the two graphs that a cut makes of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx

from edge_sdk.errors import InputError, ModelError, one_line

__all__ = ["CannotCrossError", "Graph", "Parts"]

TensorTypes = Mapping[str, tuple[str, Sequence[int | str | None]]]
"""By name: type as ONNX Runtime calls it, such as ``tensor(float)``, and extents, of which names and None are open."""


class CannotCrossError(InputError):
    """What is to cross is no tensor of numbers."""


@dataclass(frozen=True, slots=True)
class Parts:
    """A cut.

    Attributes
    ----------
    tensors
        What crosses; inputs of the model may be among them.
    kept
        Outputs of the model that the head computes, beside those that cross.
    sent
        Outputs that the tail computes.
    """

    tensors: tuple[str, ...]
    kept: tuple[str, ...]
    sent: tuple[str, ...]


class Graph:
    """An ONNX model without control flow, and without what none of its outputs needs.

    Attributes
    ----------
    inputs, outputs
        Names of the tensors that the model takes and gives.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        graph = model.graph
        self._model = model
        self._made_by = {name: node for node in graph.node for name in node.output if name}
        constants = {tensor.name for tensor in graph.initializer}
        constants |= {tensor.values.name for tensor in graph.sparse_initializer}
        self.inputs: tuple[str, ...] = tuple(value.name for value in graph.input if value.name not in constants)
        self.outputs: tuple[str, ...] = tuple(value.name for value in graph.output)
        needed, _ = self._walk(self.outputs, ())
        self._nodes = [node for node in graph.node if id(node) in needed]
        there, depends = constants | set(self.inputs), set(self.inputs)
        for node in self._nodes:
            used = {name for name in node.input if name}
            if not used <= there:
                raise ModelError(f"the model uses {', '.join(sorted(used - there))} before it is computed")
            there |= set(node.output)
            if used & depends:
                depends |= {name for name in node.output if name}
        self._depends = depends  # on the inputs; what is made of constants alone is on both sides of a cut

    @classmethod
    def read(cls, model: Path | bytes) -> Graph:
        """Read a model file, or its bytes.

        Raises
        ------
        ModelError
            It cannot be read, or has control flow.
        """
        try:
            proto = onnx.load_model_from_string(model) if isinstance(model, bytes) else onnx.load(str(model))
        except Exception as error:  # of protobuf, of onnx, of the file system
            where = "the bytes are" if isinstance(model, bytes) else f"{model} is"
            raise ModelError(f"{where} not an ONNX model that can be read: {one_line(error)}") from error
        if not proto.graph.output:
            raise ModelError("the model has no output")
        bodies = [proto.graph.node, *(function.node for function in proto.functions)]
        attributes = (attribute for body in bodies for node in body for attribute in node.attribute)
        if any(attribute.HasField("g") or attribute.graphs for attribute in attributes):
            raise ModelError("the model has control flow (If, Loop or Scan), and cannot be cut")
        return cls(proto)

    def has(self, tensors: Iterable[str]) -> bool:
        """Return whether all these are computed from the inputs, or are inputs."""
        return self._depends.issuperset(tensors)

    def cuts(self) -> list[tuple[str, ...]]:
        """Return what may cross, in the order of the graph, each set once.

        These are the sets between any two nodes, and every single tensor at which the model can be
        cut. Wherever the inputs themselves are all that crosses, there is no cut.
        """
        uses = {name: at for at, node in enumerate(self._nodes) for name in node.input if name in self._depends}
        live = [name for name in self.inputs if name in uses]
        found: dict[tuple[str, ...], None] = {}
        for at, node in enumerate(self._nodes):
            made = [name for name in node.output if name in self._depends]
            live = [name for name in (*live, *made) if uses.get(name, -1) > at]
            for tensors in (*((name,) for name in made), tuple(live)):
                if tensors not in found and self.parts(tensors) is not None:
                    found[tensors] = None
        return list(found)

    def parts(self, tensors: tuple[str, ...]) -> Parts | None:
        """Return the cut at which these tensors cross; None where they are not one.

        The tail computes every output that needs nothing of the inputs but these tensors, and must
        need all of them; the head computes the others.
        """
        if not tensors or len(set(tensors)) < len(tensors) or not self.has(tensors):
            return None
        if set(tensors) <= set(self.inputs):
            return None
        sent, met = [], set()
        for output in self.outputs:
            if output in tensors or output not in self._depends:
                continue
            _, leaves = self._walk([output], tensors)
            if leaves <= set(tensors) | self._constants(leaves):
                sent.append(output)
                met |= leaves
        if not set(tensors) <= met:
            return None
        kept = tuple(name for name in self.outputs if name not in sent and name not in tensors)
        return Parts(tensors, kept, tuple(sent))

    def whole(self) -> bytes:
        """Return the model as a file."""
        return _serialized(self._model)

    def head(self, parts: Parts, types: TensorTypes) -> bytes:
        """Return the device's part as a file; without types it runs, but does not say what its outputs are."""
        wanted = [name for name in parts.tensors if name not in self.inputs] + list(parts.kept)
        return self._part(self.inputs, wanted, (), types)

    def tail(self, parts: Parts, types: TensorTypes) -> bytes:
        """Return the cloud's part as a file."""
        return self._part(parts.tensors, parts.sent, parts.tensors, types)

    def _constants(self, names: Iterable[str]) -> set[str]:
        return {name for name in names if name not in self._depends}

    def _walk(self, targets: Iterable[str], stops: Iterable[str]) -> tuple[set[int], set[str]]:
        """Return what the targets need back to some tensors: nodes by `id`, and where the walk ended."""
        ends, nodes, leaves, seen = set(stops), set(), set(), set()
        todo = list(targets)
        while todo:
            name = todo.pop()
            if not name or name in seen:
                continue
            seen.add(name)
            node = None if name in ends else self._made_by.get(name)
            if node is None:
                leaves.add(name)
            elif id(node) not in nodes:
                nodes.add(id(node))
                todo += node.input
        return nodes, leaves

    def _part(self, inputs: Sequence[str], outputs: Sequence[str], stops: Sequence[str], types: TensorTypes) -> bytes:
        graph = self._model.graph
        nodes, leaves = self._walk(outputs, stops)
        declared = {value.name: value for value in (*graph.input, *graph.output)}

        def info(name: str) -> Any:
            return declared[name] if name in declared else _value_info(name, types.get(name))

        part = onnx.ModelProto(
            ir_version=self._model.ir_version,
            producer_name=self._model.producer_name,
            opset_import=self._model.opset_import,
            functions=self._model.functions,
        )
        part.graph.name = graph.name or "part"
        part.graph.node.extend(node for node in self._nodes if id(node) in nodes)
        part.graph.initializer.extend(tensor for tensor in graph.initializer if tensor.name in leaves)
        part.graph.sparse_initializer.extend(
            tensor for tensor in graph.sparse_initializer if tensor.values.name in leaves
        )
        part.graph.input.extend(info(name) for name in inputs if name in leaves)
        part.graph.output.extend(info(name) for name in outputs)
        return _serialized(part)


def _serialized(model: onnx.ModelProto) -> bytes:
    try:
        return bytes(model.SerializeToString())
    except Exception as error:  # of protobuf, which ends at 2 GiB
        raise ModelError(f"the model cannot be written as one file: {error}") from error


def _value_info(name: str, tensor: tuple[str, Sequence[int | str | None]] | None) -> onnx.ValueInfoProto:
    value = onnx.ValueInfoProto(name=name)
    if tensor is None:
        return value
    kind, shape = tensor
    element = kind.removeprefix("tensor(").removesuffix(")").upper()
    known = onnx.TensorProto.DataType.keys()
    if not kind.startswith("tensor(") or element not in known or element == "STRING":
        raise CannotCrossError(f"{name} is a {kind}, which cannot be sent")
    made: onnx.ValueInfoProto = onnx.helper.make_tensor_value_info(
        name, onnx.TensorProto.DataType.Value(element), shape
    )
    return made
