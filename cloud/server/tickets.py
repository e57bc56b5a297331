"""Where a request is answered without a coroutine that waits: what its answer costs beside the model is most of it."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable

from edge_sdk.cloud.server.exchange import Failure
from edge_sdk.cloud.server.runs import Run

__all__ = ["Ticket", "Told"]

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


class Told:
    """Where an answer comes that is not known at once.

    Attributes
    ----------
    ready
        `time.monotonic` reading of when it came; 0 before.
    """

    __slots__ = ("_said", "_waiter", "ready")

    def __init__(self) -> None:
        self.ready = 0.0
        self._said: bytes | Failure = b""
        self._waiter: asyncio.Future[None] | None = None

    def tell(self, answer: bytes | Failure) -> None:
        """Take the answer; its caller may have gone, and the coroutine that waits does not know yet."""
        self.ready, self._said = time.monotonic(), answer
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def wait(self, ticket: Ticket) -> bytes | Failure:
        """Return the answer; give the ticket back where nobody waits for it any more."""
        try:
            if not self.ready:
                self._waiter = asyncio.get_running_loop().create_future()
                await self._waiter
        finally:
            ticket.cancel()  # does nothing where there is an answer
        return self._said
