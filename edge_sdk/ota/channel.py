"""Requests to the repository and their replies, over a connection that loses and repeats messages."""

from __future__ import annotations

import itertools
import os
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from edge_sdk import canonical
from edge_sdk.errors import TransferError
from edge_sdk.ota.pacing import Pacer

__all__ = ["Channel", "Reply", "Source"]

_WATCH_SECONDS = 1.0
_MAX_WAITING = 128  # replies: at most 16 MB, whatever a broker sends


@dataclass(frozen=True, slots=True)
class Reply:
    """One answer of the repository: a status as in HTTP, a block, and the size of its file in bytes.

    ``retry`` goes with status 429: in how many seconds the service answers one more request, or 0.
    """

    status: int
    data: bytes
    size: int
    retry: float = 0.0


class Source(Protocol):
    """Where metadata and targets come from, block by block: a `Channel`, or `edge_sdk.ota.ranges.Ranges`.

    What a source says is believed by nobody; who asks verifies it.
    """

    def fetch(self, requests: Sequence[Mapping[str, Any]], /) -> Iterator[tuple[int, Reply]]:
        """Yield the reply to each request with its index."""
        ...


@dataclass(slots=True)
class _Flight:
    index: int
    payload: bytes
    sent: float
    deadline: float
    attempts: int = 1


class Channel:
    """Requests with correlation data, several under way at a time, each repeated until answered.

    One thread fetches; `deliver` may be called from another.

    Attributes
    ----------
    bytes_received
        Of replies, so far.
    silent
        Why the last transfer failed, where the repository answers nothing at all; else empty.
    meanwhile
        Called between replies, and once a second while there are none, on the thread that fetches.

    Parameters
    ----------
    send
        Publishes one request: payload and correlation data.
    window
        Requests under way at a time, at most; fewer at first, and where answers are late.
    timeout
        Seconds until a request is sent again; doubled each time.
    attempts
        Times a request is sent before the transfer fails. That the service has too much to do is no failure, but
        said for as long as silence would be borne it is.
    rate
        Bytes a second that replies may take up, on average; None: as many as come.
    """

    def __init__(
        self,
        send: Callable[[bytes, bytes], object],
        *,
        window: int = 16,
        timeout: float = 2.0,
        attempts: int = 4,
        rate: float | None = None,
    ) -> None:
        self._send = send
        self._timeout = timeout
        self._attempts = attempts
        self._pacer = Pacer(window, rate, timeout, timeout * (2**attempts - 1))
        self._prefix = os.urandom(8)
        self._numbers = itertools.count()
        self._replies: queue.SimpleQueue[tuple[bytes, Reply, float] | None] = queue.SimpleQueue()
        self._stop = threading.Event()
        self._heard = 0.0
        self.bytes_received = 0
        self.silent = ""
        self.meanwhile: Callable[[], object] = lambda: None

    def deliver(self, correlation: bytes, payload: bytes, properties: Mapping[str, str]) -> None:
        """Take in a reply from the network; one that nobody asked for or that has no known form is dropped."""
        if not correlation.startswith(self._prefix) or self._replies.qsize() >= _MAX_WAITING:
            return
        try:
            retry = float(properties.get("retry", 0.0))
            reply = Reply(int(properties["status"]), payload, int(properties["size"]), retry if retry > 0 else 0.0)
        except (KeyError, ValueError):
            return
        self._replies.put((correlation, reply, time.monotonic()))

    def cancel(self) -> None:
        """Make a running and every later fetch raise `TransferError`."""
        self._stop.set()
        self._replies.put(None)

    def fetch(self, requests: Sequence[Mapping[str, Any]]) -> Iterator[tuple[int, Reply]]:
        """Yield the reply to each request with its index, as they arrive.

        Raises
        ------
        TransferError
            A request stayed without an answer, all are refused, or the channel was cancelled.
        """
        waiting = deque((index, canonical.dumps(dict(request))) for index, request in enumerate(requests))
        flights: dict[bytes, _Flight] = {}
        self.silent = ""
        pacer = self._pacer
        pacer.begin()
        while waiting or flights:
            while waiting and len(flights) < pacer.window and (not flights or time.monotonic() >= pacer.due):
                self._pause(pacer.due)
                index, payload = waiting.popleft()
                correlation = self._prefix + next(self._numbers).to_bytes(6, "big")
                now = time.monotonic()
                flights[correlation] = _Flight(index, payload, now, now + self._timeout)
                pacer.sent()
                self._send(payload, correlation)
            if self._replies.empty():  # else what is late may be there: who asks may have written to a slow disk
                self._repeat_late(flights)
            due = min(flight.deadline for flight in flights.values())
            arrived = self._receive(min(due, pacer.due) if waiting and len(flights) < pacer.window else due)
            if arrived is None or arrived[0] not in flights:
                continue  # a repeated request may be answered twice
            correlation, reply, at = arrived
            if reply.status >= 500:
                continue  # the origin has trouble: asked again when the request is late
            flight = flights.pop(correlation)
            if reply.status == 429:
                self._refused(flight, reply)
                waiting.appendleft((flight.index, flight.payload))
                continue
            pacer.answered(at - flight.sent)
            yield flight.index, reply

    def _pause(self, until: float) -> None:
        while not self._stop.wait(min(_WATCH_SECONDS, until - time.monotonic())) and time.monotonic() < until:
            self.meanwhile()

    def _receive(self, deadline: float) -> tuple[bytes, Reply, float] | None:
        self.meanwhile()
        try:
            arrived = self._replies.get(timeout=max(0.0, min(_WATCH_SECONDS, deadline - time.monotonic())))
        except queue.Empty:
            arrived = None
        if self._stop.is_set():
            raise TransferError("the transfer was stopped")
        if arrived is not None:
            self._heard = arrived[2]
            self.bytes_received += len(arrived[1].data)
            self._pacer.received(len(arrived[1].data))
        return arrived

    def _refused(self, flight: _Flight, reply: Reply) -> None:
        try:
            self._pacer.refused(flight.sent, reply.retry)
        except TransferError as error:
            self.silent = str(error)
            raise

    def _repeat_late(self, flights: Mapping[bytes, _Flight]) -> None:
        now = time.monotonic()
        for correlation, flight in flights.items():
            if flight.deadline > now:
                continue
            if flight.attempts >= self._attempts:
                reason = (
                    f"the repository did not answer within {self._attempts} attempts; is `edge-sdk ota serve` running?"
                )
                self.silent = reason if self._heard < flight.sent else ""
                raise TransferError(reason)
            flight.deadline = now + self._timeout * 2**flight.attempts
            flight.attempts += 1
            self._send(flight.payload, correlation)
