"""Durable writes: a file is there whole and for good, or not at all.

The order is the one that survives a power cut on a POSIX file system: write to a temporary name
in the same folder, fsync the file, rename it, fsync the folder.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from edge_sdk.errors import StorageError

__all__ = [
    "clear_unfinished",
    "fsync_dir",
    "fsync_file",
    "make_folder",
    "open_durably",
    "storage_errors",
    "write_durably",
]


_UNFINISHED = ".unfinished"


@contextmanager
def storage_errors(path: Path, doing: str = "write") -> Iterator[None]:
    """Turn an ``OSError`` into a `StorageError` that names the path and the cause."""
    try:
        yield
    except StorageError:
        raise
    except OSError as error:
        raise StorageError(f"cannot {doing} {path}: {error.strerror or error}") from error


def fsync_file(path: Path) -> None:
    """Make the content of a file durable."""
    _fsync(path, os.O_RDONLY)


def fsync_dir(path: Path) -> None:
    """Make the entries of a folder (creations, renames, removals) durable."""
    _fsync(path, os.O_RDONLY | getattr(os, "O_DIRECTORY", 0))


def _fsync(path: Path, flags: int) -> None:
    with storage_errors(path, "fsync"):
        descriptor = os.open(path, flags)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def make_folder(path: Path) -> Path:
    """Create a folder and its parents, durably, if they are not there; raise `StorageError` if that fails."""
    with storage_errors(path, "create the folder"):
        new = [folder for folder in (path, *path.parents) if not folder.exists()]
        path.mkdir(parents=True, exist_ok=True)
    for folder in reversed(new):
        fsync_dir(folder.parent)
    return path


@contextmanager
def open_durably(path: Path, *, mode: int = 0o644) -> Iterator[BinaryIO]:
    """Open a file for writing that appears under its name only when the block ends well.

    Parameters
    ----------
    path
        Final name; an existing file is replaced at once, never seen half-written.
    mode
        Permissions of the new file.

    Raises
    ------
    StorageError
        The folder is missing or cannot be written, the disk is full, or the name is that of a
        device or a pipe. Nothing is left behind.
    """
    with storage_errors(path):
        if path.exists() and not (path.is_file() or path.is_dir()):
            raise StorageError(f"cannot write {path}: it is a device or a pipe, and a file would take its place")
        import tempfile  # only who writes needs it

        descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}.", suffix=_UNFINISHED, dir=path.parent)
        try:
            with os.fdopen(descriptor, "wb") as stream:
                yield stream
                stream.flush()
                os.fchmod(stream.fileno(), mode)
                os.fsync(stream.fileno())
            Path(temporary).replace(path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
        fsync_dir(path.parent)


def write_durably(path: Path, data: bytes, *, mode: int = 0o644) -> None:
    """Replace a file's content atomically and durably; raise `StorageError` if that fails."""
    with open_durably(path, mode=mode) as stream:
        stream.write(data)


def clear_unfinished(folder: Path) -> None:
    """Remove what writes into a folder that a crash cut short left there; only for the folder's one owner."""
    with storage_errors(folder, "clear"):
        for path in folder.glob(f".*{_UNFINISHED}"):
            path.unlink()
