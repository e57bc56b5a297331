"""What the device believes: TUF metadata under a pinned root, kept durably.

python-tuf verifies, in a temporary copy of our metadata folder; what it accepted is then written
to the folder by ourselves, fsynced, also when a later step failed, because the rollback
protection lives in those files. The library's own writes are not durable.

Workflow: The Update Framework specification 1.0.34, section 5.
"""

from __future__ import annotations

import contextlib
import logging
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import unquote

from tuf.api.exceptions import DownloadError, DownloadHTTPError, ExpiredMetadataError, RepositoryError
from tuf.api.metadata import Metadata, Root, TargetFile, Targets
from tuf.ngclient import FetcherInterface, Updater, UpdaterConfig

from edge_sdk import canonical
from edge_sdk.bundle import Bundle
from edge_sdk.errors import InputError, TransferError, TrustError, one_line
from edge_sdk.files import clear_unfinished, make_folder, storage_errors, write_durably
from edge_sdk.ota.channel import Source
from edge_sdk.ota.clock import TrustedTime
from edge_sdk.ota.records import Assignment, Delta, Target, assignment_path, delta_path

__all__ = ["MIN_ROOT_THRESHOLD", "SIGNED_AT", "TIME_FORM", "Source", "Trust", "open_assigned"]

log = logging.getLogger("edge_sdk.ota.trust")

Answer = TypeVar("Answer")

MIN_ROOT_THRESHOLD = 2
SIGNED_AT = "edge_sdk_signed"
"""Field of a repository's timestamp that says when it was signed, in the form `TIME_FORM`."""
TIME_FORM = "%Y-%m-%dT%H:%M:%SZ"

_TOP_LEVEL = ("root", "timestamp", "snapshot", "targets")
_MAX_ROOT_BYTES = 512_000
_MAX_ASSIGNMENT_BYTES = 16_384
_MAX_TARGET_BYTES = 16 << 20


class Trust:
    """Verified answers to the one question what this device should run.

    Parameters
    ----------
    folder
        Where the metadata is kept, each role under its name, and the time seen.
    root
        The pinned root metadata, as bytes or a path.
    min_threshold
        Keys of the root that must sign a new one, at least.
    time
        The time that expiry is held against; by default the device's clock with a floor in ``folder``.

    Raises
    ------
    InputError
        There is no such file.
    TrustError
        It is not root metadata, is not signed by its own keys, or fewer keys suffice.
    """

    def __init__(
        self,
        folder: Path,
        root: bytes | str | Path,
        *,
        min_threshold: int = MIN_ROOT_THRESHOLD,
        time: TrustedTime | None = None,
    ) -> None:
        self._folder = make_folder(folder)
        clear_unfinished(folder)
        clear_unfinished(folder / "root_history")
        self._min_threshold = min_threshold
        self.time = time or TrustedTime(folder / "time")
        self._root = root if isinstance(root, bytes) else _read_root(Path(root))
        self._check_root(self._root, "the pinned root")

    def refresh(self, source: Source) -> None:
        """Bring the metadata of the top-level roles up to date; raise as `resolve` does."""
        self._with_updater(source, lambda updater, fetcher: None)

    def resolve(self, device: str, source: Source, model: str = "") -> tuple[Assignment, Target] | None:
        """Fetch and verify what the device is assigned; None if it is assigned nothing.

        Parameters
        ----------
        device
            Device id.
        source
            Where the repository is.
        model
            Which of the device's several models; empty where it has one.

        Raises
        ------
        TrustError
            Metadata or assignment failed verification.
        TransferError
            The repository did not answer.
        StorageError
            The metadata could not be stored.
        """
        found = self._with_updater(source, lambda updater, fetcher: _assigned(device, model, updater, fetcher))
        if found is not None:
            self._count(found[0], model)
        return found

    def delta(self, base: str, target: Target, source: Source) -> Delta:
        """Fetch and verify the description of a delta.

        Parameters
        ----------
        base
            Digest (hex) of the bundle file that it is applied to.
        target
            What it makes.
        source
            Where the repository is.

        Raises
        ------
        TrustError
            There is no such delta, or metadata failed verification.
        TransferError, StorageError
            As of `resolve`.
        """
        path = delta_path(base, target.sha256)
        info = self._with_updater(source, lambda updater, fetcher: updater.get_targetinfo(path))
        if info is None:
            raise TrustError(f"the target {path} is not signed")
        return Delta.from_signed(base, info.path, info.length, info.hashes, info.custom)

    def download(self, targets: Mapping[str, Path], source: Source) -> None:
        """Make files what the targets of these names should be; fetch those that are not that already.

        For small files, as a whole; bundles come block by block, with `edge_sdk.ota.transfer.Download`.

        Raises
        ------
        TrustError
            There is no such target, or its bytes are not the signed ones; the file stays as it is.
        TransferError
            The repository did not answer.
        StorageError
            A file or the metadata could not be stored.
        """

        def fetch(updater: Updater, fetcher: _Fetcher) -> None:
            for name, path in targets.items():
                info = updater.get_targetinfo(name)
                if info is None:
                    raise TrustError(f"the target {name} is not signed")
                if not _is(path, info):
                    write_durably(path, fetcher.target(info, _MAX_TARGET_BYTES))

        self._with_updater(source, fetch)

    def _with_updater(self, source: Source, work: Callable[[Updater, _Fetcher], Answer]) -> Answer:
        try:
            return self._attempt(source, work)
        except ExpiredMetadataError as error:
            # new roots are kept by now: they may take the time back from keys that were replaced
            if not self.time.drop_unless(self._time_keys()):
                raise TrustError(self._expired(error)) from error
        try:
            return self._attempt(source, work)
        except ExpiredMetadataError as error:
            raise TrustError(self._expired(error)) from error

    def _attempt(self, source: Source, work: Callable[[Updater, _Fetcher], Answer]) -> Answer:
        with storage_errors(self._folder), tempfile.TemporaryDirectory(prefix="edge-sdk-trust-") as temporary:
            copy = Path(temporary)
            shutil.copytree(self._folder, copy, dirs_exist_ok=True, symlinks=True)
            fetcher = _Fetcher(source)
            try:
                try:
                    config = UpdaterConfig()
                    updater = Updater(str(copy), "metadata/", fetcher=fetcher, config=config, bootstrap=self._root)
                    _set_time(updater, self.time.now())
                    updater.refresh()
                    fetcher.consistent = self._learn_time(copy)
                    _set_time(updater, self.time.now())
                    return work(updater, fetcher)
                finally:
                    self._keep(copy)
            except DownloadHTTPError as error:
                raise TransferError(f"the repository has no such metadata: {_line(error)}") from error
            except ExpiredMetadataError:
                raise
            except (RepositoryError, DownloadError) as error:
                raise TrustError(f"the repository's metadata is refused: {_line(error)}") from error

    def _learn_time(self, copy: Path) -> bool:
        """Raise the floor of the time, and hold expiry against it once more: the clock may be far behind it.

        Returns whether targets have their digests in their names.
        """
        metadata = {role: Metadata[Any].from_bytes((copy / f"{role}.json").read_bytes()).signed for role in _TOP_LEVEL}
        timestamp = metadata["timestamp"]
        try:
            signed = datetime.strptime(timestamp.unrecognized_fields[SIGNED_AT], TIME_FORM).replace(tzinfo=UTC)
        except (KeyError, TypeError, ValueError):  # not a repository of ours: not expired yet is all that is known
            signed = self.time.now()
        self.time.rise(min(signed, timestamp.expires), metadata["root"].roles["timestamp"].keyids)
        for role, signed_role in metadata.items():
            if signed_role.is_expired(self.time.now()):
                raise ExpiredMetadataError(f"{role}.json is expired")
        return bool(metadata["root"].consistent_snapshot)

    def _count(self, assignment: Assignment, model: str) -> None:
        """Refuse an assignment older than one seen; what keys signed that were replaced since counts no more."""
        path, keys = self._folder / (f"assignment~{model}" if model else "assignment"), self._assignment_keys()
        try:
            document = canonical.loads(path.read_bytes(), limit=16_384)
            seen = int(document["counter"]) if document["keys"] == keys else 0
        except (OSError, InputError, KeyError, TypeError, ValueError):
            seen = 0
        if assignment.counter < seen:
            raise TrustError(f"assignment {assignment.counter} is older than {seen}, already seen")
        if assignment.counter > seen:
            write_durably(path, canonical.dumps({"format": 1, "counter": assignment.counter, "keys": keys}))

    def _assignment_keys(self) -> list[str]:
        with storage_errors(self._folder, "read"):
            targets = Metadata[Targets].from_bytes((self._folder / "targets.json").read_bytes()).signed
        roles = targets.delegations.roles if targets.delegations is not None else None
        return sorted(roles["assignments"].keyids) if roles and "assignments" in roles else []

    def _time_keys(self) -> list[str]:
        with contextlib.suppress(OSError, RepositoryError):  # before the first contact there is none
            root = Metadata[Root].from_bytes((self._folder / "root.json").read_bytes()).signed
            return list(root.roles["timestamp"].keyids)
        return []

    def _expired(self, error: Exception) -> str:
        return f"the repository's metadata is refused: {_line(error)} at {self.time.now():%Y-%m-%d %H:%M} UTC"

    def _keep(self, copy: Path) -> None:
        """Store durably what the updater accepted; roots first, in their order."""
        make_folder(self._folder / "root_history")
        roots = sorted(copy.glob("root_history/*.root.json"), key=lambda path: int(path.name.split(".")[0]))
        for path in [*roots, *sorted(copy.glob("*.json"))]:
            data, ours = path.read_bytes(), self._folder / path.relative_to(copy)
            if ours.exists() and ours.read_bytes() == data:
                continue
            if path in roots:
                self._check_root(data, path.name)
            write_durably(ours, data)

    def _check_root(self, data: bytes, name: str) -> None:
        if len(data) > _MAX_ROOT_BYTES:
            raise TrustError(f"{name} is too large to be root metadata")
        try:
            metadata = Metadata[Root].from_bytes(data)
            if not isinstance(metadata.signed, Root):
                raise TrustError(f"{name} is not root metadata but {metadata.signed.type}")
            metadata.signed.verify_delegate("root", metadata.signed_bytes, metadata.signatures)
        except (RepositoryError, ValueError) as error:
            raise TrustError(f"{name} is not valid root metadata: {_line(error)}") from error
        threshold, least = metadata.signed.roles["root"].threshold, self._min_threshold
        if threshold < least:
            raise TrustError(f"{name} needs {threshold} signature; a root that {least} keys sign is required")


def _set_time(updater: Updater, now: datetime) -> None:
    # it has no public way to be told the time, and takes the clock's, which may stand at 1970
    updater._trusted_set.reference_time = now  # noqa: SLF001


def _is(path: Path, info: TargetFile) -> bool:
    try:
        with path.open("rb") as stream:
            info.verify_length_and_hashes(stream)
    except (OSError, RepositoryError):
        return False
    return True


def _assigned(device: str, model: str, updater: Updater, fetcher: _Fetcher) -> tuple[Assignment, Target] | None:
    info = updater.get_targetinfo(assignment_path(device, model))
    if info is None:
        return None
    assignment = Assignment.from_bytes(fetcher.target(info, _MAX_ASSIGNMENT_BYTES))
    if assignment.device != device:
        raise TrustError(f"the assignment is for the device {assignment.device}, not for {device}")
    if model and assignment.name != model:
        raise TrustError(f"the assignment is for the model {assignment.name}, not for {model}")
    found = updater.get_targetinfo(assignment.target)
    if found is None:
        raise TrustError(f"the assigned bundle {assignment.target} is not signed")
    target = Target.from_signed(found.path, found.length, found.hashes, found.custom)
    if f"sha256:{target.sha256}" != assignment.sha256:
        raise TrustError(f"the assignment names other bytes of {assignment.target} than its publisher signed")
    return assignment, target


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
    """Gives python-tuf files from a source: ``metadata/NAME`` and ``targets/PATH``, block by block."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self.consistent = True

    def _fetch(self, url: str) -> Iterator[bytes]:
        kind, _, name = url.partition("/")
        request = {"target": name} if kind == "targets" else {"metadata": unquote(name)}
        block, left = 0, 1
        while left > 0:
            [(_, reply)] = self._source.fetch([{**request, "block": block}])
            if reply.status != 200:
                raise DownloadHTTPError(f"{name}: status {reply.status}", reply.status)
            left = reply.size - len(reply.data) if block == 0 else left - len(reply.data)
            block += 1
            if not reply.data:
                return
            yield reply.data

    def target(self, info: TargetFile, limit: int) -> bytes:
        """Return a target's verified bytes, fetched under the name that it has in the repository."""
        folder, slash, name = info.path.rpartition("/")
        prefix = f"{next(iter(info.hashes.values()))}." if self.consistent else ""
        data = self.download_bytes(f"targets/{folder}{slash}{prefix}{name}", min(info.length, limit))
        info.verify_length_and_hashes(data)
        return data


def _read_root(path: Path) -> bytes:
    if not path.is_file():
        raise InputError(f"there is no root metadata at {path}; copy root.json from the repository")
    with storage_errors(path, "read"), path.open("rb") as stream:
        return stream.read(_MAX_ROOT_BYTES + 1)


def _line(error: Exception) -> str:
    return one_line(error, 200)
