"""A bundle file read, checked and described as the target that it will be."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

from tuf.api.metadata import TargetFile

from edge_sdk.bundle import Bundle
from edge_sdk.cloud.ota.deltas import block_hashes
from edge_sdk.errors import BundleError, InputError
from edge_sdk.files import storage_errors
from edge_sdk.ota.needs import Needs
from edge_sdk.ota.records import Delta, Target
from edge_sdk.ota.topics import BLOCK_BYTES

__all__ = ["read_bundle", "signed_file", "target_of"]


def read_bundle(path: Path, needs: Needs) -> tuple[Target, bytes]:
    """Return the target that a bundle file is, and its bytes.

    Parameters
    ----------
    path
        The ``.edge`` file.
    needs
        What it needs of a device, but for the runtime, which its manifest names.

    Raises
    ------
    InputError
        There is no such file.
    BundleError
        It is not an intact bundle.
    """
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
    target = Target(
        name=manifest.name,
        version=manifest.version,
        path=f"bundles/{manifest.name}-{manifest.version}.edge",
        sha256=hashlib.sha256(data).hexdigest(),
        size=len(data),
        block_bytes=BLOCK_BYTES,
        blocks=block_hashes(data),
        bundle_digest=opened.digest,
        needs=replace(needs, runtime=manifest.artifacts[0].runtime),
    )
    return target, data


def signed_file(signed: Target | Delta) -> TargetFile:
    """Return a bundle file or a delta as TUF signs it."""
    return TargetFile(signed.size, {"sha256": signed.sha256}, signed.path, {"custom": signed.custom()})


def target_of(file: TargetFile) -> Target:
    """Return the bundle file that TUF signed."""
    return Target.from_signed(file.path, file.length, file.hashes, file.custom)
