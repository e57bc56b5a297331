"""How much one device may ask: a bucket of requests that fills at a rate, for each."""

from __future__ import annotations

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
        Requests that it may make at once.
    clock
        Seconds, of any beginning.

    Raises
    ------
    InputError
        Rate or burst is not positive.
    """

    def __init__(self, rate: float, burst: int, *, clock: Callable[[], float] = time.monotonic) -> None:
        if not (rate > 0 and burst > 0):
            raise InputError(
                f"a device may make {rate} requests a second and {burst} at once: neither may be 0 or less"
            )
        self._rate = rate
        self._burst = burst
        self._clock = clock
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

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
