"""How much one device may ask: a bucket of requests that fills at a rate, for each."""

from __future__ import annotations

import math
import time
from collections import OrderedDict
from collections.abc import Callable

from edge_sdk.errors import InputError

__all__ = ["Throttle"]

_DEVICES = 100_000  # remembered at a time: who asked longest ago is forgotten, and begins with a full bucket


class Throttle:
    """Buckets of requests by device; not thread-safe.

    Parameters
    ----------
    rate
        Requests a second that a device may make for long.
    burst
        Requests that it may make at once; None: those of a second.
    clock
        Seconds, of any beginning.

    Raises
    ------
    InputError
        Rate or burst is not positive.
    """

    def __init__(self, rate: float, burst: int | None = None, *, clock: Callable[[], float] = time.monotonic) -> None:
        if not 0 < rate < math.inf or (burst is not None and burst <= 0):
            at_once = "" if burst is None else f" and {burst} at once"
            raise InputError(f"a device may make {rate} requests a second{at_once}: say a number above 0")
        self._rate = rate
        self._burst = max(1, int(rate)) if burst is None else burst
        self._clock = clock
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    @property
    def seconds(self) -> float:
        """In what time a device may make one more request."""
        return 1.0 / self._rate

    def admits(self, device: str) -> bool:
        """Whether a request of this device may be answered now; it is counted if so."""
        now = self._clock()
        left, since = self._buckets.pop(device, (float(self._burst), now))
        left = min(self._burst, left + (now - since) * self._rate)
        admitted = left >= 1.0
        self._buckets[device] = (left - admitted, now)
        if len(self._buckets) > _DEVICES:
            self._buckets.popitem(last=False)
        return admitted
