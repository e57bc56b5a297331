"""Requests to the repository and their replies; and downloads that go on where they were cut.

A download's file is its own record of progress: on resumption every block that lies in it is
hashed against the signed list, and those that match are there. So neither a torn write nor a
lost one can be taken for a block that arrived.
"""

from __future__ import annotations

import errno
import hashlib
import itertools
import os
import queue
import shutil
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from edge_sdk import canonical
from edge_sdk.errors import StorageError, TransferError, TrustError
from edge_sdk.files import fsync_dir, make_folder, storage_errors
from edge_sdk.ota.pacing import Pacer
from edge_sdk.ota.records import Delta, Target
from edge_sdk.ota.topics import BLOCK_BYTES

__all__ = ["Channel", "Download", "Reply", "Source"]

_MAX_STRIKES = 3
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

    Parameters
    ----------
    send
        Publishes one request: payload and correlation data.
    window
        Requests under way at a time.
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
        window: int = 8,
        timeout: float = 2.0,
        attempts: int = 4,
        rate: float | None = None,
    ) -> None:
        self._send = send
        # at most a second's worth at once, or a block
        self._window = window if rate is None else max(1, min(window, int(rate // BLOCK_BYTES)))
        self._timeout = timeout
        self._attempts = attempts
        self._pacer = Pacer(rate, timeout * (2**attempts - 1))
        self._prefix = os.urandom(8)
        self._numbers = itertools.count()
        self._replies: queue.SimpleQueue[tuple[bytes, Reply] | None] = queue.SimpleQueue()
        self._stop = threading.Event()
        self.bytes_received = 0

    def deliver(self, correlation: bytes, payload: bytes, properties: Mapping[str, str]) -> None:
        """Take in a reply from the network; one that nobody asked for or that has no known form is dropped."""
        if not correlation.startswith(self._prefix) or self._replies.qsize() >= _MAX_WAITING:
            return
        try:
            retry = float(properties.get("retry", 0.0))
            reply = Reply(int(properties["status"]), payload, int(properties["size"]), retry if retry > 0 else 0.0)
        except (KeyError, ValueError):
            return
        self._replies.put((correlation, reply))

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
        pacer = self._pacer
        while waiting or flights:
            while waiting and len(flights) < self._window and (not flights or time.monotonic() >= pacer.due):
                self._stop.wait(pacer.due - time.monotonic())
                index, payload = waiting.popleft()
                correlation = self._prefix + next(self._numbers).to_bytes(6, "big")
                now = time.monotonic()
                flights[correlation] = _Flight(index, payload, now, now + self._timeout)
                pacer.sent()
                self._send(payload, correlation)
            self._repeat_late(flights)
            due = min(flight.deadline for flight in flights.values())
            arrived = self._receive(min(due, pacer.due) if waiting and len(flights) < self._window else due)
            if arrived is None or arrived[0] not in flights:
                continue  # a repeated request may be answered twice
            correlation, reply = arrived
            if reply.status >= 500:
                continue  # the origin has trouble: asked again when the request is late
            flight = flights.pop(correlation)
            if reply.status == 429:
                pacer.refused(flight.sent, reply.retry)
                waiting.appendleft((flight.index, flight.payload))
                continue
            pacer.answered()
            yield flight.index, reply

    def _receive(self, deadline: float) -> tuple[bytes, Reply] | None:
        try:
            arrived = self._replies.get(timeout=max(0.0, deadline - time.monotonic()))
        except queue.Empty:
            arrived = None
        if self._stop.is_set():
            raise TransferError("the transfer was stopped")
        if arrived is not None:
            self.bytes_received += len(arrived[1].data)
            self._pacer.received(len(arrived[1].data))
        return arrived

    def _repeat_late(self, flights: Mapping[bytes, _Flight]) -> None:
        now = time.monotonic()
        for correlation, flight in flights.items():
            if flight.deadline > now:
                continue
            if flight.attempts >= self._attempts:
                raise TransferError(
                    f"the repository did not answer within {self._attempts} attempts; is `edge-sdk ota serve` running?"
                )
            flight.sent, flight.deadline = now, now + self._timeout * 2**flight.attempts
            flight.attempts += 1
            self._send(flight.payload, correlation)


class Download:
    """One bundle file, or a delta, on its way into a folder.

    Parameters
    ----------
    folder
        Where it is collected; made if missing.
    target
        The signed description of the file.
    """

    def __init__(self, folder: Path, target: Target | Delta) -> None:
        self._target = target
        self._part = make_folder(folder) / f"{target.sha256}.part"
        self.path = folder / f"{target.sha256}.edge"

    def missing(self) -> list[int]:
        """Return the numbers of the blocks that are not there, or not as signed."""
        missing = list(range(len(self._target.blocks)))
        if not self._part.exists():
            return missing
        with storage_errors(self._part, "read"), self._part.open("rb") as stream:
            return [number for number in missing if not self._matches(number, stream.read(self._target.block_bytes))]

    def missing_bytes(self) -> int:
        """Return how many bytes the missing blocks have."""
        step = self._target.block_bytes
        return sum(min(step, self._target.size - number * step) for number in self.missing())

    def fetch(self, source: Source, *, sync_every: int = 8) -> Path:
        """Fetch what is missing and return the whole, checked file.

        Parameters
        ----------
        sync_every
            Blocks between two fsyncs: as many may be lost in a power cut.

        Raises
        ------
        TransferError
            Blocks did not arrive; what did is kept.
        TrustError
            The repository's bytes are not the signed ones.
        StorageError
            The disk refuses, or has no room for the file and what is unpacked from it.
        """
        if self.path.exists():
            if self._whole(self.path):
                return self.path
            self.discard()
        missing = self.missing()
        self.check_space(len(missing))
        with storage_errors(self._part):
            descriptor = os.open(self._part, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            try:
                os.ftruncate(descriptor, self._target.size)
                for _ in range(_MAX_STRIKES):
                    missing = self._fetch_blocks(source, descriptor, missing, sync_every)
                    if not missing:
                        break
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
            if missing:
                raise TrustError(
                    f"block {missing[0]} of {self._target.path} does not match its signed hash: "
                    "its bytes were changed after signing"
                )
            if not self._whole(self._part):
                self._part.unlink()
                raise TrustError(f"{self._target.path} does not match its signed hash")
            self._part.replace(self.path)
        fsync_dir(self.path.parent)
        return self.path

    def fill(self, data: Iterable[bytes]) -> None:
        """Put whole blocks of ``data``, the file from its beginning, where blocks are missing; durable at the end.

        Raises
        ------
        TrustError
            A block is not as signed; those before it are kept.
        StorageError
            The disk refuses.
        """
        missing, step, number, left = set(self.missing()), self._target.block_bytes, 0, bytearray()
        with storage_errors(self._part):
            descriptor = os.open(self._part, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            try:
                os.ftruncate(descriptor, self._target.size)
                for part in data:
                    left += part
                    while len(left) >= min(step, self._target.size - number * step) > 0:
                        block = bytes(left[:step])
                        del left[:step]
                        if not self._matches(number, block):
                            raise TrustError(f"block {number} of what it makes is not as signed")
                        if number in missing:
                            _write(descriptor, block, number * step)
                        number += 1
            finally:
                os.fsync(descriptor)
                os.close(descriptor)

    def discard(self) -> None:
        """Remove what was collected."""
        with storage_errors(self._part, "remove"):
            self._part.unlink(missing_ok=True)
            self.path.unlink(missing_ok=True)

    def discard_others(self) -> None:
        """Remove what was collected of other files: one download at a time needs space."""
        with storage_errors(self._part.parent, "clear"):
            for path in self._part.parent.iterdir():
                if path not in (self._part, self.path):
                    path.unlink()

    def check_space(self, blocks: int, beside: int = 0) -> None:
        """Raise `StorageError` if so many blocks, what is unpacked of the file, and bytes ``beside`` have no room."""
        needed = blocks * self._target.block_bytes + self._target.size + beside
        with storage_errors(self._part.parent, "measure"):
            free = shutil.disk_usage(self._part.parent).free
        if free < needed:
            raise StorageError(
                f"{self._target.path} needs {needed} bytes of disk in {self._part.parent}; {free} are free"
            )

    def _fetch_blocks(self, source: Source, descriptor: int, numbers: Sequence[int], sync_every: int) -> list[int]:
        path, step, wrong = self._target.stored_path, self._target.block_bytes, []
        requests = [{"target": path, "block": number} for number in numbers]
        for written, (index, reply) in enumerate(source.fetch(requests), start=1):
            number = numbers[index]
            if reply.status not in (200, 416):
                raise TransferError(f"the repository has no {self._target.path} (status {reply.status})")
            if not self._matches(number, reply.data):
                wrong.append(number)
                continue
            _write(descriptor, reply.data, number * step)
            if written % sync_every == 0:
                os.fsync(descriptor)
        return sorted(wrong)

    def _matches(self, number: int, data: bytes) -> bool:
        return hashlib.sha256(data).hexdigest() == self._target.blocks[number]

    def _whole(self, path: Path) -> bool:
        with storage_errors(path, "read"), path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest() == self._target.sha256


def _write(descriptor: int, data: bytes, at: int) -> None:
    if os.pwrite(descriptor, data, at) != len(data):  # it took what there was room for
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
