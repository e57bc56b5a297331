"""Where connections come in: how many there may be, and how long, and how many at a time, TLS handshakes may take."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import functools
import logging
import socket
import ssl
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import cast

from edge_sdk.cloud.server.families import Family, Sample

__all__ = ["HANDSHAKE_SECONDS", "HTTP1_REFUSAL", "HTTP2_REFUSAL", "Entrance", "Visitors", "visitor_metrics"]

HANDSHAKE_SECONDS = 10.0
"""Who connects and is silent is let go after so long."""

_MOST_HANDSHAKES = 512
_SURE_SECONDS = 1.0  # that a handshake has even where others wait for its place
_AT_ONCE = 64  # that are let in before others are served
_PAUSE_SECONDS = 0.5  # after the system had no room for one more
_LAST_SECONDS = 0.2  # that who is turned away has to read why
_NO_ROOM = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}
_TOO_MANY = b"too many connections are open"
_ALERT = b"\x15\x03\x03\0\2\2\x50"  # of TLS: an error of the server's own
HTTP2_REFUSAL = bytes([0, 0, 8 + len(_TOO_MANY), 7, *[0] * 12, 11]) + _TOO_MANY
"""What HTTP/2 says: a farewell (be calm). With settings first, gRPC would take it for a connection that was made, and
make the next one at once instead of waiting longer each time."""

_BODY = b'{"error": "%s"}' % _TOO_MANY
HTTP1_REFUSAL = (
    b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 1\r\nConnection: close\r\nContent-Type: application/json\r\n"
    b"Content-Length: %d\r\n\r\n%s" % (len(_BODY), _BODY)
)
"""What HTTP says."""

_log = logging.getLogger("edge_sdk.cloud.server")


@dataclass(slots=True)
class Visitors:
    """What is counted of the connections of one front.

    Attributes
    ----------
    front
        Its name.
    open
        Returns how many there are.
    refused
        How many were turned away: there were as many as there may be.
    stalled
        How many handshakes were not finished.
    """

    front: str
    open: Callable[[], int]
    refused: int = 0
    stalled: int = 0


class Entrance:
    """Lets connections in from a socket that listens, up to a number; tells those beyond so, and closes them.

    A client that does not finish its TLS handshake is let go in time, and before, where too many are at it.

    Parameters
    ----------
    listening
        The socket; it is closed with the entrance.
    protocol
        Makes what serves a connection.
    visitors
        Counts.
    most
        Connections, with those that shake hands.
    refusal
        What those beyond are told.
    tls
        Gives what a new one is greeted with; None where it is not.
    """

    def __init__(
        self,
        listening: socket.socket,
        protocol: Callable[[], asyncio.BaseProtocol],
        visitors: Visitors,
        *,
        most: int,
        refusal: bytes,
        tls: Callable[[], ssl.SSLContext] | None,
    ) -> None:
        self._listening, self._protocol, self._visitors, self._most = listening, protocol, visitors, most
        self._refusal, self._tls = refusal if tls is None else _ALERT, tls
        self._most_handshakes = min(_MOST_HANDSHAKES, max(1, most // 2))
        self._loop = asyncio.get_running_loop()
        listening.setblocking(False)
        self._coming: dict[asyncio.Task[None], float] = {}  # since when; the first is the oldest
        self._leaving: set[socket.socket] = set()
        self._waiting: asyncio.TimerHandle | None = None
        self._said = -1e9  # when the log last said that there are too many
        self._look_out()

    def close(self) -> None:
        """Let nobody in any more, but those who have come already."""
        if self._listening.fileno() < 0:
            return
        if self._waiting is not None:
            self._waiting.cancel()
        self._loop.remove_reader(self._listening)
        with contextlib.suppress(OSError):
            while True:  # closing would reset what waits here
                self._take(self._listening.accept()[0])
        self._listening.close()

    async def settle(self, seconds: float) -> None:
        """Wait for those who come in, so long; then let them go."""
        if self._coming:
            await asyncio.wait(list(self._coming), timeout=seconds)
        for task in list(self._coming):
            task.cancel()

    def _look_out(self) -> None:
        self._waiting = None
        self._loop.add_reader(self._listening, self._accept)

    def _pause(self, seconds: float) -> None:
        self._loop.remove_reader(self._listening)
        self._waiting = self._loop.call_later(seconds, self._look_out)

    def _accept(self) -> None:
        for _ in range(_AT_ONCE):
            if self._tls is not None and len(self._coming) >= self._most_handshakes:
                oldest = next(iter(self._coming))
                left = self._coming[oldest] + _SURE_SECONDS - time.monotonic()
                if left > 0:
                    self._pause(left)
                    return
                del self._coming[oldest]
                oldest.cancel()
            try:
                client, _ = self._listening.accept()
            except (BlockingIOError, InterruptedError):
                return
            except OSError as error:
                if error.errno in _NO_ROOM:
                    _log.error("no connection can be taken: %s", error.strerror)
                    self._pause(_PAUSE_SECONDS)
                    return
                continue  # it has gone already
            self._take(client)

    def _take(self, client: socket.socket) -> None:
        client.setblocking(False)
        if len(self._coming) + self._visitors.open() >= self._most:
            self._turn_away(client)
            return
        task = self._loop.create_task(self._let_in(client))
        self._coming[task] = time.monotonic()
        task.add_done_callback(self._came)

    async def _let_in(self, client: socket.socket) -> None:
        task = cast("asyncio.Task[None]", asyncio.current_task())
        try:
            await self._loop.connect_accepted_socket(
                lambda: _Arrival(self._protocol, functools.partial(self._coming.pop, task, None)),
                client,
                ssl=None if self._tls is None else self._tls(),
                ssl_handshake_timeout=None if self._tls is None else HANDSHAKE_SECONDS,
            )
        except (OSError, asyncio.CancelledError):  # and what TLS and its time raise is among the first
            self._visitors.stalled += 1

    def _came(self, task: asyncio.Task[None]) -> None:
        self._coming.pop(task, None)
        if not task.cancelled() and task.exception() is not None:
            _log.error("a connection could not be taken", exc_info=task.exception())

    def _turn_away(self, client: socket.socket) -> None:
        self._visitors.refused += 1
        now = time.monotonic()
        if now - self._said > 60.0:
            self._said = now
            _log.warning(
                "%s: %d connections are open, and no more are taken (--max-connections)",
                self._visitors.front,
                self._most,
            )
        with contextlib.suppress(OSError):
            client.send(self._refusal)
            client.shutdown(socket.SHUT_WR)
        if len(self._leaving) < _AT_ONCE:  # closing at once could reset it before it has read why
            self._leaving.add(client)
            self._loop.call_later(_LAST_SECONDS, self._part, client)
        else:
            client.close()

    def _part(self, client: socket.socket) -> None:
        self._leaving.discard(client)
        with contextlib.suppress(OSError):
            client.recv(65_536)  # what is left unread would reset it, too
        client.close()


class _Arrival(asyncio.Protocol):
    """What a connection has until it is made: its task ends a little later, and both would be counted."""

    def __init__(self, make: Callable[[], asyncio.BaseProtocol], arrived: Callable[[], object]) -> None:
        self._make, self._arrived = make, arrived

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Hand it over to what serves it."""
        self._arrived()
        protocol = self._make()
        transport.set_protocol(protocol)
        protocol.connection_made(transport)


def visitor_metrics(fronts: Iterable[Visitors]) -> list[Family]:
    """Return what is counted of connections."""
    counted = [({"front": one.front}, one) for one in fronts]
    now_open: list[Sample] = [("", at, one.open()) for at, one in counted]
    return [
        Family("edge_connections", "gauge", "Connections that are open.", now_open),
        Family(
            "edge_connections_refused_total",
            "counter",
            "Connections that were turned away, as many being open as may be.",
            [("", at, one.refused) for at, one in counted],
        ),
        Family(
            "edge_handshakes_failed_total",
            "counter",
            "TLS handshakes that were not finished, or not in time.",
            [("", at, one.stalled) for at, one in counted],
        ),
    ]
