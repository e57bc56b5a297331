"""The update agent of one device: what it should run → fetch → verify → install → test → activate → report.

The agent works in one thread, the caller's; the network thread only hands messages over. Each
step is durable before the next begins, and a success is reported only after it is. Whatever
fails, the version that runs goes on running. What becomes of one model is in `edge_sdk.ota.updates`.
"""

from __future__ import annotations

import logging
import math
import queue
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Self

from edge_sdk.bundle import Bundle
from edge_sdk.errors import InputError, StorageError
from edge_sdk.files import clear_unfinished, make_folder
from edge_sdk.ota.channel import Channel
from edge_sdk.ota.health import Limits
from edge_sdk.ota.installer import Installer
from edge_sdk.ota.link import Broker, Link, Message
from edge_sdk.ota.outbox import Outbox
from edge_sdk.ota.ranges import Ranges
from edge_sdk.ota.records import Event, State
from edge_sdk.ota.reporting import Pace, Reporter
from edge_sdk.ota.rules import Rules
from edge_sdk.ota.slots import Installed, own
from edge_sdk.ota.soak import Soak, Vitals
from edge_sdk.ota.topics import Topics, check_id, check_model
from edge_sdk.ota.trust import Trust
from edge_sdk.ota.updates import Updates, Workshop

__all__ = ["OtaAgent"]

log = logging.getLogger("edge_sdk.ota.agent")

