# ruff: noqa: INP001 - a script, not a module of a package
"""Send unary gRPC calls at a rate, whatever becomes of earlier ones, and say how each ended and how long it took.

``h2load`` does not know an answer from a refusal; gRPC's own clients take more of a processor than a fast server does.
This speaks as much HTTP/2 as that takes: all requests have the same head and contents, made once. A call that its
connection has no room for (the server says how many may be open) waits here, and its time runs from its sending.
"""

from __future__ import annotations

import argparse
import gc
import json
import select
import socket
import sys
import time
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from edge_sdk.cloud.server.hpack import Decoder

__all__ = ["Load", "offer"]

_DATA, _HEADERS, _RESET, _SETTINGS, _PING, _AWAY, _WINDOW, _MORE = 0, 1, 3, 4, 6, 7, 8, 9
_MOST_STREAMS, _INITIAL_WINDOW = 3, 4  # of settings
_WIDE = 2**31 - 1
_FRAME = 16384
_LAST_SECONDS = 3.0  # that calls may take to end after the last was sent
_TICK = 0.001


@dataclass(frozen=True)
class Load:
    """What became of calls.

    Attributes
    ----------
    answers
        Milliseconds of those that were answered, ascending.
    ends
        How many ended otherwise, by gRPC's status; ``"reset"`` is HTTP/2's, ``"none"`` those that did not end.
    """

    answers: list[float]
    ends: dict[str, int]

    @property
    def ended(self) -> int:
        """All of them."""
        return len(self.answers) + sum(self.ends.values())


