"""Which instances of a model go to work: one more beside others takes only what fills a batch, and where that pays.

Batches that are full run beside each other where processors are free. What fills none had better wait for an instance
that is through soon: its items cost less together, and each part would take a processor. Where other programs have the
processors, two at once take as long as one after the other, and cost more.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from edge_sdk.cloud.server.costs import BatchCosts
from edge_sdk.cloud.server.instances import Instance
from edge_sdk.cloud.server.waiting import Job, WaitingList

__all__ = ["Crew"]

_SOON = 2e-3  # seconds until an instance is through for which to wait
_PAYS = 1.7  # times as long as alone: two that take longer beside each other do hardly more
_LEARN = 0.1  # how much one run corrects what is known
_TRY = 64  # full batches that run alone where that does not pay, before one is tried beside again


class Crew:
    """Not thread-safe: the line of the model holds its lock.

    Parameters
    ----------
    instances
        Of the model, all of them free.
    costs
        What batches cost.
    clock
        As `time.monotonic`, by which instances say until when they are at work.

    Attributes
    ----------
    instances
        All of them.
    idle
        Those that are free.
    """

    def __init__(
        self, instances: Sequence[Instance], costs: BatchCosts, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.instances, self._costs, self._clock = instances, costs, clock
        self.idle = list(instances)
        self._alone = self._beside = 0.0  # seconds of a full batch, an item; 0 is not known
        self._passed = 0

    @property
    def rests(self) -> bool:
        """All are free, or items run alone, so that no one had better wait for another."""
        return len(self.idle) == len(self.instances) or not self._costs.is_together

    @property
    def pays(self) -> bool:
        """Several at once are through sooner than one after the other, as far as is known."""
        return not self._costs.is_together or not self._alone or self._beside <= _PAYS * self._alone

    def may_begin(self, waiting: int) -> bool:
        """Tell whether one that is free is to take of so many items that wait."""
        if not self.idle or not waiting:
            return False
        if self.rests or not self._is_through_soon():
            return True
        if waiting < self._costs.full:
            return False
        if self.pays:
            return True
        self._passed = (self._passed + 1) % _TRY
        return not self._passed

    def take(self, queue: WaitingList, lag: float) -> tuple[list[Job], list[Job]]:
        """Take out who goes next, if one that is free is to work for them, as `WaitingList.take`."""
        return queue.take(self._costs, lag) if self.may_begin(queue.items) else ([], [])

    def is_beside(self) -> bool:
        """Tell whether more than one is at work."""
        return len(self.idle) + 1 < len(self.instances)

    def note(self, items: int, seconds: float, *, beside: bool) -> None:
        """Learn from a run, that began beside others or alone."""
        if len(self.instances) == 1 or items < self._costs.full:
            return
        each = seconds / items
        if beside:
            self._beside += _LEARN * (each - self._beside) if self._beside else each
        else:
            self._alone += _LEARN * (each - self._alone) if self._alone else each

    def _is_through_soon(self) -> bool:
        now = self._clock()
        for instance in self.instances:
            if instance in self.idle or instance.hangs:
                continue
            if instance.started is None or -_SOON < instance.until - now < _SOON:
                return True
        return False
