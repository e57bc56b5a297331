"""A repository of signed updates: TUF roles on disk, bundles, and one assignment a device or a model of it.

Which roles there are and who signs them is in `edge_sdk.cloud.ota.roles`, how they lie on disk and
in which order they are written in `edge_sdk.cloud.ota.rolefiles`. One writer at a time holds a
lock on the folder; readers need none.
"""

from __future__ import annotations

import fcntl
import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

from tuf.api.metadata import Metadata, TargetFile, Targets, Timestamp

from edge_sdk.cloud.ota.bundles import read_bundle, signed_file, target_of
from edge_sdk.cloud.ota.creation import create
from edge_sdk.cloud.ota.deltas import make_deltas
from edge_sdk.cloud.ota.keys import KeyFolder, Keys
from edge_sdk.cloud.ota.operators import Operators
from edge_sdk.cloud.ota.rolefiles import RoleFiles, RoleStatus
from edge_sdk.cloud.ota.roles import DELEGATED, Lifetimes, now
from edge_sdk.cloud.ota.rotation import heal, renew, rotate, signer_of
from edge_sdk.errors import InputError, TrustError
from edge_sdk.files import clear_unfinished, make_folder, storage_errors, write_durably
from edge_sdk.ota.needs import Needs
from edge_sdk.ota.records import Assignment, Target, assignment_path, delta_path
from edge_sdk.ota.topics import device_and_model

__all__ = ["Lifetimes", "Repository", "RoleStatus"]

_MAX_BASES = 4


