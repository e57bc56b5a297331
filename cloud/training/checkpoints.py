"""The state of a run on disk: whole and for good, or the one before it.

A checkpoint is one file: a line of JSON that says what is in it, the arrays, and the SHA-256 of
all that. It appears under its name only when it is durable; the last two are kept. A file that was
damaged all the same is passed over, and the run goes on from the one before.
"""

from __future__ import annotations

import fcntl
import hashlib
import logging
import math
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt

from edge_sdk import canonical, files
from edge_sdk.errors import CompressionError, InputError

__all__ = ["Checkpoint", "clear", "held", "newest", "save"]

logger = logging.getLogger("edge_sdk.cloud.training")

FORMAT = 1
KEPT = 2
NAME = re.compile(r"step-(\d{9})\.ckpt")
DIGEST = hashlib.sha256().digest_size


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """Where a run is.

    Attributes
    ----------
    step
        Steps taken.
    arrays
        Values of variables by name.
    facts
        What else belongs to it, JSON-compatible.
    """

    step: int
    arrays: Mapping[str, npt.NDArray[Any]] = field(repr=False)
    facts: Mapping[str, Any] = field(repr=False, default_factory=dict)


def save(folder: Path, checkpoint: Checkpoint) -> Path:
    """Write a checkpoint durably, then remove all but it and the one before.

    Raises
    ------
    StorageError
        If it cannot be written; those before are still there.
    """
    path = folder / f"step-{checkpoint.step:09d}.ckpt"
    described = [[name, str(array.dtype), list(array.shape)] for name, array in checkpoint.arrays.items()]
    head = {"format": FORMAT, "step": checkpoint.step, "facts": dict(checkpoint.facts), "arrays": described}
    hasher = hashlib.sha256()
    with files.open_durably(path) as stream:
        for piece in (
            canonical.dumps(head),
            b"\n",
            *(np.ascontiguousarray(array).tobytes() for array in checkpoint.arrays.values()),
        ):
            hasher.update(piece)
            stream.write(piece)
        stream.write(hasher.digest())
    with files.storage_errors(folder):
        found = _found(folder)
        # a later step than this one was damaged and passed over, or the run would be there
        at = found.index(path)
        for other in [*found[:at], *found[at + KEPT :]]:
            other.unlink(missing_ok=True)
    return path


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Let nobody else write into a folder of checkpoints, until the block or the process ends.

    Raises
    ------
    CompressionError
        Another process does.
    """
    with files.storage_errors(folder, "read"):
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise CompressionError(
                f"another process trains in {folder}: wait for it, or take another folder"
            ) from error
        except OSError as error:  # some network file systems lock no folders
            logger.warning("%s cannot be locked (%s): start no second run there", folder, error.strerror)
        yield
    finally:
        os.close(handle)


def newest(folder: Path) -> Checkpoint | None:
    """Read the last checkpoint that is whole; None where there is none.

    What a killed process left half-written is removed.
    """
    with files.storage_errors(folder, "read"):
        if not folder.is_dir():
            return None
        for left in folder.glob(".step-*"):
            left.unlink(missing_ok=True)
        for path in _found(folder):
            try:
                return _parsed(path.read_bytes())
            except (InputError, KeyError, TypeError, ValueError) as error:
                logger.warning("%s is damaged (%s): going on from the one before", path, error)
    return None


def clear(folder: Path) -> None:
    """Remove all checkpoints, and the folder if nothing else is in it.

    Raises
    ------
    StorageError
        If one cannot be removed.
    """
    with files.storage_errors(folder, "remove"):
        if not folder.is_dir():
            return
        for path in [*_found(folder), *folder.glob(".step-*")]:
            path.unlink(missing_ok=True)
        if not any(folder.iterdir()):
            folder.rmdir()


def _found(folder: Path) -> list[Path]:
    """Return the checkpoints, last step first."""
    return sorted((path for path in folder.iterdir() if NAME.fullmatch(path.name)), reverse=True)


def _parsed(data: bytes) -> Checkpoint:
    body, digest = data[:-DIGEST], data[-DIGEST:]
    if hashlib.sha256(body).digest() != digest:
        raise ValueError("its content is not what its digest says")
    line, _, values = body.partition(b"\n")
    head = canonical.loads(line, limit=1 << 30)
    if head["format"] != FORMAT:
        raise ValueError(f"format {head['format']}, this version reads {FORMAT}")
    arrays, at = {}, 0
    for name, kind, shape in head["arrays"]:
        dtype = np.dtype(ml_dtypes.bfloat16) if kind == "bfloat16" else np.dtype(kind)
        count = math.prod(shape)
        arrays[name] = np.frombuffer(values, dtype, count, at).reshape(shape)
        at += count * dtype.itemsize
    return Checkpoint(int(head["step"]), arrays, head["facts"])
