"""Answers that are known already, of one version of a model.

What was asked is known by the SHA-256 of its encoding and its tensors, to the last byte. A cache belongs to one loaded
model, so it needs no digest of model and processing in its keys, and goes with that model when a newer one takes over.
The answers that were asked for least recently make room for others.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from edge_sdk.cloud.server.flights import Flights, frozen
from edge_sdk.cloud.server.keys import digest_of

__all__ = ["INLINE_BYTES", "ResponseCache"]

Array = np.ndarray[Any, Any]
INLINE_BYTES = 64 * 1024
"""Of inputs that are hashed on the event loop: 30 µs."""
_OVERHEAD = 512  # bytes of an entry beside its numbers


class ResponseCache:
    """Outputs by inputs; used on one event loop.

    Parameters
    ----------
    max_bytes
        What it holds at most.

    Attributes
    ----------
    nbytes
        What it holds.
    flights
        Requests whose answers are on their way.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes, self.nbytes, self.flights = max_bytes, 0, Flights()
        self._entries: OrderedDict[bytes, tuple[tuple[Array, ...], int]] = OrderedDict()

    async def key(self, inputs: Mapping[str, Array], encoding: str, nbytes: int) -> bytes:
        """Return what a request of so many bytes is known by; large ones are hashed beside the loop."""
        if nbytes <= INLINE_BYTES:
            return digest_of(inputs, encoding)
        return await asyncio.to_thread(digest_of, inputs, encoding)

    def get(self, key: bytes) -> Sequence[Array] | None:
        """Return the outputs, not to be written to; None where they are not known."""
        entry = self._entries.get(key)
        if entry is None:
            return None
        self._entries.move_to_end(key)
        return entry[0]

    def put(self, key: bytes, outputs: Sequence[Array]) -> Sequence[Array] | None:
        """Keep a copy of outputs and return it; None, and nothing is kept, where it alone were too large."""
        size = _OVERHEAD + sum(map(_size, outputs))
        if size > self._max_bytes:
            return None
        if key in self._entries:  # asked twice before it was answered
            self.nbytes -= self._entries.pop(key)[1]
        kept = frozen(outputs)  # they may be parts of a batch
        self._entries[key] = kept, size
        self.nbytes += size
        while self.nbytes > self._max_bytes:
            self.nbytes -= self._entries.popitem(last=False)[1][1]
        return kept


def _size(output: Array) -> int:
    if output.dtype == object:
        return sum(_OVERHEAD // 8 + len(item) for item in output.ravel())
    return output.nbytes
