"""Exact binomial tails and bounds, by summing the mass function in log space.

No approximation: what a certificate promises must not rest on one.
"""

from __future__ import annotations

import math
from collections.abc import Callable

__all__ = ["cdf", "lower_bound", "upper_bound"]

_BISECTIONS = 60


def cdf(k: int, n: int, p: float) -> float:
    """Return P(X ≤ k) for X ~ Binomial(n, p)."""
    if k < 0:
        return 0.0
    if k >= n or p <= 0.0:
        return 1.0
    if p >= 1.0:
        return 0.0
    log_p, log_q, log_n = math.log(p), math.log1p(-p), math.lgamma(n + 1)
    # sum the shorter tail, so that nothing is lost to cancellation
    lower = k <= n * p
    terms = range(k + 1) if lower else range(k + 1, n + 1)
    mass = math.fsum(
        math.exp(log_n - math.lgamma(i + 1) - math.lgamma(n - i + 1) + i * log_p + (n - i) * log_q) for i in terms
    )
    return min(1.0, mass) if lower else max(0.0, 1.0 - mass)


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
