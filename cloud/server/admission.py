"""Whether there is room and time for one more request, and if not, when it should come again."""

from __future__ import annotations

import time

from edge_sdk.cloud.server.costs import BatchCosts
from edge_sdk.cloud.server.counts import Counts
from edge_sdk.cloud.server.crew import Crew
from edge_sdk.cloud.server.waiting import Job, Order, WaitingList
from edge_sdk.errors import OverloadedError

__all__ = ["SHORTEST_RETRY", "Admission", "Held"]

_SPENT_WAITING = 0.5  # of the time that a request has to spare: a longer queue answers no more, only later
SHORTEST_RETRY = 0.001  # seconds
_LEARN = 0.02  # how much one request corrects the share of those that are refused
_MOST_REFUSED = 0.95  # a larger share is not believed


class Held:
    """What the inputs of requests hold that wait or run, of all models; used on the event loop.

    Parameters
    ----------
    most
        Bytes at most.
    """

    def __init__(self, most: int) -> None:
        self._most, self._now = most, 0

    @property
    def is_little(self) -> bool:
        """There is room for as much again."""
        return 2 * self._now < self._most

    def take(self, size: int, counts: Counts, soonest: float) -> None:
        """Count what a request holds; raise `OverloadedError`, which is counted, too, where that is too much."""
        if self._now + size > self._most:
            counts.shed += 1
            message = f"{self._now >> 20} of {self._most >> 20} MiB of inputs wait already"
            raise OverloadedError(message, retry_after=soonest)
        self._now += size

    def give(self, size: int) -> None:
        """Count what a request held no longer."""
        self._now -= size


class Admission:
    """Refuses what would wait in vain; asked while an instance does not hang.

    Not thread-safe: the line of the model holds its lock.

    Parameters
    ----------
    name
        Of the model, for messages.
    max_queue
        Requests that wait at most.
    waiting
        Those that wait.
    costs
        What batches cost.
    crew
        The instances of the model.
    """

    def __init__(
        self,
        name: str,
        *,
        max_queue: int,
        waiting: WaitingList,
        costs: BatchCosts,
        crew: Crew,
    ) -> None:
        self._name, self._max_queue = name, max_queue
        self._waiting, self._costs, self._crew = waiting, costs, crew
        self._refused = 0.0  # share of requests, of late

    def refusal(self, order: Order | Job, items: int, preparing: float, lag: float) -> OverloadedError | None:
        """Return why a request cannot be taken; None where it can.

        Parameters
        ----------
        order
            Its priority, its deadline, and when it came.
        items, preparing
            Inputs that it holds, and the seconds that their decoding and processing are thought to take.
        lag
            Seconds from the end of a run until its answers are on their way.
        """
        return self._no_room() or self._no_time(order, items, preparing, lag)

    def learn(self, *, refused: bool) -> None:
        """Take into account what became of a request."""
        self._refused += _LEARN * (refused - self._refused)

    def _no_room(self) -> OverloadedError | None:
        waiting = self._waiting
        if len(waiting) >= self._max_queue:
            waiting.forget_the_gone()
        if len(waiting) < self._max_queue:
            return None
        wait = self._wait(waiting.items, waiting.preparing)
        return self._error(f"{len(waiting)} requests wait for model {self._name} already", wait / 2)

    def _no_time(self, order: Order | Job, items: int, preparing: float, lag: float) -> OverloadedError | None:
        if order.deadline is None:
            return None
        before, preparing_before = self._waiting.before(order)
        own = self._costs.drain(items) + preparing
        wait = max(0.0, self._wait(before + items, preparing_before + preparing) - own)
        late = order.arrived + wait / _SPENT_WAITING + own + lag - order.deadline
        if late <= 0:
            return None
        there = len(self._waiting)
        return self._error(
            f"model {self._name} has no time for it: {there} requests wait already", late * _SPENT_WAITING
        )

    def _wait(self, items: int, preparing: float) -> float:
        """Return the seconds until so many items are through, and what runs now."""
        now, healthy = time.monotonic(), [instance for instance in self._crew.instances if not instance.hangs]
        running = sum(max(0.0, instance.until - now) for instance in healthy if instance.started is not None)
        return (running + self._costs.drain(items) + preparing) / (len(healthy) if self._crew.pays else 1)

    def _error(self, message: str, wait: float) -> OverloadedError:
        # all who are refused meanwhile come again: were each told only when there is room for one, there were none
        spread = 1 - min(self._refused, _MOST_REFUSED)
        return OverloadedError(message, retry_after=max(wait, SHORTEST_RETRY) / spread)
