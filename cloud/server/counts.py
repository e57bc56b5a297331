"""What is counted of a model: requests, items, batches, and where their time went, as in Triton's statistics."""

from __future__ import annotations

import time
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, field

__all__ = ["BUCKETS", "Counts", "Histogram", "Tally"]

BUCKETS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
"""Upper bounds of the histograms, in seconds."""


@dataclass(slots=True)
class Tally:
    """How often, and for how many seconds in sum."""

    count: int = 0
    seconds: float = 0.0

    def add(self, seconds: float, count: int = 1) -> None:
        """Count something that took so long."""
        self.count += count
        self.seconds += seconds


@dataclass(slots=True)
class Histogram:
    """Seconds by `BUCKETS`; the last place is of those beyond."""

    counts: list[int] = field(default_factory=lambda: [0] * (len(BUCKETS) + 1))
    sum: float = 0.0

    def add(self, seconds: float) -> None:
        """Count something that took so long."""
        self.counts[bisect_left(BUCKETS, seconds)] += 1
        self.sum += seconds

    def add_all(self, took: Sequence[float]) -> None:
        """Count several things, at least one, that took so long."""
        place = bisect_left(BUCKETS, max(took))
        if place == bisect_left(BUCKETS, min(took)):  # mostly, of what ran together
            self.counts[place] += len(took)
        else:
            for seconds in took:
                self.counts[bisect_left(BUCKETS, seconds)] += 1
        self.sum += sum(took)


@dataclass(slots=True)
class Counts:
    """Counters of one version of a model; they only grow, but for the last three. Read them from any thread.

    Attributes
    ----------
    items
        Inputs that were answered (Triton's inference count).
    batches
        How often the model ran (Triton's execution count).
    success, failure
        Requests that were answered, and that ended in an error of the request or the model; from arrival.
    queue, prepare, compute, finish
        Of requests that were answered: waiting, decoding and processing (Triton's compute input), the
        model (compute infer), and taking its outputs apart (compute output).
    cancelled, expired, shed
        Requests whose caller went, whose time was up in the queue, and that were refused because they
        could not be answered in time or there was no room.
    by_size
        The model's runs by batch size.
    waiting, latency
        Histograms of the queue and of whole requests.
    hits, misses
        Requests that the cache answered, or did not; the time to look them up, and to keep the answer.
    table_hits, table_misses
        Requests that the table answered, with the time for it, or did not.
    last_inference
        Milliseconds since the epoch.
    pending, pending_bytes
        Requests that wait or run now, and what they hold.
    cached_bytes
        What the cache holds now.
    """

    items: int = 0
    batches: int = 0
    success: Tally = field(default_factory=Tally)
    failure: Tally = field(default_factory=Tally)
    queue: Tally = field(default_factory=Tally)
    prepare: Tally = field(default_factory=Tally)
    compute: Tally = field(default_factory=Tally)
    finish: Tally = field(default_factory=Tally)
    cancelled: int = 0
    expired: int = 0
    shed: int = 0
    by_size: dict[int, Tally] = field(default_factory=dict)
    waiting: Histogram = field(default_factory=Histogram)
    latency: Histogram = field(default_factory=Histogram)
    hits: Tally = field(default_factory=Tally)
    misses: Tally = field(default_factory=Tally)
    table_hits: Tally = field(default_factory=Tally)
    table_misses: Tally = field(default_factory=Tally)
    last_inference: int = 0
    pending: int = 0
    pending_bytes: int = 0
    cached_bytes: int = 0

    def hit(self, seconds: float, *, of_table: bool = False) -> None:
        """Count a request that the cache answered, or the table."""
        self.last_inference = int(time.time() * 1e3)
        for tally in (self.table_hits if of_table else self.hits, self.success, self.latency):
            tally.add(seconds)

    def ran(self, size: int, seconds: float, runs: int = 1) -> None:
        """Count a run of the model, of a batch of a size; or several, and their seconds in sum."""
        self.batches += runs
        tally = self.by_size.get(size)
        if tally is None:
            tally = self.by_size[size] = Tally()
        tally.add(seconds, runs)

    def answered(self, items: int, arrived: float, started: float, now: float, prepare: float, compute: float) -> None:
        """Count a request that was answered.

        Parameters
        ----------
        items
            Inputs that it held.
        arrived, started, now
            `time.monotonic` readings: when it came, when its batch began, and now.
        prepare, compute
            Seconds of decoding and processing, and of the model.
        """
        self.answered_together([(items, arrived)], started, now, prepare, compute)

    def answered_at_once(self, ran: Sequence[tuple[int, float, float, float]]) -> None:
        """Count requests of which each was answered by a run of its own, as soon as it came.

        Parameters
        ----------
        ran
            What each held, when it came, when it began, and when it was through.
        """
        waits, latencies, short = self.waiting.counts, self.latency.counts, BUCKETS[0]
        waited = took = 0.0
        quick = 0
        for items, arrived, started, done in ran:
            self.items += items
            waited += started - arrived
            took += done - started
            if done - arrived <= short:
                quick += 1
            else:
                waits[bisect_left(BUCKETS, started - arrived)] += 1
                latencies[bisect_left(BUCKETS, done - arrived)] += 1
        waits[0] += quick
        latencies[0] += quick
        self.waiting.sum += waited
        self.latency.sum += waited + took
        count = len(ran)
        self.success.add(waited + took, count)
        self.queue.add(waited, count)
        self.prepare.add(0.0, count)
        self.compute.add(took, count)
        self.finish.add(0.0, count)

    def answered_together(
        self, requests: Sequence[tuple[int, float]], started: float, now: float, prepare: float, compute: float
    ) -> None:
        """Count requests of a batch, one at least: what each holds, and when it came; else as `answered`."""
        count, took = len(requests), now - started
        self.items += sum([items for items, _ in requests])
        waits = [started - arrived for _, arrived in requests]
        waited = sum(waits)
        self.waiting.add_all(waits)
        self.latency.add_all([wait + took for wait in waits])
        self.success.add(waited + count * took, count)
        self.queue.add(waited, count)
        self.prepare.add(count * prepare, count)
        self.compute.add(count * compute, count)
        self.finish.add(count * max(0.0, took - prepare - compute), count)
