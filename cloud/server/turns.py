"""How much is read of connections in one turn of the event loop: answers go out between turns, so none may be long."""

from __future__ import annotations

import asyncio
import time
from abc import abstractmethod
from collections import deque
from dataclasses import dataclass, field

from edge_sdk.cloud.server.http2 import Budget

__all__ = ["Paced", "Turns"]

_BUFFER_BYTES = 65_536  # what it holds is copied from while it is in the caches of a processor
_MOST_CALLS = 32  # of a turn, after which answers are sent before more is looked at
_MOST_LATER = 256  # reads that are put off


@dataclass(slots=True)
class Turns:
    """What the connections of a server share.

    Attributes
    ----------
    budget
        In which reads count that are put off; where it is spent, none is.
    buffer, view
        One for all: it is looked at before anything else comes into it. asyncio's TLS would write into copies of its
        parts if it were not given a view of it.
    calls
        On which something has happened in this turn.
    later
        What has been read and not looked at: whose, what, and when (a `time.monotonic` reading).
    """

    budget: Budget
    buffer: bytearray = field(default_factory=lambda: bytearray(_BUFFER_BYTES))
    view: memoryview = field(init=False)
    calls: int = 0
    later: deque[tuple[Paced, bytearray, float]] = field(default_factory=deque)

    def __post_init__(self) -> None:
        self.view = memoryview(self.buffer)

    def begin(self) -> None:
        """Begin a turn, with what the last one has left."""
        self.calls = 0
        while self.later and self.calls < _MOST_CALLS:
            connection, data, came = self.later.popleft()
            self.budget.hold(-len(data))
            connection.take_up(data, came)


class Paced(asyncio.BufferedProtocol):
    """A connection that takes its turn.

    Parameters
    ----------
    turns
        Shared with other connections.
    loop
        Whose turns they are.
    """

    def __init__(self, turns: Turns, loop: asyncio.AbstractEventLoop) -> None:
        self._turns, self._loop = turns, loop
        self._transport = asyncio.Transport()
        self._later, self._full, self._reads = 0, False, True
        self._came: float | None = None  # when what is looked at was read, if not just now
        self._since: float | None = None  # what is read next may have waited so long, as nothing was read meanwhile

    @abstractmethod
    def look(self, data: bytearray, size: int) -> int:
        """Look at the first bytes that have come; return on how many calls something has happened."""

    def get_buffer(self, sizehint: int) -> memoryview:
        """Say where to put what comes."""
        return self._turns.view

    def buffer_updated(self, nbytes: int) -> None:
        """Look at what has come; later, where this turn has been long."""
        turns = self._turns
        if self._later or (
            turns.calls >= _MOST_CALLS
            and len(turns.later) < _MOST_LATER
            and turns.budget.held + nbytes <= turns.budget.most
        ):
            now = time.monotonic()
            turns.budget.hold(nbytes)
            turns.later.append((self, turns.buffer[:nbytes], now if self._since is None else self._since))
            self._since = now
            self._later += 1
            self._read_or_not()
        else:
            self._came = self._since
            self._take(turns.buffer, nbytes)
            self._came = None

    def take_up(self, data: bytearray, came: float) -> None:
        """Look at what was put off."""
        self._came = came
        self._take(data, len(data))
        self._came = None
        self._later -= 1
        self._read_or_not()
        if not self._later:
            self._loop.call_soon(self._loop.call_soon, self._forget)  # after what waits has been read

    def _forget(self) -> None:
        if not self._later:
            self._since = None

    def pause_writing(self) -> None:
        """Read no more from a client that does not read."""
        self._full = True
        self._read_or_not()

    def resume_writing(self) -> None:
        """Go on."""
        self._full = False
        self._read_or_not()

    def _take(self, data: bytearray, size: int) -> None:
        turns = self._turns
        calls = self.look(data, size)
        if calls:
            if not turns.calls:
                self._loop.call_soon(turns.begin)  # after what that has led to
            turns.calls += calls

    def _read_or_not(self) -> None:
        reads = not self._full and not self._later
        if reads != self._reads and not self._transport.is_closing():
            self._reads = reads
            if reads:
                self._transport.resume_reading()
            else:
                self._transport.pause_reading()
