"""A circuit breaker for a cloud that swallows requests.

A server that is known to be down costs nothing: gRPC fails such calls at once. One that takes
requests and never answers would cost every call its whole deadline. After a few such calls in a
row the breaker opens, and one probe at a time tries whether the cloud is back.

Calls that were under way together and not answered are one miss: they may have waited for each other, or
for a process that stood still. So is no miss what was not answered while something else was.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable

__all__ = ["Breaker"]


class Breaker:
    """Counts calls that were not answered in time; thread-safe.

    Parameters
    ----------
    misses
        This many in a row open it.
    pause
        Seconds until a probe may pass.
    clock
        Monotonic seconds.
    """

    def __init__(self, *, misses: int = 5, pause: float = 1.0, clock: Callable[[], float] = time.monotonic) -> None:
        self._limit = misses
        self._pause = pause
        self._clock = clock
        self._lock = threading.Lock()
        self._misses = 0
        self._retry_at = 0.0
        self._counts_from = -math.inf  # what was begun before is answered for

    def allows(self) -> bool:
        """Tell whether a call may go out; while open, only one a pause may (the probe)."""
        with self._lock:
            if self._misses < self._limit:
                return True
            now = self._clock()
            if now < self._retry_at:
                return False
            self._retry_at = now + self._pause
            return True

    def answered(self) -> None:
        """Note that the cloud reacted, be it by refusing."""
        with self._lock:
            self._misses, self._counts_from = 0, self._clock()

    def probed(self) -> None:
        """Note that it reacted to a probe: half open, so that the next call that is missed opens it again."""
        with self._lock:
            self._misses = min(self._misses, self._limit - 1)

    def missed(self, begun_at: float = math.inf) -> bool:
        """Note that a call ran out of time, and tell whether that opened it or kept it open.

        Parameters
        ----------
        begun_at
            When it was begun, by the clock.
        """
        with self._lock:
            if begun_at < self._counts_from:
                return False
            self._misses, self._counts_from = self._misses + 1, self._clock()
            if self._misses < self._limit:
                return False
            self._retry_at = self._counts_from + self._pause
            return True
