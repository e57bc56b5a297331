"""Blocks over HTTP: ranges of a repository's files from any web server, in place of requests over MQTT.

A repository is a folder of static files: ``metadata/NAME`` and ``targets/PATH``. What is fetched is
verified alike, whichever way it came.
"""

from __future__ import annotations

import http.client
import io
import re
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit

from edge_sdk.errors import InputError, TransferError, one_line
from edge_sdk.ota.channel import Reply
from edge_sdk.ota.pacing import Pacer
from edge_sdk.ota.topics import BLOCK_BYTES

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer as Buffer

__all__ = ["Ranges"]

_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+)")
_SECONDS = re.compile(r"[0-9]{1,6}")
_PAUSE = 0.5
_SLICE = 16_384
_WATCH_SECONDS = 1.0
_SLOWEST = 1000  # bytes a second


class Ranges:
    """A source of blocks at a URL; one connection, kept open, one request at a time.

    Parameters
    ----------
    url
        ``https://host[:port][/path]`` or ``http://…`` of the repository's folder.
    token
        Sent as ``Authorization: Bearer …``, over TLS or to this machine only; read from the file at each connection
        where it is a path, so that it may be renewed.
    ca, certificate, key
        PEM files: authorities to trust (None: the system's), and the client's own certificate and key. They are read
        at each connection.
    timeout
        Seconds without a byte until a request is given up and made again, as it is where the head of an answer
        takes twice as long, or fewer than 1,000 bytes come in a second after these.
    attempts
        Times a request is made before the transfer fails. That the server is asked too often (status 429) is no
        failure: requests then leave further apart, as ``Retry-After`` says, up to five seconds. But said for as long
        as silence would be borne it is one.
    rate
        Bytes a second, on average; None: as many as come.

    Attributes
    ----------
    bytes_received, silent, meanwhile
        As of `edge_sdk.ota.channel.Channel`; called between two reads, each of which waits ``timeout`` at most.

    Raises
    ------
    InputError
        The URL has another form, a token would go over it in clear, or a TLS file cannot be used.
    """

    def __init__(
        self,
        url: str,
        *,
        token: str | Path | None = None,
        ca: Path | None = None,
        certificate: Path | None = None,
        key: Path | None = None,
        timeout: float = 10.0,
        attempts: int = 4,
        rate: float | None = None,
    ) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.username:
            raise InputError(f"repository {url.rpartition('@')[2]!r} is not of the form https://host[:port][/path]")
        if token is not None and parts.scheme == "http" and parts.hostname not in ("127.0.0.1", "localhost", "::1"):
            raise InputError("a token is not sent over http: use https")
        try:
            self._port = parts.port
        except ValueError as error:
            raise InputError(f"repository {url.rpartition('@')[2]!r}: {error}") from error
        self._host, self._path = parts.hostname, parts.path.rstrip("/")
        self._token = token
        self._timeout, self._attempts, self._rate = timeout, attempts, rate
        self._files = (ca, certificate, key) if parts.scheme == "https" else None
        if self._files is not None:
            _tls_context(*self._files)
        self._connection: http.client.HTTPConnection | None = None
        self._pacer = Pacer(1, None, timeout, timeout * attempts)
        self._stop = threading.Event()
        self.bytes_received = 0
        self.silent = ""
        self.meanwhile: Callable[[], object] = lambda: None

    def __str__(self) -> str:
        return f"{self._host}{'' if self._port is None else f':{self._port}'}{self._path}"

    def cancel(self) -> None:
        """Make a running and every later fetch raise `TransferError`."""
        self._stop.set()

    def fetch(self, requests: Sequence[Mapping[str, Any]]) -> Iterator[tuple[int, Reply]]:
        """Yield the reply to each request with its index, in their order.

        Raises
        ------
        TransferError
            The server cannot be reached, fails, refuses us or does not know ranges, or the source was cancelled.
        """
        self._pacer.begin()
        for index, request in enumerate(requests):
            yield index, self._repeated(request)

    def _repeated(self, request: Mapping[str, Any]) -> Reply:
        attempt, reason, heard = 0, "", self.bytes_received
        self.silent = ""
        while attempt < self._attempts:
            self._pause(_PAUSE * 2**attempt if reason else 0.0)
            sent = time.monotonic()
            self._pacer.sent()
            try:
                reply = self._ask(request)
            except (OSError, http.client.HTTPException, ValueError) as error:  # ValueError: headers that make no sense
                self.close()
                attempt, reason = attempt + 1, one_line(error, 200)
                continue
            if reply.status == 429:
                self._refused(sent, reply)
                continue
            if reply.status < 500:
                self._pacer.answered(time.monotonic() - sent)
                return reply
            attempt, reason = attempt + 1, f"status {reply.status}"
        reason = f"the repository at {self} did not answer within {self._attempts} attempts: {reason}"
        self.silent = reason if self.bytes_received == heard else ""
        raise TransferError(reason)

    def _pause(self, seconds: float) -> None:
        until = max(time.monotonic() + seconds, self._pacer.due)
        self.meanwhile()
        while not self._stop.wait(max(0.0, min(_WATCH_SECONDS, until - time.monotonic()))):
            if time.monotonic() >= until:
                return
            self.meanwhile()
        raise TransferError("the transfer was stopped")

    def _refused(self, sent: float, reply: Reply) -> None:
        try:
            self._pacer.refused(sent, reply.retry)
        except TransferError:
            self.silent = f"the repository at {self} answers only that this device asks too often"
            raise TransferError(self.silent) from None

    def _ask(self, request: Mapping[str, Any]) -> Reply:
        kind, name = ("metadata", request["metadata"]) if "metadata" in request else ("targets", request["target"])
        first = request.get("block", 0) * BLOCK_BYTES
        headers = {"Range": f"bytes={first}-{first + BLOCK_BYTES - 1}", "Accept-Encoding": "identity"}
        if self._token is not None:
            token = self._token.read_text().strip() if isinstance(self._token, Path) else self._token
            if not (token.isascii() and token.isprintable()):  # the library's own refusal shows it
                raise TransferError(f"the token for the repository at {self} is not one line of ASCII")
            headers["Authorization"] = f"Bearer {token}"
        connection = self._connection or self._connect()
        if connection.sock is not None:
            connection.sock.settimeout(self._timeout)
        connection.request("GET", f"{self._path}/{kind}/{quote(name)}", headers=headers)
        with connection.getresponse() as response:  # closed at the end, which `read1` does not see by itself
            return self._reply(response, first)

    def _reply(self, response: http.client.HTTPResponse, first: int) -> Reply:
        if response.status not in (200, 206):
            response.read(_SLICE)
            self.close()
            if response.status in (401, 403):
                raise TransferError(f"the repository at {self} refuses us (status {response.status})")
            after = response.headers.get("Retry-After", "")
            # a date is left aside: this device's clock may be wrong
            return Reply(response.status, b"", 0, float(after) if _SECONDS.fullmatch(after) else 0.0)
        length, match = response.length, _RANGE.fullmatch(response.headers.get("Content-Range", ""))
        if length is None or length > BLOCK_BYTES or (response.status == 200 and first):
            self.close()
            raise TransferError(f"the repository at {self} does not answer ranges of files")
        if response.status == 206 and (match is None or int(match[1]) != first):
            self.close()
            raise TransferError(f"the repository at {self} answers another range than the one asked for")
        return Reply(200, self._read(response, length), int(match[3]) if match else length)

    def _read(self, response: http.client.HTTPResponse, length: int) -> bytes:
        data = bytearray()
        assert isinstance(response, _Response)
        rate = min(_SLOWEST, self._rate / 2) if self._rate is not None else _SLOWEST
        response.within(self._timeout + length / rate)
        while len(data) < length:
            part = response.read1(min(_SLICE, length - len(data)) if self._rate is not None else length - len(data))
            if not part:
                raise http.client.IncompleteRead(bytes(data), length - len(data))
            data += part
            self.bytes_received += len(part)
            self.meanwhile()
            if self._stop.wait(len(part) / self._rate if self._rate is not None else 0):
                raise TransferError("the transfer was stopped")
        return bytes(data)

    def _connect(self) -> http.client.HTTPConnection:
        if self._files is None:
            connection = http.client.HTTPConnection(self._host, self._port, timeout=self._timeout)
        else:  # read anew: they may have been renewed since the last connection
            try:
                context = _tls_context(*self._files)
            except InputError as error:
                raise TransferError(str(error)) from error
            connection = http.client.HTTPSConnection(self._host, self._port, timeout=self._timeout, context=context)
        connection.response_class = _Response
        self._connection = connection
        return connection

    def close(self) -> None:
        """Close the connection; a later fetch opens another."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None


class _Limited(io.RawIOBase):
    """What a socket receives, until a time that is set: each byte in time would not be enough."""

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        self._raw = sock.makefile("rb", buffering=0)
        self._each = sock.gettimeout() or 0.0
        self.deadline = time.monotonic() + 2 * self._each

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Buffer) -> int | None:
        left = self.deadline - time.monotonic()
        self._socket.settimeout(max(0.001, min(left, self._each)))
        try:
            return self._raw.readinto(buffer)
        except TimeoutError as error:
            reason = "it answers too slowly" if left <= self._each else f"nothing came for {self._each:g} s"
            raise TimeoutError(reason) from error

    def close(self) -> None:
        self._raw.close()
        super().close()


class _Response(http.client.HTTPResponse):
    """An answer of which head and body have to be there in time."""

    def __init__(self, sock: socket.socket, *args: Any, **options: Any) -> None:
        super().__init__(sock, *args, **options)
        self.fp.close()
        self._limited = _Limited(sock)
        self.fp = io.BufferedReader(self._limited)

    def within(self, seconds: float) -> None:
        """Set how long the rest may take."""
        self._limited.deadline = time.monotonic() + seconds


def _tls_context(ca: Path | None, certificate: Path | None, key: Path | None) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=str(ca) if ca else None)
        if certificate is not None:
            context.load_cert_chain(certificate, key)
    except (OSError, ssl.SSLError) as error:
        raise InputError(f"the TLS files for the repository cannot be used: {error}") from error
    return context
