"""What a Parquet file of answers holds, read twice: keys, to sort them, and then outputs, each into its place."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from edge_sdk.cloud.server.keys import KEY_BYTES, digest_of
from edge_sdk.cloud.server.tables import Answers, Table
from edge_sdk.errors import InputError, one_line
from edge_sdk.types import TensorSpec

__all__ = ["Reading"]

Array = np.ndarray[Any, Any]
_BATCH = 256  # rows at once
_DIGEST = b"edge_model_digest"


class Reading:
    """The answers of a Parquet file; their keys are read when it is made, sixteen bytes each in memory.

    Parameters
    ----------
    path
        The file's name, for messages.
    source
        The file.
    answers
        What the model's answers are like.

    Attributes
    ----------
    model
        Digest of the model that gave them.
    rows
        How many there are, of different inputs; 0 where they are another model's.

    Raises
    ------
    InputError
        It cannot be read, does not say whose answers it holds, or holds none of this kind.
    """

    def __init__(self, path: Path, source: IO[bytes], answers: Answers) -> None:
        self._path, self._answers, self.rows = path, answers, 0
        try:
            source.seek(0)
            self._file = pq.ParquetFile(source)
            self._names = self._file.schema_arrow.names
            self.model = (self._file.schema_arrow.metadata or {}).get(_DIGEST, b"").decode("utf-8", "replace")
            if not self.model:
                raise InputError(f"{path} does not say whose answers it holds: its metadata have no {_DIGEST.decode()}")
            if self.model == answers.digest:
                self._sort(*self._keys())
        except (pa.ArrowException, OSError) as error:
            raise self._unreadable(error) from error

    def fill(self, table: Table) -> None:
        """Write keys and outputs into the arrays of a table; raise `InputError` where they cannot be."""
        table.first[:], table.second[:] = self._sorted
        try:
            at = 0
            for batch in self._batches(self._output_columns()):
                places = self._places[at : at + len(batch)]
                wanted = places >= 0
                for spec, rows in zip(self._answers.outputs, table.outputs, strict=True):
                    rows[places[wanted]] = self._numbers(_column(batch, spec.name), spec, wanted, at)
                at += len(batch)
        except (pa.ArrowException, OSError) as error:
            raise self._unreadable(error) from error

    def _keys(self) -> tuple[Array, Array]:
        """Return the keys' halves, uint64 [n, 2], and which of the rows they are of."""
        inputs = [spec for spec in self._answers.inputs if spec.name in self._names]
        has_keys = "key" in self._names
        if not has_keys and len(inputs) < len(self._answers.inputs):
            wanted = ", ".join(spec.name for spec in self._answers.inputs)
            raise InputError(f"{self._path} has neither a column key nor the inputs {wanted}; there are {self._there}")
        columns = [*(["key"] if has_keys else [spec.name for spec in inputs]), *({"error"} & {*self._names})]
        keys, rows, at = [], [], 0
        for batch in self._batches(columns):
            known = np.ones(len(batch), bool)
            if "error" in columns:
                known &= np.asarray(batch.column("error").is_null())
            if has_keys:
                known &= np.asarray(batch.column("key").is_valid())
                found = [key for key, is_known in zip(batch.column("key").to_pylist(), known, strict=True) if is_known]
            else:
                found = self._keys_of(batch, inputs, known, at)
            if not all(isinstance(key, bytes) and len(key) == KEY_BYTES for key in found):
                raise InputError(f"{self._path}: a key is {KEY_BYTES} bytes, which those after row {at} are not")
            keys.append(np.frombuffer(b"".join(found), ">u8").reshape(-1, KEY_BYTES // 8)[:, :2].astype(np.uint64))
            rows.append(at + np.flatnonzero(known))
            at += len(batch)
        self._places = np.full(at, -1, np.int64)
        if not sum(map(len, rows)):
            raise InputError(f"{self._path} holds no answers")
        return np.concatenate(keys), np.concatenate(rows)

    def _keys_of(self, batch: Any, inputs: list[TensorSpec], known: Array, at: int) -> list[bytes]:
        tensors = {spec.name: self._numbers(batch.column(spec.name), spec, known, at) for spec in inputs}
        whole = self._answers.whole
        return [
            digest_of({name: x[n] if whole else x[n : n + 1] for name, x in tensors.items()}, "tensor")
            for n in range(int(known.sum()))
        ]

    def _sort(self, keys: Array, rows: Array) -> None:
        order = np.lexsort((keys[:, 1], keys[:, 0]))  # stable: of equal inputs the first row stays
        keys = keys[order]
        fresh = np.ones(len(keys), bool)
        fresh[1:] = (keys[1:] != keys[:-1]).any(axis=1)
        self._sorted = keys[fresh].T
        self.rows = int(fresh.sum())
        self._places[rows[order[fresh]]] = np.arange(self.rows)

    def _output_columns(self) -> list[str]:
        names = [spec.name for spec in self._answers.outputs]
        kind = self._file.schema_arrow.field("outputs").type if "outputs" in self._names else None
        inside = [field.name for field in kind] if kind is not None and pa.types.is_struct(kind) else []
        if missing := [name for name in names if name not in inside and name not in self._names]:
            raise InputError(f"{self._path} has no output {missing[0]}; there are {self._there}")
        return [
            *(["outputs"] if inside else []),
            *(name for name in names if name in self._names and name != "outputs"),
        ]

    def _numbers(self, column: Any, spec: TensorSpec, wanted: Array, at: int) -> Array:
        """Return the rows of a column that are wanted, as numbers [k, ...] of a tensor."""
        shape, dtype = self._answers.row(spec), np.dtype(spec.dtype)
        picked, size = column.filter(pa.array(wanted)), int(np.prod(shape))
        values = picked
        while _is_list(values.type):
            values = values.flatten()
        lengths_fit = (
            not _is_list(picked.type)
            or _is_list(picked.type.value_type)
            or _all(pc.equal(pc.list_value_length(picked), size))
        )
        if picked.null_count or values.null_count or not lengths_fit or len(values) != len(picked) * size:
            raise InputError(f"{self._path}: {spec.name} is {size} numbers, which those after row {at} are not")
        found = values.to_numpy(zero_copy_only=False)
        cast = found.astype(dtype) if found.dtype.kind in "fiub" else found
        if found.dtype.kind not in "fiub" or (dtype.kind != "f" and not np.array_equal(cast, found)):
            raise InputError(f"{self._path}: {spec.name} is {dtype}, which column {spec.name} does not hold")
        numbers: Array = cast.reshape(len(picked), *shape)
        return numbers

    def _batches(self, columns: list[str]) -> Iterator[Any]:
        yield from self._file.iter_batches(_BATCH, columns=columns)

    @property
    def _there(self) -> str:
        return ", ".join(self._names) or "none"

    def _unreadable(self, error: Exception) -> InputError:
        return InputError(f"{self._path} is not a Parquet file that can be read: {one_line(error, 200)}")


def _column(batch: Any, name: str) -> Any:
    """Return an output's column, or that of the struct."""
    if name in batch.schema.names and not pa.types.is_struct(batch.column(name).type):
        return batch.column(name)
    outputs = batch.column("outputs")
    return outputs.flatten()[outputs.type.get_field_index(name)]


def _is_list(kind: Any) -> bool:
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind))


def _all(flags: Any) -> bool:
    return pc.all(flags).as_py() is not False
