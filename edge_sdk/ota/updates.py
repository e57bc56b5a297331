"""One model of a device: what it should run → fetch → verify → install → test → activate → report."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from edge_sdk.errors import (
    BundleError,
    EdgeSdkError,
    HealthError,
    InstallError,
    StorageError,
    TransferError,
    TrustError,
    one_line,
)
from edge_sdk.ota.channel import Channel, Source
from edge_sdk.ota.installer import Installer
from edge_sdk.ota.patching import Patches
from edge_sdk.ota.patience import Patience
from edge_sdk.ota.ranges import Ranges
from edge_sdk.ota.records import Assignment, Event, State, Target
from edge_sdk.ota.reporting import Reporter, now
from edge_sdk.ota.rules import Ruled, Rules
from edge_sdk.ota.slots import Installed
from edge_sdk.ota.transfer import Download
from edge_sdk.ota.trust import Trust

__all__ = ["Updates", "Workshop"]

log = logging.getLogger("edge_sdk.ota.agent")


@dataclass(frozen=True, slots=True)
class Workshop:
    """What the models of a device share.

    Attributes
    ----------
    device, device_class
        Which device it is, and of what kind.
    trust, sources
        What is signed, and where it comes from; bundles from the others too where the first has wrong bytes.
    reporter
        Takes events.
    rules
        When and how fast bundles may be fetched.
    stopped
        Set when the agent is to end.
    pauses
        Seconds until wrong blocks are asked for again: the first time, and at most.
    """

    device: str
    device_class: str
    trust: Trust
    sources: Sequence[Channel | Ranges]
    reporter: Reporter
    rules: Rules | None
    stopped: threading.Event
    pauses: tuple[float, float]

    @property
    def source(self) -> Channel | Ranges:
        """The first source."""
        return self.sources[0]

    @property
    def bytes_received(self) -> int:
        """Bytes that came from all sources."""
        return sum(source.bytes_received for source in self.sources)


@dataclass(frozen=True, slots=True)
class _Update:
    """The update under way: what events say about it."""

    name: str = ""
    version: str = ""
    digest: str = ""
    counter: int = 0
    started: float = 0.0
    bytes_before: int = 0


class Updates:
    """Keeps one model's folder at the version that is assigned; `edge_sdk.ota.OtaAgent` makes it.

    Attributes
    ----------
    name
        Which of the device's several models; empty where it has one.
    folder
        Where its slots are: what `edge_sdk.ota.active` and `edge_sdk.ota.follow` take.
    trouble
        Why the last look did not end well; empty if it did.
    """

    def __init__(self, name: str, folder: Path, installer: Installer, workshop: Workshop) -> None:
        self.name = name
        self.folder = folder
        self.trouble = ""
        self._installer = installer
        self._shop = workshop
        self._patience = Patience(folder / "pause.json", workshop.pauses)
        self._patches = Patches(folder / "delta", workshop.trust, installer)
        self._recovered = False
        self._update = _Update()

    @property
    def active(self) -> Installed | None:
        """The version that runs, or None."""
        return self._installer.active

    def recover(self, *, patient: bool = False) -> None:
        """Check the active slot, and report what was rolled back from.

        Parameters
        ----------
        patient
            Where the disk refuses, let the next look try again.

        Raises
        ------
        StorageError
            The disk refuses.
        """
        try:
            self._installer.recover()
            self._tell_left()
        except StorageError as error:
            if not patient:
                raise
            log.warning("%s", error)
        else:
            self._recovered = True

    def look(self, silent: str = "") -> State:
        """Ask once what should run and do it; return the state that this led to.

        Parameters
        ----------
        silent
            Why the repository need not be asked: what another model has just found out.
        """
        self._update = self._begun()
        try:
            if not self._recovered:
                self.recover()
            self._tell_left()  # the disk may have refused it when it happened
            if silent:
                raise TransferError(silent)
            state = self._follow_assignment()
        except (TrustError, BundleError) as error:
            return self._once("refused", error)
        except (TransferError, StorageError, InstallError) as error:
            return "idle" if self._shop.stopped.is_set() else self._once("idle", error)
        self.trouble = ""
        return state

    def judge(self) -> bool:
        """Hold a trial that is under way against its limits; return whether it ended, which is said then."""
        installed = self.active
        try:
            if installed is None or not self._installer.soaking or not self._installer.watch():
                return False
            self._tell_left()
            if self.active == installed:
                self._tell_kept(installed)
        except StorageError as error:  # the next look tells it; to look at once, and each second, asks too often
            log.warning("%s", error)
            return False
        return True

    def _follow_assignment(self) -> State:
        found = self._shop.trust.resolve(self._shop.device, self._shop.source, self.name)
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
            Download(self.folder / "download", target).discard()  # left there if the last run was cut
            self._patches.clear()
            return self._settle(self.active)
        trial = f"{target.sha256}:{assignment.counter}"  # one assigned anew is not waited for
        reason = memory.failure(target.sha256, assignment.counter)
        if reason is None:
            reason = self._installer.objection(assignment, self._shop.trust.time.now())
            reason = reason or target.needs.objection(self._shop.device_class)
            if reason is not None:
                memory.fail(target.sha256, assignment.counter, reason, for_good=False)
            else:
                reason = self._patience.pause(trial)
            if reason is None:
                return self._install(assignment, target, trial)
        return self._refused(reason, self._patience.rounds(trial))

    def _install(self, assignment: Assignment, target: Target, trial: str) -> State:
        download = Download(self.folder / "download", target)
        download.discard_others()
        sources: Sequence[Source] = self._shop.sources
        if self._shop.rules is not None:
            self._shop.rules.check()
            sources = [Ruled(source, self._shop.rules) for source in sources]
        self._say("downloading")
        trouble = self._patches.fill(download, target, assignment, sources[0])
        if trouble and not self._shop.stopped.is_set():
            self._say("downloading", trouble)
        try:
            path = self._patience.fetch(download, trial, sources)
        except TrustError as error:
            return self._refused(one_line(error, 500), self._patience.rounds(trial))
        self._patches.clear()
        self._installer.supersede()
        self._tell_left()
        try:
            installed = self._installer.install(path, assignment, target, self._say)
        except (TrustError, BundleError, HealthError) as error:
            download.discard()
            return self._refused(one_line(error, 500))
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

    def _refused(self, reason: str, rounds: int = 0) -> State:
        again = f":{rounds}" if rounds else ""
        self._say("refused", reason, key=f"refused:{self._update.counter}:{self._update.digest}{again}")
        return "refused"

    def _tell_left(self) -> None:
        """Report the last rolling back, if that was not done: it may have been cut off."""
        left, active, update = self._installer.left, self.active, self._update
        if left is None:
            return
        runs = f"runs {active.name}-{active.version} again" if active else "has no intact version and fetches one"
        self._update = self._begun(active)
        reason = f"{left.name}-{left.version}: {left.reason}; the device {runs}"
        self._say("rolled_back", reason, key=f"rolled_back:{left.install}")
        self._update = update

    def _tell_kept(self, installed: Installed) -> None:
        """Report that a trial was won, as the next look would; the repository may be out of reach for long."""
        update = self._update
        self._update = replace(self._begun(installed), counter=installed.counter)
        self._say("active", key=f"active:{installed.counter}:{installed.install}")
        self._update = update

    def _begun(self, installed: Installed | None = None) -> _Update:
        update = _Update(started=time.monotonic(), bytes_before=self._shop.bytes_received)
        if installed is None:
            return update
        return replace(update, name=installed.name, version=installed.version, digest=installed.digest)

    # events and reports

    def _once(self, state: State, error: EdgeSdkError) -> State:
        reason = one_line(error, 500)
        if reason != self.trouble:
            self.trouble = reason
            self._say(state, reason, best_effort=True)
        return state

    def _say(self, state: State, reason: str = "", *, key: str | None = None, best_effort: bool = False) -> None:
        update = self._update
        event = Event(
            device=self._shop.device,
            state=state,
            name=update.name,
            version=update.version,
            digest=update.digest,
            counter=update.counter,
            seconds=round(time.monotonic() - update.started, 3),
            bytes=self._shop.bytes_received - update.bytes_before,
            reason=reason,
            time=now(),
            model=self.name,
        )
        key = f"{self.name}/{key}" if self.name and key else key
        self._shop.reporter.say(event, key, best_effort=best_effort)
