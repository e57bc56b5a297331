"""Calls that come one a turn of the event loop, let through together.

gRPC's library hands over one call a turn, and what follows finds the caches cold: Python's way to the model and back,
the model, and the library's own way of sending. Done for several calls one after the other, all of that takes less.
So where calls for a model that runs at once come close to each other, each waits until the loop has turned a few
times and nobody has come; a lone one does not wait. Those for other models wait in line, where they are waited for.
"""

from __future__ import annotations

import asyncio
import time

from edge_sdk.cloud.server.company import Coming

__all__ = ["Gathering"]

_MOST = 16  # calls that go on together
_QUIET_TURNS = 8  # of the loop in which nobody came
_MOST_SECONDS = 4e-3  # that a call waits, before what is still to come in a turn
_LEAST_LEFT = 0.05  # seconds of a call that has the time to wait
_ALONE = 8  # calls in a row that found nobody to go on with
_CLOSE = 50e-6  # seconds: who comes so soon after others went on came with them


class Gathering:
    """Used on the event loop, by the task of each call.

    Parameters
    ----------
    coming
        Calls that have begun and whose message is on its way; also of those that gather.
    """

    def __init__(self, coming: Coming) -> None:
        self._coming = coming
        self._gathered: list[asyncio.Future[None]] = []
        self._alone, self._ended = 0, 0.0
        self._began, self._turns, self._seen = 0.0, 0, 0

    def is_alone(self, now: float) -> bool:
        """Tell whether nobody else is to be expected by a call whose message has come; `time.monotonic` reading."""
        if self._alone < _ALONE:
            return False
        if self._coming.expected > 1 or now - self._ended < _CLOSE:
            self._alone = 0
            return False
        self._ended = now
        return True

    async def join(self, now: float, remaining: float | None) -> None:
        """Wait for others, where as many seconds remain for a call."""
        if remaining is not None and remaining < _LEAST_LEFT:
            return
        loop = asyncio.get_running_loop()
        gathered = self._gathered
        future = loop.create_future()
        gathered.append(future)
        if len(gathered) == 1:
            self._began, self._turns, self._seen = now, 0, 1
            loop.call_soon(self._look, loop)
        await future

    def _look(self, loop: asyncio.AbstractEventLoop) -> None:
        """Let all go on, or look again in the next turn."""
        count = len(self._gathered)
        if count != self._seen:
            self._seen, self._turns = count, 0
        self._turns += 1
        if count < _MOST and self._turns <= _QUIET_TURNS and time.monotonic() - self._began < _MOST_SECONDS:
            loop.call_soon(self._look, loop)
            return
        if count < _MOST:
            self._coming.give_up()  # a client need not send what it began
        self._alone = self._alone + 1 if count == 1 else 0
        gathered, self._gathered = self._gathered, []
        for future in gathered:
            if not future.done():  # its caller may have gone
                future.set_result(None)
        self._ended = time.monotonic()
