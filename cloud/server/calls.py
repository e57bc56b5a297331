"""One gRPC call over a connection of ours, with the face that handlers of ``grpc.aio`` know as their context."""

from __future__ import annotations

import asyncio
import logging
import time
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Generator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import grpc

from edge_sdk.cloud.server.tickets import Ticket
from edge_sdk.errors import InputError

if TYPE_CHECKING:
    from edge_sdk.cloud.server.http2 import Connection, Stream

__all__ = ["Abort", "Asked", "Begun", "Call", "asked_for", "ending_of", "number_of", "parse_timeout", "unpacked"]

_log = logging.getLogger("edge_sdk.cloud.server")

_MOST_UNSENT = 262_144  # bytes of a stream that wait for its client; a handler that writes more waits, too
_NAMES = ("DNS", "URI", "email", "IP Address")  # what gRPC gives of a certificate's names; others are no strings
_UNITS = {b"H": 3600.0, b"M": 60.0, b"S": 1.0, b"m": 1e-3, b"u": 1e-6, b"n": 1e-9}
_PROBLEMS = {  # the first in the words of gRPC's library, from which clients learn what a server takes
    "large": (grpc.StatusCode.RESOURCE_EXHAUSTED, "Received message larger than max ({size} vs. {most})"),
    "full": (grpc.StatusCode.RESOURCE_EXHAUSTED, "too many requests are on their way to this server already"),
    "cut": (grpc.StatusCode.INTERNAL, "the request ended before its message did"),
    "more": (grpc.StatusCode.INTERNAL, "the method takes one message, and there came more"),
}


class Abort(Exception):  # noqa: N818 - no error of this program: how a handler ends a call
    """A call ends with a status other than OK."""

    def __init__(self, code: grpc.StatusCode, details: str = "", metadata: tuple[tuple[str, str], ...] = ()) -> None:
        super().__init__(code, details)
        self.code, self.details, self.metadata = code, details, metadata


