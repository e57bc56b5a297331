"""A table of answers from Parquet to the file that is mapped: made once, beside it, whole or not at all.

The Parquet file has, in any order, rows with the key of an input (``key``, as `edge_sdk.cloud.server.keys.item_keys`
gives it), or the input itself as a list of numbers under its name; and the outputs, as lists under their names or in a
struct ``outputs``. Rows with a text in ``error`` are none. Its metadata name the model (``edge_model_digest``).

What is mapped, ``NAME.parquet.index``, begins with its own description. It is used where that is of this Parquet file,
by size and time or else by SHA-256; else it is made anew. Processes that start at once make it one after the other, and
all but the first find it made.
"""

from __future__ import annotations

import logging
import mmap
import os
import tempfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from io import BufferedReader
from pathlib import Path
from typing import IO

from edge_sdk import canonical
from edge_sdk.cloud.server.tables import Answers, Column, Table
from edge_sdk.errors import InputError, MissingExtraError, StorageError
from edge_sdk.files import open_durably, storage_errors

__all__ = ["SUFFIX", "open_table"]

_log = logging.getLogger("edge_sdk.cloud.server")

SUFFIX = ".index"
_MAGIC = b"edge-sdk table 1\n"
_ALIGNED = 64
_MOST_HEADER = 2**20


@dataclass(frozen=True, slots=True)
class _Header:
    """What a file says of itself.

    Attributes
    ----------
    sha256, size, ctime_ns
        Of the Parquet file; the time is that of its last change, which no copy can set.
    model
        Digest of the model.
    rows
        How many answers there are.
    keys
        Where their keys begin.
    columns
        The outputs.
    end
        Size of the whole file.
    """

    sha256: str
    size: int
    ctime_ns: int
    model: str
    rows: int
    keys: int
    columns: tuple[Column, ...]
    end: int


def open_table(path: Path, answers: Answers) -> Table | None:
    """Map the table of a model; None, and a line in the log, where it is another model's.

    Parameters
    ----------
    path
        The Parquet file.
    answers
        What the model's answers are like.

    Raises
    ------
    InputError
        There is no such file, it is damaged, or does not hold answers of this kind.
    MissingExtraError
        It is read for the first time, and PyArrow is not installed.
    StorageError
        It cannot be read, or there is no room for what is made of it.
    """
    answers.check()
    if not path.is_file():
        raise InputError(f"model {answers.name}: there is no table at {path}")
    index = path.with_name(path.name + SUFFIX)
    with storage_errors(path, "read"), path.open("rb") as source:
        _take_turns(source)
        found = _open(index, source) or _make(index, path, source, answers)
    if isinstance(found, str) or found[0].model != answers.digest:
        other = found if isinstance(found, str) else found[0].model
        _log.warning(
            "model %s: %s holds answers of the model %s, not of %s; it is not used",
            answers.name,
            path,
            other,
            answers.digest,
        )
        return None
    header, mapped = found
    if [(c.name, c.dtype, c.shape) for c in header.columns] != list(answers.columns()):
        raise InputError(f"{index} has other outputs than model {answers.name}; remove it")
    with suppress(AttributeError, OSError):  # keys are looked at with every request
        mapped.madvise(mmap.MADV_WILLNEED, 0, header.keys + 16 * header.rows)
    return Table(mapped, header.rows, header.keys, header.columns, whole=answers.whole)


def _take_turns(source: BufferedReader) -> None:
    """Wait until no other process makes something of a file; the lock goes with the file."""
    with suppress(ImportError, OSError):  # not on Windows, nor on every network folder: then each makes its own
        import fcntl

        fcntl.flock(source, fcntl.LOCK_EX)


def _open(index: Path, source: BufferedReader) -> tuple[_Header, mmap.mmap] | None:
    """Map a file that was made before; None where there is none, or not of this Parquet file, or it is damaged."""
    try:
        with index.open("rb") as stream:
            header = _read_header(stream)
            status = os.fstat(source.fileno())
            if header is None or os.fstat(stream.fileno()).st_size != header.end or header.size != status.st_size:
                return None
            if header.ctime_ns != status.st_ctime_ns and header.sha256 != _sha256(source):
                return None
            return header, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
    except OSError:
        return None


def _read_header(stream: IO[bytes]) -> _Header | None:
    if stream.read(len(_MAGIC)) != _MAGIC:
        return None
    length = int.from_bytes(stream.read(8), "little")
    if length > _MOST_HEADER:
        return None
    data, digest = stream.read(length), stream.read(71)
    if canonical.sha256(data).encode() != digest:
        return None
    values = canonical.loads(data)
    columns = tuple(Column(**{**column, "shape": tuple(column["shape"])}) for column in values.pop("columns"))
    return _Header(columns=columns, **values)


def _make(index: Path, path: Path, source: BufferedReader, answers: Answers) -> tuple[_Header, mmap.mmap] | str:
    """Make the file and map it; return the model's digest where it is another's."""
    try:
        from edge_sdk.cloud.server.table_making import Reading
    except ModuleNotFoundError as error:
        raise MissingExtraError("pyarrow", "batch") from error
    reading = Reading(path, source, answers)
    model: str = reading.model
    if model != answers.digest:
        return model
    header, head = _plan(source, answers, reading.rows)

    def write(stream: IO[bytes]) -> None:
        _reserve(stream, header.end)
        mapped = mmap.mmap(stream.fileno(), header.end)  # closed when the table goes, and not while an error holds it
        mapped[: len(head)] = head
        reading.fill(Table(mapped, header.rows, header.keys, header.columns, whole=answers.whole))
        mapped.flush()

    return header, _written(index, write)


def _written(index: Path, write: Callable[[IO[bytes]], None]) -> mmap.mmap:
    try:
        with open_durably(index) as stream:
            write(stream)
        with index.open("rb") as stream:
            return mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
    except (StorageError, PermissionError) as error:
        _log.warning("%s; the table is kept in the temporary folder, and made again by each process", error)
    with storage_errors(Path(tempfile.gettempdir())), tempfile.TemporaryFile() as stream:
        write(stream)
        return mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)


def _plan(source: BufferedReader, answers: Answers, rows: int) -> tuple[_Header, bytes]:
    """Return what the file will say of itself, and how it begins."""
    status = os.fstat(source.fileno())
    sha256, head, header = _sha256(source), b"", None
    for _ in range(3):  # how long the description is hangs on the places that it tells
        keys = _aligned(len(head))
        at, columns = keys + 16 * rows, []
        for name, dtype, shape in answers.columns():
            columns.append(Column(name, dtype, shape, _aligned(at)))
            at = _aligned(at) + rows * columns[-1].row_bytes
        header = _Header(sha256, status.st_size, status.st_ctime_ns, answers.digest, rows, keys, tuple(columns), at)
        data = canonical.dumps(asdict(header))
        head = _MAGIC + len(data).to_bytes(8, "little") + data + canonical.sha256(data).encode()
    assert header is not None
    return header, head


def _reserve(stream: IO[bytes], size: int) -> None:
    """Make a file of a size that is there: a write through a map cannot say that the disk is full."""
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(stream.fileno(), 0, size)
    else:
        for at in range(0, size, 2**20):
            stream.write(bytes(min(2**20, size - at)))
        stream.flush()


def _sha256(source: BufferedReader) -> str:
    import hashlib

    source.seek(0)
    return hashlib.file_digest(source, "sha256").hexdigest()


def _aligned(at: int) -> int:
    return -(-at // _ALIGNED) * _ALIGNED
