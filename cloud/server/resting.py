"""How much gRPC's library may hold of messages of streams that do not come whole: it takes what it was asked for.

A stream is asked for its next message all the time, and one that rests looks like one that holds back the last byte of
16 MiB. What tells them apart is the memory that they take together. Where that is too much, streams that wait for a
message are ended until it is not, first those of connections with many of them.
"""

from __future__ import annotations

import asyncio
import ctypes
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable

from edge_sdk.cloud.server.core import Core
from edge_sdk.errors import NotReadyError

__all__ = ["Resting", "memory_in_use"]

_FEW = 8  # streams that may hold a message each
_LOOK_SECONDS = 0.1
_SURE_SECONDS = 0.25  # that a message has to come in, even then
_EACH_BYTES = 384 * 2**10  # of a stream: what gRPC takes in unasked, and what it is made of itself
_NAMES = ("arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks", "keepcost")
_SHARE = 4  # part of those that wait that is ended at a time


class _MallInfo(ctypes.Structure):
    """What glibc tells of its heap, all in bytes but for the numbers of chunks."""

    _fields_ = tuple((name, ctypes.c_size_t) for name in _NAMES)


def memory_in_use() -> Callable[[], int] | None:
    """Return what tells how many bytes this process has allocated and not freed; None where the C library cannot."""
    try:
        tell = ctypes.CDLL(None).mallinfo2
    except (AttributeError, OSError, TypeError):
        return None
    tell.restype = _MallInfo

    def in_use() -> int:
        said = tell()
        return int(said.uordblks) + int(said.hblkhd)

    return in_use


class _Rest:
    """A stream that waits for its next message."""

    __slots__ = ("is_ended", "peer", "since", "task")

    def __init__(self, peer: str, task: asyncio.Task[object]) -> None:
        self.peer, self.task, self.since, self.is_ended = peer, task, time.monotonic(), False


class Resting:
    """The streams that wait for a message; used on the event loop, in the task of each.

    Parameters
    ----------
    core
        The models. What has come for streams may take its ``max_pending_bytes``, beside some for each.
    """

    def __init__(self, core: Core) -> None:
        self._core, self._in_use = core, memory_in_use()
        self._rests: dict[_Rest, None] = {}  # the oldest first
        self._usual, self._had = 0, core.served  # bytes in use without them, and what was served then
        self._alarm: asyncio.TimerHandle | None = None

    async def next(self, messages: AsyncIterator[bytes], peer: str) -> bytes | None:
        """Return the next message of a stream, None after the last.

        Parameters
        ----------
        messages
            Of the stream.
        peer
            Its connection.

        Raises
        ------
        NotReadyError
            The memory that unfinished messages take is needed.
        """
        task = asyncio.current_task()
        assert task is not None
        rest = _Rest(peer, task)
        if self._in_use is not None:
            self._rests[rest] = None
            if len(self._rests) > _FEW and self._alarm is None:
                self._usual, self._had = self._used(), self._core.served
                self._alarm = asyncio.get_running_loop().call_later(_LOOK_SECONDS, self._look)
        try:
            return await anext(messages, None)
        except asyncio.CancelledError:
            if not rest.is_ended or task.uncancel():
                raise
            raise NotReadyError("messages of streams that do not come whole take too much memory") from None
        finally:
            self._rests.pop(rest, None)

    def _used(self) -> int:
        """Return how many bytes are in use, without what comes and goes for good reason."""
        assert self._in_use is not None
        known = sum(counts.pending_bytes + counts.cached_bytes for _, counts in self._core.statistics())
        return self._in_use() - known

    def _look(self) -> None:
        self._alarm = None
        if len(self._rests) <= _FEW:
            return
        self._alarm = asyncio.get_running_loop().call_later(_LOOK_SECONDS, self._look)
        now, served = self._used(), self._core.served
        if now < self._usual or served is not self._had:
            self._usual, self._had = now, served
        if now - self._usual > self._core.serving.max_pending_bytes + _EACH_BYTES * len(self._rests):
            self._end_some()

    def _end_some(self) -> None:
        before = time.monotonic() - _SURE_SECONDS
        of_peer = Counter(rest.peer for rest in self._rests)
        late = [rest for rest in self._rests if rest.since <= before]
        late.sort(key=lambda rest: -of_peer[rest.peer])
        for rest in late[: max(1, len(late) // _SHARE)]:
            rest.is_ended = True
            rest.task.cancel()
            del self._rests[rest]
