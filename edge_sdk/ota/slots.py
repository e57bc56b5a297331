"""Two slots and a pointer: the version a device runs, and where the next one is prepared.

An unpacked bundle lies in ``slots/a`` or ``slots/b``. The pointer ``active.json`` names one of
them and is replaced, durably and at once, only after the other slot is complete and tested: after
any cut the device has the old version or the new one. What failed is kept in ``memory.json``.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

from edge_sdk import canonical
from edge_sdk.bundle import Bundle
from edge_sdk.errors import BundleError, InputError, InstallError, StorageError
from edge_sdk.files import clear_unfinished, fsync_dir, make_folder, storage_errors, write_durably

__all__ = ["Installed", "Left", "Memory", "Pointer", "Slots", "active", "own", "read_pointer"]

log = logging.getLogger("edge_sdk.ota.slots")

_NAMES = ("a", "b")
_MAX_FAILED = 100


@dataclass(frozen=True, slots=True)
class Installed:
    """A version in a slot.

    Attributes
    ----------
    slot
        ``a`` or ``b``.
    name, version, digest
        From the bundle's manifest; the digest is of the manifest.
    sha256
        Digest of the bundle file it was unpacked from, hex.
    counter
        Counter of the assignment that it follows.
    install
        Names this installation: the same version installed again has another.
    """

    slot: str
    name: str
    version: str
    digest: str
    sha256: str
    counter: int
    install: str


@dataclass(frozen=True, slots=True)
class Left:
    """A version that was rolled back from, and why; ``install`` as in `Installed`."""

    name: str
    version: str
    install: str
    reason: str


@dataclass(frozen=True, slots=True)
class Pointer:
    """The content of ``active.json``.

    Attributes
    ----------
    active, previous
        The version that runs, and the one in the other slot.
    soaking
        Whether the active one is on trial.
    left
        What was rolled back from last, so that it can be reported after a cut as well.
    """

    active: Installed | None = None
    previous: Installed | None = None
    soaking: bool = False
    left: Left | None = None


def own(state: Path) -> BinaryIO:
    """Lock a state folder until the returned file is closed; raise `StorageError` if it is not ours to write in."""
    with storage_errors(state, "lock"):
        handle = (state / "lock").open("ab")
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            handle.close()
            raise StorageError(f"another agent works in {state}; give each device a folder of its own") from None
    try:
        for folder in (state, state / "metadata", state / "metadata" / "root_history"):
            if folder.exists() and not os.access(folder, os.W_OK | os.X_OK):  # its files may be ours all the same
                raise StorageError(f"cannot write in {folder}: {os.strerror(errno.EACCES)}; whose is it?")
            clear_unfinished(folder)
    except BaseException:
        handle.close()
        raise
    return handle


def active(state_dir: str | Path) -> Path | None:
    """Return the unpacked bundle folder that the device should run, or None if there is none yet."""
    state = Path(state_dir)
    installed = read_pointer(state).active
    if installed is None:
        return None
    folder = state / "slots" / installed.slot
    return folder if folder.is_dir() else None


def read_pointer(state_dir: Path) -> Pointer:
    """Return the pointer; an empty one where the file is missing or damaged."""
    path = state_dir / "active.json"
    try:
        document = canonical.loads(path.read_bytes(), limit=65_536)
        left = document.get("left")
        return Pointer(
            _installed(document["active"]),
            _installed(document.get("previous")),
            document.get("soaking") is True,
            Left(**left) if left else None,
        )
    except FileNotFoundError:
        return Pointer()
    except (OSError, InputError, KeyError, TypeError, AttributeError) as error:
        log.warning("%s cannot be read and is ignored: %s", path, error)
        return Pointer()


def _installed(document: Mapping[str, Any] | None) -> Installed | None:
    if document is None:
        return None
    installed = Installed(**document)
    texts = (installed.name, installed.version, installed.digest, installed.sha256, installed.install)
    if installed.slot not in _NAMES or type(installed.counter) is not int or not all(type(t) is str for t in texts):
        raise InputError("a field has an impossible value")
    return installed


class Slots:
    """The slots of one state folder; one owner at a time."""

    def __init__(self, state_dir: Path) -> None:
        self._state = state_dir
        self._folder = make_folder(state_dir / "slots")
        self._pointer = read_pointer(state_dir)

    @property
    def active(self) -> Installed | None:
        """The version that runs."""
        return self._pointer.active

    @property
    def pointer(self) -> Pointer:
        """What ``active.json`` says."""
        return self._pointer

    def path(self, slot: str) -> Path:
        """Return the folder of a slot."""
        return self._folder / slot

    def check(self, installed: Installed) -> None:
        """Hash every file of a slot; raise `InstallError` if anything differs from what was installed."""
        try:
            digest = Bundle.open(self.path(installed.slot)).digest
        except (BundleError, InputError, StorageError) as error:
            raise InstallError(f"slot {installed.slot} is damaged: {error}") from error
        if digest != installed.digest:
            raise InstallError(f"slot {installed.slot} holds another bundle than the one installed")

    def stage(self, bundle: Bundle) -> tuple[str, Bundle]:
        """Unpack a bundle into the slot that is not active; return the slot and the bundle there.

        Raises
        ------
        InstallError
            The slot cannot be written.
        """
        slot = "b" if self.active is not None and self.active.slot == "a" else "a"
        try:
            self.clear(slot)
            return slot, bundle.unpack(self.path(slot))
        except StorageError as error:
            raise InstallError(f"slot {slot} cannot be written: {error}") from error

    def clear(self, slot: str) -> None:
        """Remove what is in a slot that is not active."""
        if self.active is not None and self.active.slot == slot:
            raise InstallError(f"slot {slot} is active and is not cleared")
        path = self.path(slot)
        if path.exists():
            with storage_errors(path, "remove"):
                shutil.rmtree(path)
            fsync_dir(self._folder)

    def activate(self, installed: Installed, *, soaking: bool = False) -> None:
        """Make a staged slot the one that runs, perhaps on trial; durable when it returns."""
        self._point(Pointer(installed, self._pointer.active, soaking))

    def commit(self) -> None:
        """End the trial of the active version; durable when it returns."""
        self._point(replace(self._pointer, soaking=False))

    def sound_previous(self) -> Installed | None:
        """Return the version in the other slot if it is intact."""
        previous = self._pointer.previous
        if previous is not None:
            try:
                self.check(previous)
            except InstallError as error:
                log.warning("%s", error)
                return None
        return previous

    def fall_back(self, reason: str) -> Installed | None:
        """Return to the previous version if its slot is intact, else to none; durable when it returns."""
        previous, now = self.sound_previous(), self._pointer.active
        left = Left(now.name, now.version, now.install, reason) if now else None
        self._point(Pointer(previous, left=left))
        return previous

    def _point(self, pointer: Pointer) -> None:
        document = {"format": 1, **asdict(pointer)}
        write_durably(self._state / "active.json", canonical.dumps(document))
        self._pointer = pointer


class Memory:
    """What must not be tried again; durable, and begun anew if damaged."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._failed: dict[str, dict[str, Any]] = {}
        self._trials: dict[str, int] = {}
        try:
            document = canonical.loads(path.read_bytes())
            self._failed = {str(k): dict(v) for k, v in document["failed"].items()}
            self._trials = {str(k): int(v) for k, v in document["trials"].items()}
        except FileNotFoundError:
            pass
        except (OSError, InputError, KeyError, TypeError, ValueError, AttributeError) as error:
            log.warning("%s cannot be read and is begun anew: %s", path, error)

    def failure(self, sha256: str, counter: int) -> str | None:
        """Return why a bundle file failed, if it must not be tried under this assignment."""
        known = self._failed.get(sha256)
        if known is None or not (known["for_good"] or known["counter"] == counter):
            return None
        return str(known["reason"])

    def fail(self, sha256: str, counter: int, reason: str, *, for_good: bool) -> None:
        """Remember a failure: of these bytes for good, or only under this assignment."""
        self._failed.pop(sha256, None)
        self._failed[sha256] = {"counter": counter, "reason": reason, "for_good": for_good}
        while len(self._failed) > _MAX_FAILED:
            del self._failed[next(iter(self._failed))]
        self._trials.pop(sha256, None)
        self._save()

    def begin_trial(self, sha256: str) -> int:
        """Count a trial of a bundle before it begins, so that one that kills the agent is counted too."""
        self._trials[sha256] = self._trials.get(sha256, 0) + 1
        self._save()
        return self._trials[sha256]

    def end_trial(self, sha256: str) -> None:
        """Forget the trials of a bundle that passed."""
        if self._trials.pop(sha256, None) is not None:
            self._save()

    def _save(self) -> None:
        document = {"format": 1, "failed": self._failed, "trials": self._trials}
        write_durably(self._path, canonical.dumps(document))
