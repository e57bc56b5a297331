"""How requests with one head are answered: looked at once, and good while the same models are served.

A plan is made of a request that was answered in the usual way. What it does not know to be as it was then is left
to the usual way again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from edge_sdk.cloud.server.asked import Answer
from edge_sdk.cloud.server.core import Core
from edge_sdk.cloud.server.engines import Bound, bind
from edge_sdk.cloud.server.heads import Parts
from edge_sdk.cloud.server.instances import Instance
from edge_sdk.cloud.server.lines import Line
from edge_sdk.cloud.server.payloads import Payload
from edge_sdk.cloud.server.runs import Run
from edge_sdk.cloud.server.writing import before_contents, head_of, id_field, serialize

__all__ = ["Contents", "Plan", "Plans"]

Array = np.ndarray[Any, Any]
Contents = Sequence[tuple[int, int]]
_UNLIKE = ("BYTES", "BF16")  # whose tensors are no views of their contents
_MOST_HEAD = 4096  # bytes
_MOST_PLANS, _MOST_LENGTHS = 256, 4096
_MOST_COPIED = 1 << 14  # bytes of contents; to copy more costs more than new arrays


class Seat:
    """Buffers of one instance for one plan: contents go in, and a response comes out."""

    __slots__ = ("_bound", "_inputs", "_parts")

    def __init__(self, bound: Bound, head: bytes) -> None:
        self._inputs, self._bound = bound.inputs, bound
        # the buffers are read when the parts are put together
        self._parts: list[bytes | memoryview] = [head, b""]
        for view in bound.outputs:
            self._parts += [before_contents(len(view)), view]

    def answer(self, data: bytes, contents: Contents, request_id: str) -> bytes:
        """Return the response to a request; whatever the runtime raises is raised."""
        for view, (at, size) in zip(self._inputs, contents, strict=True):
            view[:] = data[at : at + size]
        self._bound.run()
        parts = self._parts
        parts[1] = id_field(request_id) if request_id else b""
        return b"".join(parts)


@dataclass(slots=True, eq=False)
class Plan:
    """How requests with one head are answered.

    Attributes
    ----------
    served
        What `Core.served` was; once it is another, the plan is void.
    line
        Who answers.
    model, version
        As the requests say them.
    tensors
        Name, dtype, shape and number of elements of each input, in the order of the contents.
    sizes
        Bytes of each.
    length, contents
        Of a request without id and parameters: how long it is, and where its contents are. -1 where it has several
        inputs.
    outputs
        Names of those that are wanted, and their places among the model's.
    payload
        Items, bytes and kind of each request.
    example
        Inputs and wanted outputs such as theirs, where they may run in buffers; None where not.
    head
        Of a response: all but id and contents.
    order
        At which place among the contents each of the model's inputs is; None where they are in its order.
    """

    served: object
    line: Line
    model: str
    version: str
    tensors: tuple[tuple[str, np.dtype[Any], tuple[int, ...], int], ...]
    sizes: list[int]
    length: int
    contents: Contents
    outputs: tuple[tuple[str, int], ...]
    payload: Payload
    example: tuple[Mapping[str, Array], Mapping[str, Array]] | None
    head: bytes
    order: Sequence[int] | None
    _seats: dict[Instance, Seat] = field(default_factory=dict)

    def seat(self, instance: Instance) -> Seat | None:
        """Return buffers of an instance; None where there are none for these requests."""
        seat = self._seats.get(instance)
        if seat is None and self.example is not None:
            bound = bind(instance.engine, *self.example)
            if bound is None:
                self.example = None
                return None
            seat = self._seats[instance] = Seat(bound, self.head)
        return seat

    def inputs(self, data: bytes, contents: Contents) -> dict[str, Array]:
        """Return the tensors of a request: views of its bytes."""
        return {
            name: np.frombuffer(data, dtype, count, at).reshape(shape)
            for (name, dtype, shape, count), (at, _) in zip(self.tensors, contents, strict=True)
        }

    def holding(self, inputs: Mapping[str, Array]) -> Payload:
        """Return the payload of such tensors."""
        like = self.payload
        return Payload(like.items, like.nbytes, like.kind, like.encoding, lambda _: inputs)

    def keeping(self, data: bytes, contents: Contents) -> Payload:
        """Return the payload of a request, whose tensors are made when they are wanted."""
        like = self.payload
        raw = contents if self.order is None else [contents[place] for place in self.order]
        return Payload(
            like.items, like.nbytes, like.kind, like.encoding, lambda _: self.inputs(data, contents), (data, raw)
        )

    def response(self, run: Run, request_id: str, said: Sequence[bytes] | None = None) -> bytes:
        """Return the response to a request, serialized; ``said`` is that of its payload."""
        if said is not None:
            parts = [self.head, id_field(request_id) if request_id else b""]
            for _, place in self.outputs:
                parts += [before_contents(len(said[place])), said[place]]
            return b"".join(parts)
        outputs = {name: run.outputs[place] for name, place in self.outputs}
        return serialize(self.line.model, request_id, outputs, cached=run.cached)


class Plans:
    """The plans of a server, by the heads of requests."""

    def __init__(self) -> None:
        self._plans: dict[bytes, Plan] = {}
        self._lengths: dict[int, int] = {}  # of requests without id and parameters, and of their heads

    def at_hand(self, data: bytes) -> Plan | None:
        """Return the plan of a request without id and parameters, and with one input, if there is one."""
        plan = self._plans.get(data[: self._lengths.get(len(data), 0)])
        return plan if plan is not None and plan.length == len(data) else None

    def is_brief(self, data: bytes) -> bool:
        """Tell whether a request is at hand, and its model runs as soon as it is asked."""
        plan = self.at_hand(data)
        return plan is not None and plan.line.is_brief(plan.payload.items)

    def get(self, parts: Parts) -> Plan | None:
        """Return the plan of a request, if there is one."""
        plan = self._plans.get(parts.head)
        return plan if plan is not None and [size for _, size in parts.contents] == plan.sizes else None

    def forget(self) -> None:
        """Forget all: other models are served."""
        self._plans, self._lengths = {}, {}

    def learn(self, core: Core, parts: Parts, request: Any, inputs: Mapping[str, Array], said: Answer) -> None:
        """Remember how a request was answered.

        Parameters
        ----------
        core
            Who answered it.
        parts, request
            The request as cut, and as parsed.
        inputs
            Its tensors, encoded as ``tensor``.
        said
            The answer, which its response holds as it is.
        """
        served, head, sizes = core.served, parts.head, [size for _, size in parts.contents]
        line = core.line(request.model_name, request.model_version)
        if line is None or line.model is not said.model or len(head) > _MOST_HEAD or len(inputs) != len(sizes):
            return
        if any(tensor.datatype in _UNLIKE for tensor in request.inputs):
            return
        model = line.model
        payload = model.reader.read(inputs, "tensor")
        places = {tensor.name: place for place, tensor in enumerate(model.outputs)}
        names = [tensor.name for tensor in model.inputs]
        before = self._plans.get(head)
        failed = before is not None and before.served is served and before.example is None
        plan = Plan(
            served=served,
            line=line,
            model=request.model_name,
            version=request.model_version,
            tensors=tuple((name, x.dtype, x.shape, x.size) for name, x in inputs.items()),
            sizes=sizes,
            length=len(head) + sizes[0] if len(sizes) == 1 else -1,
            contents=[(len(head), sizes[0])],
            outputs=tuple((name, places[name]) for name in said.outputs),
            payload=Payload(payload.items, payload.nbytes, payload.kind, "tensor", lambda _: {}),
            example=(inputs, said.outputs) if not failed and _fits_buffers(line, payload, said) else None,
            head=head_of(model, said.outputs, cached=False),
            order=None if list(inputs) == names else [list(inputs).index(name) for name in names],
        )
        while len(self._plans) >= _MOST_PLANS:
            del self._plans[next(iter(self._plans))]
        self._plans[head] = plan
        if plan.length > 0:
            if len(self._lengths) >= _MOST_LENGTHS:
                self._lengths.clear()
            self._lengths[plan.length] = len(head)


def _fits_buffers(line: Line, payload: Payload, said: Answer) -> bool:
    """Tell whether requests like one may run here, in buffers: they are small, and so is every answer."""
    model, outputs = line.model, said.outputs.values()
    open_ended = any(-1 in tensor.shape[model.batching != "whole" :] for tensor in model.outputs)
    size = payload.nbytes + sum(output.nbytes for output in outputs)
    numbers = all(output.dtype.kind in "biuf" for output in outputs)
    asked_each_time = line.cache is None and model.table is None
    return asked_each_time and line.may_run_here(payload) and numbers and not open_ended and size <= _MOST_COPIED
