"""The roles of a repository: who signs what, for how long, and their first metadata.

``root`` (two of three offline keys) and ``targets`` (offline) name the keys of everything else.
``targets`` delegates ``bundles/*`` and ``assignments/*`` to two roles of those names, and each of
these spreads its targets over hashed bins (TAP 15), so that a device fetches the bin it needs and
not the list of the fleet. ``bundles`` is signed by the key ``publisher``; ``assignments``,
``snapshot`` and the short-lived ``timestamp`` are signed online.

Source: The Update Framework specification 1.0.34, https://theupdateframework.github.io/specification/.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from securesystemslib.signer import Signer
from tuf.api.exceptions import UnsignedMetadataError
from tuf.api.metadata import (
    DelegatedRole,
    Delegations,
    Key,
    Metadata,
    MetaFile,
    Root,
    Snapshot,
    SuccinctRoles,
    Targets,
    Timestamp,
)

from edge_sdk.errors import InputError
from edge_sdk.ota.trust import SIGNED_AT, TIME_FORM

__all__ = ["DELEGATED", "KEYS", "Lifetimes", "first_metadata", "key_of", "now", "say_when_signed", "sign"]

DELEGATED = ("bundles", "assignments")
"""Roles that ``targets`` delegates to, each for the paths under its own name."""

KEYS = ("targets", "publisher", "assignments", "online")
"""Names of the keys besides those of the root."""


@dataclass(frozen=True, slots=True)
class Lifetimes:
    """How long signatures hold. Online roles are signed anew at half of theirs."""

    offline: timedelta = timedelta(days=365)
    online: timedelta = timedelta(days=30)
    snapshot: timedelta = timedelta(days=7)
    timestamp: timedelta = timedelta(days=1)
    assignment: timedelta = timedelta(days=90)

    def of(self, role: str) -> timedelta:
        """Return the lifetime of a role's signature."""
        if role == "timestamp":
            return self.timestamp
        if role == "snapshot":
            return self.snapshot
        return self.online if role.startswith("assignments") else self.offline


def key_of(role: str) -> str:
    """Return the name of the key that signs a role other than root."""
    if role in ("snapshot", "timestamp"):
        return "online"
    if role == "targets":
        return "targets"
    return "assignments" if role.startswith("assignments") else "publisher"


def now() -> datetime:
    """Return the time, UTC, in whole seconds, as metadata holds it."""
    return datetime.now(UTC).replace(microsecond=0)


def sign(metadata: Metadata[Any], signer: Signer, *, append: bool = False) -> None:
    """Sign metadata; raise `InputError` if the key is in a token that does not sign."""
    try:
        metadata.sign(signer, append=append)
    except UnsignedMetadataError as error:
        raise (error.__cause__ if isinstance(error.__cause__, InputError) else error) from error


def say_when_signed(timestamp: Timestamp) -> None:
    """Note the time in a timestamp about to be signed: devices without a clock go by it."""
    timestamp.unrecognized_fields[SIGNED_AT] = now().strftime(TIME_FORM)


def first_metadata(
    roots: Sequence[Signer], threshold: int, signers: Mapping[str, Signer], bins: int, lifetimes: Lifetimes
) -> Iterator[tuple[str, Metadata[Any]]]:
    """Yield the signed metadata of an empty repository with its file names, the timestamp last.

    Parameters
    ----------
    roots, threshold
        Keys of the root, and how many of them must sign a new one.
    signers
        The other keys by their names in `KEYS`.
    bins
        Hashed bins of each delegated role; a power of two.
    """
    expires = {role: now() + lifetimes.of(role) for role in ("root", "targets", "snapshot", "timestamp")}
    root = Root(consistent_snapshot=True, expires=expires["root"])
    for signer in roots:
        root.add_key(signer.public_key, "root")
    root.roles["root"].threshold = threshold
    for role, key in (("targets", "targets"), ("snapshot", "online"), ("timestamp", "online")):
        root.add_key(signers[key].public_key, role)
    signed_root = Metadata(root)
    for signer in roots:
        sign(signed_root, signer, append=True)
    yield "1.root.json", signed_root

    versions: dict[str, MetaFile] = {}
    for role, targets in _tree(signers, bins, lifetimes).items():
        metadata = Metadata(targets)
        sign(metadata, signers[key_of(role)])
        versions[f"{role}.json"] = MetaFile(1)
        yield f"1.{role}.json", metadata
    snapshot = Metadata(Snapshot(expires=expires["snapshot"], meta=versions))
    sign(snapshot, signers["online"])
    yield "1.snapshot.json", snapshot
    timestamp = Metadata(Timestamp(expires=expires["timestamp"], snapshot_meta=MetaFile(1)))
    say_when_signed(timestamp.signed)
    sign(timestamp, signers["online"])
    yield "timestamp.json", timestamp


def _tree(signers: Mapping[str, Signer], bins: int, lifetimes: Lifetimes) -> dict[str, Targets]:
    public: dict[str, Key] = {name: signers[key_of(name)].public_key for name in DELEGATED}
    keys = {key.keyid: key for key in public.values()}
    roles = {
        name: DelegatedRole(name, [key.keyid], 1, terminating=True, paths=[f"{name}/*"]) for name, key in public.items()
    }
    tree = {"targets": Targets(expires=now() + lifetimes.of("targets"), delegations=Delegations(keys, roles))}
    for name, key in public.items():
        hashed = SuccinctRoles([key.keyid], 1, bins.bit_length() - 1, f"{name}-bin")
        delegations = Delegations({key.keyid: key}, succinct_roles=hashed)
        tree[name] = Targets(expires=now() + lifetimes.of(name), delegations=delegations)
        tree |= {role: Targets(expires=now() + lifetimes.of(role)) for role in hashed.get_roles()}
    return tree
