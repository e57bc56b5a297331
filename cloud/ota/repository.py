"""A repository of signed updates: TUF roles on disk, bundles, and one assignment a device.

Which roles there are and who signs them is in `edge_sdk.cloud.ota.roles`.

Writing order makes a half-done change invisible: target, bin, snapshot, timestamp. Files have
versions or digests in their names (consistent snapshots), and the timestamp is replaced last, at
once. One writer at a time holds a lock on the folder; readers need none.

Source: The Update Framework specification 1.0.34, https://theupdateframework.github.io/specification/.
"""

from __future__ import annotations

import fcntl
import hashlib
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar

from tuf.api.exceptions import RepositoryError
from tuf.api.metadata import Metadata, MetaFile, Root, Snapshot, TargetFile, Targets, Timestamp
from tuf.api.serialization.json import JSONSerializer

from edge_sdk.bundle import Bundle
from edge_sdk.cloud.ota.keys import KeyFolder
from edge_sdk.cloud.ota.roles import DELEGATED, KEYS, Lifetimes, first_metadata, key_of, now, say_when_signed
from edge_sdk.errors import BundleError, InputError, StorageError
from edge_sdk.files import make_folder, storage_errors, write_durably
from edge_sdk.ota.records import Assignment, Target
from edge_sdk.ota.topics import BLOCK_BYTES, check_id

__all__ = ["Lifetimes", "Repository", "RoleStatus"]

log = logging.getLogger("edge_sdk.cloud.ota.repository")

Signed = TypeVar("Signed", Root, Targets, Snapshot, Timestamp)

_SERIALIZER = JSONSerializer(compact=True)


@dataclass(frozen=True, slots=True)
class RoleStatus:
    """One role's current version and expiry."""

    role: str
    version: int
    expires: datetime


