"""Who else asks: whether a request comes alone, and how long those that are there had better wait for others.

A batch of a small model costs little more than one item, and a turn of the event loop brings many calls or one, as
the front has it: gRPC's library hands over one. So what waits does not run while the loop still brings more, and a
moment longer while some are missing that are known to ask. That moment is no longer than what their company saves,
and it is learned: longer where others came just after it, shorter where nobody did.
"""

from __future__ import annotations

import time

from edge_sdk.cloud.server.costs import BatchCosts
from edge_sdk.cloud.server.waiting import Job, WaitingList

__all__ = ["Coming", "Company"]

_ALONE = 8  # requests in a row that found nobody to share a batch with
_CLOSE = 50e-6  # seconds: who comes so soon after a run came while it ran
_LEAST = 10e-6  # seconds that one more in a batch saves; a turn of the loop costs as much
_QUIET, _LONG_QUIET = 20e-6, 300e-6  # seconds in which nobody came, after which nobody is waited for
_GROW, _SHRINK = 2.0, 0.9  # how much one batch corrects that
_TURNS = 4  # of the loop in which nobody came, at least: one may take long where the processor is given to others
_MOST, _MOST_TURNS = 10e-3, 16  # seconds to wait at most, however many come; and turns, before that is believed
_SHARE = 0.5  # likewise, of the time that a request has: where all are late already, each alone would make it later
_BRIEF = 1e-3  # seconds of a batch for which an instance is left to the loop, which knows who comes


class Coming:
    """Calls that have begun and whose message is on its way; told by a front that learns of them one by one.

    Attributes
    ----------
    expected
        Those whose message has not come.
    seen
        How often either happened.
    is_told
        There is such a front: that one is there then says nothing of others.
    """

    __slots__ = ("expected", "is_told", "seen")

    def __init__(self) -> None:
        self.expected = self.seen = 0
        self.is_told = False

    def begun(self) -> None:
        """Note that a call has begun."""
        self.expected += 1
        self.seen += 1
        self.is_told = True

    def came(self) -> None:
        """Note that a message has come, or will not."""
        self.seen += 1
        if self.expected:
            self.expected -= 1

    def give_up(self) -> None:
        """Expect nobody any more who has not come: a client need not send what it began."""
        self.expected = 0


class Company:
    """The requests for one model, as they come; used on the event loop.

    Attributes
    ----------
    coming
        Of the server.
    ended
        `time.monotonic` reading of when the last run on the event loop was through.
    """

    def __init__(self) -> None:
        self.coming, self.ended = Coming(), 0.0
        self._alone = 0
        self._known = 1  # requests that were there when the last batch began
        self._patience = _QUIET
        self._left, self._saved = 0.0, 0.0  # when nobody was waited for any more, and what one more had saved
        self._began: float | None = None  # when waiting began
        self._turns = 0  # since then
        self._seen, self._active = (0, 0), (0, 0.0)  # what there was when somebody last came, and that turn and time

    def met(self, together: int) -> None:
        """Note how many requests were there to share a batch."""
        self._alone = self._alone + 1 if together == 1 else 0

    def is_alone(self) -> bool:
        """Tell whether nobody else is to be expected."""
        if self._alone < _ALONE:
            return False
        if self.coming.expected or time.monotonic() - self.ended < _CLOSE:
            self._alone = 0
            return False
        return True

    def is_awaited(self, waiting: WaitingList, costs: BatchCosts) -> bool:
        """Tell whether those that wait, one at least, should not run yet, but be looked at in the next turn."""
        items, there = waiting.items, len(waiting)
        each = items // there
        saved = costs.seconds(items) + costs.seconds(each) - costs.seconds(items + each)
        awaited = saved >= _LEAST and items + each <= costs.max_batch and costs.is_together
        if not awaited:
            self.coming.give_up()
        elif awaited := max(there, self._known) > 1 or (self.coming.is_told and not self.is_alone()):
            now = time.monotonic()
            if self._began is None:
                self._begin(now)
            self._turns += 1
            awaited = not self._is_late(now, waiting.first) and self._may_come(now, there, saved)
            if not awaited:
                self._left, self._saved = now, saved
        if not awaited:
            self._began, self._known = None, there
        return awaited

    def is_incomplete(self, waiting: WaitingList, costs: BatchCosts) -> bool:
        """Tell whether some are missing of those that were there last time, and a batch is short."""
        return 0 < len(waiting) < self._known and costs.seconds(waiting.items) < _BRIEF

    def _begin(self, now: float) -> None:
        """Begin to wait; learn how long, from how soon somebody is there again."""
        if now - self._left < self._saved:
            self._patience = min(self._patience * _GROW, _LONG_QUIET)
        else:
            self._patience = max(self._patience * _SHRINK, _QUIET)
        self._began, self._turns, self._seen = now, 0, (0, 0)

    def _is_late(self, now: float, first: Job) -> bool:
        """Tell whether to wait has taken too long, whoever may come."""
        assert self._began is not None
        if first.deadline is not None and now - first.arrived > _SHARE * (first.deadline - first.arrived):
            return True
        return now - self._began > _MOST and self._turns > _MOST_TURNS

    def _may_come(self, now: float, there: int, saved: float) -> bool:
        """Tell whether somebody has just come, or is worth waiting for."""
        coming = self.coming
        if self._seen != (coming.seen, there):
            self._seen, self._active = (coming.seen, there), (self._turns, now)
            return True
        turn, active = self._active
        missing = max(coming.expected, self._known - there)
        patience = min(saved * missing, _LONG_QUIET) if missing else min(saved, self._patience)
        if self._turns - turn <= _TURNS or now - active < patience:
            return True
        coming.give_up()
        return False
