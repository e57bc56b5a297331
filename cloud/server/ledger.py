"""What is written down of the runs of one model: counters, what batches cost, and what decoding and processing take."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence

from edge_sdk.cloud.server.costs import FEW, BatchCosts
from edge_sdk.cloud.server.counts import Counts
from edge_sdk.cloud.server.payloads import Payload
from edge_sdk.cloud.server.runs import Run
from edge_sdk.cloud.server.waiting import Results

__all__ = ["Ledger"]

Requests = Sequence[tuple[int, float]]
Correct = Callable[[int, float], None]

_RAN = 32  # runs at once that are counted together, while the code that counts is at hand
_BATCHES = 8  # likewise, batches that ran in buffers
_BRIEF = 5e-3  # seconds of a batch that is counted with others
_LEARN = 0.1  # how much one request corrects what preparing takes


class Ledger:
    """Not thread-safe: the line of the model holds its lock.

    Parameters
    ----------
    costs
        What batches cost; corrected by each.

    Attributes
    ----------
    counts
        The counters; up to date after `catch_up`.
    """

    def __init__(self, costs: BatchCosts) -> None:
        self.counts, self._costs = Counts(), costs
        self._preparing: dict[str, float] = {}  # seconds an item, by encoding
        self._ran: list[tuple[int, float, float, float]] = []  # at once: items, arrived, started, done
        self._batches: list[tuple[Requests, float, float, Run, Correct]] = []  # in buffers: started, done

    def preparing(self, payload: Payload) -> float:
        """Return the seconds that decoding and processing a request are thought to take."""
        return self._preparing.get(payload.encoding, 0.0) * payload.items

    def ran_at_once(self, items: int, arrived: float, started: float, done: float) -> None:
        """Note a request that ran as soon as it came; `time.monotonic` readings."""
        self._ran.append((items, arrived, started, done))
        if len(self._ran) >= _RAN:
            self.catch_up()

    def catch_up(self) -> None:
        """Count what was noted."""
        if self._ran:
            self._count_at_once()
        for requests, started, done, run, correct in self._batches:
            self.counts.answered_together(requests, started, done, run.prepare, run.compute)
            self._count([run], correct)
        if self._batches:
            self._ran_last(self._batches[-1][2])
        self._batches.clear()

    def ran(self, started: float, results: Results, correct: Correct) -> None:
        """Count what came of a batch.

        Parameters
        ----------
        started
            `time.monotonic` reading of when it began.
        results
            What each request is answered.
        correct
            Takes size and seconds of each run of the model.
        """
        now, counts = time.monotonic(), self.counts
        first = results[0][1] if results else None
        if isinstance(first, Run) and results[0][0].payload.said is not None:  # one run of all of them, in buffers
            requests = [(job.payload.items, job.arrived) for job, _ in results if not job.gone]
            if requests:
                self._batches.append((requests, started, now, first, correct))
            if len(self._batches) >= _BATCHES or first.compute >= _BRIEF:
                self.catch_up()
            return
        self._ran_last(now)
        runs: dict[int, Run] = {}
        for job, result in results:
            if isinstance(result, TimeoutError):
                counts.expired += 1
            elif isinstance(result, BaseException):
                counts.failure.add(now - job.arrived)
            elif not job.gone:
                runs[id(result.batch)] = result
                counts.answered(job.payload.items, job.arrived, started, now, result.prepare, result.compute)
                if job.payload.encoding != "tensor":
                    known = self._preparing.get(job.payload.encoding, result.prepare_item)
                    self._preparing[job.payload.encoding] = known + _LEARN * (result.prepare_item - known)
        self._count(runs.values(), correct)

    def _count_at_once(self) -> None:
        ran, counts = self._ran, self.counts
        counts.answered_at_once(ran)
        runs: dict[int, list[float]] = {}
        for items, _, started, done in ran:
            runs.setdefault(items, []).append(done - started)
        for items, took in runs.items():
            counts.ran(items, sum(took), len(took))
            for at in range(0, len(took), FEW):
                few = took[at : at + FEW]
                self._costs.correct_short(items, min(few), len(few))
        self._ran_last(ran[-1][-1])
        ran.clear()

    def _count(self, runs: Iterable[Run], correct: Correct) -> None:
        for run in runs:
            for size, seconds in run.batch:
                self.counts.ran(size, seconds)
                correct(size, seconds)

    def _ran_last(self, done: float) -> None:
        """Note when the model ran last, as `time.monotonic` has it."""
        at = int((time.time() - time.monotonic() + done) * 1e3)
        self.counts.last_inference = max(at, self.counts.last_inference)
