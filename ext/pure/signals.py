"""Signals of class probabilities: the twin of `edge_sdk.ext.signals`, to the last bit.

The kernel uses nothing but + - * / and square roots of float64, which IEEE 754 fixes, and so does
this: element by element in the same polynomials, and in sums of the same order.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from edge_sdk.errors import InputError

__all__ = ["KINDS", "MOST_CLASSES", "Signal", "check", "features"]

Floats = NDArray[np.float64]

KINDS = ("max_probability", "margin", "entropy", "energy", "learned")
MOST_CLASSES = 256

_SUM_TOLERANCE = 1e-2
_LANES = 8
_TOP = 5
_FLOOR = 1 / 512
_LEAST = -708.0
_SMALLEST = float(np.finfo(np.float64).tiny)

_LOG2_E = float.fromhex("0x1.71547652b82fep+0")
_LN_2_HIGH, _LN_2_LOW = float.fromhex("0x1.62e42fee00000p-1"), float.fromhex("0x1.a39ef35793c76p-33")
_ROUNDER = float.fromhex("0x1.8p52")
_ROOT_HALF, _ONE, _EXPONENT = np.array([0x3FE6A09E667F3BCD, 0x3FF0000000000000, 0xFFF0000000000000], np.uint64)
_LN = tuple(
    map(
        float.fromhex,
        (
            "0x1.2b5f68a50d903p-3",
            "0x1.39fdcceb4bb45p-3",
            "0x1.7462b91b8df65p-3",
            "0x1.c71c62d5e53e0p-3",
            "0x1.2492492dfd86cp-2",
            "0x1.9999999995273p-2",
            "0x1.5555555555558p-1",
        ),
    )
)
_EXP = tuple(
    map(
        float.fromhex,
        (
            "0x1.af38a9b0ec855p-26",
            "0x1.289185613a3d6p-22",
            "0x1.71de0dae63bb3p-19",
            "0x1.a019b90d2ae7ap-16",
            "0x1.a01a01a7c41d5p-13",
            "0x1.6c16c1788bd90p-10",
            "0x1.11111111109b3p-7",
            "0x1.5555555553d63p-5",
            "0x1.5555555555556p-3",
            "0x1.0000000000001p-1",
        ),
    )
)


def _polynomial(coefficients: Sequence[float], x: Floats) -> Floats:
    value = np.full_like(x, coefficients[0])
    for coefficient in coefficients[1:]:
        value = value * x + coefficient
    return value


def _ln(x: Floats) -> Floats:
    """Return ln x of normal numbers above 0."""
    bits = x.view(np.uint64)
    shifted = bits - _ROOT_HALF + _ONE
    k = (shifted >> np.uint64(52)).astype(np.float64) - 1023.0
    f = (bits - (shifted & _EXPONENT) + _ONE).view(np.float64) - 1.0
    s = f / (2.0 + f)
    z = s * s
    return np.asarray(k * _LN_2_HIGH + (k * _LN_2_LOW + (f - s * (f - z * _polynomial(_LN, z)))))


def _exp(x: Floats) -> Floats:
    """Return e^x of numbers from -708 to 0."""
    shifted = x * _LOG2_E + _ROUNDER
    k = shifted - _ROUNDER
    r = (x - k * _LN_2_HIGH) - k * _LN_2_LOW
    p = 1.0 + (r + r * r * _polynomial(_EXP, r))
    return np.asarray(p * ((shifted.view(np.uint64) + np.uint64(1023)) << np.uint64(52)).view(np.float64))


def _sum(x: Floats) -> Floats:
    """Return the sums of rows [n, classes], in lanes and one after the other, as the kernel adds up."""
    n, classes = x.shape
    padded = np.zeros((n, -(-classes // _LANES), _LANES))
    padded.reshape(n, -1)[:, :classes] = x
    lanes = np.cumsum(padded, axis=1)[:, -1]
    return np.asarray(np.cumsum(lanes, axis=1)[:, -1])


def _ratios(x: Floats, most: Floats, inverse: float) -> tuple[Floats, Floats]:
    """Return ``(x / most) ** inverse`` and its logarithm."""
    r = x / most
    with np.errstate(over="ignore"):
        logs = np.maximum(_ln(np.maximum(r, _SMALLEST)) * inverse, _LEAST)
    return r if inverse == 1.0 else np.where(r < _SMALLEST, 0.0, _exp(logs)), logs


def _margin(x: Floats, inverse: float, total: Floats) -> Floats:
    if x.shape[1] == 1:
        return np.ones(len(x))
    two = np.sort(x, axis=1)[:, -2:]
    return np.asarray((1.0 - _ratios(two[:, :1], two[:, 1:], inverse)[0][:, 0]) / total)


def _entropy(r: Floats, logs: Floats, total: Floats) -> Floats:
    if r.shape[1] == 1:
        return np.ones(len(r))
    value = 1.0 - (_ln(total) - _sum(r * logs) / total) / _ln(np.array([float(r.shape[1])]))
    return np.asarray(np.clip(value, 0.0, 1.0))


def _energy(r: Floats, logs: Floats, total: Floats) -> Floats:
    of_one = _ln(np.array([float(r.shape[1])]))
    above = r > _FLOOR * total[:, None]
    few = (~above).sum(axis=1)
    sums = _sum(np.where(above, r, 0.0)) / total + few * _FLOOR
    parts = _sum(np.where(above, logs - (_ln(total) - of_one)[:, None], 0.0)) + few * (_ln(np.array([_FLOOR])) + of_one)
    return np.asarray(np.maximum(_ln(sums) - parts / float(r.shape[1]), 0.0))


def _logistic(x: Floats) -> Floats:
    small = _exp(np.maximum(-np.abs(x), _LEAST))
    return np.asarray(np.where(x < 0.0, small, 1.0) / (1.0 + small))


class Signal:
    """One signal at one temperature; its values are those of `edge_sdk.cascade.signals`."""

    def __init__(
        self,
        kind: str,
        temperature: float = 1.0,
        *,
        classes: int = 0,
        edge: Sequence[float] = (),
        cloud: Sequence[float] = (),
    ) -> None:
        if kind not in KINDS:
            raise InputError(f"kind: need one of {', '.join(KINDS)}, not {kind!r}")
        try:
            divisor = float(temperature)
        except (TypeError, ValueError):
            raise InputError(f"temperature: need a number, not {type(temperature).__name__}") from None
        if not 0.0 < divisor < math.inf:
            raise InputError(f"temperature: need a finite number above 0, not {divisor}")
        size = 0
        if kind == "learned":
            if not isinstance(classes, int) or not 1 <= classes <= MOST_CLASSES:
                raise InputError(f"classes: need 1 to {MOST_CLASSES}, not {classes!r}")
            size = 4 * classes + min(_TOP, classes) + 3
        if len(edge) != size or len(cloud) != size:
            raise InputError(f"edge, cloud: need {size} weights each, not {len(edge)} and {len(cloud)}")
        self._kind = kind
        self._inverse = min(1.0 / divisor, 1e300)
        self._classes = classes
        self._edge, self._cloud = np.array(edge, np.float64), np.array(cloud, np.float64)

    def one(self, scores: ArrayLike) -> tuple[float, float]:
        """Return the signal of one input, and its calibrated confidence, which is its ``max_probability``."""
        x = _numbers(scores, 1, "scores")
        self._check_classes(x.shape[1])
        _check(x, "the row of scores", _SUM_TOLERANCE)
        return float(self._of(x)[0]), float(_simple("max_probability", x, self._inverse)[0])

    def values(self, scores: ArrayLike, normalized: bool = True) -> Floats:
        """Return the signal of each input."""
        x = _numbers(scores, 2, "scores")
        self._check_classes(x.shape[1])
        _check(x, "scores: row {row}", _SUM_TOLERANCE if normalized else math.inf)
        return self._of(x)

    def _of(self, x: Floats) -> Floats:
        if self._kind != "learned":
            return _simple(self._kind, x, self._inverse)
        made = _features(x)
        right, cloud_right = (
            _logistic(_sum(made * weights[:-1]) + weights[-1]) for weights in (self._edge, self._cloud)
        )
        return np.asarray(right - cloud_right)

    def _check_classes(self, classes: int) -> None:
        if self._classes not in (0, classes):
            raise InputError(f"scores have {classes} classes; the deferral head was fitted to {self._classes}")


def _simple(kind: str, x: Floats, inverse: float) -> Floats:
    r, logs = _ratios(x, x.max(axis=1, keepdims=True), inverse)
    total = _sum(r)
    if kind == "margin":
        return _margin(x, inverse, total)
    if kind == "entropy":
        return _entropy(r, logs, total)
    if kind == "energy":
        return _energy(r, logs, total)
    return np.asarray(1.0 / total)


def check(scores: ArrayLike, what: str = "scores") -> None:
    """Check probabilities of shape (n, C) as `Signal.values` does."""
    _check(_numbers(scores, 2, what), f"{what}: row {{row}}", _SUM_TOLERANCE)


def features(scores: ArrayLike) -> Floats:
    """Return what the ``learned`` signal is a function of, float64 [n, 4 C + min(5, C) + 2]."""
    x = _numbers(scores, 2, "scores")
    _check(x, "scores: row {row}", math.inf)
    return _features(x)


def _features(x: Floats) -> Floats:
    n, classes = x.shape
    order, rows = np.argsort(-x, axis=1, kind="stable"), np.arange(n)
    r, logs = _ratios(x, x.max(axis=1, keepdims=True), 1.0)
    total = _sum(r)
    leading = np.zeros((n, 2, classes))
    for place in range(min(2, classes)):
        leading[rows, place, order[:, place]] = 1.0
    parts = [
        _ln(np.maximum(x, _FLOOR)),
        np.sqrt(x),
        np.take_along_axis(x, order[:, :_TOP], axis=1),
        _margin(x, 1.0, total)[:, None],
        _entropy(r, logs, total)[:, None],
        leading.reshape(n, -1),
    ]
    return np.concatenate(parts, axis=1)


def _numbers(scores: ArrayLike, rank: int, what: str) -> Floats:
    try:
        x = np.asarray(scores, dtype=np.float64)
    except (TypeError, ValueError):
        raise InputError(f"{what} should be numbers, not {type(scores).__name__}") from None
    if x.ndim != rank or x.size == 0:
        want = "[classes] with at least one" if rank == 1 else "[n, classes] with at least one of each"
        raise InputError(f"{what} should have shape {want}, not {list(x.shape)}")
    return np.ascontiguousarray(x.reshape(-1, x.shape[-1]))


def _check(x: Floats, where: str, tolerance: float) -> None:
    with np.errstate(invalid="ignore", over="ignore"):
        totals = _sum(x)
        endless = np.asarray(~np.isfinite(x).all(axis=1))
        negative = np.asarray((x < 0.0).any(axis=1))
        unequal = ~((totals > 0.0) & (np.abs(totals - 1.0) <= tolerance))
    bad = endless | negative | unequal
    if not bad.any():
        return
    row = int(np.argmax(bad))
    subject = where.format(row=row)
    if endless[row]:
        raise InputError(f"{subject} holds a NaN or an infinity")
    if negative[row]:
        raise InputError(f"{subject} holds a negative probability")
    raise InputError(f"{subject} sums to {totals[row]:.4g}, not 1; are these logits?")
