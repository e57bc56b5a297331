"""How often a caller may still ask: rights to requests, which come back at a steady rate; of one process or several."""

from __future__ import annotations

import fcntl
import math
import mmap
import os
import struct
import tempfile
from collections.abc import Callable
from typing import IO

__all__ = ["Bucket", "SharedBucket", "SharedRates"]

_SLOT = struct.Struct("=dd")  # rights that are left, and when that was
_Held = tuple[float, float]
_FULL: _Held = (math.inf, 0.0)


class Bucket:
    """Holds a right to each request; rights come back at a steady rate.

    Parameters
    ----------
    rate
        Rights that come back in a second.
    burst
        Rights at most; None is those of a second, and at least one.
    clock
        Seconds that never go back.
    """

    def __init__(self, rate: float, burst: int | None, clock: Callable[[], float]) -> None:
        self._rate, self._clock = rate, clock
        self._most = float(max(1, math.floor(rate)) if burst is None else burst)
        self._held = _FULL

    def take(self) -> float:
        """Take one and return 0, or take none and return the seconds until there is one."""
        self._held, wait = self._after(self._held)
        return wait

    def _after(self, held: _Held) -> tuple[_Held, float]:
        """Return what is left when one was asked for, and how long that one has to wait."""
        left, at = held
        now = max(at, self._clock())  # where processes share it, another may have looked a moment later
        left = min(self._most, left + (now - at) * self._rate)
        return ((left - 1, now), 0.0) if left >= 1 else ((left, now), (1 - left) / self._rate)


class SharedRates:
    """Memory in which several processes keep buckets; a file without a name.

    Parameters
    ----------
    descriptor
        Of the file, which somebody else has made. It is kept open: closing it would let go of locks.
    """

    def __init__(self, descriptor: int) -> None:
        self.descriptor, self.memory = descriptor, mmap.mmap(descriptor, 0)

    @staticmethod
    def file(callers: int) -> IO[bytes]:
        """Return a file for so many callers, whose descriptor is to be passed on."""
        if hasattr(os, "memfd_create"):
            file: IO[bytes] = os.fdopen(os.memfd_create("rates"), "w+b")
        else:  # macOS
            file = tempfile.TemporaryFile()  # noqa: SIM115 - the caller closes it
        file.write(_SLOT.pack(*_FULL) * max(1, callers))
        file.flush()
        return file


class SharedBucket(Bucket):
    """A bucket of several processes, whose clocks are the system's.

    Parameters
    ----------
    shared
        Where it is kept.
    place
        Which of the buckets there.
    rate, burst, clock
        As for `Bucket`.
    """

    def __init__(
        self, shared: SharedRates, place: int, rate: float, burst: int | None, clock: Callable[[], float]
    ) -> None:
        super().__init__(rate, burst, clock)
        self._shared, self._start = shared, place * _SLOT.size

    def take(self) -> float:
        """As `Bucket.take`."""
        where = _SLOT.size, self._start
        fcntl.lockf(self._shared.descriptor, fcntl.LOCK_EX, *where)  # a process that is killed lets go
        try:
            now, wait = self._after(_SLOT.unpack_from(self._shared.memory, self._start))
            _SLOT.pack_into(self._shared.memory, self._start, *now)
        finally:
            fcntl.lockf(self._shared.descriptor, fcntl.LOCK_UN, *where)
        return wait
