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
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_sdk.errors import InputError

__all__ = ["SIGNALS", "check_scores", "energy", "entropy", "margin", "max_probability"]

Floats = NDArray[np.float64]

_SUM_TOLERANCE = 1e-2  # int8 probabilities have steps of 1/256
_FLOOR = 1 / 512  # half a step of int8 probabilities: what is below was rounded away on most devices


def check_scores(scores: NDArray[Any], what: str = "scores") -> Floats:
    """Return class probabilities as float64 [n, classes], checked.

    Raises
    ------
    InputError
        Not of rank 2, empty, or a row holds a NaN, an infinity or a negative number, or does not sum
        to 1 within 0.01; the message names the first such row.
    """
    array = np.asarray(scores, dtype=np.float64)
    if array.ndim != 2 or array.size == 0:
        raise InputError(f"{what} should have shape [n, classes] with at least one of each, not {list(array.shape)}")
    bad = ~np.isfinite(array).all(axis=1)
    if bad.any():
        raise InputError(f"{what}: row {int(np.argmax(bad))} holds a NaN or an infinity")
    bad = (array < 0).any(axis=1)
    if bad.any():
        raise InputError(f"{what}: row {int(np.argmax(bad))} holds a negative probability")
    totals = array.sum(axis=1)
    bad = np.abs(totals - 1.0) > _SUM_TOLERANCE
    if bad.any():
        row = int(np.argmax(bad))
        raise InputError(f"{what}: row {row} sums to {totals[row]:.4g}, not 1; are these logits?")
    return array


def _ratios(scores: NDArray[Any], temperature: float) -> Floats:
    """Return ``(p / p_max) ** (1 / T)``: the scaled softmax but for its sum, without a logarithm of zero."""
    # the order of summation follows the memory layout: one layout, so that one row and many agree to the last bit
    array = np.ascontiguousarray(scores, dtype=np.float64)
    return np.asarray((array / array.max(axis=1, keepdims=True)) ** (1.0 / temperature))


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
    return np.asarray(1.0 / _ratios(scores, temperature).sum(axis=1))


def margin(scores: NDArray[Any], temperature: float = 1.0) -> Floats:
    """Return by how much the largest probability exceeds the second; 1 where there is one class.

    Parameters and result are those of `max_probability`; values are in [0, 1], and 0 is a tie.
    """
    ratios = _ratios(scores, temperature)
    if ratios.shape[1] == 1:
        return np.ones(len(ratios))
    second = np.partition(ratios, -2, axis=1)[:, -2]
    return np.asarray((1.0 - second) / ratios.sum(axis=1))


def entropy(scores: NDArray[Any], temperature: float = 1.0) -> Floats:
    """Return 1 − H / ln(classes), where H is the Shannon entropy of each row; 1 where there is one class.

    A class of probability 0 adds nothing to H. Parameters and result are those of
    `max_probability`; values are in [0, 1], and 0 is indifference.
    """
    ratios = _ratios(scores, temperature)
    if ratios.shape[1] == 1:
        return np.ones(len(ratios))
    total = ratios.sum(axis=1)
    # H = ln Σr − Σ r ln r / Σr; where r is 0, r ln r is 0
    weighted = (ratios * np.log(np.where(ratios > 0.0, ratios, 1.0))).sum(axis=1)
    scaled = (np.log(total) - weighted / total) / math.log(ratios.shape[1])
    return np.asarray(np.clip(1.0 - scaled, 0.0, 1.0))


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
    ratios = _ratios(scores, temperature)
    floored = np.maximum(ratios / ratios.sum(axis=1, keepdims=True), _FLOOR)
    floored /= floored.sum(axis=1, keepdims=True)  # so that the divergence stays one, and is never below 0
    value = -np.log(floored).mean(axis=1) - math.log(ratios.shape[1])
    return np.asarray(np.maximum(value, 0.0))


SIGNALS: Mapping[str, Callable[[NDArray[Any], float], Floats]] = MappingProxyType(
    {"max_probability": max_probability, "margin": margin, "entropy": entropy, "energy": energy}
)
