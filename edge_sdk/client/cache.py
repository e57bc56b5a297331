"""Answers of the cloud, kept for inputs that come again, to the last bit."""

from __future__ import annotations

import hashlib
import threading
import time
from collections import OrderedDict
from collections.abc import Hashable
from typing import TYPE_CHECKING

import numpy as np

from edge_sdk.errors import InputError

if TYPE_CHECKING:
    from edge_sdk.client.outcomes import Outcome
    from edge_sdk.client.payload import Capture

__all__ = ["Cache", "digest_of_input"]


class Cache:
    """A bounded store of the cloud's answers, in memory; thread-safe.

    Parameters
    ----------
    entries
        How many answers are kept at most; the one that was not asked for the longest goes first.
    max_age
        Seconds after which an answer is asked for anew; None keeps it.

    Raises
    ------
    InputError
        A limit is not above 0.
    """

    def __init__(self, entries: int = 1024, max_age: float | None = None) -> None:
        if isinstance(entries, bool) or not isinstance(entries, int) or entries < 1:
            raise InputError(f"the cache's entries are {entries!r}; they should be a number, at least 1")
        if max_age is not None and not max_age > 0:
            raise InputError(f"the cache's max_age is {max_age}; it should be seconds, above 0, or None")
        self._entries, self._max_age = entries, max_age
        self._lock = threading.Lock()
        self._kept: OrderedDict[Hashable, tuple[float, Outcome]] = OrderedDict()
        self._hits = self._misses = 0

    def get(self, key: Hashable) -> Outcome | None:
        """Return the answer of a key, or None; either is counted."""
        with self._lock:
            found = self._kept.get(key)
            if found is not None and self._max_age is not None and time.monotonic() - found[0] >= self._max_age:
                del self._kept[key]
                found = None
            if found is None:
                self._misses += 1
                return None
            self._hits += 1
            self._kept.move_to_end(key)
            return found[1]

    def put(self, key: Hashable, answer: Outcome) -> None:
        """Keep an answer."""
        with self._lock:
            self._kept[key] = (time.monotonic(), answer)
            self._kept.move_to_end(key)
            if len(self._kept) > self._entries:
                self._kept.popitem(last=False)

    def clear(self) -> None:
        """Forget every answer."""
        with self._lock:
            self._kept.clear()

    @property
    def counters(self) -> dict[str, int]:
        """``hits`` and ``misses`` so far, and the ``entries`` kept now."""
        with self._lock:
            return {"hits": self._hits, "misses": self._misses, "entries": len(self._kept)}


def digest_of_input(capture: Capture) -> bytes:
    """Return a SHA-256 of an input: of the file it came as, else of its pixels and their shape."""
    if capture.jpeg is not None:
        return hashlib.sha256(b"jpeg:" + capture.jpeg).digest()
    digest = hashlib.sha256(f"{capture.pixels.dtype.str}{capture.pixels.shape}:".encode())
    digest.update(np.ascontiguousarray(capture.pixels).data)
    return digest.digest()
