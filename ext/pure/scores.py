"""Probabilities from the outputs of a classifier: the twin of `edge_sdk.ext.scores`."""

from __future__ import annotations

import math
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from edge_sdk.errors import InputError
from edge_sdk.ext.pure.checks import check_writeable, dequantized, kind
from edge_sdk.ext.records import Summary

__all__ = ["Summary", "softmax", "summarize"]

_Logits: TypeAlias = NDArray[np.float32] | NDArray[np.int8] | NDArray[np.uint8]

_TYPES = ("float32", "int8", "uint8")
_NO_TOP = "has no finite largest value (NaN, +inf, or nothing but -inf)"


def softmax(
    x: _Logits,
    out: NDArray[np.float32] | None = None,
    temperature: float = 1.0,
    *,
    quantization: tuple[float, int] | None = None,
) -> NDArray[np.float32]:
    """Return probabilities ``exp(x / temperature)``, normalised over the last axis."""
    real = _real(x, quantization)
    divisor = _temperature(temperature)
    out = _filled(out, x)
    check_writeable("out: need", out)
    powers = _powers(real, divisor)
    out[...] = powers.e / powers.total
    return out


def summarize(
    x: _Logits,
    *,
    top: int = 5,
    temperature: float = 1.0,
    out: NDArray[np.float32] | None = None,
    quantization: tuple[float, int] | None = None,
) -> Summary:
    """Return probabilities and their top classes, margin, entropy and energy."""
    real = _real(x, quantization)
    divisor = _temperature(temperature)
    if isinstance(top, bool) or not isinstance(top, (int, np.integer)) or top < 1:
        raise InputError(f"top: need an integer of at least 1, not {top!r}")
    out = _filled(out, x)
    shares = x.flags.c_contiguous and np.may_share_memory(out, x)
    if shares or not out.flags.c_contiguous or not out.flags.writeable:
        raise InputError("out: need a writeable C-contiguous array that does not share memory with x")
    powers = _powers(real, divisor)
    total = powers.total[..., 0]
    indices = np.argsort(-real, axis=-1, kind="stable")[..., :top].astype(np.int64)
    margin = np.ones_like(total)
    if x.shape[-1] > 1:
        margin = (1.0 - np.sort(powers.e, axis=-1)[..., -2]) / total
    gaps = np.where(powers.e > 0.0, powers.gaps, 0.0)  # where the power is 0, its share is too
    entropy = np.maximum(np.log(total) - (powers.e * gaps).sum(axis=-1) / total, 0.0)
    energy = -(real.max(axis=-1).astype(np.float64) + divisor * np.log(total))
    out[...] = powers.e / powers.total
    with np.errstate(over="ignore"):
        facts = [np.asarray(fact).astype(np.float32) for fact in (margin, entropy, energy)]
    return Summary(out, indices, *(float(fact) if x.ndim == 1 else fact for fact in facts))


class _Powers(NamedTuple):
    """Exponents less their largest, their exponentials, and the sums of these."""

    gaps: NDArray[np.float64]
    e: NDArray[np.float64]
    total: NDArray[np.float64]


def _powers(x: NDArray[np.float32], temperature: float) -> _Powers:
    most = x.max(axis=-1, keepdims=True)
    bad = np.flatnonzero(~np.isfinite(most))
    if bad.size:
        raise InputError(f"x: row {bad[0]} {_NO_TOP}")
    with np.errstate(over="ignore"):
        gaps = (x.astype(np.float64) - most.astype(np.float64)) / temperature
    e = np.exp(gaps)
    return _Powers(gaps, e, e.sum(axis=-1, keepdims=True))


def _real(x: _Logits, quantization: tuple[float, int] | None) -> NDArray[np.float32]:
    if not isinstance(x, np.ndarray) or str(x.dtype) not in _TYPES or x.ndim not in (1, 2) or x.size == 0:
        raise InputError(f"x: need float32, int8 or uint8 of shape (C,) or (n, C), not empty, not {kind(x)}")
    return dequantized("quantization", x, quantization)


def _filled(out: NDArray[np.float32] | None, x: _Logits) -> NDArray[np.float32]:
    if out is None:
        return np.empty(x.shape, np.float32)
    if not isinstance(out, np.ndarray) or out.dtype != np.float32 or out.shape != x.shape:
        raise InputError(f"out: need float32 of shape {x.shape}, not {kind(out)}")
    return out


def _temperature(value: Any) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise InputError(f"temperature: need a number, not {type(value).__name__}") from None
    if not (math.isfinite(number) and number > 0.0):
        raise InputError(f"temperature: need a finite number above 0, not {number}")
    return number
