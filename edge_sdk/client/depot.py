"""The folder of an outbox: one file an input, each there whole and for good or not at all, of one process at a time."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from edge_sdk.client.parcels import FORMAT, MOST_BYTES, Parcel
from edge_sdk.errors import InputError, StorageError
from edge_sdk.files import fsync_dir, make_folder, storage_errors, write_durably

__all__ = ["Depot", "Entry", "size_on_disk"]

_NAME = re.compile(r"([0-9]{16})-([0-9]{1,12})-([0-9a-f]{16})-([0-9a-f]{1,64})\.parcel")
_BEGUN = re.compile(r"\.([0-9]{16}$|outbox\.)")
_FORMAT_FILE = "outbox"
_FORMAT_TEXT = b"edge-sdk outbox %d\n"
_BLOCK = 4096  # what a file takes of a disk is a multiple of this
_SANE_TIME = 1_700_000_000.0  # before, a clock has not been set


@dataclass(slots=True, eq=False)
class Entry:
    """One input on the disk.

    Attributes
    ----------
    number
        Its place in the queue.
    id, kind
        As of its `Parcel`.
    path, size
        Its file, and the bytes that it takes.
    born
        Reading of the monotonic clock from which it ages.
    """

    number: int
    id: str
    kind: str
    path: Path
    size: int
    born: float


def size_on_disk(size: int) -> int:
    """Return what a file of so many bytes takes."""
    return -(-size // _BLOCK) * _BLOCK


class Depot:
    """A folder of parcels; `write` is for one thread.

    Parameters
    ----------
    folder
        Made where it is not there. Only this user may read what is written.

    Raises
    ------
    StorageError
        The folder cannot be made or read, is in use, or is of another version of the SDK.

    Attributes
    ----------
    found
        What an earlier process has left, the oldest first.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = make_folder(folder)
        self._lock = _own(folder)
        try:
            self.found = self._find()
        except BaseException:
            self._lock.close()
            raise
        self._next = self.found[-1].number + 1 if self.found else 0

    def write(self, parcel: Parcel, parts: Iterable[bytes | memoryview]) -> Entry:
        """Write a parcel, given its parts, to a file of its own, durably.

        Raises
        ------
        InputError
            It has a name that no file can have.
        OSError
            The disk does not take it. Nothing is left behind.
        """
        number, self._next = self._next, self._next + 1
        name = f"{number:016d}-{max(0, int(parcel.time))}-{parcel.kind}-{parcel.id}.parcel"
        if _NAME.fullmatch(name) is None:
            raise InputError(f"an input is named {parcel.id!r}, which no file can be")
        path, temporary = self.folder / name, self.folder / f".{number:016d}"
        try:
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            try:
                size = 0
                for part in parts:
                    rest = memoryview(part)
                    size += len(rest)
                    while rest:
                        rest = rest[os.write(descriptor, rest) :]
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
            temporary.replace(path)
            fsync_dir(self.folder)
        except BaseException:
            for file in (temporary, path):
                file.unlink(missing_ok=True)
            raise
        return Entry(number, parcel.id, parcel.kind, path, size_on_disk(size), time.monotonic())

    def read(self, entry: Entry) -> Parcel:
        """Return a parcel.

        Raises
        ------
        InputError
            Its file is damaged, or gone.
        StorageError
            The disk does not give it back.
        """
        with storage_errors(entry.path, "read"):
            try:
                with entry.path.open("rb") as stream:
                    data = stream.read(MOST_BYTES + 1)
            except FileNotFoundError as error:
                raise InputError("its file is gone") from error
        parcel = Parcel.from_bytes(data)
        if (parcel.id, parcel.kind) != (entry.id, entry.kind):
            raise InputError("its file is named as another")
        return parcel

    def close(self) -> None:
        """Let others have the folder."""
        self._lock.close()

    def _find(self) -> list[Entry]:
        now, wall = time.monotonic(), time.time()
        found: dict[str, Entry] = {}
        with storage_errors(self.folder, "read"):
            for path in sorted(self.folder.iterdir()):
                match = _NAME.fullmatch(path.name)
                if match is None:
                    if _BEGUN.match(path.name):  # and never finished
                        path.unlink(missing_ok=True)
                    continue
                put_at, size = float(match[2]), size_on_disk(path.stat().st_size)
                # a time that is yet to come, or from before the clock was set, says nothing: it ages from now
                age = max(0.0, wall - put_at) if put_at >= _SANE_TIME else 0.0
                found.setdefault(match[4], Entry(int(match[1]), match[4], match[3], path, size, now - age))
        return list(found.values())


def _own(folder: Path) -> BinaryIO:
    """Lock a folder until the returned file is closed, and see to its version."""
    import fcntl  # which not every system has that needs no outbox

    path = folder / _FORMAT_FILE
    if not path.exists():
        write_durably(path, _FORMAT_TEXT % FORMAT, mode=0o600)
    with storage_errors(path, "open"):
        handle = path.open("rb")
    try:
        with storage_errors(path, "lock"):
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise StorageError(
                    f"the outbox {folder} is in use: give every process, and every outbox in it, a folder of its own"
                ) from None
            said = handle.read(100)
        if said != _FORMAT_TEXT % FORMAT:
            shown = said.decode("ascii", "replace").strip()
            raise StorageError(
                f"{folder} holds {shown!r}, and this SDK reads 'edge-sdk outbox {FORMAT}': "
                "let the version that made it empty it, or give another folder"
            )
    except BaseException:
        handle.close()
        raise
    return handle
