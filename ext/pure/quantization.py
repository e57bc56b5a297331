"""Affine quantization, ``real = scale * (q - zero_point)``: the twin of `edge_sdk.ext.quantization`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import DTypeLike, NDArray

from edge_sdk.errors import InputError
from edge_sdk.ext.pure.checks import check_writeable, kind

__all__ = ["dequantize", "quantize"]

_BYTES = (np.dtype(np.int8), np.dtype(np.uint8))
_INTEGERS = (*_BYTES, np.dtype(np.int32))
_Numbers: TypeAlias = float | Sequence[float] | NDArray[Any]
_FLOATS = (np.dtype(np.float32),)


def quantize(
    x: NDArray[np.float32],
    scale: _Numbers,
    zero_point: _Numbers,
    out: NDArray[Any] | None = None,
    *,
    dtype: DTypeLike = np.int8,
    axis: int | None = None,
) -> NDArray[Any]:
    """Return ``saturate(round_half_even(x / scale) + zero_point)``."""
    _check_array("x", x, _FLOATS)
    if out is None:
        out = np.empty(x.shape, _byte_type(dtype))
    else:
        _check_out(out, x, _BYTES)
    scales, zero_points = _affine(x.shape, out.dtype, scale, zero_point, axis)
    if np.isnan(x).any():
        raise InputError("x: holds NaN, which has no quantized value")
    with np.errstate(over="ignore"):
        steps = np.rint(x / scales).astype(np.float64) + zero_points
    np.clip(steps, np.iinfo(out.dtype).min, np.iinfo(out.dtype).max, out=out, casting="unsafe")
    return out


def dequantize(
    x: NDArray[Any],
    scale: _Numbers,
    zero_point: _Numbers,
    out: NDArray[np.float32] | None = None,
    *,
    axis: int | None = None,
) -> NDArray[np.float32]:
    """Return ``(x - zero_point) * scale`` rounded to float32."""
    _check_array("x", x, _INTEGERS)
    if out is None:
        out = np.empty(x.shape, np.float32)
    else:
        _check_out(out, x, _FLOATS)
    scales, zero_points = _affine(x.shape, x.dtype, scale, zero_point, axis)
    with np.errstate(over="ignore"):
        out[...] = (x.astype(np.float64) - zero_points) * scales.astype(np.float64)
    return out


def _check_array(name: str, value: object, dtypes: tuple[np.dtype[Any], ...]) -> None:
    if not isinstance(value, np.ndarray) or value.dtype not in dtypes or value.size == 0:
        wanted = " or ".join(map(str, dtypes))
        raise InputError(f"{name}: need an array of {wanted} that is not empty, not {kind(value)}")


def _check_out(out: NDArray[Any], x: NDArray[Any], dtypes: tuple[np.dtype[Any], ...]) -> None:
    _check_array("out", out, dtypes)
    if out.shape != x.shape:
        raise InputError(f"out: need shape {x.shape}, not {out.shape}")
    check_writeable("out: need", out)
    if np.may_share_memory(out, x):
        raise InputError("out: shares memory with x")


def _byte_type(dtype: DTypeLike) -> np.dtype[Any]:
    try:
        made = np.dtype(dtype)
    except TypeError:
        raise InputError("dtype: need int8 or uint8") from None
    if made not in _BYTES:
        raise InputError(f"dtype: need int8 or uint8, not {made}")
    return made


def _affine(
    shape: tuple[int, ...], dtype: np.dtype[Any], scale: Any, zero_point: Any, axis: Any
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Return scales and zero points of a shape that spreads over the tensor's."""
    if axis is None:
        return np.array(_scale(scale)), np.array(_zero_point(zero_point, dtype))
    along = _axis(axis, len(shape))
    spread = [1] * len(shape)
    spread[along] = count = shape[along]
    return _scales(scale, count).reshape(spread), _zero_points(zero_point, dtype, count).reshape(spread)


def _axis(axis: Any, rank: int) -> int:
    try:
        number = int(axis.__index__())
    except AttributeError:
        raise InputError(f"axis: need an integer, not {type(axis).__name__}") from None
    if not -rank <= number < rank:
        raise InputError(f"axis: {number} is not one of the {rank} axes of x")
    return number % rank


def _scales(values: Any, count: int) -> NDArray[np.float32]:
    try:
        with np.errstate(over="ignore"):
            singles = np.array(values, np.float32)
    except (TypeError, ValueError):
        raise InputError("scale: need numbers") from None
    if singles.shape != (count,):
        raise InputError(f"scale: need {count} along axis, not shape {singles.shape}")
    if not (np.isfinite(singles).all() and (singles > 0.0).all()):
        raise InputError("scale: need finite float32 above 0 for every channel")
    return singles


def _zero_points(values: Any, dtype: np.dtype[Any], count: int) -> NDArray[np.int64]:
    if np.ndim(values) == 0:
        return np.full(count, _zero_point(values, dtype), np.int64)
    whole = np.asarray(values)
    if whole.shape != (count,) or whole.dtype.kind not in "iu":
        raise InputError(f"zero_point: need {count} integers along axis, not {kind(whole)}")
    low, high = np.iinfo(dtype).min, np.iinfo(dtype).max
    if whole.min() < low or whole.max() > high:
        raise InputError(f"zero_point: {whole.min()}..{whole.max()} is not within {low}..{high} of {dtype}")
    return whole.astype(np.int64)


def _scale(value: Any) -> np.float32:
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise InputError(f"scale: need a number, not {type(value).__name__}") from None
    with np.errstate(over="ignore"):
        single = np.float32(number)
    if not (math.isfinite(single) and single > 0.0):
        raise InputError(f"scale: need a finite float32 above 0, not {number}")
    return single


def _zero_point(value: Any, dtype: np.dtype[Any]) -> int:
    try:
        number = int(value.__index__())
    except AttributeError:
        raise InputError(f"zero_point: need an integer, not {type(value).__name__}") from None
    low, high = np.iinfo(dtype).min, np.iinfo(dtype).max
    if not low <= number <= high:
        raise InputError(f"zero_point: {number} is not within {low}..{high} of {dtype}")
    return number
