"""Signals: one number per input that says how far to trust the edge's scores. Higher is surer."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_sdk.errors import InputError

__all__ = ["SIGNALS", "check_scores", "max_probability"]

SIGNALS = ("max_probability",)
_SUM_TOLERANCE = 1e-2  # int8 probabilities have steps of 1/256


def check_scores(scores: NDArray[Any], what: str = "scores") -> NDArray[np.float64]:
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


def max_probability(scores: NDArray[Any], temperature: float = 1.0) -> NDArray[np.float64]:
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
    # the order of summation follows the memory layout: one layout, so that one row and many agree to the last bit
    array = np.ascontiguousarray(scores, dtype=np.float64)
    ratios = array / array.max(axis=1, keepdims=True)
    return np.asarray(1.0 / (ratios ** (1.0 / temperature)).sum(axis=1))
