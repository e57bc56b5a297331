"""What is signed, and what is said about it: assignments, targets, events. Frozen records with strict readers."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal

from edge_sdk import canonical
from edge_sdk.errors import InputError, TrustError
from edge_sdk.ota.needs import Needs
from edge_sdk.ota.topics import BLOCK_BYTES, check_id

__all__ = [
    "MAX_DELTAS",
    "STATES",
    "Assignment",
    "Delta",
    "Event",
    "State",
    "Target",
    "assignment_path",
    "delta_path",
]

State = Literal[
    "idle", "downloading", "verifying", "installing", "testing", "soaking", "active", "refused", "rolled_back"
]
STATES: tuple[State, ...] = (
    "idle",
    "downloading",
    "verifying",
    "installing",
    "testing",
    "soaking",
    "active",
    "refused",
    "rolled_back",
)

_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_TARGET = re.compile(r"bundles/[a-z0-9][A-Za-z0-9_.-]{0,199}\.edge")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_MAX_TARGET_BYTES = 1 << 30
MAX_DELTAS = 64


@dataclass(frozen=True, slots=True)
class Assignment:
    """What one device should run, as signed under the role ``assignments``.

    Attributes
    ----------
    device
        Device id.
    counter
        Grows with each assignment of the device, or of one of its several models; an older one is never followed.
    expires
        After this time (UTC) the assignment is no longer followed.
    name, version
        What the bundle's manifest must say.
    target
        TUF target path of the bundle.
    sha256
        Digest of the bundle file, ``sha256:<hex>``.
    downgrade
        Whether a version lower than the active one is meant.
    """

    device: str
    counter: int
    expires: datetime
    name: str
    version: str
    target: str
    sha256: str
    downgrade: bool = False

    def to_bytes(self) -> bytes:
        """Return the assignment as canonical JSON."""
        return canonical.dumps(
            {
                "format": 1,
                "device": self.device,
                "counter": self.counter,
                "expires": self.expires.strftime("%Y-%m-%dT%H:%M:%SZ"),
                "bundle": {"name": self.name, "version": self.version, "target": self.target, "sha256": self.sha256},
                "downgrade": self.downgrade,
            }
        )

    @classmethod
    def from_bytes(cls, data: bytes) -> Assignment:
        """Read an assignment; raise `TrustError` if it has another form."""
        try:
            document = canonical.loads(data, limit=16_384)
            bundle = document["bundle"]
            expires = datetime.strptime(document["expires"], "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC)
            assignment = cls(
                device=check_id("device", document["device"]),
                counter=document["counter"],
                expires=expires,
                name=bundle["name"],
                version=bundle["version"],
                target=bundle["target"],
                sha256=bundle["sha256"],
                downgrade=document["downgrade"],
            )
            ok = (
                document["format"] == 1
                and type(assignment.counter) is int
                and assignment.counter > 0
                and type(assignment.downgrade) is bool
                and isinstance(assignment.name, str)
                and isinstance(assignment.version, str)
                and _TARGET.fullmatch(assignment.target)
                and _DIGEST.fullmatch(assignment.sha256)
            )
        except (InputError, KeyError, TypeError, ValueError) as error:
            raise TrustError(f"the assignment has an unknown form: {error!r}") from error
        if not ok:
            raise TrustError("the assignment has an unknown form: a field has an impossible value")
        return assignment


@dataclass(frozen=True, slots=True)
class Target:
    """A bundle file as signed: where it is, and the digest of each of its blocks.

    Attributes
    ----------
    name, version
        What the manifest within says.
    path
        TUF target path.
    sha256, size
        Digest (hex, without prefix) and length of the whole file in bytes.
    block_bytes
        Length of every block but the last.
    blocks
        SHA-256 of each block, hex.
    bundle_digest
        Digest of the manifest within, ``sha256:<hex>``.
    needs
        What a device must have to run it.
    deltas
        Digests (hex) of the bundle files from which a delta leads to this one.
    """

    name: str
    version: str
    path: str
    sha256: str
    size: int
    block_bytes: int
    blocks: tuple[str, ...]
    bundle_digest: str
    needs: Needs = field(default_factory=Needs)
    deltas: tuple[str, ...] = ()

    @property
    def stored_path(self) -> str:
        """The path under which a consistent repository keeps the file: its digest before its name."""
        return _stored(self.path, self.sha256)

    def custom(self) -> dict[str, Any]:
        """Return what a TUF target's ``custom`` field holds."""
        return {
            "name": self.name,
            "version": self.version,
            "block_bytes": self.block_bytes,
            "blocks": list(self.blocks),
            "bundle_digest": self.bundle_digest,
            "needs": self.needs.to_dict(),
            "deltas": list(self.deltas),
        }

    @classmethod
    def from_signed(cls, path: str, size: int, hashes: Mapping[str, str], custom: Any) -> Target:
        """Read a verified TUF target; raise `TrustError` if it does not describe a bundle in blocks."""
        try:
            blocks = tuple(custom["blocks"])
            target = cls(
                name=custom["name"],
                version=custom["version"],
                path=path,
                sha256=hashes["sha256"],
                size=size,
                block_bytes=custom["block_bytes"],
                blocks=blocks,
                bundle_digest=custom["bundle_digest"],
                needs=Needs.from_dict(custom["needs"]) if "needs" in custom else Needs(),
                deltas=tuple(custom.get("deltas", ())),
            )
            ok = (
                _in_blocks(target)
                and _DIGEST.fullmatch(target.bundle_digest)
                and len(target.deltas) <= MAX_DELTAS
                and all(_SHA256.fullmatch(base) for base in target.deltas)
            )
        except (InputError, KeyError, TypeError, AttributeError) as error:
            raise TrustError(f"the target {path} does not list its blocks: {error!r}") from error
        if not ok:
            raise TrustError(f"the target {path} does not list its blocks as this version understands them")
        return target