class Call:
    """One call.

    Parameters
    ----------
    connection
        Whose it is.
    stream
        Its stream there.
    handler
        The method, as gRPC's registries have it.
    transport
        For the addresses and certificates.
    flush
        Sends what `connection` has to send.
    max_message_bytes
        The largest message, unpacked.
    arrived
        `time.monotonic` reading of when its headers came; None is now.
    """

    __slots__ = (
        "_connection", "_done", "_flush", "_max_message_bytes", "_metadata", "_owed", "_owed_since", "_transport",
        "_waiting", "arrived", "deadline", "handler", "stream", "task",
    )  # fmt: skip

    def __init__(
        self,
        connection: Connection,
        stream: Stream,
        handler: Any,
        transport: asyncio.BaseTransport,
        flush: Callable[[], None],
        max_message_bytes: int,
        arrived: float | None = None,
    ) -> None:
        self._connection, self._transport, self._flush = connection, transport, flush
        self._max_message_bytes = max_message_bytes
        self.stream, self.handler = stream, handler
        self.arrived = time.monotonic() if arrived is None else arrived
        timeout = stream.headers.get(b"grpc-timeout")
        self.deadline = None if timeout is None else self.arrived + parse_timeout(timeout)
        self.task: asyncio.Task[None] | Ticket | None = None
        self._owed, self._owed_since = (0, 0), self.arrived
        self._waiting: list[asyncio.Future[None]] = []
        self._metadata: tuple[tuple[str, str], ...] | None = None
        self._done: Callable[[Any], None] | None = None

    # what handlers use

    def add_done_callback(self, callback: Callable[[Any], None]) -> None:
        """Have something called when the call is over; one thing."""
        self._done = callback

    def time_remaining(self) -> float | None:
        """Return the seconds that the client still waits; None is for ever."""
        return None if self.deadline is None else max(0.0, self.deadline - time.monotonic())

    def invocation_metadata(self) -> tuple[tuple[str, str], ...]:
        """Return what the client says beside its message."""
        if self._metadata is None:
            self._metadata = tuple(
                (name.decode("latin-1"), value.decode("latin-1"))
                for name, value in self.stream.headers.items()
                if name[:1] != b":"
            )
        return self._metadata

    def auth_context(self) -> dict[str, list[bytes]]:
        """Return the names in the client's certificate, under gRPC's keys; nothing where it has shown none."""
        shown = self._transport.get_extra_info("peercert") or {}
        names = [value.encode() for kind, value in shown.get("subjectAltName", ()) if kind in _NAMES]
        common = [value.encode() for part in shown.get("subject", ()) for key, value in part if key == "commonName"]
        return {"x509_subject_alternative_name": names, "x509_common_name": common}

    def peer(self) -> str:
        """Return the client's address, as gRPC writes it."""
        address = self._transport.get_extra_info("peername") or ("?", 0)
        host, port = address[:2]
        return f"ipv6:[{host}]:{port}" if ":" in host else f"ipv4:{host}:{port}"

    async def abort(
        self, code: grpc.StatusCode, details: str = "", trailing_metadata: tuple[tuple[str, str], ...] = ()
    ) -> None:
        """End the call with a status; does not return."""
        raise Abort(code, details, trailing_metadata)

    async def write(self, response: Any) -> None:
        """Send one message of a stream; wait where the client does not keep up.

        Raises
        ------
        grpc.aio.UsageError
            The call is over.
        """
        serialize = self.handler.response_serializer
        data = response if serialize is None else serialize(response)
        if self.stream.gone:
            raise grpc.aio.UsageError("the call is over")
        self._connection.send(self.stream, data)
        self._flush()
        while self.stream.unsent > _MOST_UNSENT and not self.stream.gone:
            await self._turn()

    # what the connection uses

    async def answer(self, message: Any) -> None:
        """Answer a call of one message, and see to it that it ends."""
        handler = self.handler
        if handler.response_streaming:
            await self._see_to(self._write_all(handler.unary_stream(message, self)))
        else:
            await self._see_to(self._respond(message))

    async def converse(self) -> None:
        """Answer a call of several messages, and see to it that it ends."""
        answers = self.handler.stream_stream(self.messages(), self)
        await self._see_to(self._write_all(answers) if hasattr(answers, "__aiter__") else self._end_after(answers))

    def message(self) -> Any:
        """Return the one message of a call that takes one.

        Raises
        ------
        Abort
            It cannot be read.
        """
        found = self._connection.read(self.stream)
        assert found is not None
        return self._parsed(*found)

    async def messages(self) -> AsyncIterator[Any]:
        """Yield the messages of a call as they come; none is taken from the client before it is asked for.

        Raises
        ------
        Abort
            One cannot be read.
        """
        while True:
            found = self._connection.read(self.stream)
            if found is not None:
                self._flush()  # there may be room for more now
                yield self._parsed(*found)
            elif self.stream.problem is not None:
                raise self.complaint()
            elif self.stream.ended:
                return
            else:
                await self._turn()

    def complaint(self) -> Abort:
        """Return what is said of a request that is not read."""
        assert self.stream.problem is not None
        code, details = _PROBLEMS[self.stream.problem]
        pushback = (("grpc-retry-pushback-ms", "100"),) if self.stream.problem == "full" else ()
        return Abort(code, details.format(size=self.stream.length, most=self._max_message_bytes), pushback)

    def idle_seconds(self, now: float) -> float:
        """Return how long the client has neither ended a message that it began nor taken any of what waits for it."""
        owed = self.stream.owed
        if owed != self._owed or owed == (0, 0):
            self._owed, self._owed_since = owed, now
        return now - self._owed_since

    def wake(self) -> None:
        """Let a handler go on that waits for messages or room."""
        waiting, self._waiting = self._waiting, []
        for future in waiting:
            if not future.done():
                future.set_result(None)

    async def _respond(self, message: Any) -> None:
        response = await self.handler.unary_unary(message, self)
        serialize = self.handler.response_serializer
        self._connection.respond(self.stream, response if serialize is None else serialize(response))

    async def _write_all(self, answers: AsyncIterator[Any]) -> None:
        async for answer in answers:
            await self.write(answer)
        self._connection.end(self.stream, 0)

    async def _end_after(self, work: Awaitable[None]) -> None:
        await work
        self._connection.end(self.stream, 0)

    async def _see_to(self, work: Coroutine[Any, Any, None]) -> None:
        try:
            await work
        except (Exception, asyncio.CancelledError, BaseExceptionGroup) as error:  # noqa: BLE001 - whatever it is
            end = ending_of(error)
            self._connection.end(self.stream, number_of(end.code), end.details, end.metadata)
        finally:
            self._flush()
            if self._done is not None:
                self._done(self)

    async def _turn(self) -> None:
        future = asyncio.get_running_loop().create_future()
        self._waiting.append(future)
        await future

    def _parsed(self, data: bytes, compressed: int) -> Any:
        if compressed:
            try:
                data = unpacked(data, self.stream.headers.get(b"grpc-encoding", b""), self._max_message_bytes)
            except InputError as error:
                raise Abort(grpc.StatusCode.UNIMPLEMENTED, str(error)) from error
            if len(data) > self._max_message_bytes:
                code, details = _PROBLEMS["large"]
                raise Abort(code, details.format(size=len(data), most=self._max_message_bytes))
        parse = self.handler.request_deserializer
        try:
            return data if parse is None else parse(data)
        except Exception as error:  # whatever a deserializer raises
            raise Abort(grpc.StatusCode.INTERNAL, "the message cannot be read") from error


