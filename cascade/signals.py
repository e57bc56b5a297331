"""Signals: one number per input that says how far to trust the edge's scores. Higher is surer.

Each takes probabilities, float [n, classes], and a temperature T, and looks at ``softmax(log p / T)``.
Exact zeros, as quantized models give them, ties and a single class are no special cases to a caller:

=================  ===========================================  ==========  ==================  =========
signal             what it is                                   values      all classes alike   one class
=================  ===========================================  ==========  ==================  =========
max_probability    the largest probability                      (0, 1]      1 / classes         1
margin             the largest less the second largest          [0, 1]      0                   1
entropy            1 − H / ln(classes), so that higher is surer [0, 1]      0                   1
energy             −mean(ln p) − ln(classes): see `energy`      [0, ∞)      0                   0
=================  ===========================================  ==========  ==================  =========

They are computed by `edge_sdk.ext.signals`, to the same bits on every machine, for one row or many, and
for float32 as for the same numbers in float64. Each refuses a row that holds a NaN, an infinity or a
negative number, or nothing but zeros; the sum of a row does not matter to it, but to `check_scores`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_sdk.ext import signals as kernel

__all__ = ["SIGNALS", "check_scores", "energy", "entropy", "margin", "max_probability"]

Floats = NDArray[np.float64]


def check_scores(scores: NDArray[Any], what: str = "scores") -> Floats:
    """Return class probabilities as float64 [n, classes], checked.

    Raises
    ------
    InputError
        Not of rank 2, empty, or a row holds a NaN, an infinity or a negative number, or does not sum
        to 1 within 0.01; the message names the first such row.
    """
    array = np.asarray(scores, dtype=np.float64)
    kernel.check(array, what)
    return array


def max_probability(scores: NDArray[Any], temperature: float = 1.0) -> Floats:
    """Return the largest probability of each row after temperature scaling.

    ``softmax(log p / T)`` has the largest element ``1 / Σ (p_i / p_max)^(1/T)``: no logarithm, so
    exact zeros are no special case, and one class gives 1.

    Parameters
    ----------
    scores
        Probabilities, float [n, classes].
    temperature
        T > 0; above 1 softens.

    Returns
    -------
    float64 [n], in (0, 1].

    References
    ----------
    Guo et al., "On Calibration of Modern Neural Networks", ICML 2017.
    """
    return kernel.Signal("max_probability", temperature).values(scores, normalized=False)


def margin(scores: NDArray[Any], temperature: float = 1.0) -> Floats:
    """Return by how much the largest probability exceeds the second; 1 where there is one class.

    Parameters and result are those of `max_probability`; values are in [0, 1], and 0 is a tie.
    """
    return kernel.Signal("margin", temperature).values(scores, normalized=False)


def entropy(scores: NDArray[Any], temperature: float = 1.0) -> Floats:
    """Return 1 − H / ln(classes), where H is the Shannon entropy of each row; 1 where there is one class.

    A class of probability 0 adds nothing to H. Parameters and result are those of
    `max_probability`; values are in [0, 1], and 0 is indifference.
    """
    return kernel.Signal("entropy", temperature).values(scores, normalized=False)


def energy(scores: NDArray[Any], temperature: float = 1.0) -> Floats:
    """Return the negative free energy of each row's logits, centred at 0, less that of indifference.

    The energy score of logits z is ``ln Σ exp z`` (Liu et al.). A softmax has forgotten the common
    level of the logits, so it is set such that their mean is 0; what is left is
    ``−mean(ln p) − ln(classes)``, the divergence of the scores from indifference. Probabilities
    below 1/512, half a step of an int8 softmax, count as 1/512, so exact zeros are no special case.

    Parameters and result are those of `max_probability`; values are in [0, ∞), and one class gives 0.

    References
    ----------
    Liu, Wang, Owens, Li, "Energy-based Out-of-distribution Detection", NeurIPS 2020.
    """
    return kernel.Signal("energy", temperature).values(scores, normalized=False)


SIGNALS: Mapping[str, Callable[[NDArray[Any], float], Floats]] = MappingProxyType(
    {"max_probability": max_probability, "margin": margin, "entropy": entropy, "energy": energy}
)
