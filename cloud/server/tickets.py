"""Where a request is answered without a coroutine that waits: what its answer costs beside the model is most of it."""

from __future__ import annotations

import logging
from collections.abc import Callable

from edge_sdk.cloud.server.runs import Run

__all__ = ["Ticket"]

_log = logging.getLogger("edge_sdk.cloud.server")
Finish = Callable[[Run | None, BaseException | None], None]


class Ticket:
    """What a job has in place of a future, used on the event loop.

    Parameters
    ----------
    finish
        Called once: with what the model says, or with why it says nothing; with neither where nobody waits any more.
    """

    __slots__ = ("_finish",)

    def __init__(self, finish: Finish) -> None:
        self._finish: Finish | None = finish

    def done(self) -> bool:
        """Tell whether nobody waits any more."""
        return self._finish is None

    def set_result(self, run: Run) -> None:
        """Answer with what the model says."""
        self._end(run, None)

    def set_exception(self, error: BaseException) -> None:
        """Answer with why there is no answer."""
        self._end(None, error)

    def cancel(self) -> None:
        """Let go: the caller has gone, or its time is up."""
        self._end(None, None)

    def _end(self, run: Run | None, error: BaseException | None) -> None:
        finish, self._finish = self._finish, None  # it knows the ticket: a ring that only the collector would find
        if finish is not None:
            try:
                finish(run, error)
            except Exception:  # noqa: BLE001 - the others of its batch are told next
                _log.exception("an answer could not be given")
