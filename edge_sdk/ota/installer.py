"""From a downloaded file to the version that runs: stage, probe, point, watch, commit or roll back.

Each step is durable before the next begins; the pointer is the last. What fails is written to
memory before anything is undone, so that a cut in between ends the same way.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

from edge_sdk.bundle import Bundle
from edge_sdk.errors import BundleError, HealthError, InstallError, TrustError, one_line
from edge_sdk.ota import health
from edge_sdk.ota.needs import precedence
from edge_sdk.ota.records import Assignment, State, Target
from edge_sdk.ota.slots import Installed, Left, Memory, Slots
from edge_sdk.ota.soak import Soak, Vitals, read_vitals
from edge_sdk.ota.trust import open_assigned

__all__ = ["Installer"]

_MAX_TRIALS = 3


class Installer:
    """Owns the slots and the memory of failures of one state folder.

    Parameters
    ----------
    state
        The folder.
    limits
        What a version may take on this device; see `edge_sdk.ota.health.probe`.
    probe
        The app's own probe.
    soak
        The trial in use.
    vitals
        Returns what was seen of the version of a digest; by default what apps wrote into the folder.
    """

    def __init__(
        self,
        state: Path,
        *,
        limits: health.Limits | None = None,
        probe: Callable[[Bundle], object] | None = None,
        soak: Soak | None = None,
        vitals: Callable[[str], Vitals] | None = None,
    ) -> None:
        self.slots = Slots(state)
        self.memory = Memory(state / "memory.json")
        self._limits = limits
        self._probe = probe
        self._soak = soak or Soak()
        self._vitals = vitals or (lambda digest: read_vitals(state, digest))
        self._since = time.monotonic()

    @property
    def active(self) -> Installed | None:
        """The version that runs."""
        return self.slots.active

    @property
    def soaking(self) -> bool:
        """Whether it is on trial."""
        return self.slots.pointer.soaking

    @property
    def left(self) -> Left | None:
        """What was rolled back from last, if nothing was installed since."""
        return self.slots.pointer.left

    def recover(self) -> None:
        """Hash the active slot, and count the start as one of a version on trial; roll back where that fails.

        Raises
        ------
        StorageError
            The pointer cannot be written.
        """
        installed = self.active
        if installed is None:
            return
        try:
            self.slots.check(installed)
        except InstallError as error:
            self.slots.fall_back(one_line(error, 500))
            return
        if self.soaking:
            self._since = time.monotonic()
            known = self.memory.failure(installed.sha256, installed.counter)  # a cut came before the pointer moved
            if known is None and self.memory.begin_trial(installed.sha256) > _MAX_TRIALS:
                known = f"the agent was started more than {_MAX_TRIALS} times while it was on trial"
            if known is not None:
                self._give_up(installed, known)

    def objection(self, assignment: Assignment, time: datetime) -> str | None:
        """Return why an assignment is not followed at this time, or None."""
        if assignment.expires <= time:
            return f"assignment {assignment.counter} expired on {assignment.expires:%Y-%m-%d %H:%M} UTC"
        now = self.active
        if now is None or now.name != assignment.name or assignment.downgrade:
            return None
        if precedence(assignment.version) < precedence(now.version):
            return f"{assignment.version} is lower than the active {now.version} and the assignment allows no downgrade"
        return None

    def install(self, path: Path, assignment: Assignment, target: Target, say: Callable[[State], None]) -> Installed:
        """Make a downloaded file the version that runs, on trial if there is one; durable when it returns.

        Raises
        ------
        TrustError, BundleError, HealthError
            It is not what was assigned, or not healthy; the slot is cleared, and the failure remembered.
        InstallError, StorageError
            The disk refuses, or the version could not be tried; it may be installed again.
        """
        slot = None
        try:
            say("verifying")
            bundle = open_assigned(path, assignment, target)
            say("installing")
            slot, staged = self.slots.stage(bundle)
            say("testing")
            self._try(staged, self.memory.begin_trial(target.sha256))
        except (TrustError, BundleError, HealthError) as error:
            self._failed(error, target, assignment)
            if slot is not None:
                self.slots.clear(slot)
            raise
        installed = Installed(
            slot=slot,
            name=assignment.name,
            version=assignment.version,
            digest=target.bundle_digest,
            sha256=target.sha256,
            counter=assignment.counter,
            install=uuid.uuid4().hex,
        )
        self.memory.end_trial(target.sha256)
        # with nothing to go back to, a trial could only end in keeping it
        self.slots.activate(installed, soaking=self._soak.seconds > 0 and self.active is not None)
        self._since = time.monotonic()
        return installed

    def _try(self, staged: Bundle, trial: int) -> None:
        if trial > _MAX_TRIALS:
            raise HealthError(f"the probe did not end in {_MAX_TRIALS} trials")
        try:
            health.probe(staged, self._limits, self._probe)
        except InstallError as error:
            if trial < _MAX_TRIALS:
                raise
            raise HealthError(f"{error}, the last of {_MAX_TRIALS} times") from error

    def _failed(self, error: TrustError | BundleError | HealthError, target: Target, assignment: Assignment) -> None:
        """Remember a failure: of unhealthy bytes for good, else under this assignment."""
        # a full memory or disk may pass, and only this assignment is given up
        passing = isinstance(error.__cause__, (MemoryError, OSError, InstallError))
        for_good = isinstance(error, HealthError) and not passing
        self.memory.fail(target.sha256, assignment.counter, one_line(error, 500), for_good=for_good)

    def watch(self) -> bool:
        """Judge the version on trial; return whether the trial is over, one way or the other.

        Raises
        ------
        StorageError
            The verdict cannot be written; it stays open.
        """
        installed = self.active
        if installed is None or not self.soaking:
            return True
        vitals, elapsed = self._vitals(installed.digest), time.monotonic() - self._since
        objection = self._soak.objection(vitals, elapsed)
        if objection is not None:
            self._give_up(installed, objection)
        elif self._soak.over(vitals, elapsed):
            self.slots.commit()
            self.memory.end_trial(installed.sha256)
        return not self.soaking

    def supersede(self) -> None:
        """End a trial because another version is assigned: the proven one is not overwritten for it."""
        if self.active is not None and self.soaking:
            self._fall_back("another version was assigned while it was on trial")

    def _give_up(self, installed: Installed, reason: str) -> None:
        self.memory.fail(installed.sha256, installed.counter, reason, for_good=False)
        self._fall_back(reason)

    def _fall_back(self, reason: str) -> None:
        if self.slots.sound_previous() is None:
            self.slots.commit()  # a version of which there is doubt is more than none
        else:
            self.slots.fall_back(reason)
