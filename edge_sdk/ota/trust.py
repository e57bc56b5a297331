"""What the device believes: TUF metadata under a pinned root, kept durably.

python-tuf verifies, in a temporary copy of our metadata folder; what it accepted is then written
to the folder by ourselves, fsynced, also when a later step failed, because the rollback
protection lives in those files. The library's own writes are not durable.

Workflow: The Update Framework specification 1.0.34, section 5.
"""

from __future__ import annotations

import logging
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote

from tuf.api.exceptions import DownloadError, DownloadHTTPError, RepositoryError
from tuf.api.metadata import Metadata, Root
from tuf.ngclient import FetcherInterface, Updater, UpdaterConfig

from edge_sdk.bundle import Bundle
from edge_sdk.errors import InputError, TransferError, TrustError
from edge_sdk.files import make_folder, storage_errors, write_durably
from edge_sdk.ota.records import Assignment, Target
from edge_sdk.ota.transfer import Channel

__all__ = ["MIN_ROOT_THRESHOLD", "Trust", "open_assigned"]

log = logging.getLogger("edge_sdk.ota.trust")

MIN_ROOT_THRESHOLD = 2
_MAX_ROOT_BYTES = 512_000
_MAX_ASSIGNMENT_BYTES = 16_384


class Trust:
    """Verified answers to the one question what this device should run.

    Parameters
    ----------
    folder
        Where the metadata is kept.
    root
        The pinned root metadata, as bytes or a path.

    Raises
    ------
    InputError
        There is no such file.
    TrustError
        It is not root metadata, is not signed by its own keys, or fewer than two keys suffice.
    """

    def __init__(self, folder: Path, root: bytes | str | Path) -> None:
        self._folder = make_folder(folder)
        self._root = root if isinstance(root, bytes) else _read_root(Path(root))
        _check_root(self._root, "the pinned root")

    def resolve(self, device: str, channel: Channel) -> tuple[Assignment, Target] | None:
        """Fetch and verify what the device is assigned; None if it is assigned nothing.

        Raises
        ------
        TrustError
            Metadata or assignment failed verification.
        TransferError
            The repository did not answer.
        StorageError
            The metadata could not be stored.
        """
        with storage_errors(self._folder), tempfile.TemporaryDirectory(prefix="edge-sdk-trust-") as temporary:
            work = Path(temporary)
            shutil.copytree(self._folder, work, dirs_exist_ok=True, symlinks=True)
            try:
                try:
                    return self._resolve(device, work, channel)
                finally:
                    self._keep(work)
            except DownloadHTTPError as error:
                raise TransferError(f"the repository has no such metadata: {_line(error)}") from error
            except (RepositoryError, DownloadError) as error:
                raise TrustError(f"the repository's metadata is refused: {_line(error)}") from error

    def _resolve(self, device: str, work: Path, channel: Channel) -> tuple[Assignment, Target] | None:
        fetcher = _Fetcher(channel)
        config = UpdaterConfig(max_delegations=8)
        updater = Updater(str(work), "metadata/", fetcher=fetcher, config=config, bootstrap=self._root)
        updater.refresh()
        info = updater.get_targetinfo(f"assignments/{device}.json")
        if info is None:
            return None
        digest = info.hashes.get("sha256", "")
        data = fetcher.download_bytes(f"targets/assignments/{digest}.{device}.json", _MAX_ASSIGNMENT_BYTES)
        info.verify_length_and_hashes(data)
        assignment = Assignment.from_bytes(data)
        if assignment.device != device:
            raise TrustError(f"the assignment is for the device {assignment.device}, not for {device}")
        found = updater.get_targetinfo(assignment.target)
        if found is None:
            raise TrustError(f"the assigned bundle {assignment.target} is not signed")
        target = Target.from_signed(found.path, found.length, found.hashes, found.custom)
        if f"sha256:{target.sha256}" != assignment.sha256:
            raise TrustError(f"the assignment names other bytes of {assignment.target} than its publisher signed")
        return assignment, target

    def _keep(self, work: Path) -> None:
        """Store durably what the updater accepted; roots first, in their order."""
        make_folder(self._folder / "root_history")
        roots = sorted(work.glob("root_history/*.root.json"), key=lambda path: int(path.name.split(".")[0]))
        others = sorted(path for path in work.glob("*.json") if not path.is_symlink())
        for path in [*roots, *others]:
            data, ours = path.read_bytes(), self._folder / path.relative_to(work)
            if ours.exists() and ours.read_bytes() == data:
                continue
            if path in roots:
                _check_root(data, path.name)
            write_durably(ours, data)


def open_assigned(path: Path, assignment: Assignment, target: Target) -> Bundle:
    """Open a downloaded bundle file and hold its manifest against what was signed.

    Raises
    ------
    TrustError
        It is another bundle than the one assigned.
    BundleError
        It is not an intact bundle.
    """
    bundle = Bundle.open(path)
    manifest = bundle.manifest
    if bundle.digest != target.bundle_digest:
        raise TrustError(f"the manifest within {target.path} is not the signed one")
    if (manifest.name, manifest.version) != (assignment.name, assignment.version):
        raise TrustError(f"{target.path} holds {manifest.name}-{manifest.version}, not what was assigned")
    return bundle


class _Fetcher(FetcherInterface):
    """Gives python-tuf files through a channel: ``metadata/NAME`` and ``targets/PATH``, block by block."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel

    def _fetch(self, url: str) -> Iterator[bytes]:
        kind, _, name = url.partition("/")
        key = {"metadata": "metadata", "targets": "target"}[kind]
        block, left = 0, 1
        while left > 0:
            [(_, reply)] = self._channel.fetch([{key: unquote(name), "block": block}])
            if reply.status != 200:
                raise DownloadHTTPError(f"{name}: status {reply.status}", reply.status)
            left = reply.size - len(reply.data) if block == 0 else left - len(reply.data)
            block += 1
            if not reply.data:
                return
            yield reply.data


def _read_root(path: Path) -> bytes:
    if not path.is_file():
        raise InputError(f"there is no root metadata at {path}; copy root.json from the repository")
    with storage_errors(path, "read"), path.open("rb") as stream:
        return stream.read(_MAX_ROOT_BYTES + 1)


def _check_root(data: bytes, name: str) -> None:
    if len(data) > _MAX_ROOT_BYTES:
        raise TrustError(f"{name} is too large to be root metadata")
    try:
        metadata = Metadata[Root].from_bytes(data)
        if not isinstance(metadata.signed, Root):
            raise TrustError(f"{name} is not root metadata but {metadata.signed.type}")
        metadata.signed.verify_delegate("root", metadata.signed_bytes, metadata.signatures)
    except (RepositoryError, ValueError) as error:
        raise TrustError(f"{name} is not valid root metadata: {_line(error)}") from error
    threshold = metadata.signed.roles["root"].threshold
    if threshold < MIN_ROOT_THRESHOLD:
        raise TrustError(f"{name} needs {threshold} signature; a root that {MIN_ROOT_THRESHOLD} keys sign is required")


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
