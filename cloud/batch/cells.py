"""Cells of a Parquet file as inputs of a model: which columns hold them, and what is in a cell."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from edge_sdk.errors import InputError

__all__ = ["Cells", "Wanted", "cells_for"]

Array = NDArray[Any]


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a model takes.

    Attributes
    ----------
    kind
        A picture, a sound, a row or window of a table; or the tensor of a model without processing.
    names
        Of a table's columns.
    """

    kind: Literal["image", "audio", "table", "tensor"]
    names: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Cells:
    """How inputs are taken from rows.

    Attributes
    ----------
    columns
        Names of those that are read.
    value
        Returns the input in a row of a record batch; raises `InputError` where there is none.
    """

    columns: tuple[str, ...]
    value: Callable[[Any, int], Any]


def cells_for(schema: Any, wanted: Wanted, column: str | None = None) -> Cells:
    """Find out which columns of a schema hold what a model takes.

    Parameters
    ----------
    schema
        An Arrow schema.
    wanted
        What the model takes.
    column
        The column that holds it, where that is known.

    Raises
    ------
    InputError
        No column can, or several.
    """
    there = ", ".join(schema.names) or "none"
    if column is None and wanted.names and all(schema.get_field_index(name) >= 0 for name in wanted.names):
        return Cells(wanted.names, lambda batch, row: {name: _field(batch.column(name)[row]) for name in wanted.names})
    if column is None:
        fits = [field.name for field in schema if _may_hold(field.type, wanted.kind)]
        # files before lists: what lies beside a picture is no picture
        fits = [name for name in fits if not _is_list(schema.field(name).type)] or fits
        if not fits and wanted.names:
            raise InputError(
                f"there is neither a column for each of {', '.join(wanted.names)} nor one of lists: {there}"
            )
        if len(fits) != 1:
            many = (
                f"several columns may hold {_NAMES[wanted.kind]} ({', '.join(fits)})"
                if fits
                else f"no column holds {_NAMES[wanted.kind]}"
            )
            raise InputError(f"{many}; name one with --column; there are {there}")
        column = fits[0]
    if schema.get_field_index(column) < 0:
        raise InputError(f"there is no column {column!r}, or several; there are {there}")
    kind = schema.field(column).type
    if not _may_hold(kind, wanted.kind):
        raise InputError(f"column {column!r} holds {kind}; {_NAMES[wanted.kind]} is {_FORMS[wanted.kind]}")
    pictures = wanted.kind == "image"

    def value(batch: Any, row: int) -> Any:
        found = _cell(batch.column(column)[row])
        return _pixels(found) if pictures and isinstance(found, np.ndarray) else found

    return Cells((column,), value)


_NAMES = {"image": "a picture", "audio": "a sound", "table": "a row", "tensor": "a tensor"}
_FORMS = {
    "image": "an encoded picture (binary), or lists of pixels [height][width][channels]",
    "audio": "a .wav file (binary), or a list of samples",
    "table": "a list of numbers",
    "tensor": "a list of numbers",
}


def _may_hold(kind: Any, wanted: str) -> bool:
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    if pa.types.is_struct(kind):  # as data sets of pictures and sounds have them: bytes, path
        place = kind.get_field_index("bytes")
        return place >= 0 and wanted in ("image", "audio") and _is_binary(kind.field(place).type)
    return (_is_binary(kind) and wanted in ("image", "audio")) or _is_list(kind)


def _is_binary(kind: Any) -> bool:
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind))


def _is_list(kind: Any) -> bool:
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind))


def _cell(scalar: Any) -> Any:
    """Return bytes, or numbers as an array."""
    if isinstance(scalar, pa.StructScalar) and scalar.is_valid:
        scalar = scalar["bytes"]
    if not scalar.is_valid:
        raise InputError("the cell is empty")
    return _numbers(scalar.values) if _is_list(scalar.type) else scalar.as_py()


def _field(scalar: Any) -> Any:
    """Return a value of a row, or the values of a window; None where there is none."""
    return _numbers(scalar.values) if scalar.is_valid and _is_list(scalar.type) else scalar.as_py()


def _numbers(values: Any) -> Array:
    """Return a list, or lists of equal lengths, as an array."""
    try:
        if _is_list(values.type):
            if values.null_count:
                raise InputError("a list in the cell is empty")
            return np.stack([_numbers(one.values) for one in values])
        found: Array = values.to_numpy(zero_copy_only=False)
    except (ValueError, pa.ArrowException) as error:
        if isinstance(error, InputError):
            raise
        raise InputError("the cell's lists are empty or of different lengths") from error
    if found.dtype.kind not in "fiub":
        raise InputError("the cell's list holds something else than numbers")
    return found


def _pixels(values: Array) -> Array:
    if (
        values.dtype.kind in "iu"
        and values.dtype != np.uint8
        and values.size
        and values.min() >= 0
        and values.max() <= 255
    ):
        return values.astype(np.uint8)
    return values
