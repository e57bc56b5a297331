"""Rows of numbers to what a model takes: the twin of `edge_sdk.ext.tables`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from edge_sdk.errors import InputError

__all__ = ["TablePlan"]

_LARGEST = float(np.finfo(np.float32).max)
_MOST = 1 << 24
_OUTPUTS = (np.dtype(np.float32), np.dtype(np.int8), np.dtype(np.uint8))


class TablePlan:
    """What becomes of each column of a row."""

    def __init__(
        self,
        rows: int,
        columns: Sequence[tuple[float, float, float, float, float] | tuple[ArrayLike, bool, float]],
        zero_point: int = 0,
    ) -> None:
        if not 1 <= rows <= _MOST or not 1 <= len(columns) <= _MOST:
            raise InputError(f"rows and columns: need 1 to {_MOST} of each")
        if not -128 <= zero_point <= 255:
            raise InputError(f"zero_point: need -128 to 255, not {zero_point}")
        self._rows, self._columns, self._zero_point = rows, tuple(columns), zero_point
        self.features: Final = sum(1 if len(one) == 5 or not one[1] else 1 + np.size(one[0]) for one in columns)

    def __call__(self, x: NDArray[np.floating[Any]], out: NDArray[Any]) -> int:
        """Process one input."""
        if not isinstance(x, np.ndarray) or x.size != self._rows * len(self._columns):
            raise InputError(f"x: need {self._rows} x {len(self._columns)} numbers")
        if not isinstance(out, np.ndarray) or out.size != self._rows * self.features:
            raise InputError(f"out: need {self._rows} x {self.features} elements")
        if not x.flags.c_contiguous or not out.flags.c_contiguous or not out.flags.writeable:
            raise InputError("x and out: need C-contiguous arrays, and out a writeable one")
        if x.dtype not in (np.float32, np.float64):
            raise InputError(f"x: need float32 or float64, not {x.dtype}")
        if out.dtype not in _OUTPUTS:
            raise InputError(f"out: need float32, int8 or uint8, not {out.dtype}")
        table = x.reshape(self._rows, -1).astype(np.float64)
        bad = np.isinf(table)
        features: list[NDArray[np.float64]] = []
        for at, one in enumerate(self._columns):
            column = table[:, at : at + 1]
            if len(one) == 5:
                fill, low, high, mean, gain = one
                bad[:, at : at + 1] |= np.isnan(column) & bool(np.isnan(fill))
                column = np.where(np.isnan(column), fill, column)
                with np.errstate(over="ignore"):  # too large for float32 in any case
                    features.append((np.minimum(np.maximum(column, low), high) - mean) * gain)
            else:
                features.append(_places(column, np.ravel(np.asarray(one[0], np.float32)), one[1]) * one[2])
        if bad.any():
            return int(np.flatnonzero(bad)[0])
        values = np.concatenate(features, axis=1).reshape(out.shape)
        if out.dtype == np.float32:
            with np.errstate(over="ignore"):
                out[...] = values
            return -1 if np.abs(values).max() <= _LARGEST else -2
        limits = np.iinfo(out.dtype)
        out[...] = np.clip(np.rint(values) + self._zero_point, limits.min, limits.max)
        return -1


def _places(column: NDArray[np.float64], codes: NDArray[np.float32], one_hot: bool) -> NDArray[np.float64]:
    with np.errstate(over="ignore"):
        known = column.astype(np.float32) == codes
    places = np.where(known.any(axis=1), 1 + (known.argmax(axis=1) if codes.size else 0), 0)
    return np.eye(1 + codes.size)[places] if one_hot else places[:, None].astype(np.float64)
