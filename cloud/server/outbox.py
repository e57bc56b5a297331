"""Answers of runs that are told together where many requests wait.

To tell one wakes the event loop, which takes a processor, and what its caches hold, from a model that runs.
"""

from __future__ import annotations

import threading
import time

from edge_sdk.cloud.server.runs import Run
from edge_sdk.cloud.server.waiting import Job, Results, settle

__all__ = ["Outbox"]

_MOST = 4  # answers that are told together, if they did not come together
_SHARE = 0.125  # of the time that a request took, that its answer may wait at most
_LONGEST = 8e-3  # seconds, likewise: beside longer runs it costs nothing to be told of each
_IN_TIME = 0.5  # of the time that a request has, that may be over when its answer is told after having waited


class Outbox:
    """What an instance has to tell; it may be sent from other threads."""

    def __init__(self) -> None:
        self._held: Results = []
        self._lock = threading.Lock()

    def put(self, results: Results, *, more: bool) -> None:
        """Tell what came of a run, or let it wait for the next.

        Parameters
        ----------
        results
            What each request is answered.
        more
            Whether there is a next: `put` or `send` follows then, about as soon as this run took.
        """
        with self._lock:
            held = self._held = self._held + results
            if more and len(held) < _MOST and _may_wait(held):
                return
            self._held = []
        settle(held)

    def send(self) -> None:
        """Tell what waits."""
        with self._lock:
            held, self._held = self._held, []
        if held:
            settle(held)


def _may_wait(results: Results) -> bool:
    """Tell whether answers may be told a run later."""
    last = results[-1][1] if results else None
    if not isinstance(last, Run):
        return False
    until = time.monotonic() + last.prepare + last.compute
    return all(isinstance(run, Run) and _is_patient(job, run, until) for job, run in results)


def _is_patient(job: Job, run: Run, until: float) -> bool:
    if until - run.done > min(_SHARE * (run.done - job.arrived), _LONGEST):
        return False
    return job.deadline is None or until - job.arrived < _IN_TIME * (job.deadline - job.arrived)
