"""The repository service: answers devices over MQTT from a repository folder, and keeps their reports.

It reads metadata and blocks for requests on ``get`` and answers on the same device's ``reply``,
whatever the request says; announces new assignments by retained hints on ``desired``; writes each
report to ``reports.jsonl`` before the broker learns that it arrived; and signs the online roles
anew while it runs. A device is trusted with nothing: names are matched, never joined as paths, and
another device's assignment is not served.
"""

from __future__ import annotations

import logging
import os
import re
import threading
import time
from collections import Counter, deque
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

from edge_sdk import canonical
from edge_sdk.cloud.ota.reports import ReportLog
from edge_sdk.cloud.ota.repository import Repository
from edge_sdk.cloud.ota.throttle import Throttle
from edge_sdk.errors import EdgeSdkError, InputError, StorageError
from edge_sdk.ota import topics as wire
from edge_sdk.ota.link import Broker, Link, Message
from edge_sdk.ota.topics import BLOCK_BYTES, Topics, device_and_model

__all__ = ["REPORT_BURST", "REPORT_RATE", "REQUEST_RATE", "Gateway", "Origin", "Reply"]

log = logging.getLogger("edge_sdk.cloud.ota.gateway")

_METADATA = re.compile(r"(?:[1-9][0-9]{0,8}\.)?[a-z][a-z0-9-]{0,63}\.json")
_TARGET = re.compile(r"(bundles|assignments)/([0-9a-f]{64})\.([A-Za-z0-9][A-Za-z0-9_.~-]{0,199})")
REQUEST_RATE = 2000.0
"""Requests a second that a device may make for long, and as many at once: blocks of 245 MB."""

REPORT_RATE = 2 * wire.REPORT_RATE
"""Reports a second that a device may make for long."""

REPORT_BURST = 20 * wire.REPORT_BURST
"""Reports that a device may make at once: starts in a row, and what the broker kept while no service was there."""

_MAX_REQUEST = 1024
_MAX_REPORT = 16 * 1024
_MAX_CORRELATION = 64
_MAX_ID = 64
_MAX_LEAVING = 512  # replies that wait for the broker: at most 60 MB
_REFRESH_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Reply:
    """A block, or why there is none. ``size`` is that of the whole file in bytes."""

    status: int
    data: bytes = b""
    size: int = 0


class Origin:
    """Reads blocks of a repository's files for devices; never raises for what a request holds."""

    def __init__(self, folder: Path) -> None:
        # texts: to join paths takes as long as to read a block
        self._metadata, self._targets = str(folder / "metadata"), str(folder / "targets")

    def answer(self, device: str, request: bytes) -> Reply:
        """Return the reply to one request of a device.

        Status 200; 400 the request has no known form; 403 another device's assignment; 404 no
        such file; 416 no such block; 500 the repository's disk fails.
        """
        try:
            document = canonical.loads(request, limit=_MAX_REQUEST)
            if not isinstance(document, dict) or not set(document) <= {"metadata", "target", "block"}:
                return Reply(400)
            block = document.get("block", 0)
            if type(block) is not int or not 0 <= block < 1 << 20:
                return Reply(400)
            path = self._path(device, document)
        except InputError:
            return Reply(400)
        except PermissionError:
            return Reply(403)
        if path is None:
            return Reply(400)
        return _read_block(path, block)

    def _path(self, device: str, document: dict[str, Any]) -> str | None:
        metadata, target = document.get("metadata"), document.get("target")
        if isinstance(metadata, str) and target is None and _METADATA.fullmatch(metadata):
            return f"{self._metadata}/{metadata}"
        match = _TARGET.fullmatch(target) if isinstance(target, str) and metadata is None else None
        if match is None:
            return None
        folder, digest, name = match.groups()
        if folder == "assignments" and name.removesuffix(".json").partition("~")[0] != device:
            raise PermissionError
        return f"{self._targets}/{folder}/{digest}.{name}"


def _read_block(path: str, block: int) -> Reply:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return Reply(404)
    except OSError as error:
        log.warning("cannot read %s: %s", path, error)
        return Reply(500)
    try:
        size = os.fstat(descriptor).st_size
        if block and block * BLOCK_BYTES >= size:
            return Reply(416, size=size)
        return Reply(200, os.pread(descriptor, BLOCK_BYTES, block * BLOCK_BYTES), size)
    except OSError as error:
        log.warning("cannot read %s: %s", path, error)
        return Reply(500)
    finally:
        os.close(descriptor)


