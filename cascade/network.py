"""The network as calls tell of it: how long a request of some size takes, and how surely."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

__all__ = ["LEAST", "NOTHING", "SURE", "Network"]

SURE = 0.9
"""Probability of an answer in time with which one may choose what to send."""

LEAST = 0.5
"""Probability below which nothing is sent."""

_GAIN = 0.2  # weight of the newest call
_UNSURE = 0.3  # how far off the first is held to be
_EARLY = 0.25  # an answer sooner than expected makes the next one less unsure than one that is later
_VARIES = 0.05  # sizes must vary by this share of their mean before they say anything of the bandwidth
_STEEP = 0.2  # share of the time put down to the bytes where larger ones than usual are asked about
_LONGER = 2.5  # a call that was not answered would have taken so many times what was waited
_PAUSE = 3.5  # seconds after a call that was not answered, beside those that it was waited for
_TAIL = 4.0  # times are late by so many times what they scatter by on average: their tail is a heavy one


@dataclass(frozen=True, slots=True)
class Network:
    """What calls tell of the way to the cloud and back.

    Time is a round trip, the server's work in it, and the bytes divided by the bandwidth: a line
    through the calls seen, by least squares, the latest weighing most. Until sizes have varied, all of the
    time is put down to the bytes, so that a smaller request is tried where a larger one is too slow.

    Attributes
    ----------
    calls
        How many were learned from.
    size, seconds
        Weighted means.
    variance, covariance
        Of the size, and of size and seconds.
    deviation
        Weighted mean of how far the line was off, as a share of what it said.
    misses
        How many calls, up to the last one, were not answered in time.
    waited
        Seconds that were waited for the last of these.
    """

    calls: int = 0
    size: float = 0.0
    seconds: float = 0.0
    variance: float = 0.0
    covariance: float = 0.0
    deviation: float = 0.0
    misses: int = 0
    waited: float = 0.0

    @property
    def _has_slope(self) -> bool:
        return self.variance > (_VARIES * self.size) ** 2

    @property
    def _slope(self) -> float:
        if self.covariance <= 0.0 or not self._has_slope:
            return 0.0
        return min(self.covariance / self.variance, self.seconds / self.size)  # no round trip is negative

    @property
    def round_trip(self) -> float:
        """Seconds that a request of no bytes would take; 0 where nothing is known."""
        return self.seconds - self._slope * self.size

    @property
    def bandwidth(self) -> float:
        """Bytes a second; infinite where size has made no difference so far."""
        return 1.0 / self._slope if self._slope > 0.0 else math.inf

    @property
    def pause(self) -> float:
        """Seconds from a call that was not answered to the next one."""
        return 0.0 if self.misses == 0 else _PAUSE + self.waited

    def learn(self, size: int, seconds: float) -> Network:
        """Return what is known after one more call that was answered."""
        calls = self.calls + 1
        gain = max(_GAIN, 1.0 / calls)
        larger, longer = size - self.size, seconds - self.seconds
        off = _UNSURE if self.calls == 0 else seconds / max(self.expect(size), 1e-9) - 1.0
        off = off if off >= 0.0 else _EARLY * -off
        return Network(
            calls,
            self.size + gain * larger,
            self.seconds + gain * longer,
            (1.0 - gain) * (self.variance + gain * larger**2),
            (1.0 - gain) * (self.covariance + gain * larger * longer),
            self.deviation + gain * (min(off, 2.0) - self.deviation),
        )

    def miss(self, size: int, seconds: float) -> Network:
        """Return what is known after a call that was not answered within some seconds.

        The first one says that the way has become longer, the next ones that there is none now.
        """
        known = self.late(size, seconds) if self.misses == 0 else self
        return replace(known, misses=self.misses + 1, waited=seconds)

    def late(self, size: int, seconds: float) -> Network:
        """Return what is known after a call that was not answered within some seconds, while later ones were."""
        return self.learn(size, max(_LONGER * seconds, self.expect(size)))

    def expect(self, size: float) -> float:
        """Return the seconds that a request of so many bytes should take; 0 where nothing is known."""
        if self.size == 0.0:
            return self.seconds
        if not self._has_slope:
            return self.seconds * size / self.size
        least = _STEEP * self.seconds / self.size if size > self.size else 0.0
        return self.seconds + max(self._slope, least) * (size - self.size)

    def in_time(self, size: float, remaining: float | None, making: float = 0.0) -> float:
        """Return the probability of an answer within some seconds, of which making the request takes a part.

        Times are taken to scatter around what is expected as Laplace's distribution does, of a scale of 4 mean
        deviations: bandwidths fall and round trips grow by more than they usually vary.
        """
        if remaining is None or self.calls == 0:
            return 1.0 if remaining is None or remaining > making else 0.0
        expected = max(self.expect(size), 1e-9)
        left = ((remaining - making) / expected - 1.0) / max(_TAIL * self.deviation, 0.02)
        return 1.0 - 0.5 * math.exp(-min(left, 700.0)) if left >= 0.0 else 0.5 * math.exp(max(left, -700.0))


NOTHING = Network()
"""What is known of it at first."""
