"""Affine quantization, ``real = scale * (q - zero_point)``: the twin of `edge_sdk.ext.quantization`."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from edge_sdk.errors import InputError
from edge_sdk.ext.pure.checks import check_writeable, kind

__all__ = ["dequantize", "quantize"]

_INTEGERS = (np.dtype(np.int8), np.dtype(np.uint8))
_FLOATS = (np.dtype(np.float32),)


def quantize(
    x: NDArray[np.float32],
    scale: float,
    zero_point: int,
    out: NDArray[Any] | None = None,
    *,
    dtype: DTypeLike = np.int8,
) -> NDArray[Any]:
    """Return ``saturate(round_half_even(x / scale) + zero_point)``."""
    _check_array("x", x, _FLOATS)
    if out is None:
        if np.dtype(dtype) not in _INTEGERS:
            raise InputError(f"dtype: need int8 or uint8, not {np.dtype(dtype)}")
        out = np.empty(x.shape, dtype)
    else:
        _check_out(out, x, _INTEGERS)
    step, zero = _scale(scale), _zero_point(zero_point, out.dtype)
    if np.isnan(x).any():
        raise InputError("x: holds NaN, which has no quantized value")
    with np.errstate(over="ignore"):
        steps = np.rint(x / step).astype(np.float64) + zero
    np.clip(steps, np.iinfo(out.dtype).min, np.iinfo(out.dtype).max, out=out, casting="unsafe")
    return out


def dequantize(
    x: NDArray[Any], scale: float, zero_point: int, out: NDArray[np.float32] | None = None
) -> NDArray[np.float32]:
    """Return ``(x - zero_point) * scale`` in float32."""
    _check_array("x", x, _INTEGERS)
    if out is None:
        out = np.empty(x.shape, np.float32)
    else:
        _check_out(out, x, _FLOATS)
    step, zero = _scale(scale), _zero_point(zero_point, x.dtype)
    with np.errstate(over="ignore"):
        out[...] = (x.astype(np.float64) - zero) * np.float64(step)
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
