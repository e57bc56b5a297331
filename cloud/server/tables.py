"""Answers that were worked out before: found by what was asked, in a file that is mapped, not read.

A table belongs to one model. Its file holds the keys of all inputs, sorted, and the outputs in rows of fixed length, in
the same order. An answer is found in a few steps, whatever the size, and processes that map one file share its pages.

Of a key, as `edge_sdk.cloud.server.keys` has it, the first half is kept.
"""

from __future__ import annotations

import math
import mmap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from edge_sdk.cloud.server.keys import item_keys
from edge_sdk.errors import InputError
from edge_sdk.types import TensorSpec

__all__ = ["Answers", "Column", "Table"]

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, slots=True)
class Column:
    """Where the rows of an output are: name, dtype, shape of one row, and the first byte in the file."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    offset: int

    @property
    def row_bytes(self) -> int:
        """Of one row."""
        return math.prod(self.shape) * np.dtype(self.dtype).itemsize


@dataclass(frozen=True, slots=True)
class Answers:
    """What a model's answers are like.

    Attributes
    ----------
    name, digest
        The model.
    inputs, outputs
        Its tensors.
    whole
        They have no axis of items.
    """

    name: str
    digest: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    whole: bool

    def row(self, spec: TensorSpec) -> tuple[int, ...]:
        """Return the shape of one item of a tensor."""
        return spec.shape if self.whole else spec.shape[1:]

    def columns(self) -> Iterator[tuple[str, str, tuple[int, ...]]]:
        """Yield name, dtype and shape of one item of each output."""
        for spec in self.outputs:
            yield spec.name, spec.dtype, self.row(spec)

    def check(self) -> None:
        """Raise `InputError` where an output has no rows of one length."""
        for name, dtype, shape in self.columns():
            if -1 in shape or np.dtype(dtype).kind not in "fiub":
                raise InputError(
                    f"model {self.name} can have no table: its output {name} is {dtype}{list(shape)}, "
                    "and a table needs so many numbers an item, always the same"
                )


class Table:
    """Outputs by key.

    Parameters
    ----------
    mapped
        The file.
    rows
        How many answers there are.
    keys
        First byte of the keys: so many uint64, the first eight bytes of each key, ascending; then so many more, the
        next eight.
    columns
        The outputs, in the model's order.
    whole
        The model's tensors have no axis of items.

    Attributes
    ----------
    first, second
        The keys' halves.
    outputs
        Rows of each output.
    """

    def __init__(self, mapped: mmap.mmap, rows: int, keys: int, columns: Sequence[Column], *, whole: bool) -> None:
        self.rows, self.whole = rows, whole
        self.first, self.second = (np.frombuffer(mapped, np.uint64, rows, keys + part * 8 * rows) for part in (0, 1))
        self.outputs = [
            np.frombuffer(mapped, column.dtype, rows * math.prod(column.shape), column.offset).reshape(
                rows, *column.shape
            )
            for column in columns
        ]

    def find(self, inputs: Mapping[str, Array], encoding: str, items: int) -> list[Array] | None:
        """Return the outputs for a request; None where one of its items is not known.

        Parameters
        ----------
        inputs, encoding
            What the request holds.
        items
            How many inputs that are.
        """
        if self.whole and items != 1:
            return None
        places = []
        for key in item_keys(inputs, encoding, items, whole=self.whole):
            place = self._place(key)
            if place is None:
                return None
            places.append(place)
        return [rows[places[0]].copy() if self.whole else rows[places] for rows in self.outputs]

    def _place(self, key: bytes) -> int | None:
        first, second = np.frombuffer(key, ">u8", 2).astype(np.uint64)
        place = int(np.searchsorted(self.first, first))
        while place < self.rows and self.first[place] == first:
            if self.second[place] == second:
                return place
            place += 1
        return None
