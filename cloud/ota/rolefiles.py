"""The metadata of a repository on disk: read, verified against its parents, written, published.

Writing order makes a half-done change invisible: bins, delegating roles, snapshot, root, timestamp.
Files have versions in their names (consistent snapshots), and the timestamp is replaced last, at
once. What a cut left unfinished has a number that the next change takes again.

Source: The Update Framework specification 1.0.34, https://theupdateframework.github.io/specification/.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

from securesystemslib.exceptions import UnverifiedSignatureError
from securesystemslib.signer import Key, Signer
from tuf.api.exceptions import RepositoryError
from tuf.api.metadata import Metadata, MetaFile, Root, Snapshot, TargetFile, Targets, Timestamp
from tuf.api.serialization.json import JSONSerializer

from edge_sdk.cloud.ota.roles import Lifetimes, key_of, now, say_when_signed, sign
from edge_sdk.errors import InputError, StorageError
from edge_sdk.files import write_durably

__all__ = ["RoleFiles", "RoleStatus", "is_signed_by"]

Signed = TypeVar("Signed", Root, Targets, Snapshot, Timestamp)

_SERIALIZER = JSONSerializer(compact=True)


@dataclass(frozen=True, slots=True)
class RoleStatus:
    """One role's current version and expiry, and whether it has lived half its life."""

    role: str
    version: int
    expires: datetime
    due: bool = False


