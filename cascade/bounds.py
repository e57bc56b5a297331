"""P-values of "the mean loss is above the target" for losses in [0, 1] that are not just 0 or 1.

Both hold at any sample size, for independent draws of one distribution, whatever that is.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from edge_sdk.cascade import binomial

__all__ = ["BETS", "hoeffding_bentkus", "log_wealth_steps", "p_value_of_wealth"]

_LARGEST = 0.99  # a bet of everything could not survive one full loss
_HOW_MANY = 40
# shares of the largest bet that cannot go broke; squares, as small bets suit losses that vary much
BETS: NDArray[np.float64] = _LARGEST * (np.arange(1, _HOW_MANY + 1) / _HOW_MANY) ** 2


def log_wealth_steps(losses: NDArray[np.float64], target: float) -> NDArray[np.float64]:
    """Return what each loss adds to the logarithm of the wealth of each bet against the null.

    If the mean loss is at least the target, a gambler who multiplies his wealth by
    ``1 − λ (loss − target)`` at each sample does not gain in expectation, for any λ that keeps the
    wealth positive. Wealth is therefore evidence against the null. Several λ share the stake evenly,
    which needs no order of the samples and no tuning on them.

    Parameters
    ----------
    losses
        Float64 [n], in [0, 1].
    target
        In (0, 1).

    Returns
    -------
    float64 [n, bets].

    References
    ----------
    Waudby-Smith and Ramdas, "Estimating means of bounded random variables by betting", JRSS B, 2024.
    """
    return np.log1p(-np.outer(losses - target, BETS / (1.0 - target)))


def p_value_of_wealth(log_wealth: NDArray[np.float64]) -> float:
    """Return the p-value, by Markov's inequality, of the logarithms of wealth of all bets [bets]."""
    top = float(log_wealth.max())
    # ln(mean of the wealths), safe for large ones; the p-value is at most 1
    logarithm = top + math.log(float(np.exp(log_wealth - top).mean()))
    return math.exp(min(0.0, -logarithm))


def hoeffding_bentkus(mean: float, n: int, target: float) -> float:
    """Return the smaller of the p-values of Hoeffding and of Bentkus.

    Parameters
    ----------
    mean
        Mean of the losses seen, in [0, 1].
    n
        How many they are.
    target
        In (0, 1).

    References
    ----------
    Bates, Angelopoulos, Lei, Malik, Jordan, "Distribution-Free, Risk-Controlling Prediction Sets",
    JACM 2021.
    """
    if mean >= target:
        return 1.0
    divergence = (1.0 - mean) * math.log((1.0 - mean) / (1.0 - target))
    if mean > 0.0:
        divergence += mean * math.log(mean / target)
    # the product may exceed a whole number by its rounding alone
    at_most = math.ceil(n * mean - 1e-9)
    return min(1.0, math.exp(-n * divergence), math.e * binomial.cdf(at_most, n, target))
