"""Made-up networks over time.

Traces are drawn from simple laws with a seed, in steps of 100 ms: shaped like what is reported of such links, and
not recorded from any.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["ROADS", "Floats", "Road", "Trace", "draw_trace"]

Floats = NDArray[np.float64]
STEP = 0.1  # seconds


@dataclass(frozen=True)
class Road:
    """A law of traces, and the deadline that apps have on such a link.

    Attributes
    ----------
    bandwidth, varies, memory
        Median in bytes a second, standard deviation of its logarithm, and seconds over which it is itself.
    round_trip, jitter
        Seconds; jitter is exponential.
    spikes
        Share of steps that begin half a second in which the round trip is `spike` longer.
    outages, lasting
        Seconds between them, and how long they last, on average.
    handover
        Seconds between sudden changes of both, or 0.
    deadline, interval
        Seconds of a request, and between two.
    """

    name: str
    bandwidth: float
    varies: float
    memory: float
    round_trip: float
    jitter: float
    spikes: float
    spike: float
    outages: float
    lasting: float
    handover: float
    deadline: float
    interval: float


ROADS = {
    road.name: road
    for road in (
        Road("lte", 1.2e6, 0.6, 4.0, 0.045, 0.008, 0.005, 0.12, 60.0, 2.5, 0.0, 0.25, 0.4),
        Road("wifi", 4e6, 0.8, 2.0, 0.005, 0.005, 0.01, 0.08, 120.0, 4.0, 0.0, 0.15, 0.4),
        Road("satellite", 1.0e6, 0.35, 3.0, 0.045, 0.010, 0.004, 0.10, 90.0, 1.5, 15.0, 0.25, 0.4),
        Road("geostationary", 4e5, 0.3, 10.0, 0.6, 0.02, 0.002, 0.4, 180.0, 6.0, 0.0, 1.2, 1.5),
    )
}


@dataclass(frozen=True)
class Trace:
    """Round trip in seconds and bandwidth in bytes a second (0: no way) of each step."""

    round_trip: Floats
    bandwidth: Floats

    def answered_at(self, start: float, size: float, until: float) -> float:
        """Return when an answer to so many bytes, sent from `start` on, is there; infinite after `until`."""
        at, left = start, size
        while at < until:
            step = min(int(at / STEP), len(self.bandwidth) - 1)
            end, rate = (step + 1) * STEP, float(self.bandwidth[step])
            if rate > 0.0 and left <= rate * (end - at):
                done = at + left / rate + float(self.round_trip[step])
                # the way back must be open as well
                back = min(int(done / STEP), len(self.bandwidth) - 1)
                return done if done <= until and self.bandwidth[back] > 0.0 else math.inf
            left -= rate * max(end - at, 0.0)
            at = max(end, math.nextafter(at, math.inf))
        return math.inf

    def outage_within(self, start: float, end: float) -> int | None:
        """Return the first step of the outage that a stretch of time meets first; None where it meets none."""
        begins, ends = int(start / STEP), int(end / STEP) + 1
        shut = np.flatnonzero(self.bandwidth[begins:ends] == 0.0)
        if len(shut) == 0:
            return None
        before = np.flatnonzero(self.bandwidth[: begins + shut[0]] > 0.0)
        return int(before[-1]) + 1 if len(before) else 0


def draw_trace(road: Road, seconds: float, seed: int) -> Trace:
    """Draw a trace of a road."""
    rng = np.random.default_rng([seed, sum(road.name.encode())])
    steps = math.ceil(seconds / STEP)
    keep = math.exp(-STEP / road.memory)
    noise = rng.normal(0.0, road.varies * math.sqrt(1 - keep**2), steps)
    level = np.empty(steps)
    state = rng.normal(0.0, road.varies)
    extra = 0.0
    trip = road.round_trip + rng.exponential(road.jitter, steps)
    for n in range(steps):
        if road.handover and n % int(road.handover / STEP) == 0:
            state = rng.normal(0.0, road.varies)
            extra = rng.uniform(-0.3, 0.3) * road.round_trip
        state = keep * state + noise[n]
        level[n] = state
        trip[n] += extra
    for begins in np.flatnonzero(rng.random(steps) < road.spikes):
        trip[begins : begins + 5] += road.spike
    bandwidth = road.bandwidth * np.exp(level)
    at = rng.exponential(road.outages)
    while at < seconds:
        lasts = rng.exponential(road.lasting)
        bandwidth[int(at / STEP) : math.ceil((at + lasts) / STEP)] = 0.0
        at += lasts + rng.exponential(road.outages)
    return Trace(trip, bandwidth)
