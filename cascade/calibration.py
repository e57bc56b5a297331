"""Calibration: make a model's confidence mean what it says."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_sdk.cascade.signals import check_scores
from edge_sdk.errors import InputError

__all__ = ["check_labels", "fit_temperature"]

_SMALLEST = 1e-12  # stands for an exact zero of a quantized softmax
_SHARPEST, _SOFTEST = 0.05, 20.0
_BISECTIONS = 50


def check_labels(labels: NDArray[Any], n: int, classes: int) -> NDArray[np.int64]:
    """Return labels as int64 [n]; raise `InputError` naming the first that is out of range."""
    array = np.asarray(labels)
    if array.shape != (n,) or not np.issubdtype(array.dtype, np.integer):
        raise InputError(f"labels should be {n} integers, not {array.dtype}{list(array.shape)}")
    bad = (array < 0) | (array >= classes)
    if bad.any():
        row = int(np.argmax(bad))
        raise InputError(f"labels: row {row} is {int(array[row])}; there are {classes} classes")
    return array.astype(np.int64)


def fit_temperature(scores: NDArray[Any], labels: NDArray[Any]) -> float:
    """Return the temperature that minimises the negative log-likelihood on held-out data.

    The likelihood is concave in 1/T, so bisection on its slope finds the optimum; it is kept
    within [0.05, 20].

    Parameters
    ----------
    scores
        Probabilities, float [n, classes].
    labels
        True classes, int [n].

    Raises
    ------
    InputError
        Scores or labels are not what they should be.

    References
    ----------
    Guo et al., "On Calibration of Modern Neural Networks", ICML 2017.
    """
    array = check_scores(scores)
    truth = check_labels(labels, *array.shape)
    logs = np.log(np.maximum(array, _SMALLEST))
    logs -= logs.max(axis=1, keepdims=True)
    of_truth = logs[np.arange(len(truth)), truth].mean()

    def slope(inverse: float) -> float:
        weights = np.exp(inverse * logs)
        weights /= weights.sum(axis=1, keepdims=True)
        return float(of_truth - (weights * logs).sum(axis=1).mean())

    low, high = 1.0 / _SOFTEST, 1.0 / _SHARPEST
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        low, high = (middle, high) if slope(middle) > 0 else (low, middle)
    return float(2.0 / (low + high))