class Gateway:
    """Serves one repository to one fleet while the ``with`` block runs.

    Parameters
    ----------
    repository
        What is served, and signed anew.
    broker
        Where the devices are.
    fleet
        Fleet id; first part of every topic.
    poll_seconds
        How often the folder is looked at for new assignments.
    throttle
        How much a device may ask; what is more is answered with status 429 and when to ask again.
    reports
        How much a device may report; what is more is dropped, for each costs everybody a write to the disk.
    worker
        Number of this one among several on one repository and fleet, which share the requests; None where it
        is the only one. The first announces and signs; each keeps the reports that it gets in a file of its own.

    Raises
    ------
    BrokerError
        The broker cannot be reached or refuses us.
    StorageError
        The report log cannot be written.
    """

    def __init__(
        self,
        repository: Repository,
        broker: Broker,
        fleet: str,
        *,
        poll_seconds: float = 0.5,
        throttle: Throttle | None = None,
        reports: Throttle | None = None,
        worker: int | None = None,
    ) -> None:
        topics = Topics(fleet, "+", broker.prefix)
        name, shared = ("", "") if worker is None else (f"-{worker}", "$share/repository-")
        # a group for each: of two filters in one, iotcore 0.4.0 delivers the messages of the first only
        asked, told = (f"{shared and shared + kind + '/'}{getattr(topics, kind)}" for kind in ("get", "update"))
        self._asked = asked if shared else None
        self._throttle = throttle or Throttle(REQUEST_RATE)
        self._reports = reports or Throttle(REPORT_RATE, REPORT_BURST)
        self._dropped: Counter[str] = Counter()
        self._leaving: set[int] = set()
        self._first = worker in (None, 1)
        self._repository = repository
        self._fleet, self._prefix = fleet, broker.prefix
        self._poll_seconds = poll_seconds
        self._origin = Origin(repository.folder)
        self.reports = ReportLog(repository.folder / f"reports{name and '-worker' + name}.jsonl")
        self._hinted: dict[str, int] = {}
        self._seen_timestamp = 0
        self._refresh_due = 0.0
        self._rehint = threading.Event()
        self._unwritten: deque[tuple[dict[str, Any], Message, int]] = deque()
        self._connections = 0
        self._link = Link(
            broker,
            broker.client_id or f"edge-{fleet}-repository{name}",
            subscriptions=[(asked, 0), (told, 1)],
            on_message=self._message,
            on_connected=self._connected,
            on_acknowledged=self._leaving.discard,
            manual_ack=True,
        )
        try:
            self._link.connect()
        except BaseException:
            self.reports.close()
            raise

    def run(self, stop: threading.Event | None = None) -> None:
        """Announce assignments and keep the online roles fresh until ``stop`` is set."""
        stop = stop or threading.Event()
        while True:
            self.step()
            if stop.wait(self._poll_seconds):
                return

    def step(self) -> None:
        """Sign what is stale and publish the hints that are due; failures are logged and tried again."""
        for _ in range(len(self._unwritten)):
            self._keep(*self._unwritten.popleft())
        for device in list(self._dropped):
            log.warning("%s reports too much: %d reports of it are dropped", device, self._dropped.pop(device))
        if not self._link.connected or not self._first:
            return
        try:
            if time.monotonic() >= self._refresh_due:
                self._refresh_due = time.monotonic() + _REFRESH_SECONDS  # a key that is missing is logged once a minute
                self._repository.refresh()
            if self._rehint.is_set():
                self._rehint.clear()
                self._hinted.clear()
                self._seen_timestamp = 0
            version = self._repository.timestamp_version
            if version != self._seen_timestamp:
                self._announce()
                self._seen_timestamp = version
        except EdgeSdkError as error:
            log.warning("%s", error)

    def close(self) -> None:
        """Disconnect and close the report log."""
        if self._asked is not None:
            # the session stays, for reports; without this the broker would go on giving it requests
            self._link.unsubscribe(self._asked)
        self._link.close()
        self.reports.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _announce(self) -> None:
        for place, assignment in self._repository.assignments().items():
            if self._hinted.get(place) == assignment.counter:
                continue
            device, _ = device_and_model(place)
            hint = {"counter": assignment.counter, "name": assignment.name, "version": assignment.version}
            self._link.publish(Topics(self._fleet, device, self._prefix).desired, canonical.dumps(hint), retain=True)
            self._hinted[place] = assignment.counter

    def _connected(self) -> None:
        self._connections += 1
        self._leaving.clear()
        self._rehint.set()

    def _message(self, message: Message) -> None:
        parsed = Topics.parse(message.topic, self._prefix)
        if parsed is None:
            self._link.acknowledge(message)
            return
        topics, kind = parsed
        if kind == "update":
            self._report(topics, message)
            return
        self._link.acknowledge(message)
        if kind == "get" and len(message.correlation) <= _MAX_CORRELATION and len(self._leaving) < _MAX_LEAVING:
            admitted = self._throttle.admits(topics.device)
            reply = self._origin.answer(topics.device, message.payload) if admitted else Reply(429)
            properties = {"status": str(reply.status), "size": str(reply.size)}
            if not admitted:
                properties["retry"] = f"{self._throttle.seconds:.3g}"
            # QoS 0: a lost block is asked for again, and an acknowledgement of each costs a round trip
            waiting = self._link.send(topics.reply, reply.data, message.correlation, properties)
            if waiting is not None:
                self._leaving.add(waiting)

    def _report(self, topics: Topics, message: Message) -> None:
        try:
            report = canonical.loads(message.payload, limit=_MAX_REPORT)
            identity = report.get("id") if isinstance(report, dict) else None
            if not isinstance(identity, str) or len(identity) > _MAX_ID:
                raise InputError(f"a report is an object with an id of at most {_MAX_ID} characters")
        except InputError as error:
            log.warning("a report of %s is dropped: %s", topics.device, error)
            self._link.acknowledge(message)
            return
        # one that comes again after a crash costs no write, and does not count
        if identity not in self.reports and not self._reports.admits(topics.device):
            self._dropped[topics.device] += 1
            self._link.acknowledge(message)  # kept by the broker it would hold up those of others
            return
        received = datetime.now(UTC).isoformat(timespec="milliseconds")
        self._keep({**report, "device": topics.device, "received": received}, message, self._connections)

    def _keep(self, report: dict[str, Any], message: Message, connection: int) -> None:
        try:
            self.reports.append(report)
        except StorageError as error:
            # without an acknowledgement the broker holds it too, should we end before the disk is well again
            log.warning("a report of %s waits: %s", report["device"], error)
            self._unwritten.append((report, message, connection))
            return
        # numbers of messages are a connection's own: on another one this may be that of a report which is not
        # on disk. The broker sends what is not acknowledged again, and its id is known then.
        if connection == self._connections:
            self._link.acknowledge(message)