@dataclass(frozen=True, slots=True)
class Delta:
    """What makes one bundle file of another, as signed: a target of its own, in blocks.

    Attributes
    ----------
    base
        Digest (hex) of the file that it is applied to.
    path
        TUF target path; see `delta_path`.
    sha256, size, block_bytes, blocks
        As of a `Target`.
    """

    base: str
    path: str
    sha256: str
    size: int
    block_bytes: int
    blocks: tuple[str, ...]

    @property
    def stored_path(self) -> str:
        """As of a `Target`."""
        return _stored(self.path, self.sha256)

    def custom(self) -> dict[str, Any]:
        """Return what a TUF target's ``custom`` field holds."""
        return {"base": self.base, "block_bytes": self.block_bytes, "blocks": list(self.blocks)}

    @classmethod
    def from_signed(cls, base: str, path: str, size: int, hashes: Mapping[str, str], custom: Any) -> Delta:
        """Read a verified TUF target; raise `TrustError` if it does not describe a delta from that base in blocks."""
        try:
            delta = cls(custom["base"], path, hashes["sha256"], size, custom["block_bytes"], tuple(custom["blocks"]))
            ok = delta.base == base and _in_blocks(delta)
        except (KeyError, TypeError) as error:
            raise TrustError(f"the delta {path} does not list its blocks: {error!r}") from error
        if not ok:
            raise TrustError(f"the delta {path} is from another base, or its blocks are not listed as they should be")
        return delta


def delta_path(base: str, result: str) -> str:
    """Return the target path of the delta between two bundle files, by their digests (hex)."""
    return f"bundles/{base}-{result}.delta"


def assignment_path(device: str, model: str = "") -> str:
    """Return the target path of what a device should run, or of what one of its several models should be."""
    return f"assignments/{device}~{model}.json" if model else f"assignments/{device}.json"  # no id or name has a ~


def _stored(path: str, sha256: str) -> str:
    folder, _, name = path.rpartition("/")
    return f"{folder}/{sha256}.{name}"


def _in_blocks(file: Target | Delta) -> bool:
    return (
        0 < file.size <= _MAX_TARGET_BYTES
        and file.block_bytes == BLOCK_BYTES
        and len(file.blocks) == -(-file.size // BLOCK_BYTES)
        and all(_SHA256.fullmatch(digest) is not None for digest in (file.sha256, *file.blocks))
    )


@dataclass(frozen=True, slots=True)
class Event:
    """One step of a device's update, told to the app and reported to the fleet.

    Attributes
    ----------
    device
        Device id.
    state
        One of `STATES`.
    name, version, digest
        The bundle concerned, by name, version and manifest digest; empty where there is none.
    counter
        Counter of the assignment that led to it; 0 where there is none.
    seconds
        Time since this update began.
    bytes
        Bytes of metadata and blocks received over the network in this update.
    reason
        Why, for states that need one; one line.
    time
        When, UTC, ISO 8601.
    model
        Which of the device's several models; empty where it has one.
    """

    device: str
    state: State
    name: str = ""
    version: str = ""
    digest: str = ""
    counter: int = 0
    seconds: float = 0.0
    bytes: int = 0
    reason: str = ""
    time: str = ""
    model: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Return the record as JSON-compatible values."""
        return asdict(self)
