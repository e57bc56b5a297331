"""When a request is sent a second time: after longer than most answers take, and only for a share of all calls."""

from __future__ import annotations

import heapq
import itertools
import math
import threading
import time
from collections import deque
from collections.abc import Callable

from edge_sdk.client.cloud import Hedging

__all__ = ["Alarm", "Hedger"]

_WINDOW = 256  # answers whose times are remembered
_REFRESH = 16  # answers between two looks at them
_MOST_SAVED = 50.0  # calls that may be hedged in a row
_MARGIN = 0.8  # of the share is what the quantile uses up, so that some is left where answers become slower


class Hedger:
    """Learns how long answers take, and keeps the account of second copies; thread-safe.

    Parameters
    ----------
    hedging
        How many, and when. Where the share would not do for all calls above its quantile, a higher one counts.
    """

    def __init__(self, hedging: Hedging) -> None:
        self._share = hedging.share
        self._quantile = max(hedging.quantile, 1.0 - _MARGIN * hedging.share)
        self._needed = math.ceil(1.0 / (1.0 - self._quantile))
        self._times: deque[float] = deque(maxlen=max(_WINDOW, 2 * self._needed))
        self._seen, self._saved = 0, 0.0
        self._after: float | None = None
        self._lock = threading.Lock()

    def begin(self) -> float | None:
        """Note that a call begins; return after how many seconds it may be sent again, None where that is not known."""
        with self._lock:
            self._saved = min(self._saved + self._share, _MOST_SAVED)
            return self._after

    def allows(self) -> bool:
        """Tell whether a second copy may go out now, and take it off the account."""
        with self._lock:
            if self._saved < 1.0:
                return False
            self._saved -= 1.0
            return True

    def took(self, seconds: float) -> None:
        """Note how long the first copy took, or how long it had taken when it was given up for the second."""
        with self._lock:
            self._times.append(seconds)
            self._seen += 1
            if self._seen >= self._needed and (self._after is None or self._seen % _REFRESH == 0):
                ordered = sorted(self._times)
                self._after = ordered[min(int(self._quantile * len(ordered)), len(ordered) - 1)]


class Alarm:
    """Calls functions later, on one thread that is started when it is first needed; thread-safe."""

    def __init__(self) -> None:
        self._wake = threading.Condition()
        self._due: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = itertools.count()
        self._thread: threading.Thread | None = None
        self._closed = False

    def after(self, seconds: float, call: Callable[[], None]) -> bool:
        """Call a function in so many seconds, and tell whether that will be; it must not raise, and not take long."""
        at = time.monotonic() + seconds
        with self._wake:
            if self._closed:
                return False
            heapq.heappush(self._due, (at, next(self._numbers), call))
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="edge-sdk-alarm", daemon=True)
                self._thread.start()
            elif self._due[0][0] == at:
                self._wake.notify()
        return True

    def close(self) -> None:
        """Call now what is still to be called, and end the thread."""
        with self._wake:
            self._closed = True
            due, self._due = self._due, []
            self._wake.notify()
        for _, _, call in due:
            call()

    def _run(self) -> None:
        while True:
            with self._wake:
                while not self._closed and not (self._due and self._due[0][0] <= time.monotonic()):
                    self._wake.wait(self._due[0][0] - time.monotonic() if self._due else None)
                if self._closed:
                    return
                _, _, call = heapq.heappop(self._due)
            call()
            del call  # or what it belongs to would stay until the next
