"""Where the inputs of a batch come from: the rows of a Parquet file, or the files below a folder.

Rows come one after the other, from any place on, and few of them are in memory at a time.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.parquet as pq

from edge_sdk import canonical
from edge_sdk.cloud.batch.cells import Cells, Wanted, cells_for
from edge_sdk.errors import DataError, InputError, one_line

__all__ = ["Row", "Source", "open_source"]

_BATCH = 64  # rows read at once
_BUFFER = 1 << 20  # bytes of a column read at once: a row group may be larger than memory, a page may not
_IDS = ("id", "path")
_SUFFIXES = {
    "image": frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"}),
    "audio": frozenset({".wav"}),
    "table": frozenset({".json", ".npy"}),
    "tensor": frozenset({".npy"}),
}


@dataclass(frozen=True, slots=True)
class Row:
    """One input: what it is called, and what a model takes, or why that cannot be had."""

    id: object
    value: Any
    error: str | None = None


class Source(Protocol):
    """The inputs of a batch.

    Attributes
    ----------
    count
        How many there are.
    digest
        Changes when they do, as far as sizes, times and the footer of a Parquet file tell.
    id_type
        Arrow type of what rows are called.
    """

    count: int
    digest: str
    id_type: Any

    def rows(self, start: int) -> Iterator[Row]:
        """Yield rows from a place on; raise `DataError` where they cannot be read."""


def open_source(path: Path, wanted: Wanted, *, column: str | None = None, id_column: str | None = None) -> Source:
    """Open a Parquet file or a folder.

    Parameters
    ----------
    path
        The file or folder.
    wanted
        What the model takes.
    column
        Which column of a Parquet file holds it; None finds it.
    id_column
        Which column of a Parquet file names a row; None takes ``id`` or ``path``, or else the row's number.

    Raises
    ------
    InputError
        There is nothing that the model takes, or it cannot be told where.
    """
    if path.is_dir():
        if column is not None or id_column is not None:
            raise InputError(f"{path} is a folder; a column can be named in a Parquet file only")
        return _Folder(path, wanted)
    if not path.is_file():
        raise InputError(f"there is no Parquet file or folder at {path}")
    return _Parquet(path, wanted, column, id_column)


class _Folder:
    """Files by name, called by their path below the folder."""

    def __init__(self, path: Path, wanted: Wanted) -> None:
        suffixes = _SUFFIXES[wanted.kind]
        self._files = sorted(file for file in path.rglob("*") if file.suffix.lower() in suffixes and file.is_file())
        if not self._files:
            raise InputError(f"{path} holds no {wanted.kind} ({', '.join(sorted(suffixes))})")
        self._root, self.count, self.id_type = path, len(self._files), pa.string()
        state = hashlib.sha256()
        for file in self._files:
            found = file.stat()
            state.update(canonical.dumps([self._name(file), found.st_size, found.st_mtime_ns]))
        self.digest = "sha256:" + state.hexdigest()

    def rows(self, start: int) -> Iterator[Row]:
        for file in self._files[start:]:
            yield Row(self._name(file), file)

    def _name(self, file: Path) -> str:
        """Return the path below the folder; bytes that are no UTF-8 as escapes."""
        return os.fsencode(file.relative_to(self._root).as_posix()).decode("utf-8", "backslashreplace")


class _Parquet:
    """Rows of a Parquet file."""

    def __init__(self, path: Path, wanted: Wanted, column: str | None, id_column: str | None) -> None:
        self._path = path
        try:
            with self._open() as file:
                schema, footer = file.schema_arrow, file.metadata
                self._groups = [footer.row_group(n).num_rows for n in range(footer.num_row_groups)]
            found = path.stat()
            with path.open("rb") as raw:
                raw.seek(max(0, found.st_size - 8 - footer.serialized_size))
                digest = canonical.sha256(raw.read())
        except (pa.ArrowException, OSError) as error:
            raise InputError(f"{path} is not a Parquet file that can be read: {_line(error)}") from error
        try:
            self._cells: Cells = cells_for(schema, wanted, column)
        except InputError as error:
            raise InputError(f"{path}: {error}") from error
        self._id = id_column or next((name for name in _IDS if name in schema.names), None)
        if self._id is not None and schema.get_field_index(self._id) < 0:
            raise InputError(f"{path} has no column {self._id!r} of its own; there are {', '.join(schema.names)}")
        self.count = sum(self._groups)
        self.id_type = pa.int64() if self._id is None else schema.field(self._id).type
        self.digest = canonical.digest_of([digest, found.st_size, found.st_mtime_ns])

    def rows(self, start: int) -> Iterator[Row]:
        first, at = 0, 0  # the row group that holds the row, and the row that it begins with
        while first < len(self._groups) and at + self._groups[first] <= start:
            at += self._groups[first]
            first += 1
        columns = list(dict.fromkeys([*self._cells.columns, *([] if self._id is None else [self._id])]))
        try:
            with self._open() as file:
                for group in range(first, len(self._groups)):  # one by one: a damaged one leaves those before it
                    for batch in file.iter_batches(_BATCH, row_groups=[group], columns=columns):
                        yield from self._of(batch, at, start)
                        at += len(batch)
        except (pa.ArrowException, OSError) as error:
            raise DataError(f"{self._path} cannot be read from row {at} on: {_line(error)}") from error

    def _of(self, batch: Any, at: int, start: int) -> Iterator[Row]:
        for n in range(max(0, start - at), len(batch)):
            name = at + n if self._id is None else batch.column(self._id)[n].as_py()
            try:
                yield Row(name, self._cells.value(batch, n))
            except InputError as error:
                yield Row(name, None, str(error))

    def _open(self) -> Any:
        return pq.ParquetFile(self._path, buffer_size=_BUFFER, pre_buffer=False)


def _line(error: Exception) -> str:
    return one_line(error, 200)
