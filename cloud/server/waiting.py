"""Requests that wait: in the order of their priority and deadline, taken out as many together as pay, and answered."""

from __future__ import annotations

import asyncio
import logging
import time
from bisect import insort
from dataclasses import dataclass
from itertools import count
from typing import NamedTuple, Protocol

from edge_sdk.cloud.server.costs import BatchCosts
from edge_sdk.cloud.server.payloads import Payload
from edge_sdk.cloud.server.runs import Run

__all__ = ["Job", "Order", "Place", "Results", "RetiredError", "WaitingList", "settle", "settle_here"]

_log = logging.getLogger("edge_sdk.cloud.server")

_PATIENCE = 10.0  # seconds after which a request without a deadline goes as if it had one


class RetiredError(Exception):
    """A line takes no more; there is a newer one."""


class Order(NamedTuple):
    """Who goes before whom: a lower priority first, of the same the earlier deadline.

    Attributes
    ----------
    priority
        1 goes first.
    deadline
        `time.monotonic` reading after which no one waits for the answer; None is never.
    arrived
        Likewise, when it came.
    """

    priority: int
    deadline: float | None
    arrived: float

    @property
    def key(self) -> tuple[int, float]:
        """What orders are compared by."""
        return self.priority, self.deadline if self.deadline is not None else self.arrived + _PATIENCE


class Place(Protocol):
    """Where a request is answered; a future of its loop is one."""

    def done(self) -> bool:
        """Tell whether nobody waits any more."""

    def set_result(self, run: Run, /) -> None:
        """Answer with what the model says."""

    def set_exception(self, error: BaseException, /) -> None:
        """Answer with why there is no answer."""


@dataclass(slots=True, eq=False)
class Job:
    """A request in line.

    Attributes
    ----------
    payload
        What it holds.
    deadline
        `time.monotonic` reading after which no one waits for the answer; None is never.
    arrived
        Likewise, when it came.
    future
        Where it is answered; of `loop`.
    preparing
        Seconds that its decoding and processing are thought to take.
    priority
        1 goes first.
    """

    payload: Payload
    deadline: float | None
    arrived: float
    future: Place
    loop: asyncio.AbstractEventLoop
    preparing: float
    priority: int

    @property
    def gone(self) -> bool:
        """Nobody waits any more."""
        return self.future.done()

    @property
    def key(self) -> tuple[int, float]:
        """As that of its `Order`."""
        return self.priority, self.deadline if self.deadline is not None else self.arrived + _PATIENCE


Results = list[tuple[Job, Run | BaseException]]


class WaitingList:
    """Jobs in the order in which they go. Not thread-safe: the line of the model holds its lock.

    Attributes
    ----------
    items, preparing
        Inputs of all that wait, and the seconds that their decoding and processing are thought to take.
    """

    def __init__(self) -> None:
        self._queue: list[tuple[int, float, int, Job]] = []
        self._numbers = count()
        self.items, self.preparing = 0, 0.0

    def __len__(self) -> int:
        return len(self._queue)

    @property
    def first(self) -> Job:
        """Who goes first, of one at least."""
        return self._queue[0][3]

    def before(self, order: Order | Job) -> tuple[int, float]:
        """Return `items` and `preparing` of those that would go before another."""
        first = order.key
        if not self._queue or self._queue[-1][:2] <= first:
            return self.items, self.preparing
        jobs = [entry[3] for entry in self._queue if entry[:2] <= first]
        return sum(one.payload.items for one in jobs), sum(one.preparing for one in jobs)

    def put(self, job: Job) -> None:
        """Let a job wait; after those of the same order."""
        insort(self._queue, (*job.key, next(self._numbers), job))
        self.items += job.payload.items
        self.preparing += job.preparing

    def forget_the_gone(self) -> None:
        """Leave out those for whose answer nobody waits."""
        self._queue = [entry for entry in self._queue if not entry[3].gone]
        self.items = sum(entry[3].payload.items for entry in self._queue)
        self.preparing = sum(entry[3].preparing for entry in self._queue)

    def clear(self) -> list[Job]:
        """Take out all."""
        jobs = [entry[3] for entry in self._queue]
        self._queue, self.items, self.preparing = [], 0, 0.0
        return jobs

    def take(self, costs: BatchCosts, lag: float) -> tuple[list[Job], list[Job]]:
        """Take out who goes next together, and those before them whose time is up.

        Parameters
        ----------
        costs
            What batches cost.
        lag
            Seconds from the end of a run until its answers are on their way.
        """
        jobs: list[Job] = []
        late: list[Job] = []
        now, items, size, taken = time.monotonic(), 0, costs.best(self.items), 0
        for *_, job in self._queue:
            if not job.gone:
                if jobs and (items + job.payload.items > size or job.payload.kind != jobs[0].payload.kind):
                    break
                if job.deadline is not None and self._is_late(job, job.deadline, now + lag, costs):
                    late.append(job)
                else:
                    # the most urgent one is still answered in time
                    while (
                        not jobs and size > 1 and job.deadline is not None and now + costs.at_most(size) > job.deadline
                    ):
                        size //= 2
                    jobs.append(job)
                    items += job.payload.items
            taken += 1
            self.items -= job.payload.items
            self.preparing -= job.preparing
            if items >= size:
                break
        del self._queue[:taken]
        return jobs, late

    def _is_late(self, job: Job, deadline: float, now: float, costs: BatchCosts) -> bool:
        if now < deadline and len(self._queue) == 1:
            # with nobody behind it nothing is lost by trying, and a cost that was thought too high is corrected
            return False
        return now + job.preparing + costs.drain(job.payload.items) > deadline


def settle(results: Results) -> None:
    """Answer jobs, from any thread."""
    by_loop: dict[asyncio.AbstractEventLoop, Results] = {}
    for result in results:
        by_loop.setdefault(result[0].loop, []).append(result)
    for loop, mine in by_loop.items():
        try:
            loop.call_soon_threadsafe(settle_here, mine)
        except RuntimeError:  # the loop has been closed, and those who waited with it
            _log.debug("%d answers came after the end", len(mine))


def settle_here(results: Results) -> None:
    """Answer jobs, on their loop."""
    for job, result in results:
        if job.future.done():
            continue
        if isinstance(result, BaseException):
            job.future.set_exception(result)
        else:
            job.future.set_result(result)
