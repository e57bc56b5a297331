"""A gRPC server over an HTTP/2 of its own, on the event loop: what grpcio takes for a call is most of a small model's.

It runs the handlers that are registered with a ``grpc.aio`` server, without change: they meet a context of
ours, `Call`. What is not there: compressed answers, and HTTP/1.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import random
import socket
import ssl
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, cast

import grpc

from edge_sdk.cloud.server.calls import Abort, Asked, Begun, Call, asked_for, number_of
from edge_sdk.cloud.server.crowd import Crowd
from edge_sdk.cloud.server.entrance import HANDSHAKE_SECONDS, HTTP2_REFUSAL, Entrance, Visitors
from edge_sdk.cloud.server.exchange import Failure
from edge_sdk.cloud.server.http2 import Budget, Connection, Stream
from edge_sdk.cloud.server.leisure import Leisure
from edge_sdk.cloud.server.patience import REQUEST_SECONDS, patience
from edge_sdk.cloud.server.tickets import Ticket
from edge_sdk.cloud.server.turns import Paced, Turns
from edge_sdk.errors import InputError

__all__ = ["FastServer"]

Swift = Callable[[bytes, Call, Callable[[bytes | Failure], None]], bytes | Failure | Ticket | None]
_TICK_SECONDS = 0.25
_SILENT_SECONDS = 60.0  # after which a client is asked whether it is there
_ANSWER_SECONDS = 20.0  # that it has to say so
_CLOSE_SECONDS = 1.0  # that a client may take what is left of the answers when the server ends
_CANCEL = 8  # HTTP/2's code


@dataclass(slots=True)
class _Shared:
    """What the connections of a server have in common."""

    methods: Mapping[bytes, Any]
    several: frozenset[bytes]
    lets_in: Callable[[str, Any], bool] | None
    unknown: str
    refusal: Callable[[str, float | None], Failure | None] | None
    refused: Callable[[], int]
    swift: Mapping[bytes, Swift]
    crowd: Crowd
    leisure: Leisure
    max_message_bytes: int
    max_streams: int
    max_calls: int
    budget: Budget
    turns: Turns
    visitors: Visitors
    max_connections: int
    age_seconds: float
    connections: set[_Connection] = field(default_factory=set)
    leaving: bool = False
    emptied: asyncio.Event = field(default_factory=asyncio.Event)  # no connection is left


class FastServer:
    """Serves gRPC methods on sockets.

    Parameters
    ----------
    methods
        By their path; see `edge_sdk.cloud.server.standard.methods_of`.
    lets_in
        Takes a method's path and metadata and tells whether the caller is known; None lets everybody in.
    unknown
        What those are told who are not.
    refusal
        Takes a method's path and the seconds that its caller waits; says why the call is not worked on, or None.
    refused
        Returns how many calls had no answer for want of room or time, so far.
    lasts
        As for `Leisure`.
    swift
        What answers calls of some methods of one message without a coroutine, by their paths: takes message, call and
        what is to be called with the answer where it is not known now; returns the answer, a ticket for it, or None
        where the method is to be asked.
    max_message_bytes
        The largest message.
    max_streams
        Calls of one connection at a time; of all of them together, about, while some are refused.
    max_calls
        Calls of all of them.
    max_held_bytes
        What messages that have not arrived completely may hold together.
    max_connections
        Open at a time; more are told so and closed.
    age_seconds
        After which, or a tenth more or less, a client is asked to make its connection anew.
    """

    def __init__(
        self,
        methods: Mapping[bytes, Any],
        *,
        lets_in: Callable[[str, Any], bool] | None = None,
        unknown: str = "",
        refusal: Callable[[str, float | None], Failure | None] | None = None,
        refused: Callable[[], int] = int,
        lasts: Callable[[], float] = float,
        swift: Mapping[bytes, Swift] | None = None,
        max_message_bytes: int,
        max_streams: int,
        max_calls: int,
        max_held_bytes: int,
        max_connections: int,
        age_seconds: float,
    ) -> None:
        several = frozenset(path for path, method in methods.items() if method.request_streaming)
        budget = Budget(max_held_bytes)
        self._shared = _Shared(
            methods, several, lets_in, unknown, refusal, refused, swift or {}, Crowd(max_streams), Leisure(lasts),
            max_message_bytes, max_streams, max_calls, budget, Turns(budget),
            Visitors("grpc", lambda: len(self._shared.connections)), max_connections, age_seconds,
        )  # fmt: skip
        self._entrances: list[Entrance] = []
        self._watching: asyncio.Task[None] | None = None

    @property
    def visitors(self) -> Visitors:
        """What is counted of the connections."""
        return self._shared.visitors

    def close(self) -> None:
        """Take no more connections."""
        for entrance in self._entrances:
            entrance.close()

    async def start(self, listening: socket.socket, tls: Callable[[], ssl.SSLContext] | None) -> None:
        """Take connections from a socket that listens."""
        loop, shared = asyncio.get_running_loop(), self._shared
        make, most = lambda: _Connection(shared, loop), shared.max_connections
        self._entrances.append(Entrance(listening, make, shared.visitors, most=most, refusal=HTTP2_REFUSAL, tls=tls))
        if self._watching is None:
            self._watching = loop.create_task(self._watch())

    async def stop(self, grace_seconds: float) -> None:
        """Take no new calls, let the others end within some seconds, and close."""
        shared = self._shared
        shared.leaving = True
        self.close()
        for entrance in self._entrances:
            await entrance.settle(grace_seconds)
        for connection in list(shared.connections):
            connection.leave()
        await self._emptied(grace_seconds)
        if self._watching is not None:
            self._watching.cancel()
        for connection in list(shared.connections):
            connection.close()
        await self._emptied(_CLOSE_SECONDS)
        for connection in list(shared.connections):
            connection.abandon()

    async def _emptied(self, seconds: float) -> None:
        """Wait until there is no connection, or so long."""
        if self._shared.connections:
            self._shared.emptied.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._shared.emptied.wait(), seconds)

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(_TICK_SECONDS)
            now = time.monotonic()
            self._shared.crowd.grow()
            for connection in list(self._shared.connections):
                connection.watch(now)
            self._lighten()

    def _lighten(self) -> None:
        """Let those go for whom the most waits, where what clients do not take is too much in sum."""
        waiting = {connection: connection.waiting for connection in self._shared.connections}
        over = sum(waiting.values()) - self._shared.budget.most
        while over > 0:
            connection = max(waiting, key=waiting.__getitem__)
            over -= waiting.pop(connection)
            connection.abandon()


class _Connection(Paced):
    """One client's connection."""

    def __init__(self, shared: _Shared, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(shared.turns, loop)
        self._shared = shared
        most, budget = shared.max_message_bytes, shared.budget
        self._http2 = Connection(shared.several, max_streams=shared.max_streams, max_message_bytes=most, budget=budget)
        self._made = self._heard = time.monotonic()
        self._old = self._made + shared.age_seconds * random.uniform(0.9, 1.1)
        self._asked, self._leaves, self._allowed = False, False, shared.max_streams
        self._asked_for = Asked({}, "", None)  # by the headers of the last call that was opened

    # of the event loop

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Greet."""
        self._transport = cast(asyncio.Transport, transport)
        self._shared.connections.add(self)
        if self._shared.leaving:
            self.leave()  # it was at the door
        self._flush()

    def look(self, data: bytearray, size: int) -> int:
        """Take what has come."""
        streams = self._http2.receive(data, size)
        if not streams and not self._http2.speaks:
            return 0  # the middle of a message
        for stream in streams:
            self._react(stream)
        self._limit()
        self._flush()
        return len(streams)

    def eof_received(self) -> bool:
        """Close: who says no more does not listen, either."""
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """End what the client waited for."""
        self._shared.connections.discard(self)
        for stream in self._http2.lose():
            self._react(stream)
        if not self._shared.connections:
            self._shared.emptied.set()

    # of the server

    @property
    def waiting(self) -> int:
        """How many bytes of answers the client has not taken."""
        return self._http2.unsent + self._transport.get_write_buffer_size()

    def watch(self, now: float) -> None:
        """End calls whose time is up, and connections with nobody there."""
        for stream in self._http2.streams:
            call = stream.call
            if call is None:
                continue
            if call.deadline is not None and now >= call.deadline:
                self._end(call, Abort(grpc.StatusCode.DEADLINE_EXCEEDED, "no time is left for this request"))
            elif call.idle_seconds(now) > patience(self._shared.budget, stream) or (
                call.task is None and not stream.ended and now - call.arrived > REQUEST_SECONDS
            ):
                self._end(call, Abort(grpc.StatusCode.CANCELLED, "the request did not arrive"))
        self._http2.forgive()
        if not self._http2.silent:
            self._http2.silent, self._asked, self._heard = True, False, now
        silent = now - self._heard
        late = now - self._made > HANDSHAKE_SECONDS and not self._http2.settled
        if late or silent > _SILENT_SECONDS + _ANSWER_SECONDS:
            self.abandon()
        elif silent > _SILENT_SECONDS and not self._asked:
            self._asked = True
            self._http2.ping()
        self._limit()
        if now > self._old:
            self.leave()
        self._flush()

    def leave(self) -> None:
        """Tell the client to ask elsewhere from now on."""
        self._leaves = True
        self._http2.go_away()
        self._flush()

    def close(self) -> None:
        """End every call, and the connection once all is sent."""
        for stream in self._http2.streams:
            if stream.call is not None:
                self._end(stream.call, Abort(grpc.StatusCode.UNAVAILABLE, "the server ends"))
        self._flush()
        self._transport.close()

    def abandon(self) -> None:
        """End the connection at once."""
        self._transport.abort()

    # of the calls

    def _react(self, stream: Stream) -> None:
        call: Call | None = stream.call
        if stream.gone:
            if call is not None:
                stream.call = None
                self._cancel(call)
                call.wake()
            return
        if stream.over:
            return
        if call is None:
            call = self._open(stream)
            if call is None:
                return
        if call.task is not None:
            call.wake()
        elif call.handler.request_streaming:
            call.task = self._loop.create_task(call.converse())
        elif stream.problem is not None:
            self._end(call, call.complaint())
        elif stream.ended:
            self._begin(call)

    def _open(self, stream: Stream) -> Call | None:
        """Return the call of a new stream; None where it is answered already."""
        http2, shared = self._http2, self._shared
        asked = self._asked_for
        if stream.headers is not asked.headers:
            found = asked_for(stream, http2, shared.methods)
            if found is None:
                return None
            asked = self._asked_for = found
        try:
            call = Call(http2, stream, asked.method, self._transport, self._flush, shared.max_message_bytes, self._came)
        except InputError as error:
            http2.end(stream, number_of(grpc.StatusCode.INVALID_ARGUMENT), str(error))
            return None
        if shared.lets_in is not None and not shared.lets_in(asked.path, call.invocation_metadata()):
            http2.end(stream, number_of(grpc.StatusCode.UNAUTHENTICATED), shared.unknown)
            return None
        if shared.budget.calls > shared.max_calls:
            http2.end(stream, number_of(grpc.StatusCode.RESOURCE_EXHAUSTED), "too many calls are open")
            return None
        if shared.refusal is not None:
            failure = shared.refusal(asked.path, call.time_remaining())
            if failure is not None:
                http2.end(stream, number_of(failure.status), failure.message, failure.metadata)
                return None
        stream.call = call
        return call

    def _begin(self, call: Call) -> None:
        """Answer a call of one message, swiftly or by a coroutine up to its first wait, whose rest is a task."""
        try:
            message = call.message()
        except Abort as end:
            self._http2.end(call.stream, number_of(end.code), end.details, end.metadata)
            return
        swift = self._shared.swift.get(call.stream.headers[b":path"])
        said = None if swift is None else swift(message, call, functools.partial(self._tell, call))
        if isinstance(said, Ticket):
            call.task = said
        elif said is not None:
            self._say(call, said)
        else:
            work = call.answer(message)
            try:
                waiting = work.send(None)
            except StopIteration:
                return
            call.task = self._loop.create_task(Begun(work, waiting).rest())

    def _tell(self, call: Call, said: bytes | Failure) -> None:
        self._say(call, said)
        self._flush()

    def _say(self, call: Call, said: bytes | Failure) -> None:
        if isinstance(said, Failure):
            self._http2.end(call.stream, number_of(said.status), said.message, said.metadata)
        else:
            self._http2.respond(call.stream, said)

    def _end(self, call: Call, abort: Abort) -> None:
        """End a call whatever its handler does."""
        self._cancel(call)
        if call.stream.unsent:
            self._http2.reset(call.stream, _CANCEL)  # its end would wait for what the client does not take
        else:
            self._http2.end(call.stream, number_of(abort.code), abort.details, abort.metadata)

    def _cancel(self, call: Call) -> None:
        if call.task is not None:
            self._loop.call_soon(call.task.cancel)  # not before its first step, which takes the begun work over

    def _limit(self) -> None:
        """Tell the client how many calls it may have open, where that has changed."""
        shared = self._shared
        refused = shared.refused()
        if refused != shared.crowd.refused:
            shared.crowd.note(refused, len(shared.connections))
            shared.leisure.take(self._loop)
        if self._allowed != shared.crowd.streams and self._http2.settled:
            self._allowed = shared.crowd.streams
            calls = [stream.call for stream in self._http2.streams if stream.call is not None]
            resting = sum(call.handler.request_streaming or call.handler.response_streaming for call in calls)
            self._http2.limit(self._allowed + resting)

    def _flush(self) -> None:
        data = self._http2.take()
        if data:
            self._transport.write(data)
        if self._http2.closed or (self._leaves and not self._http2.busy):
            self._transport.close()
