"""The update agent of one device: what it should run → fetch → verify → install → test → activate → report.

The agent works in one thread, the caller's; the network thread only hands messages over. Each
step is durable before the next begins, and a success is reported only after it is. Whatever
fails, the version that runs goes on running.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

from edge_sdk.bundle import Bundle
from edge_sdk.errors import (
    BundleError,
    EdgeSdkError,
    HealthError,
    InstallError,
    StorageError,
    TransferError,
    TrustError,
)
from edge_sdk.files import make_folder
from edge_sdk.ota.health import Limits
from edge_sdk.ota.installer import Installer, one_line
from edge_sdk.ota.link import Broker, Link, Message
from edge_sdk.ota.outbox import Outbox
from edge_sdk.ota.patching import Patches
from edge_sdk.ota.ranges import Ranges
from edge_sdk.ota.records import Assignment, Event, State, Target
from edge_sdk.ota.reporting import Pace, Reporter, now
from edge_sdk.ota.rules import Rules
from edge_sdk.ota.slots import Installed, own
from edge_sdk.ota.soak import Soak, Vitals
from edge_sdk.ota.topics import Topics, check_id
from edge_sdk.ota.transfer import Channel, Download
from edge_sdk.ota.trust import Trust

__all__ = ["OtaAgent"]

log = logging.getLogger("edge_sdk.ota.agent")


@dataclass(frozen=True, slots=True)
class _Update:
    """The update under way: what events say about it."""

    name: str = ""
    version: str = ""
    digest: str = ""
    counter: int = 0
    started: float = 0.0
    bytes_before: int = 0


class OtaAgent:
    """Keeps a state folder at the version that is assigned to this device.

    Parameters
    ----------
    state_dir
        The device's state: metadata, slots, pointer, outbox. One agent at a time.
    broker
        ``mqtt://[user:password@]host[:port]``, ``mqtts://…``, or a `Broker` with TLS files.
    fleet, device
        Ids; they name the topics.
    root
        Pinned TUF root metadata: a path or bytes.
    on_event
        Called with each `Event`, on the thread of `run`.
    poll_seconds, window, request_timeout
        Time between two looks without a hint; blocks under way at a time; seconds until one is asked for again,
        doubled each time, four attempts.
    probe, limits
        The app's own probe of a staged bundle, last, which raises to refuse it; what a version may take here.
    soak, vitals
        The trial in use, and what returns `Vitals` for a digest; by default what `edge_sdk.ota.follow` writes.
    rules
        When and how fast bundles may be fetched.
    repository
        Where metadata and bundles come from, in place of the broker: files at a URL; closed with the agent.
    device_class
        What kind of device this is; bundles may be signed for some kinds only.
    pace
        How fast reports leave; by default half of what the repository service takes of one device.

    Raises
    ------
    InputError
        An id, the broker's URL or the root's path has another form.
    TrustError
        The root is not valid root metadata with a threshold of two.
    StorageError
        The folder cannot be written, or another agent works in it.
    """

    def __init__(
        self,
        state_dir: str | Path,
        broker: str | Broker,
        fleet: str,
        device: str,
        root: bytes | str | Path,
        *,
        on_event: Callable[[Event], None] | None = None,
        poll_seconds: float = 60.0,
        window: int = 8,
        request_timeout: float = 2.0,
        probe: Callable[[Bundle], object] | None = None,
        limits: Limits | None = None,
        soak: Soak | None = None,
        vitals: Callable[[str], Vitals] | None = None,
        rules: Rules | None = None,
        repository: Ranges | None = None,
        device_class: str = "",
        pace: Pace | None = None,
    ) -> None:
        self.broker = Broker.parse(broker) if isinstance(broker, str) else broker
        self.device = check_id("device", device)
        self._topics = Topics(fleet, device)
        self._poll_seconds = poll_seconds
        self._rules = rules
        self._device_class = device_class
        self._state = make_folder(Path(state_dir))
        self._lock = own(self._state)
        try:
            self._trust = Trust(self._state / "metadata", root)
            self._installer = Installer(self._state, limits=limits, probe=probe, soak=soak, vitals=vitals)
            self._patches = Patches(self._state / "delta", self._trust, self._installer)
            outbox = Outbox(self._state / "outbox.db")
            self._reporter = Reporter(outbox, self._send_report, on_event, pace or Pace())
        except BaseException:
            self._lock.close()
            raise
        rate = rules.bytes_per_second if rules is not None else None
        self._channel = Channel(self._request, window=window, timeout=request_timeout, rate=rate)
        self._source = repository or self._channel
        self._inbox: queue.SimpleQueue[tuple[str, int]] = queue.SimpleQueue()
        self._trouble = ""
        self._update = _Update()
        self._stop = threading.Event()
        self._busy = threading.RLock()
        self._closed = False
        self._link = Link(
            self.broker,
            f"edge-{fleet}-{device}",
            subscriptions=[(self._topics.reply, 0), (self._topics.desired, 1)],
            on_message=self._message,
            on_connected=self._connected,
            on_acknowledged=lambda mid: self._inbox.put(("acknowledged", mid)),
            will=(self._topics.status, b'{"online":false}'),
        )
        self._started = False

    @property
    def active(self) -> Installed | None:
        """The version that runs, or None."""
        return self._installer.active

    @property
    def trouble(self) -> str:
        """Why the last look did not end well; empty if it did."""
        return self._trouble

    def start(self) -> None:
        """Check the active slot, then connect; `run` and `check` do it if it was not done.

        Raises
        ------
        BrokerError
            The broker cannot be reached or refuses us.
        """
        with self._busy:
            if self._started:
                return
            self._installer.recover()
            self._tell_left()
            self._link.connect()
            self._started = True

    def run(self) -> None:
        """Work until `close`; raise what `start` raises."""
        with self._busy:
            self.start()
            due = time.monotonic()
            while not self._stop.is_set():
                if time.monotonic() >= due:
                    self.check()
                    due = time.monotonic() + self._poll_seconds
                if self._wait(min(1.0, max(0.0, due - time.monotonic()))) or self._trial_over():
                    due = time.monotonic()

    def check(self) -> State:
        """Ask once what this device should run and do it; return the state that this led to.

        Failures become events and reports, not exceptions.

        Raises
        ------
        BrokerError
            The first connection fails.
        """
        with self._busy:
            self.start()
            self._update = _Update(started=time.monotonic(), bytes_before=self._source.bytes_received)
            try:
                state = self._follow_assignment()
            except (TrustError, BundleError) as error:
                state = self._once("refused", error)
            except (TransferError, StorageError, InstallError) as error:
                if self._stop.is_set():
                    return "idle"
                state = self._once("idle", error)
            else:
                self._trouble = ""
            self._reporter.pump()
            return state

    def flush(self, timeout: float = 5.0) -> bool:
        """Send waiting reports; return whether the broker acknowledged all of them in time."""
        with self._busy:
            deadline = time.monotonic() + timeout
            while len(self._reporter) and time.monotonic() < deadline:
                self._wait(0.1)
            return len(self._reporter) == 0

    def stop(self) -> None:
        """Ask `run` to end soon; may be called on any thread, by the callback too."""
        self._stop.set()
        self._source.cancel()
        self._inbox.put(("stop", 0))

    def close(self) -> None:
        """Stop, disconnect and free the folder; reports not yet sent stay in it. Not for the callback."""
        self.stop()
        with self._busy:
            if self._closed:
                return
            self._closed = True
            if self._started:
                self._link.close(farewell=(self._topics.status, b'{"online":false}'))
            if isinstance(self._source, Ranges):
                self._source.close()
            self._reporter.close()
            self._lock.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _trial_over(self) -> bool:
        try:
            return self._installer.soaking and self._installer.watch()
        except StorageError as error:
            log.warning("%s", error)
            return False

    # one update

    def _follow_assignment(self) -> State:
        found = self._trust.resolve(self.device, self._source)
        if found is None:
            return "active" if self.active else "idle"
        assignment, target = found
        self._update = replace(
            self._update,
            name=assignment.name,
            version=assignment.version,
            digest=target.bundle_digest,
            counter=assignment.counter,
        )
        memory = self._installer.memory
        if self.active is not None and self.active.sha256 == target.sha256:
            Download(self._state / "download", target).discard()  # left there if the last run was cut
            self._patches.clear()
            return self._settle(self.active)
        reason = memory.failure(target.sha256, assignment.counter)
        if reason is None:
            reason = self._installer.objection(assignment, self._trust.time.now())
            reason = reason or target.needs.objection(self._device_class)
            if reason is None:
                return self._install(assignment, target)
            memory.fail(target.sha256, assignment.counter, reason, for_good=False)
        return self._refused(reason)

    def _install(self, assignment: Assignment, target: Target) -> State:
        download = Download(self._state / "download", target)
        download.discard_others()
        if self._rules is not None:
            self._rules.check()
        self._say("downloading")
        trouble = self._patches.fill(download, target, assignment, self._source)
        if trouble and not self._stop.is_set():
            self._say("downloading", trouble)
        try:
            path = download.fetch(self._source)
        except TrustError as error:
            self._installer.failed(error, target, assignment)
            download.discard()
            return self._refused(one_line(error))
        self._patches.clear()
        self._installer.supersede()
        self._tell_left()
        try:
            installed = self._installer.install(path, assignment, target, self._say)
        except (TrustError, BundleError, HealthError) as error:
            download.discard()
            return self._refused(one_line(error))
        download.discard()
        return self._settle(installed)

    def _settle(self, installed: Installed) -> State:
        """Say where the active version stands: on trial, kept, or rolled back from."""
        update = replace(self._update, name=installed.name, version=installed.version, digest=installed.digest)
        self._update = replace(update, counter=max(update.counter, installed.counter))
        if not self._installer.watch():
            self._say("soaking", key=f"soaking:{installed.install}")
            return "soaking"
        if self.active != installed:
            self._tell_left()
            return "rolled_back"
        # the key makes this the one report of it, also if the last run ended before it was stored
        self._say("active", key=f"active:{self._update.counter}:{installed.install}")
        return "active"

    def _refused(self, reason: str) -> State:
        self._say("refused", reason, key=f"refused:{self._update.counter}:{self._update.digest}")
        return "refused"

    def _tell_left(self) -> None:
        """Report the last rolling back, if that was not done: it may have been cut off."""
        left, now, update = self._installer.left, self.active, self._update
        if left is None:
            return
        runs = f"runs {now.name}-{now.version} again" if now else "has no intact version and fetches one"
        self._update = _Update(started=time.monotonic(), bytes_before=self._source.bytes_received)
        if now is not None:
            self._update = replace(self._update, name=now.name, version=now.version, digest=now.digest)
        reason = f"{left.name}-{left.version}: {left.reason}; the device {runs}"
        self._say("rolled_back", reason, key=f"rolled_back:{left.install}")
        self._update = update

    # events and reports

    def _once(self, state: State, error: EdgeSdkError) -> State:
        reason = one_line(error)
        if reason != self._trouble:
            self._trouble = reason
            self._say(state, reason, best_effort=True)
        return state

    def _say(self, state: State, reason: str = "", *, key: str | None = None, best_effort: bool = False) -> None:
        update = self._update
        event = Event(
            device=self.device,
            state=state,
            name=update.name,
            version=update.version,
            digest=update.digest,
            counter=update.counter,
            seconds=round(time.monotonic() - update.started, 3),
            bytes=self._source.bytes_received - update.bytes_before,
            reason=reason,
            time=now(),
        )
        self._reporter.say(event, key, best_effort=best_effort)

    def _wait(self, seconds: float) -> bool:
        """Handle what the network thread handed over; return whether a hint was among it."""
        hinted = False
        self._reporter.pump()
        try:
            kind, number = self._inbox.get(timeout=seconds)
            while True:
                if kind == "acknowledged":
                    self._reporter.acknowledged(number)
                hinted = hinted or kind == "hint"
                kind, number = self._inbox.get_nowait()
        except queue.Empty:
            pass
        except StorageError as error:  # a report already sent stays in the outbox and is sent once more
            log.warning("%s", error)
        return hinted

    def _send_report(self, payload: bytes) -> int | None:
        if not self._started or not self._link.connected:
            return None
        return self._link.publish(self._topics.update, payload)

    # on the network thread

    def _request(self, payload: bytes, correlation: bytes) -> None:
        self._link.publish(self._topics.get, payload, qos=0, correlation=correlation)

    def _message(self, message: Message) -> None:
        if message.topic == self._topics.reply:
            self._channel.deliver(message.correlation, message.payload, message.properties)
        elif message.topic == self._topics.desired:
            self._inbox.put(("hint", 0))

    def _connected(self) -> None:
        self._link.publish(self._topics.status, b'{"online":true}', retain=True)
        self._inbox.put(("connected", 0))
