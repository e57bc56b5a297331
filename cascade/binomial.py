"""Exact binomial tails and bounds, by summing the mass function.

No approximation: what a certificate promises must not rest on one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

__all__ = ["cdf", "lower_bound", "upper_bound"]

_BISECTIONS = 60
_ROUNDING = 2.0**-60


def cdf(k: int, n: int, p: float) -> float:
    """Return P(X ≤ k) for X ~ Binomial(n, p)."""
    if k < 0:
        return 0.0
    if k >= n or p <= 0.0:
        return 1.0
    if p >= 1.0:
        return 0.0
    # sum the shorter tail, so that nothing is lost to cancellation
    lower = k <= n * p
    mass = math.fsum(_falling(k, n, p, step=-1) if lower else _falling(k + 1, n, p, step=1))
    return min(1.0, mass) if lower else max(0.0, 1.0 - mass)


def _falling(i: int, n: int, p: float, *, step: int) -> Iterator[float]:
    """Yield P(X = i), P(X = i + step), ... away from the mean, until all that follow are lost in rounding.

    A tail of ten million samples has millions of terms, of which some thousands count.
    """
    q = 1.0 - p
    ways = math.lgamma(n + 1) - math.lgamma(i + 1) - math.lgamma(n - i + 1)
    term = math.exp(ways + i * math.log(p) + (n - i) * math.log1p(-p))
    total = 0.0
    while term > 0.0:
        yield term
        total += term
        ratio = i * q / ((n - i + 1) * p) if step < 0 else (n - i) * p / ((i + 1) * q)
        term *= ratio
        # terms fall ever faster, so that what is left is less than a geometric series
        if ratio < 1.0 and term < _ROUNDING * total * (1.0 - ratio):
            return
        i += step


def lower_bound(k: int, n: int, confidence: float) -> float:
    """Return the exact one-sided lower confidence bound of a proportion (Clopper and Pearson, 1934)."""
    if k == 0:
        return 0.0
    return _bisect(lambda p: 1.0 - cdf(k - 1, n, p) < 1.0 - confidence)


def upper_bound(k: int, n: int, confidence: float) -> float:
    """Return the exact one-sided upper confidence bound of a proportion (Clopper and Pearson, 1934)."""
    if k >= n:
        return 1.0
    return _bisect(lambda p: cdf(k, n, p) > 1.0 - confidence)


def _bisect(below: Callable[[float], bool]) -> float:
    low, high = 0.0, 1.0
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        if below(middle):
            low = middle
        else:
            high = middle
    return low