@dataclass(frozen=True, slots=True)
class Asked:
    """What the headers of a call ask for; calls of one client mostly have the same."""

    headers: Mapping[bytes, bytes]
    path: str
    method: Any


def asked_for(stream: Stream, connection: Connection, methods: Mapping[bytes, Any]) -> Asked | None:
    """Return what a new call asks for; None where that is nothing that is here, which is answered."""
    headers = stream.headers
    kind = headers.get(b"content-type", b"")
    if not kind.startswith(b"application/grpc") or kind[16:17] not in (b"", b"+", b";"):  # gRPC-Web is another
        connection.refuse(stream, 415)
        return None
    path = headers[b":path"]
    method = methods.get(path)
    if method is None:
        connection.end(stream, number_of(grpc.StatusCode.UNIMPLEMENTED), "there is no such method")
        return None
    if headers[b":method"] != b"POST":
        connection.refuse(stream, 405)
        return None
    return Asked(headers, path.decode("latin-1"), method)


class Begun:
    """The rest of a coroutine that has been run up to its first wait."""

    def __init__(self, work: Coroutine[Any, Any, None], waiting: Any) -> None:
        self._work, self._waiting = work, waiting

    async def rest(self) -> None:
        """Run it to its end."""
        await self

    def __await__(self) -> Generator[Any, None, None]:
        work, waiting = self._work, self._waiting
        try:
            while True:
                try:
                    yield waiting
                except BaseException as error:  # noqa: BLE001 - it is for the coroutine
                    waiting = work.throw(error)
                else:
                    waiting = work.send(None)
        except StopIteration:
            return


def ending_of(error: BaseException) -> Abort:
    """Return how a call ends whose handler has raised something; what is a fault of the server is logged."""
    if isinstance(error, Abort):
        return error
    if isinstance(error, asyncio.CancelledError):
        return Abort(grpc.StatusCode.CANCELLED, "the call was cancelled")
    abort: Abort | None = None
    fault: BaseException | None = error
    if isinstance(error, BaseExceptionGroup):  # of a stream's tasks
        aborts, fault = error.split(Abort)
        abort = _first(aborts)
    if fault is not None:
        _log.error("a call failed for a fault of the server", exc_info=fault)
    return abort or Abort(grpc.StatusCode.INTERNAL, "the server failed; its log says more")


def _first(group: BaseExceptionGroup[Abort] | None) -> Abort | None:
    while group is not None:
        for error in group.exceptions:
            if isinstance(error, Abort):
                return error
            group = error
            break
    return None


def parse_timeout(text: bytes) -> float:
    """Return the seconds of a header ``grpc-timeout``, such as ``b"150m"``.

    Raises
    ------
    InputError
        It is none.
    """
    unit = _UNITS.get(text[-1:])
    if unit is None or not 2 <= len(text) <= 9 or not text[:-1].isdigit():
        raise InputError("grpc-timeout should be at most eight digits and one of H, M, S, m, u and n")
    return int(text[:-1]) * unit


def unpacked(data: bytes, encoding: bytes, most: int) -> bytes:
    """Return a message as it was before its client compressed it; of one that is larger than `most` bytes, one more.

    Raises
    ------
    InputError
        It is not compressed so.
    """
    if encoding not in (b"gzip", b"deflate"):
        raise InputError(f"messages come as they are, or as gzip or deflate, not as {encoding[:40].decode('latin-1')}")
    unpacker = zlib.decompressobj(zlib.MAX_WBITS | 32)  # either, by its head
    try:
        message = unpacker.decompress(data, most + 1)
    except zlib.error as error:
        raise InputError(f"the message is no {encoding.decode()}") from error
    if len(message) <= most and not unpacker.eof:
        raise InputError(f"the message is no {encoding.decode()}")
    return message


def number_of(code: grpc.StatusCode) -> int:
    """Return the number of a status."""
    number: int = code.value[0]
    return number