class Repository:
    """A repository in a folder; make one with `init`, use it with `open`.

    Attributes
    ----------
    folder
        Where it is: ``metadata/``, ``targets/``, ``root.json`` (to pin on devices), ``keys/``.
    """

    def __init__(self, folder: Path, keys: KeyFolder, lifetimes: Lifetimes) -> None:
        self.folder = folder
        self._metadata = folder / "metadata"
        self._targets = folder / "targets"
        self._keys = keys
        self._lifetimes = lifetimes

    @classmethod
    def init(
        cls,
        folder: str | Path,
        *,
        keys: str | Path | None = None,
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
            Folder of the private keys; default ``<folder>/keys``.
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
        if (folder / "metadata").exists() or (folder / "root.json").exists():
            raise InputError(f"{folder} holds a repository already")
        store = KeyFolder(Path(keys) if keys is not None else folder / "keys", passphrase)
        repository = cls(make_folder(folder), store, lifetimes or Lifetimes())
        with repository._locked():
            repository._create(root_keys, threshold, bins)
        return repository

    @classmethod
    def open(
        cls,
        folder: str | Path,
        *,
        keys: str | Path | None = None,
        passphrase: str | None = None,
        lifetimes: Lifetimes | None = None,
    ) -> Repository:
        """Open a repository; raise `InputError` if the folder holds none."""
        folder = Path(folder)
        if not (folder / "metadata" / "timestamp.json").is_file():
            raise InputError(f"{folder} is not an update repository; make one with: edge-sdk ota init {folder}")
        store = KeyFolder(Path(keys) if keys is not None else folder / "keys", passphrase)
        return cls(folder, store, lifetimes or Lifetimes())

    @property
    def root_path(self) -> Path:
        """The first root, to be pinned on devices."""
        return self.folder / "root.json"

    @property
    def timestamp_version(self) -> int:
        """Version of the current timestamp; it grows with every change."""
        return self._read("timestamp", Timestamp).signed.version

    def add(self, bundle: str | Path) -> Target:
        """Sign a bundle file as a target.

        The archive and its digests are checked. Whether its golden outputs hold is not: that is
        the device's business, on its own hardware.

        Raises
        ------
        BundleError
            The file is not an intact bundle.
        InputError
            The name and version are taken by other bytes: a version never changes.
        """
        path = Path(bundle)
        if not path.exists():
            raise InputError(f"there is no bundle at {path}")
        if not path.is_file():
            raise InputError(f"{path} is not a file; give the .edge file")
        with storage_errors(path, "read"):
            data = path.read_bytes()
        try:
            opened = Bundle.from_bytes(data)
        except BundleError as error:
            raise type(error)(f"{path}: {error}") from error
        manifest = opened.manifest
        blocks = [data[at : at + BLOCK_BYTES] for at in range(0, len(data), BLOCK_BYTES)]
        target = Target(
            name=manifest.name,
            version=manifest.version,
            path=f"bundles/{manifest.name}-{manifest.version}.edge",
            sha256=hashlib.sha256(data).hexdigest(),
            size=len(data),
            block_bytes=BLOCK_BYTES,
            blocks=tuple(hashlib.sha256(block).hexdigest() for block in blocks),
            bundle_digest=opened.digest,
        )
        with self._locked():
            known = self._find(target.path)
            if known is not None:
                if known.hashes["sha256"] != target.sha256:
                    raise InputError(
                        f"{manifest.name}-{manifest.version} is there with other bytes; give the bundle a new version"
                    )
                return target
            file = TargetFile(target.size, {"sha256": target.sha256}, target.path, {"custom": target.custom()})
            self._put("bundles", file, data)
        return target

    def assign(
        self, device: str, target: str, *, downgrade: bool = False, expires: timedelta | None = None
    ) -> Assignment:
        """Sign what a device should run.

        Parameters
        ----------
        device
            Device id.
        target
            ``NAME-VERSION`` of a bundle that was added.
        downgrade
            Allow a version lower than the active one.
        expires
            How long the assignment may be followed; default 90 days.

        Raises
        ------
        InputError
            There is no such target, or the device id cannot stand in a topic.
        """
        check_id("device", device)
        with self._locked():
            file = self._find(f"bundles/{target}.edge")
            if file is None:
                raise InputError(f"{target} is not in the repository; add its bundle first")
            path = f"assignments/{device}.json"
            previous = self._find(path)
            signed_target = _target(file)
            assignment = Assignment(
                device=device,
                counter=(previous.custom["counter"] if previous is not None else 0) + 1,
                expires=(now() + (expires or self._lifetimes.assignment)),
                name=signed_target.name,
                version=signed_target.version,
                target=file.path,
                sha256="sha256:" + signed_target.sha256,
                downgrade=downgrade,
            )
            data = assignment.to_bytes()
            digest = hashlib.sha256(data).hexdigest()
            custom = {"counter": assignment.counter}
            self._put("assignments", TargetFile(len(data), {"sha256": digest}, path, {"custom": custom}), data)
        return assignment

    def publish(self) -> int:
        """Sign snapshot and timestamp anew and return the timestamp's version."""
        with self._locked():
            return self._publish({})

    def refresh(self) -> bool:
        """Sign anew the online roles that have lived half their life; return whether any was.

        Call it regularly (`ota serve` does). Offline roles are not touched: see `status`.
        """
        with self._locked():
            stale = {s.role for s in self.status() if s.expires - now() < self._lifetimes.of(s.role) / 2}
            changed = {role: self._read(role, Targets) for role in stale if role.startswith("assignments")}
            if not changed and not stale & {"snapshot", "timestamp"}:
                return False
            self._publish(changed)
            return True

    def status(self) -> list[RoleStatus]:
        """Return each role with its version and expiry, top-level roles first."""
        snapshot = self._read("snapshot", Snapshot)
        rows = [
            RoleStatus("root", (root := self._root()).signed.version, root.signed.expires),
            RoleStatus("timestamp", (stamp := self._read("timestamp", Timestamp)).signed.version, stamp.signed.expires),
            RoleStatus("snapshot", snapshot.signed.version, snapshot.signed.expires),
        ]
        for name in snapshot.signed.meta:
            role = name.removesuffix(".json")
            targets = self._read(role, Targets).signed
            rows.append(RoleStatus(role, targets.version, targets.expires))
        return rows

    def bundles(self) -> dict[str, Target]:
        """Return the targets by ``NAME-VERSION``."""
        targets = (_target(file) for file in self._all("bundles"))
        return {f"{target.name}-{target.version}": target for target in targets}

    def assignments(self) -> dict[str, Assignment]:
        """Return the current assignment of each device."""
        found = {}
        for file in self._all("assignments"):
            with storage_errors(self._stored(file), "read"):
                assignment = Assignment.from_bytes(self._stored(file).read_bytes())
            found[assignment.device] = assignment
        return found

    def target_file(self, target: str) -> Path:
        """Return where the bundle ``NAME-VERSION`` is stored; raise `InputError` if there is none."""
        file = self._find(f"bundles/{target}.edge")
        if file is None:
            raise InputError(f"{target} is not in the repository")
        return self._stored(file)

    # the roles on disk

    def _create(self, root_keys: int, threshold: int, bins: int) -> None:
        make_folder(self._metadata)
        for name in DELEGATED:
            make_folder(self._targets / name)
        roots = [self._keys.create(f"root-{number + 1}") for number in range(root_keys)]
        signers = {name: self._keys.create(name) for name in KEYS}
        for name, metadata in first_metadata(roots, threshold, signers, bins, self._lifetimes):
            data = self._write(name, metadata)
            if isinstance(metadata.signed, Root):
                write_durably(self.root_path, data)

    def _put(self, role: str, file: TargetFile, data: bytes) -> None:
        write_durably(self._stored(file), data)
        name = self._bin(role, file.path)
        metadata = self._read(name, Targets)
        metadata.signed.targets[file.path] = file
        self._publish({name: metadata})

    def _publish(self, changed: Mapping[str, Metadata[Targets]]) -> int:
        snapshot = self._read("snapshot", Snapshot)
        for role, metadata in changed.items():
            metadata.signed.version = snapshot.signed.meta[f"{role}.json"].version + 1
            metadata.signed.expires = self._expiry(role)
            metadata.sign(self._keys.load(key_of(role)))
            self._write(f"{metadata.signed.version}.{role}.json", metadata)
            snapshot.signed.meta[f"{role}.json"] = MetaFile(metadata.signed.version)
        online = self._keys.load("online")
        snapshot.signed.version += 1
        snapshot.signed.expires = self._expiry("snapshot")
        snapshot.sign(online)
        self._write(f"{snapshot.signed.version}.snapshot.json", snapshot)
        timestamp = self._read("timestamp", Timestamp)
        timestamp.signed.version += 1
        timestamp.signed.expires = self._expiry("timestamp")
        timestamp.signed.snapshot_meta = MetaFile(snapshot.signed.version)
        say_when_signed(timestamp.signed)
        timestamp.sign(online)
        self._write("timestamp.json", timestamp)
        return timestamp.signed.version

    def _bin(self, role: str, path: str) -> str:
        delegations = self._read(role, Targets).signed.delegations
        if delegations is None or delegations.succinct_roles is None:
            raise StorageError(f"{self._metadata}: the role {role} has no bins; the repository is damaged")
        return delegations.succinct_roles.get_role_for_target(path)

    def _find(self, path: str) -> TargetFile | None:
        return self._read(self._bin(path.split("/", 1)[0], path), Targets).signed.targets.get(path)

    def _all(self, role: str) -> Iterator[TargetFile]:
        for name in self._read("snapshot", Snapshot).signed.meta:
            if name.startswith(f"{role}-bin-"):
                yield from self._read(name.removesuffix(".json"), Targets).signed.targets.values()

    def _stored(self, file: TargetFile) -> Path:
        folder, _, name = file.path.rpartition("/")
        return self._targets / folder / f"{file.hashes['sha256']}.{name}"

    def _root(self) -> Metadata[Root]:
        version = max(int(path.name.split(".", 1)[0]) for path in self._metadata.glob("*.root.json"))
        return self._load(self._metadata / f"{version}.root.json", Root)

    def _read(self, role: str, kind: type[Signed]) -> Metadata[Signed]:
        if role == "timestamp":
            return self._load(self._metadata / "timestamp.json", kind)
        if role == "snapshot":
            version = self._read("timestamp", Timestamp).signed.snapshot_meta.version
        else:
            version = self._read("snapshot", Snapshot).signed.meta[f"{role}.json"].version
        return self._load(self._metadata / f"{version}.{role}.json", kind)

    def _load(self, path: Path, kind: type[Signed]) -> Metadata[Signed]:
        try:
            metadata: Metadata[Any] = Metadata.from_bytes(path.read_bytes())
        except (OSError, RepositoryError) as error:
            raise StorageError(f"the repository is damaged: {path}: {error}") from error
        if not isinstance(metadata.signed, kind):
            raise StorageError(f"the repository is damaged: {path} is not of the type {kind.type}")
        return metadata

    def _write(self, name: str, metadata: Metadata[Any]) -> bytes:
        data = metadata.to_bytes(_SERIALIZER)
        write_durably(self._metadata / name, data)
        return data

    def _expiry(self, role: str) -> datetime:
        return now() + self._lifetimes.of(role)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        with storage_errors(self.folder, "lock"), (self.folder / ".lock").open("ab") as handle:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield


def _target(file: TargetFile) -> Target:
    return Target.from_signed(file.path, file.length, file.hashes, file.custom)
