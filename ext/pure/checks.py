"""Checks of arguments that several twins share."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_sdk.errors import InputError

__all__ = ["check_writeable", "dequantized", "fraction", "kind", "pair"]

_LARGEST = float(np.finfo(np.float32).max)


def kind(value: object) -> str:
    """Return what an argument is, for an error message."""
    return f"{value.dtype} of shape {value.shape}" if isinstance(value, np.ndarray) else type(value).__name__


def check_writeable(name: str, array: NDArray[Any]) -> None:
    """Refuse an array that cannot be filled."""
    if not array.flags.c_contiguous or not array.flags.writeable:
        raise InputError(f"{name} a writeable C-contiguous array")


def fraction(name: str, value: Any) -> float:
    """Return a number from 0 to 1."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise InputError(f"{name}: need a number, not {type(value).__name__}") from None
    if not 0.0 <= number <= 1.0:
        raise InputError(f"{name}: need a number from 0 to 1, not {number}")
    return number


def pair(name: str, value: Any) -> tuple[float, float]:
    """Return two finite numbers above 0."""
    try:
        first, second = map(float, value)
    except (TypeError, ValueError):
        raise InputError(f"{name}: need a pair of numbers") from None
    if not (0.0 < first < math.inf and 0.0 < second < math.inf):
        raise InputError(f"{name}: need finite numbers above 0, not {first} and {second}")
    return first, second


def dequantized(name: str, x: NDArray[Any], quantization: Any) -> NDArray[np.float32]:
    """Return the real values of float32, which has no quantization, or of int8 or uint8, which needs one."""
    if x.dtype == np.float32:
        if quantization is not None:
            raise InputError(f"{name}: float32 has none")
        return x.astype(np.float32)
    scale, zero_point = _quantization(name, x, quantization)
    return (x.astype(np.float32) - np.float32(zero_point)) * scale


def _quantization(name: str, array: NDArray[Any], quantization: Any) -> tuple[np.float32, int]:
    try:
        scale, zero_point = quantization
        number, zero = float(scale), int(zero_point.__index__())
    except (AttributeError, TypeError, ValueError):
        raise InputError(f"{name}: {array.dtype} needs a pair of scale and integer zero point") from None
    single = np.float32(number if number <= _LARGEST else math.inf)
    if not (single > 0.0 and 255.0 * float(single) <= _LARGEST):
        raise InputError(f"{name}: need a scale above 0 and below 2**120 as float32, not {number}")
    low, high = np.iinfo(array.dtype).min, np.iinfo(array.dtype).max
    if not low <= zero <= high:
        raise InputError(f"{name}: zero point {zero} is not within {low}..{high} of {array.dtype}")
    return single, zero
