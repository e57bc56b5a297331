"""Buffers of one instance in which the requests of a batch run: their contents go in as bytes, and come out as such.

Arrays for each request, put together and taken apart again, cost more than a small model takes for it, in a thread that
then keeps the event loop from running.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from edge_sdk.cloud.server.engines import Bound, Engine, bind_to
from edge_sdk.cloud.server.payloads import Payload

__all__ = ["Tray", "tray_of"]

Array = np.ndarray[Any, Any]
_MOST_BYTES = 1 << 22  # of the inputs and outputs of a full batch
_MOST_BOUND = 64  # sizes for which a binding is kept


class Tray:
    """Buffers for batches of up to so many items; used by one thread at a time.

    Parameters
    ----------
    engine
        Runs the model.
    inputs, outputs
        Arrays [most, ...] by the model's names, in its order.
    """

    __slots__ = ("_bound", "_engine", "_inputs", "_most", "_outputs", "_reads", "_writes")

    def __init__(self, engine: Engine, inputs: dict[str, Array], outputs: dict[str, Array]) -> None:
        self._engine, self._inputs, self._outputs = engine, inputs, outputs
        self._most = min(len(array) for array in (*inputs.values(), *outputs.values()))
        self._writes = [array.reshape(-1).view(np.uint8).data for array in inputs.values()]
        self._reads = [(array.reshape(-1).view(np.uint8).data, array[:1].nbytes) for array in outputs.values()]
        self._bound: dict[int, Bound] = {}  # by the items of a batch

    def holds(self, payloads: Sequence[Payload], items: int) -> bool:
        """Tell whether payloads of so many items find room here as they are."""
        return items <= self._most and None not in [payload.raw for payload in payloads]

    def run(self, payloads: Sequence[Payload], items: int) -> bool:
        """Run payloads that it holds together, and give each its outputs; False where that cannot be.

        Whatever the runtime raises is raised.
        """
        bound = self._bound.get(items) or self._bind(items)
        if bound is None:
            return False
        ends = [0] * len(self._writes)
        for payload in payloads:
            assert payload.raw is not None
            data, contents = payload.raw
            view = memoryview(data)
            for place, (at, size) in enumerate(contents):
                end = ends[place] + size
                self._writes[place][ends[place] : end] = view[at : at + size]
                ends[place] = end
        bound.run()
        said = [_parts(bytes(view[: items * wide]), wide, payloads) for view, wide in self._reads]
        for payload, own in zip(payloads, zip(*said, strict=True), strict=True):
            payload.said = own
        return True

    def _bind(self, items: int) -> Bound | None:
        while len(self._bound) >= _MOST_BOUND:
            del self._bound[next(iter(self._bound))]
        bound = bind_to(
            self._engine,
            {name: array[:items] for name, array in self._inputs.items()},
            {name: array[:items] for name, array in self._outputs.items()},
        )
        if bound is not None:
            self._bound[items] = bound
        return bound


def _parts(data: bytes, wide: int, payloads: Sequence[Payload]) -> list[bytes]:
    """Return what each payload gets of an output whose items have so many bytes."""
    parts, at = [], 0
    for payload in payloads:
        end = at + payload.items * wide
        parts.append(data[at:end])
        at = end
    return parts


def tray_of(engine: Engine, most: int) -> Tray | None:
    """Return buffers for batches of up to so many items; None where these have no one size, or are too large."""
    tensors = (*engine.inputs, *engine.outputs)
    if any(-1 in spec.shape[1:] for spec in tensors):
        return None
    dtypes = [np.dtype(spec.dtype) for spec in tensors]
    if any(dtype.kind not in "biuf" for dtype in dtypes):
        return None
    wide = sum(int(np.prod(spec.shape[1:])) * dtype.itemsize for spec, dtype in zip(tensors, dtypes, strict=True))
    if wide * most > _MOST_BYTES:
        return None
    inputs, outputs = (
        {spec.name: np.zeros((most, *spec.shape[1:]), spec.dtype) for spec in specs}
        for specs in (engine.inputs, engine.outputs)
    )
    return Tray(engine, inputs, outputs)
