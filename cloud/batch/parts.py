"""What is done of a batch, on disk: parts that are there whole, and one file at the end.

Beside ``OUTPUT`` lies the folder ``OUTPUT.parts`` while a batch is under way. It holds the plan (which model, which
input, which columns) and parts numbered from 0, each durable when it has its name. A run that finds the plan to be its
own goes on after the last part. At the end the parts become the row groups of the output, which appears at
once, and the folder goes.
"""

from __future__ import annotations

import contextlib
import io
import shutil
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pyarrow as pa
import pyarrow.parquet as pq

from edge_sdk import canonical
from edge_sdk.errors import InputError, StorageError
from edge_sdk.files import fsync_dir, make_folder, open_durably, storage_errors, write_durably

__all__ = ["Parts"]

_PLAN, _LOCK = "plan.json", "lock"
_PREFIX = b"edge_"  # of what the file says of the run


class Parts:
    """The parts of one output; use it as a context.

    Parameters
    ----------
    output
        The file that they become.
    plan
        What must be equal for a run to go on with another's parts; texts by name.
    columns
        Name and Arrow type of its columns, one of them ``error``.

    Attributes
    ----------
    rows, failed
        Rows that are durable, and those of them with an error.
    complete
        The output is there already.

    Raises
    ------
    InputError
        The output, or parts of it, are there and are of another run's plan.
    StorageError
        They cannot be written, or another run is at work on them.
    """

    def __init__(self, output: Path, plan: Mapping[str, str], columns: list[tuple[str, Any]]) -> None:
        self.output, self.folder = output, output.with_name(output.name + ".parts")
        self._plan = dict(plan)
        metadata = {_PREFIX + key.encode(): value.encode() for key, value in plan.items()}
        self._schema = pa.schema(columns, metadata=metadata)
        self._lock: Any = None
        self._count = self.rows = self.failed = 0
        self.complete = False
        if not output.parent.is_dir():
            raise InputError(f"there is no folder {output.parent} to write to")

    def __enter__(self) -> Self:
        if self.output.exists():
            self._take_output()
            if not self.folder.exists():
                return self
        make_folder(self.folder)
        self._take_lock()
        try:
            if self.complete:
                shutil.rmtree(self.folder, ignore_errors=True)  # a run was killed right before it did so
            else:
                self._take_plan()
                self._take_parts()
        except BaseException:
            self._lock.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._lock is not None:
            self._lock.close()

    def add(self, records: list[dict[str, Any]]) -> None:
        """Make rows durable: records by column."""
        table = pa.Table.from_pylist(records, schema=self._schema)
        data = io.BytesIO()
        pq.write_table(table, data, compression="zstd", row_group_size=max(1, len(table)))
        write_durably(self._path(self._count), data.getvalue())
        self._count += 1
        self._tell(table.column("error"))

    def finish(self) -> None:
        """Make one file of the parts."""
        with open_durably(self.output) as stream, pq.ParquetWriter(stream, self._schema, compression="zstd") as writer:
            for n in range(self._count):
                table = pq.read_table(self._path(n), partitioning=None)
                writer.write_table(table, row_group_size=max(1, len(table)))
        self.complete = True
        shutil.rmtree(self.folder, ignore_errors=True)
        fsync_dir(self.output.parent)

    def _take_output(self) -> None:
        found: dict[bytes, bytes] = {}
        with contextlib.suppress(pa.ArrowException, OSError):
            found = dict(pq.read_schema(self.output).metadata or {})
        self._compare(self.output, {_text(key): _text(value) for key, value in found.items() if key[:5] == _PREFIX})
        self.complete = True
        self._tell(pq.read_table(self.output, columns=["error"], partitioning=None).column("error"))

    def _take_lock(self) -> None:
        import fcntl

        with storage_errors(self.folder):
            self._lock = (self.folder / _LOCK).open("wb")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self._lock.close()
            raise StorageError(f"another run is at work on {self.output}") from error

    def _take_plan(self) -> None:
        path = self.folder / _PLAN
        if path.exists():
            try:
                found = canonical.loads(path.read_bytes())
            except (InputError, OSError):
                found = None
            self._compare(self.folder, found if isinstance(found, dict) else {})
        else:
            write_durably(path, canonical.dumps(self._plan))
            fsync_dir(self.output.parent)

    def _take_parts(self) -> None:
        """Find out how far the parts reach; a damaged one, and those after it, are written anew."""
        while (path := self._path(self._count)).exists():
            try:
                schema = pq.read_schema(path)
                errors = pq.read_table(path, columns=["error"], partitioning=None).column("error")
            except (pa.ArrowException, OSError):
                break
            if not schema.equals(self._schema):
                break
            self._count += 1
            self._tell(errors)

    def _compare(self, where: Path, found: Mapping[str, Any]) -> None:
        for key, value in self._plan.items():
            if found.get(key) != value:
                what = f"another {key.replace('_', ' ')} ({str(found[key])[:80]})" if key in found else "something else"
                raise InputError(f"{where} is there already and is of {what}; remove it, or choose another output")

    def _tell(self, errors: Any) -> None:
        self.rows += len(errors)
        self.failed += len(errors) - errors.null_count

    def _path(self, n: int) -> Path:
        return self.folder / f"{n:06d}.parquet"


def _text(data: bytes) -> str:
    return data.removeprefix(_PREFIX).decode("utf-8", "replace")