class Repository:
    """A repository in a folder; make one with `init`, use it with `open`.

    Attributes
    ----------
    folder
        Where it is: ``metadata/``, ``targets/``, ``root.json`` (to pin on devices), ``keys/``.
    """

    def __init__(self, folder: Path, keys: KeyFolder, lifetimes: Lifetimes) -> None:
        self.folder = folder
        self.operators = Operators(folder)
        self._targets = folder / "targets"
        self._keys = keys
        self._files = RoleFiles(folder / "metadata", lifetimes)

    @classmethod
    def init(
        cls,
        folder: str | Path,
        *,
        keys: Keys = None,
        passphrase: str | None = None,
        root_keys: int = 3,
        threshold: int = 2,
        bins: int = 16,
        lifetimes: Lifetimes | None = None,
    ) -> Repository:
        """Make keys and first metadata.

        Parameters
        ----------
        folder
            New or empty folder.
        keys
            Folder of the private keys, or several; new keys are made in the first. Default ``<folder>/keys``.
        passphrase
            Encrypts the offline keys (root, targets, publisher).
        root_keys, threshold
            Number of root keys, and how many of them must sign; at least 2.
        bins
            Hashed bins of each delegated role; a power of two from 2 to 4096.

        Raises
        ------
        InputError
            There is a repository already, or a number is out of range.
        StorageError
            A folder cannot be written.
        """
        folder = Path(folder)
        if not 2 <= threshold <= root_keys <= 16:
            raise InputError(f"a root threshold of {threshold} of {root_keys} keys is not within 2-16 keys, 2 or more")
        if bins not in {2**n for n in range(1, 13)}:
            raise InputError(f"{bins} bins: not a power of two from 2 to 4096")
        if (folder / "metadata").exists():
            raise InputError(f"{folder} holds a repository already")
        repository = cls(make_folder(folder), KeyFolder.of(folder, keys, passphrase), lifetimes or Lifetimes())
        with repository._acting("init", "keeper", threshold=threshold, bins=bins, heals=False):
            if (folder / "metadata").exists():
                raise InputError(f"{folder} holds a repository already")
            create(folder, repository._keys, repository._files, roots=root_keys, threshold=threshold, bins=bins)
        return repository

    @classmethod
    def open(
        cls,
        folder: str | Path,
        *,
        keys: Keys = None,
        passphrase: str | None = None,
        lifetimes: Lifetimes | None = None,
    ) -> Repository:
        """Open a repository; raise `InputError` if the folder holds none."""
        folder = Path(folder)
        if not (folder / "metadata" / "timestamp.json").is_file():
            raise InputError(f"{folder} is not an update repository; make one with: edge-sdk ota init {folder}")
        return cls(folder, KeyFolder.of(folder, keys, passphrase), lifetimes or Lifetimes())

    @property
    def root_path(self) -> Path:
        """The newest root, to be pinned on devices."""
        return self.folder / "root.json"

    def newest_root(self) -> bytes:
        """Return the newest root for a device to pin; raise `StorageError` if not all lead to it."""
        with self._locked():
            self._files.check_root()
            self._pin()
            return self.root_path.read_bytes()

    @property
    def timestamp_version(self) -> int:
        """Version of the current timestamp; it grows with every change."""
        return self._files.read("timestamp", Timestamp).signed.version

    def add(
        self,
        bundle: str | Path,
        *,
        device_classes: Sequence[str] = (),
        sdk: str = "",
        deltas: Sequence[str] | None = None,
    ) -> Target:
        """Sign a bundle file as a target, and what devices that run another version need to make it.

        The archive and its digests are checked; whether golden outputs hold is found out on each device.

        Parameters
        ----------
        bundle
            The ``.edge`` file.
        device_classes
            Kinds of device that it is for; none: all.
        sdk
            The least version of edge-sdk that it needs.
        deltas
            ``NAME-VERSION`` from which deltas are made where they are small; by default those that are assigned.

        Raises
        ------
        BundleError
            The file is not an intact bundle.
        InputError
            The name and version are taken by other bytes: a version never changes; or there is no such version.
        """
        target, data = read_bundle(Path(bundle), Needs(tuple(device_classes), sdk))
        with self._acting("add", "publisher", target=f"{target.name}-{target.version}", sha256=target.sha256) as done:
            known = self._files.find(target.path)
            name = target.path.rpartition("/")[2]
            stored = {path.name.partition(".")[0] for path in (self._targets / "bundles").glob(f"*.{name}")}
            if (known is not None and known.hashes["sha256"] != target.sha256) or stored - {target.sha256}:
                name = f"{target.name}-{target.version}"
                raise InputError(f"{name} is there with other bytes; give the bundle a new version")
            if known is not None:
                target = target_of(known)
            bases = self._assigned(target.name) if deltas is None else [self._bundle(base) for base in deltas]
            made = make_deltas({self._stored(base): base.hashes["sha256"] for base in bases}, target, data)
            done["deltas"] = len(made)
            if known is not None and not made:
                return target
            target = replace(target, deltas=(*target.deltas, *(delta.base for delta, _ in made)))
            self._put("bundles", [*((signed_file(delta), data) for delta, data in made), (signed_file(target), data)])
        return target

    def _assigned(self, name: str) -> list[TargetFile]:
        """Return the bundles of a name that are assigned, those of most devices first."""
        paths = Counter(assignment.target for assignment in self._readable() if assignment.name == name)
        files = (self._files.find(path) for path, _ in paths.most_common(_MAX_BASES))
        return [file for file in files if file is not None]

    def _readable(self) -> Iterator[Assignment]:
        for file in self._files.all("assignments"):
            with suppress(TrustError, OSError):  # one that nobody can follow keeps nothing from being added
                yield Assignment.from_bytes(self._stored(file).read_bytes())

    def assign(
        self, device: str, target: str, *, downgrade: bool = False, expires: timedelta | None = None
    ) -> Assignment:
        """Sign what a device should run.

        Parameters
        ----------
        device
            Device id; ``DEVICE/MODEL`` for one of several models, by the name of its bundles.
        target
            ``NAME-VERSION`` of a bundle that was added.
        downgrade
            Allow a version lower than the active one.
        expires
            How long the assignment may be followed; default 90 days.

        Raises
        ------
        InputError
            There is no such target, its name is not the model's, or the device id cannot stand in a topic.
        """
        own, model = device_and_model(device)
        with self._acting("assign", "assigner", device=device, target=target, downgrade=downgrade) as done:
            signed_target = target_of(self._bundle(target))
            previous = self._files.find(path := assignment_path(own, model))
            if model and signed_target.name != model:
                raise InputError(f"{device} runs bundles named {model}, which {target} is not")
            assignment = Assignment(
                device=own,
                counter=(previous.custom["counter"] if previous is not None else 0) + 1,
                expires=(now() + (expires or self._files.lifetimes.assignment)),
                name=signed_target.name,
                version=signed_target.version,
                target=signed_target.path,
                sha256="sha256:" + signed_target.sha256,
                downgrade=downgrade,
            )
            self._put_assignment(path, assignment)
            done["counter"] = assignment.counter
        return assignment

    def withdraw(self, device: str) -> Assignment:
        """Let a device or ``DEVICE/MODEL`` be assigned nothing more: its last assignment is signed anew as expired.

        Raises
        ------
        InputError
            The device was assigned nothing.
        """
        path = assignment_path(*device_and_model(device))
        with self._acting("withdraw assignment", "assigner", device=device) as done:
            last = self.assignments().get(device)
            if last is None:
                raise InputError(f"nothing is assigned to {device}")
            ended = replace(last, counter=last.counter + 1, expires=now())
            self._put_assignment(path, ended)
            done["counter"] = ended.counter
        return ended

    def remove(self, target: str) -> None:
        """Withdraw a bundle: no device installs it any more, whatever it is assigned.

        Its file stays where it is, and its name and version stay taken.

        Raises
        ------
        InputError
            There is no such target.
        """
        with self._acting("withdraw bundle", "publisher", target=target):
            withdrawn = target_of(self._bundle(target))
            changed: dict[str, Metadata[Targets]] = {}
            for signed in (withdrawn.path, *(delta_path(base, withdrawn.sha256) for base in withdrawn.deltas)):
                name = self._files.bin("bundles", signed)
                if name not in changed:
                    changed[name] = self._read_signed(name)
                changed[name].signed.targets.pop(signed, None)
            self._files.publish(changed, signer_of(self._keys))

    def rotate(self, name: str) -> int:
        """Replace a key by a new one; return the version of the newest root.

        Parameters
        ----------
        name
            ``root-N``, ``targets``, ``publisher``, ``assignments`` or ``online``.

        Raises
        ------
        InputError
            There is no such key, or too few keys are here to sign the change.
        """
        with self._acting("rotate", "keeper", key=name) as done:
            done["root"] = version = rotate(self._files, self._keys, name)
            self._pin()
        return version

    def publish(self) -> list[str]:
        """Sign anew every role that has lived half its life, and snapshot and timestamp always; return the former.

        Raises
        ------
        InputError
            A key that is needed is not here; nothing was changed.
        """
        with self._acting("publish", "keeper") as done:
            done["roles"] = roles = renew(self._files, self._keys)
            self._pin()
        return roles

    def refresh(self) -> bool:
        """Sign anew the online roles that have lived half their life; return whether any was.

        Call it regularly (`ota serve` does). Offline roles are not touched: see `status`.
        """
        with self._locked():
            heal(self._files, self._keys)
            stale = {row.role for row in self.status() if row.due}
            changed = {role: self._read_signed(role) for role in stale if role.startswith("assignments")}
            if not changed and not stale & {"snapshot", "timestamp"}:
                return False
            with self.operators.acting("refresh", "server"):
                self._files.publish(changed, signer_of(self._keys))
            return True

    def status(self) -> list[RoleStatus]:
        """Return each role with its version and expiry, top-level roles first."""
        return self._files.status()

    def bundles(self) -> dict[str, Target]:
        """Return the targets by ``NAME-VERSION``."""
        targets = (target_of(file) for file in self._files.all("bundles") if file.path.endswith(".edge"))
        return {f"{target.name}-{target.version}": target for target in targets}

    def deltas(self, target: str) -> dict[str, int]:
        """Return the bytes of the deltas that lead to ``NAME-VERSION``, by the versions that they lead from."""
        result, names = target_of(self._bundle(target)), {b.sha256: name for name, b in self.bundles().items()}
        files = {base: self._files.find(delta_path(base, result.sha256)) for base in result.deltas}
        return {names.get(base, base): file.length for base, file in files.items() if file is not None}

    def assignments(self) -> dict[str, Assignment]:
        """Return the current assignment of each ``DEVICE``, and of each ``DEVICE/MODEL`` of those with several."""
        found = {}
        for file in self._files.all("assignments"):
            with storage_errors(self._stored(file), "read"):
                place = file.path.removeprefix("assignments/").removesuffix(".json").replace("~", "/")
                found[place] = Assignment.from_bytes(self._stored(file).read_bytes())
        return found

    def target_file(self, target: str) -> Path:
        """Return where the bundle ``NAME-VERSION`` is stored; raise `InputError` if there is none."""
        return self._stored(self._bundle(target))

    def _bundle(self, target: str) -> TargetFile:
        file = self._files.find(f"bundles/{target}.edge")
        if file is None:
            raise InputError(f"{target} is not in the repository; add its bundle first")
        return file

    def _put_assignment(self, path: str, assignment: Assignment) -> None:
        data = assignment.to_bytes()
        hashes, custom = {"sha256": hashlib.sha256(data).hexdigest()}, {"custom": {"counter": assignment.counter}}
        self._put("assignments", [(TargetFile(len(data), hashes, path, custom), data)])

    def _put(self, role: str, files: Sequence[tuple[TargetFile, bytes]]) -> None:
        changed: dict[str, Metadata[Targets]] = {}
        for file, data in files:
            write_durably(self._stored(file), data)
            name = self._files.bin(role, file.path)
            if name not in changed:
                changed[name] = self._read_signed(name)
            changed[name].signed.targets[file.path] = file
        self._files.publish(changed, signer_of(self._keys))

    def _read_signed(self, role: str) -> Metadata[Targets]:
        return self._files.read_signed(role, signer_of(self._keys)(role).public_key)

    def _pin(self) -> None:
        """Offer the newest root to be pinned on new devices."""
        data = self._files.folder / f"{self._files.root().signed.version}.root.json"
        with storage_errors(data, "read"):
            newest = data.read_bytes()
            if not self.root_path.exists() or self.root_path.read_bytes() != newest:
                write_durably(self.root_path, newest)

    def _stored(self, file: TargetFile) -> Path:
        folder, _, name = file.path.rpartition("/")
        return self._targets / folder / f"{file.hashes['sha256']}.{name}"

    @contextmanager
    def _acting(self, action: str, role: str, *, heals: bool = True, **details: object) -> Iterator[dict[str, Any]]:
        with self._locked(), self.operators.acting(action, role, **details) as done:
            if heals:
                for folder in (self._files.folder, *(self._targets / name for name in DELEGATED)):
                    clear_unfinished(folder)
                heal(self._files, self._keys)
                self._pin()
            yield done

    @contextmanager
    def _locked(self) -> Iterator[None]:
        with storage_errors(self.folder, "lock"), (self.folder / ".lock").open("ab") as handle:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield
