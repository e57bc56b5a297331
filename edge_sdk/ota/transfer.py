"""Downloads that go on where they were cut.

A download's file is its own record of progress: on resumption every block that lies in it is
hashed against the signed list, and those that match are there. So neither a torn write nor a
lost one can be taken for a block that arrived.
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path

from edge_sdk.errors import StorageError, TransferError, TrustError
from edge_sdk.files import fsync_dir, make_folder, storage_errors
from edge_sdk.ota.channel import Source
from edge_sdk.ota.records import Delta, Target

__all__ = ["Download"]

_MAX_STRIKES = 3


class Download:
    """One bundle file, or a delta, on its way into a folder.

    Parameters
    ----------
    folder
        Where it is collected; made if missing.
    target
        The signed description of the file.
    """

    def __init__(self, folder: Path, target: Target | Delta) -> None:
        self._target = target
        self._part = make_folder(folder) / f"{target.sha256}.part"
        self.path = folder / f"{target.sha256}.edge"

    def missing(self) -> list[int]:
        """Return the numbers of the blocks that are not there, or not as signed."""
        missing = list(range(len(self._target.blocks)))
        if not self._part.exists():
            return missing
        with storage_errors(self._part, "read"), self._part.open("rb") as stream:
            return [number for number in missing if not self._matches(number, stream.read(self._target.block_bytes))]

    def missing_bytes(self) -> int:
        """Return how many bytes the missing blocks have."""
        step = self._target.block_bytes
        return sum(min(step, self._target.size - number * step) for number in self.missing())

    def fetch(self, source: Source, *, sync_every: int = 8) -> Path:
        """Fetch what is missing and return the whole, checked file.

        Parameters
        ----------
        sync_every
            Blocks between two fsyncs: as many may be lost in a power cut.

        Raises
        ------
        TransferError
            Blocks did not arrive; what did is kept.
        TrustError
            The repository's bytes are not the signed ones.
        StorageError
            The disk refuses, or has no room for the file and what is unpacked from it.
        """
        if self.path.exists():
            if self._whole(self.path):
                return self.path
            self.discard()
        missing = self.missing()
        self.check_space(len(missing))
        with storage_errors(self._part):
            descriptor = os.open(self._part, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            try:
                os.ftruncate(descriptor, self._target.size)
                for _ in range(_MAX_STRIKES):
                    missing = self._fetch_blocks(source, descriptor, missing, sync_every)
                    if not missing:
                        break
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
            if missing:
                raise TrustError(
                    f"block {missing[0]} of {self._target.path} does not match its signed hash: "
                    "its bytes were changed after signing"
                )
            if not self._whole(self._part):
                self._part.unlink()
                raise TrustError(f"{self._target.path} does not match its signed hash")
            self._part.replace(self.path)
        fsync_dir(self.path.parent)
        return self.path

    def fill(self, data: Iterable[bytes]) -> None:
        """Put whole blocks of ``data``, the file from its beginning, where blocks are missing; durable at the end.

        Raises
        ------
        TrustError
            A block is not as signed; those before it are kept.
        StorageError
            The disk refuses.
        """
        missing, step, number, left = set(self.missing()), self._target.block_bytes, 0, bytearray()
        with storage_errors(self._part):
            descriptor = os.open(self._part, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            try:
                os.ftruncate(descriptor, self._target.size)
                for part in data:
                    left += part
                    while len(left) >= min(step, self._target.size - number * step) > 0:
                        block = bytes(left[:step])
                        del left[:step]
                        if not self._matches(number, block):
                            raise TrustError(f"block {number} of what it makes is not as signed")
                        if number in missing:
                            _write(descriptor, block, number * step)
                        number += 1
            finally:
                os.fsync(descriptor)
                os.close(descriptor)

    def discard(self) -> None:
        """Remove what was collected."""
        with storage_errors(self._part, "remove"):
            self._part.unlink(missing_ok=True)
            self.path.unlink(missing_ok=True)

    def discard_others(self) -> None:
        """Remove what was collected of other files: one download at a time needs space."""
        with storage_errors(self._part.parent, "clear"):
            for path in self._part.parent.iterdir():
                if path not in (self._part, self.path):
                    path.unlink()

    def check_space(self, blocks: int, beside: int = 0) -> None:
        """Raise `StorageError` if so many blocks, what is unpacked of the file, and bytes ``beside`` have no room."""
        needed = blocks * self._target.block_bytes + self._target.size + beside
        with storage_errors(self._part.parent, "measure"):
            free = shutil.disk_usage(self._part.parent).free
        if free < needed:
            raise StorageError(
                f"{self._target.path} needs {needed} bytes of disk in {self._part.parent}; {free} are free"
            )

    def _fetch_blocks(self, source: Source, descriptor: int, numbers: Sequence[int], sync_every: int) -> list[int]:
        path, step, wrong = self._target.stored_path, self._target.block_bytes, []
        requests = [{"target": path, "block": number} for number in numbers]
        for written, (index, reply) in enumerate(source.fetch(requests), start=1):
            number = numbers[index]
            if reply.status not in (200, 416):
                raise TransferError(f"the repository has no {self._target.path} (status {reply.status})")
            if not self._matches(number, reply.data):
                wrong.append(number)
                continue
            _write(descriptor, reply.data, number * step)
            if written % sync_every == 0:
                os.fsync(descriptor)
        return sorted(wrong)

    def _matches(self, number: int, data: bytes) -> bool:
        return hashlib.sha256(data).hexdigest() == self._target.blocks[number]

    def _whole(self, path: Path) -> bool:
        with storage_errors(path, "read"), path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest() == self._target.sha256


def _write(descriptor: int, data: bytes, at: int) -> None:
    if os.pwrite(descriptor, data, at) != len(data):  # it took what there was room for
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