class _Client:
    """One connection.

    Parameters
    ----------
    address
        Of the server.
    head, data
        The header block of each request, and its contents.
    streams
        Calls open at a time, at most.
    """

    def __init__(self, address: str, head: bytes, data: bytes, streams: int) -> None:
        host, _, port = address.rpartition(":")
        self.socket = socket.create_connection((host, int(port)))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.setblocking(False)
        self._head, self._data = head, data
        self._cap = self.streams = streams
        self._out = bytearray(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
        settings = b"\0\x01" + (0).to_bytes(4, "big") + b"\0\x04" + _WIDE.to_bytes(4, "big")
        self._out += _frame(_SETTINGS, 0, 0, settings) + _frame(_WINDOW, 0, 0, (_WIDE - 65535).to_bytes(4, "big"))
        self._in, self._next = bytearray(), 1
        self._window, self._initial = 65535, 65535
        self._windows: dict[int, int] = {}  # of streams whose contents are not all sent
        self._unsent: deque[tuple[int, int]] = deque()  # streams, and where their contents go on
        self._began: dict[int, float] = {}
        self._answered: set[int] = set()
        self._decoder, self._block = Decoder(), b""
        self.answers: list[float] = []
        self.ends: dict[str, int] = {}

    @property
    def open(self) -> int:
        """Calls that have not ended."""
        return len(self._began)

    def begin(self) -> None:
        """Begin a call."""
        stream, self._next = self._next, self._next + 2
        self._out += _frame(_HEADERS, 4, stream, self._head)
        self._began[stream] = time.perf_counter()
        size = len(self._data)
        if not self._unsent and size <= min(_FRAME, self._window, self._initial):
            self._window -= size
            self._out += _frame(_DATA, 1, stream, self._data)
        else:
            self._windows[stream] = self._initial
            self._unsent.append((stream, 0))
            self._go_on()

    def write(self) -> bool:
        """Send what there is; return whether something is left."""
        while self._out:
            try:
                sent = self.socket.send(self._out)
            except BlockingIOError:
                return True
            del self._out[:sent]
        return False

    def read(self) -> None:
        """Take what has come."""
        try:
            got = self.socket.recv(262_144)
        except BlockingIOError:
            return
        if not got:
            raise SystemExit("the server has closed a connection")
        data = self._in
        data += got
        at, now = 0, time.perf_counter()
        while len(data) - at >= 9:
            size = int.from_bytes(data[at : at + 3], "big")
            if len(data) - at < 9 + size:
                break
            kind, flags, stream = data[at + 3], data[at + 4], int.from_bytes(data[at + 5 : at + 9], "big")
            self._take(kind, flags, stream, bytes(data[at + 9 : at + 9 + size]), now)
            at += 9 + size
        del data[:at]

    def _take(self, kind: int, flags: int, stream: int, contents: bytes, now: float) -> None:
        if kind == _DATA:
            if contents:
                self._answered.add(stream)
            if flags & 1:
                self._end(stream, "", now)
        elif kind in (_HEADERS, _MORE):
            self._block = contents if kind == _HEADERS else self._block + contents
            if flags & 4:
                self._take_headers(flags, stream, now)
        elif kind == _RESET:
            self._end(stream, "reset", now)
        elif kind == _WINDOW:
            self._widen(stream, int.from_bytes(contents, "big"))
        elif not flags & 1:
            self._take_control(kind, contents)

    def _take_headers(self, flags: int, stream: int, now: float) -> None:
        status = dict(self._decoder.decode(self._block)).get(b"grpc-status", b"")
        if status or flags & 1:
            self._end(stream, status.decode(), now)

    def _take_control(self, kind: int, contents: bytes) -> None:
        if kind == _AWAY:
            raise SystemExit("the server asks to go")
        if kind == _PING:
            self._out += _frame(_PING, 1, 0, contents)
        elif kind == _SETTINGS:
            for at in range(0, len(contents), 6):
                name, value = (int.from_bytes(one, "big") for one in (contents[at : at + 2], contents[at + 2 : at + 6]))
                if name == _MOST_STREAMS:
                    self.streams = min(self._cap, value)
                elif name == _INITIAL_WINDOW:
                    self._windows = {one: had + value - self._initial for one, had in self._windows.items()}
                    self._initial = value
            self._out += _frame(_SETTINGS, 1, 0)
            self._go_on()

    def _widen(self, stream: int, more: int) -> None:
        if not stream:
            self._window += more
        elif stream in self._windows:
            self._windows[stream] += more
        self._go_on()

    def _go_on(self) -> None:
        """Send of unfinished requests what the server has room for."""
        for _ in range(len(self._unsent)):
            stream, at = self._unsent.popleft()
            if stream not in self._began:
                continue
            while (size := min(_FRAME, len(self._data) - at, self._window, self._windows[stream])) > 0:
                self._out += _frame(_DATA, at + size == len(self._data), stream, self._data[at : at + size])
                at += size
                self._window -= size
                self._windows[stream] -= size
            if at < len(self._data):
                self._unsent.append((stream, at))
            else:
                del self._windows[stream]

    def _end(self, stream: int, status: str, now: float) -> None:
        began = self._began.pop(stream, None)
        if began is None:
            return
        self._windows.pop(stream, None)
        if stream in self._answered and status == "0":
            self.answers.append(1e3 * (now - began))
        else:
            self.ends[status] = self.ends.get(status, 0) + 1
        self._answered.discard(stream)


def offer(
    address: str,
    path: str,
    data: bytes,
    seconds: float,
    connections: int,
    *,
    rate: float | None,
    streams: int,
    timeout: str,
) -> Load:
    """Send calls for some seconds, at so many a second, or one after the other on each connection.

    Parameters
    ----------
    address, path, data
        Where to, what is asked, and one message.
    seconds, connections, rate, streams
        For how long, over how many, how many a second of all, and calls of one connection at a time.
    timeout
        Contents of ``grpc-timeout``, or nothing.
    """
    head = _literal(":method", "POST") + _literal(":scheme", "http") + _literal(":path", path)
    head += _literal(":authority", address) + _literal("content-type", "application/grpc") + _literal("te", "trailers")
    if timeout:
        head += _literal("grpc-timeout", timeout)
    contents = b"\0" + len(data).to_bytes(4, "big") + data
    clients = [_Client(address, head, contents, 1 if rate is None else streams) for _ in range(connections)]
    wires = _Wires(clients)
    start, due = time.perf_counter() + 0.05, 0
    end = start + seconds
    while (now := time.perf_counter()) < end + _LAST_SECONDS and (now < end or any(client.open for client in clients)):
        if start <= now < end:
            if rate is None:
                free = [client for client in clients if not client.open]
            else:
                free = [clients[number % connections] for number in range(due, int((now - start) * rate))]
                due += len(free)
            for client in free:
                if client.open < client.streams:
                    client.begin()
        wires.turn()
    ends: Counter[str] = Counter()
    for client in clients:
        ends += Counter({**client.ends, "none": client.open})
        client.socket.close()
    return Load(sorted(took for client in clients for took in client.answers), dict(ends))


class _Wires:
    """Sends what clients have to send, and lets them take what has come."""

    def __init__(self, clients: Sequence[_Client]) -> None:
        self._clients = {client.socket.fileno(): client for client in clients}
        self._full: set[int] = set()  # those that wait to send
        self._poll = select.epoll()
        for number in self._clients:
            self._poll.register(number, select.EPOLLIN)

    def turn(self) -> None:
        for number, client in self._clients.items():
            left = client.write()
            if left != (number in self._full):
                self._full ^= {number}
                self._poll.modify(number, select.EPOLLIN | (select.EPOLLOUT if left else 0))
        for number, event in self._poll.poll(_TICK):
            if event & ~select.EPOLLOUT:
                self._clients[number].read()


def _frame(kind: int, flags: int, stream: int, contents: bytes = b"") -> bytes:
    return b"%b%c%c%b%b" % (len(contents).to_bytes(3, "big"), kind, flags, stream.to_bytes(4, "big"), contents)


def _literal(name: str, value: str) -> bytes:
    return b"\0%c%b%c%b" % (len(name), name.encode(), len(value), value.encode())


def main(arguments: Sequence[str] | None = None) -> int:
    """Offer, and print what became of it as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("address", metavar="HOST:PORT")
    parser.add_argument("path", help="of the method")
    parser.add_argument("message", type=Path, help="file with one serialized request")
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--connections", type=int, default=16)
    parser.add_argument("--rate", type=float, help="calls a second; none: one after the other on each connection")
    parser.add_argument("--streams", type=int, default=100, help="calls of a connection at a time")
    parser.add_argument("--timeout", default="", help="of each call, as grpc-timeout has it")
    given = parser.parse_args(arguments)
    gc.disable()
    data = given.message.read_bytes()
    load = offer(
        given.address,
        given.path,
        data,
        given.seconds,
        given.connections,
        rate=given.rate,
        streams=given.streams,
        timeout=given.timeout,
    )
    print(json.dumps(asdict(load)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
