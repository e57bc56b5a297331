"""How many messages gRPC's library reads at a time: it holds what has come of each, until the last byte is there.

To read a message as soon as its call begins costs least, and so it is done while few are on their way. But a client may
hold back the end of its message, and with many calls fill the memory. So beyond a number, a message is asked for only
when there is a place; until then flow control holds it back at the sender's end. A place is taken from a message that
does not come while others wait, and a client with one call is not kept waiting by one with many.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from typing import Any

from edge_sdk.errors import OverloadedError

__all__ = ["Readings", "StalledError"]

_LEAST = 8  # messages that are read without a place, however large they may be
_STALLED_SECONDS = 2.0  # in which a message has to come while others wait for its place
_PATIENCE_SECONDS = 10.0  # that a call waits for a place
_RETRY_SECONDS = 1.0


class StalledError(TimeoutError):
    """A message did not come, and others waited for its place."""


class _Reader:
    """A call whose message is read, or waits to be.

    Attributes
    ----------
    peer, task
        Its connection, and what works on it.
    began
        `time.monotonic` reading of when it got a place.
    is_stalled
        Its place was taken away.
    """

    __slots__ = ("began", "is_stalled", "peer", "task")

    def __init__(self, peer: str, task: asyncio.Task[Any]) -> None:
        self.peer, self.task, self.began, self.is_stalled = peer, task, 0.0, False


class Readings:
    """Messages that are being read; used on the event loop, in the task of each call.

    Parameters
    ----------
    most
        Messages that are read without a place, 8 at least. Half as many places are there beside them.
    """

    def __init__(self, most: int) -> None:
        self._most = max(most, _LEAST)
        self._places = self._most // 2
        self._kept = self._places // 2  # of them, for connections with one call
        self._plain: dict[asyncio.Task[Any] | None, None] = {}
        self._peers: Counter[str] = Counter()
        self._reading: dict[_Reader, None] = {}  # in the order in which they began
        self._waiting: dict[_Reader, asyncio.Future[None]] = {}
        self._alarm: asyncio.TimerHandle | None = None
        self._loop: asyncio.AbstractEventLoop | None = None  # else Python asks the system for the process each time

    def begin(self) -> bool:
        """Note that the message of this call is read now; False where it is to be read with a place, by `read`."""
        plain = self._plain
        if len(plain) >= self._most:
            for task in [task for task in plain if task is None or task.done()]:  # whose client has gone
                del plain[task]
            if len(plain) >= self._most:
                return False
        if self._loop is None:
            self._loop = asyncio.get_running_loop()
        plain[asyncio.current_task(self._loop)] = None
        return True

    def came(self) -> None:
        """Note that the message of this call has come."""
        self._plain.pop(asyncio.current_task(self._loop), None)

    async def read(self, context: Any) -> Any:
        """Return the message of a call, or ``grpc.aio.EOF``, once there was a place for it.

        Raises
        ------
        OverloadedError
            There was none for too long.
        StalledError
            The message did not come while others waited.
        """
        task = asyncio.current_task()
        assert task is not None
        reader = _Reader(context.peer(), task)
        self._peers[reader.peer] += 1
        try:
            if self._has_place(reader):
                self._admit(reader)
            else:
                await self._wait(reader)
            return await context.read()
        except asyncio.CancelledError:
            if not reader.is_stalled or task.uncancel():
                raise
            raise StalledError("the message of this call does not come, and others wait for its place") from None
        finally:
            self._reading.pop(reader, None)
            self._peers[reader.peer] -= 1
            if not self._peers[reader.peer]:
                del self._peers[reader.peer]
            self._go_on()

    def _has_place(self, reader: _Reader) -> bool:
        return len(self._reading) < self._places - (self._kept if self._peers[reader.peer] > 1 else 0)

    def _admit(self, reader: _Reader) -> None:
        reader.began = time.monotonic()
        self._reading[reader] = None

    async def _wait(self, reader: _Reader) -> None:
        admitted = asyncio.get_running_loop().create_future()
        self._waiting[reader] = admitted
        self._go_on()
        try:
            async with asyncio.timeout(_PATIENCE_SECONDS):
                await admitted
        except TimeoutError:
            message = "too many messages are on their way and do not come"
            raise OverloadedError(message, retry_after=_RETRY_SECONDS) from None
        finally:
            self._waiting.pop(reader, None)

    def _go_on(self) -> None:
        """Give away the places that are free, and see to it that those that are not will be."""
        while self._waiting:
            reader = min(self._waiting, key=lambda reader: self._peers[reader.peer])
            if not self._has_place(reader):
                break
            admitted = self._waiting.pop(reader)
            if not admitted.done():
                self._admit(reader)
                admitted.set_result(None)
        if self._waiting and self._reading and self._alarm is None:
            oldest = next(iter(self._reading))
            delay = max(0.0, oldest.began + _STALLED_SECONDS - time.monotonic())
            self._alarm = asyncio.get_running_loop().call_later(delay, self._take_places)

    def _take_places(self) -> None:
        """Take their places from the messages that have not come for the longest, for those that wait."""
        self._alarm = None
        late, wanted = time.monotonic() - _STALLED_SECONDS, len(self._waiting)
        for reader in [reader for reader in self._reading if reader.began <= late][:wanted]:
            reader.is_stalled = True
            reader.task.cancel()
            del self._reading[reader]
        self._go_on()