_JUDGE_SECONDS = 1.0
_MAX_WAITING = 1000  # words of the network thread: a broker may send hints without an end
_LEAST_GOOD_FIRST: tuple[State, ...] = ("refused", "rolled_back", "idle", "soaking", "active")


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
        Time between two looks without a hint; blocks under way at a time, at most; seconds until one is asked for
        again, doubled each time, four attempts.
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
    pauses
        Seconds until a file whose blocks were not the signed ones is asked for again: the first time, and at most.
    pace
        How fast reports leave; by default half of what the repository service takes of one device.
    models
        Names of the bundles that the device runs side by side, each assigned as ``DEVICE/NAME`` and kept in
        ``state_dir/models/NAME``, which is what `active` and `follow` take. None: the device has one model, of any
        name, in ``state_dir``. Limits, probe, soak and vitals hold for each.

    Raises
    ------
    InputError
        An id, a model's name, the broker's URL or the root's path has another form, or a number is out of its range.
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
        window: int = 16,
        request_timeout: float = 2.0,
        probe: Callable[[Bundle], object] | None = None,
        limits: Limits | None = None,
        soak: Soak | None = None,
        vitals: Callable[[str], Vitals] | None = None,
        rules: Rules | None = None,
        repository: Ranges | None = None,
        device_class: str = "",
        pauses: tuple[float, float] = (60.0, 4 * 3600.0),
        pace: Pace | None = None,
        models: Sequence[str] = (),
    ) -> None:
        names = _checked(models)
        if not 0 < poll_seconds < math.inf:
            raise InputError(f"{poll_seconds} seconds between two looks: say a number above 0")
        self.broker = Broker.parse(broker) if isinstance(broker, str) else broker
        self.device = check_id("device", device)
        self._topics = Topics(fleet, device, self.broker.prefix)
        self._poll_seconds = poll_seconds
        rate = rules.bytes_per_second if rules is not None else None
        self._channel = Channel(self._request, window=window, timeout=request_timeout, rate=rate)
        self._sources = (repository, self._channel) if repository else (self._channel,)
        self._inbox: queue.SimpleQueue[tuple[str, int]] = queue.SimpleQueue()
        self._stop = threading.Event()
        state = make_folder(Path(state_dir))
        self._lock = own(state)
        try:
            self._trust = Trust(state / "metadata", root)
            folders = {name: make_folder(state / "models" / name) for name in names} or {"": state}
            installers = {}
            for name, folder in folders.items():
                clear_unfinished(folder)
                installers[name] = Installer(folder, limits=limits, probe=probe, soak=soak, vitals=vitals)
            outbox = Outbox(state / "outbox.db")
            self._reporter = Reporter(outbox, self._send_report, on_event, pace or Pace())
        except BaseException:
            self._lock.close()
            raise
        for source in self._sources:
            source.meanwhile = self._judge_in_time
        workshop = Workshop(device, device_class, self._trust, self._sources, self._reporter, rules, self._stop, pauses)
        self._models = [Updates(name, folders[name], installers[name], workshop) for name in folders]
        self._busy = threading.RLock()
        self._closed = False
        self._judged = 0.0
        self._link = Link(
            self.broker,
            self.broker.client_id or f"edge-{fleet}-{device}",
            subscriptions=[(self._topics.reply, 0), (self._topics.desired, 1)],
            on_message=self._message,
            on_connected=self._connected,
            on_acknowledged=lambda mid: self._inbox.put(("acknowledged", mid)),
            will=(self._topics.status, b'{"online":false}'),
        )
        self._started = False

    @property
    def active(self) -> Installed | None:
        """The version that runs, or None; `InputError` where there are several models: ask `model`."""
        return self.model("").active

    @property
    def trouble(self) -> str:
        """Why the last look did not end well; empty if it did. Of several models, each that has any is named."""
        return "; ".join(f"{m.name}: {m.trouble}" if m.name else m.trouble for m in self._models if m.trouble)

    @property
    def models(self) -> tuple[str, ...]:
        """The names of the device's several models; empty where it has one."""
        return tuple(model.name for model in self._models if model.name)

    def model(self, name: str) -> Updates:
        """Return one of several models; raise `InputError` if this agent keeps none of that name."""
        for model in self._models:
            if model.name == name:
                return model
        kept = ", ".join(self.models) or "one, of any name"
        raise InputError(f"this agent has no model {name!r}; it keeps: {kept}")

    def start(self) -> None:
        """Check the active slots, then connect; `run` and `check` do it if it was not done.

        Raises
        ------
        BrokerError
            The broker cannot be reached or refuses us.
        """
        with self._busy:
            if self._started:
                return
            for model in self._models:
                model.recover(patient=len(self._models) > 1)
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
                if self._wait(min(_JUDGE_SECONDS, max(0.0, due - time.monotonic()))) or self._judge():
                    due = time.monotonic()

    def check(self) -> State:
        """Ask once what this device should run and do it; return the state that this led to.

        Failures become events and reports, not exceptions. Several models are updated one after the other, whatever
        becomes of those before, and the state is that of the one that is least well off. Where the repository answers
        nothing, it is asked for the first only.

        Raises
        ------
        BrokerError
            The first connection fails.
        """
        with self._busy:
            self.start()
            states: list[State] = []
            for model in self._models:
                if not self._stop.is_set():
                    states.append(model.look(self._sources[0].silent if states else ""))
            self._reporter.pump()
            return min(states, key=_LEAST_GOOD_FIRST.index, default="idle")

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
        for source in self._sources:
            source.cancel()
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
            for source in self._sources:
                if isinstance(source, Ranges):
                    source.close()
            self._reporter.close()
            self._lock.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _judge(self) -> bool:
        """Judge the trials that are under way; return whether one ended."""
        self._judged = time.monotonic()
        ended = [model.judge() for model in self._models]  # each, not until one has ended
        return any(ended)

    def _judge_in_time(self) -> None:
        """Judge the trials while a model waits for the repository, which may take hours."""
        if time.monotonic() - self._judged >= _JUDGE_SECONDS:
            self._judge()

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
        self._link.send(self._topics.get, payload, correlation)

    def _message(self, message: Message) -> None:
        if message.topic == self._topics.reply:
            self._channel.deliver(message.correlation, message.payload, message.properties)
        elif message.topic == self._topics.desired and self._inbox.qsize() < _MAX_WAITING:
            self._inbox.put(("hint", 0))

    def _connected(self) -> None:
        self._link.publish(self._topics.status, b'{"online":true}', retain=True)
        self._inbox.put(("connected", 0))


def _checked(models: Sequence[str]) -> list[str]:
    if isinstance(models, str):
        raise InputError(f"models are a list of names, not {models!r}")
    names = [check_model(name) for name in models]
    if len(set(names)) < len(names):
        raise InputError(f"a model is named twice: {', '.join(names)}")
    return names