class RoleFiles:
    """The folder of metadata.

    Parameters
    ----------
    folder
        Where the files are.
    lifetimes
        How long what is signed from now on holds.
    """

    def __init__(self, folder: Path, lifetimes: Lifetimes) -> None:
        self.folder = folder
        self.lifetimes = lifetimes

    def root(self) -> Metadata[Root]:
        """Return the newest root."""
        version = max(int(path.name.split(".", 1)[0]) for path in self.folder.glob("*.root.json"))
        return self._load(self.folder / f"{version}.root.json", Root)

    def read(self, role: str, kind: type[Signed]) -> Metadata[Signed]:
        """Return the current metadata of a role other than root; raise `StorageError` if it is damaged."""
        if role == "timestamp":
            return self._load(self.folder / "timestamp.json", kind)
        if role == "snapshot":
            version = self.read("timestamp", Timestamp).signed.snapshot_meta.version
        else:
            version = self.read("snapshot", Snapshot).signed.meta[f"{role}.json"].version
        return self._load(self.folder / f"{version}.{role}.json", kind)

    def names(self) -> list[str]:
        """Return the names of all roles that list targets."""
        return [name.removesuffix(".json") for name in self.read("snapshot", Snapshot).signed.meta]

    def status(self) -> list[RoleStatus]:
        """Return each role with its version and expiry, top-level roles first."""
        rows: list[tuple[str, Any]] = [
            ("root", self.root().signed),
            ("timestamp", self.read("timestamp", Timestamp).signed),
            ("snapshot", self.read("snapshot", Snapshot).signed),
            *((name, self.read(name, Targets).signed) for name in self.names()),
        ]
        of = self.lifetimes.of
        return [RoleStatus(name, s.version, s.expires, s.expires - now() < of(name) / 2) for name, s in rows]

    def bin(self, role: str, path: str) -> str:
        """Return the name of the bin of a delegated role that a path belongs to."""
        delegations = self.read(role, Targets).signed.delegations
        if delegations is None or delegations.succinct_roles is None:
            raise StorageError(f"{self.folder}: the role {role} has no bins; the repository is damaged")
        return delegations.succinct_roles.get_role_for_target(path)

    def find(self, path: str) -> TargetFile | None:
        """Return what is signed of a path, or None."""
        return self.read(self.bin(path.split("/", 1)[0], path), Targets).signed.targets.get(path)

    def all(self, role: str) -> Iterator[TargetFile]:
        """Yield every target of a delegated role."""
        for name in self.names():
            if name.startswith(f"{role}-bin-"):
                yield from self.read(name, Targets).signed.targets.values()

    def read_signed(self, role: str, by: Key) -> Metadata[Targets]:
        """Return the current metadata of a role that is to be signed anew.

        Raises
        ------
        InputError
            This is not the role's key: another one took its place.
        StorageError
            It is not what this key signed.
        """
        metadata = self.read(role, Targets)
        self._check_key(role, by, {}, self.root().signed)
        if not is_signed_by(by, metadata):
            raise self.foreign(role)
        return metadata

    def check_root(self) -> None:
        """Raise `StorageError` if any root is not signed by its own keys, or not by those of the one before."""
        before = first = self._load(self.folder / "1.root.json", Root)
        self.verify(first.signed, "root", first)
        for number in range(2, self.root().signed.version + 1):
            root = self._load(self.folder / f"{number}.root.json", Root)
            self.verify(before.signed, "root", root)
            self.verify(root.signed, "root", root)
            before = root

    def verify(self, above: Root | Targets, role: str, metadata: Metadata[Any]) -> None:
        """Raise `StorageError` if a role's metadata is not signed as the role above it says."""
        try:
            above.verify_delegate(role, metadata.signed_bytes, metadata.signatures)
        except RepositoryError as error:
            raise self.foreign(role) from error

    def is_signed(self, role: str, *, before: int = 0) -> bool:
        """Return whether the current metadata of a top-level role is signed as the newest root asks.

        Parameters
        ----------
        before
            How many roots before the newest to ask instead.
        """
        metadata: Metadata[Any] = self.read(role, {"timestamp": Timestamp, "snapshot": Snapshot}.get(role, Targets))
        version = self.root().signed.version - before
        if version < 1:
            return False
        root = self._load(self.folder / f"{version}.root.json", Root)
        try:
            root.signed.verify_delegate(role, metadata.signed_bytes, metadata.signatures)
        except RepositoryError:
            return False
        return True

    def write(self, name: str, metadata: Metadata[Any]) -> bytes:
        """Store signed metadata durably and return its bytes."""
        data = metadata.to_bytes(_SERIALIZER)
        write_durably(self.folder / name, data)
        return data

    def publish(
        self,
        changed: Mapping[str, Metadata[Targets]],
        signer: Callable[[str], Signer],
        *,
        root: Metadata[Root] | None = None,
    ) -> int:
        """Sign changed roles, the snapshot and the timestamp as their next versions; return the timestamp's.

        Parameters
        ----------
        changed
            New content, by role.
        signer
            Gives the signer of a role; of snapshot and timestamp too.
        root
            A new root that takes effect with it, signed.

        Raises
        ------
        InputError
            A key is not the one that the repository names for its role; nothing was changed.
        """
        ruling = (root or self.root()).signed
        for role in (*changed, "snapshot", "timestamp"):
            self._check_key(role, signer(role).public_key, changed, ruling)
        snapshot = self.read("snapshot", Snapshot)
        for role, metadata in changed.items():
            metadata.signed.version = snapshot.signed.meta[f"{role}.json"].version + 1
            metadata.signed.expires = self.expiry(role)
            sign(metadata, signer(role))
            self.write(f"{metadata.signed.version}.{role}.json", metadata)
            snapshot.signed.meta[f"{role}.json"] = MetaFile(metadata.signed.version)
        snapshot.signed.version += 1
        snapshot.signed.expires = self.expiry("snapshot")
        sign(snapshot, signer("snapshot"))
        self.write(f"{snapshot.signed.version}.snapshot.json", snapshot)
        timestamp = self.read("timestamp", Timestamp)
        timestamp.signed.version += 1
        timestamp.signed.expires = self.expiry("timestamp")
        timestamp.signed.snapshot_meta = MetaFile(snapshot.signed.version)
        say_when_signed(timestamp.signed)
        sign(timestamp, signer("timestamp"))
        if root is not None:
            self.write(f"{root.signed.version}.root.json", root)
        self.write("timestamp.json", timestamp)
        return timestamp.signed.version

    def expiry(self, role: str) -> datetime:
        """Return until when what is signed now for a role holds."""
        return now() + self.lifetimes.of(role)

    def foreign(self, role: str) -> StorageError:
        """Return the error of a role that its keys did not sign as it is."""
        return StorageError(f"{self.folder}: {role} is not signed by its keys; it was changed by somebody else")

    def _check_key(self, role: str, key: Key, changed: Mapping[str, Metadata[Targets]], root: Root) -> None:
        above = role.partition("-bin-")[0] if "-bin-" in role else "targets"
        if role in root.roles:
            keyids = root.roles[role].keyids
        else:
            delegations = (changed[above] if above in changed else self.read(above, Targets)).signed.delegations
            named = delegations and (delegations.succinct_roles or (delegations.roles or {}).get(role))
            keyids = named.keyids if named else []
        if key.keyid not in keyids:
            raise InputError(f"the key {key_of(role)!r} here is not the one that signs {role}: copy the newest here")

    def _load(self, path: Path, kind: type[Signed]) -> Metadata[Signed]:
        try:
            metadata: Metadata[Any] = Metadata.from_bytes(path.read_bytes())
        except (OSError, RepositoryError) as error:
            raise StorageError(f"the repository is damaged: {path}: {error}") from error
        if not isinstance(metadata.signed, kind):
            raise StorageError(f"the repository is damaged: {path} is not of the type {kind.type}")
        return metadata


def is_signed_by(key: Key, metadata: Metadata[Any]) -> bool:
    """Return whether a key signed metadata as it is."""
    signature = metadata.signatures.get(key.keyid)
    if signature is None:
        return False
    try:
        key.verify_signature(signature, metadata.signed_bytes)
    except UnverifiedSignatureError:
        return False
    return True
