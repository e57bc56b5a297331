"""Calibration: make a model's confidence mean what it says.

=================  =================================  ===============================================
method             parameters                         can change
=================  =================================  ===============================================
`fit_temperature`  one                                how sure, never which class
`fit_vector`       two a class                        which class as well
`fit_isotonic`     as many as there are steps         a confidence, whatever it came from
=================  =================================  ===============================================

All are fitted on held-out data that is not the calibration data of a certificate. How well they did
is measured in `edge_sdk.cascade.reliability`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_sdk.cascade.signals import check_scores
from edge_sdk.errors import InputError

__all__ = ["Isotonic", "VectorScaling", "check_labels", "fit_isotonic", "fit_temperature", "fit_vector"]

Floats = NDArray[np.float64]

_SMALLEST = 1e-12  # stands for an exact zero of a quantized softmax
_SHARPEST, _SOFTEST = 0.05, 20.0
_BISECTIONS = 50
_NEWTON_STEPS = 100
_CONVERGED = 1e-10  # a Newton decrement: nats left to gain, about


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


@dataclass(frozen=True, slots=True)
class VectorScaling:
    """``softmax(weights · log p + bias)``, class by class.

    Attributes
    ----------
    weights, bias
        One number a class; 1 and 0 change nothing.
    """

    weights: tuple[float, ...]
    bias: tuple[float, ...]

    def apply(self, scores: NDArray[Any]) -> Floats:
        """Return calibrated probabilities, float64 [n, classes].

        Raises
        ------
        InputError
            Scores are no probabilities, or of another number of classes.
        """
        array = check_scores(scores)
        if array.shape[1] != len(self.weights):
            raise InputError(f"scores have {array.shape[1]} classes; this scaling was fitted to {len(self.weights)}")
        return _softmax(np.log(np.maximum(array, _SMALLEST)) * np.array(self.weights) + np.array(self.bias))


def fit_vector(scores: NDArray[Any], labels: NDArray[Any]) -> VectorScaling:
    """Return the vector scaling that minimises the negative log-likelihood on held-out data.

    A standard normal prior about "change nothing" is added, so that a class of few examples is
    left nearly as it is. The sum is strictly convex; Newton's method with step halving finds its
    minimum, in memory and time that grow with (2 · classes)².

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
    n, classes = logs.shape
    rows, each = np.arange(n), np.arange(classes)
    start = np.concatenate([np.ones(classes), np.zeros(classes)])

    def loss(at: Floats) -> float:
        scaled = logs * at[:classes] + at[classes:]
        top = scaled.max(axis=1)
        total = top + np.log(np.exp(scaled - top[:, None]).sum(axis=1))
        return float((total - scaled[rows, truth]).sum() + 0.5 * ((at - start) ** 2).sum())

    at, value = start, loss(start)
    for _ in range(_NEWTON_STEPS):
        given = _softmax(logs * at[:classes] + at[classes:])
        weighted = np.concatenate([given * logs, given], axis=1)
        hessian = np.eye(2 * classes) - weighted.T @ weighted
        of_weights, of_both, of_bias = (given * logs**2).sum(axis=0), (given * logs).sum(axis=0), given.sum(axis=0)
        hessian[each, each] += of_weights
        hessian[each + classes, each + classes] += of_bias
        hessian[each, each + classes] += of_both
        hessian[each + classes, each] += of_both
        given[rows, truth] -= 1.0
        gradient = np.concatenate([(given * logs).sum(axis=0), given.sum(axis=0)]) + at - start
        step = np.linalg.solve(hessian, gradient)
        decrement, size = float(gradient @ step), 1.0
        if decrement < _CONVERGED:
            break
        while loss(at - size * step) > value - 1e-4 * size * decrement and size > 1e-6:
            size /= 2
        at = at - size * step
        value = loss(at)
    return VectorScaling(tuple(at[:classes].tolist()), tuple(at[classes:].tolist()))


@dataclass(frozen=True, slots=True)
class Isotonic:
    """A confidence mapped to the share of right answers by a line that never falls.

    Attributes
    ----------
    values
        Confidences, rising.
    shares
        Share of right answers at each, never falling; between two the line is straight, and
        beyond the ends it is level.
    """

    values: tuple[float, ...]
    shares: tuple[float, ...]

    def apply(self, values: NDArray[Any]) -> Floats:
        """Return the share of right answers expected at each value, float64 of the same shape."""
        return np.interp(np.asarray(values, dtype=np.float64), self.values, self.shares)


def fit_isotonic(values: NDArray[Any], right: NDArray[Any]) -> Isotonic:
    """Return the line that never falls and is nearest in squares, by pooling adjacent violators.

    Parameters
    ----------
    values
        Any signal, float [n]; higher is surer.
    right
        Which answers were right, bool [n].

    Raises
    ------
    InputError
        The arrays are empty, differ in length, or a value is not finite.

    References
    ----------
    Zadrozny and Elkan, "Transforming Classifier Scores into Accurate Multiclass Probability
    Estimates", KDD 2002.
    """
    at, hit = np.asarray(values, dtype=np.float64), np.asarray(right, dtype=np.float64)
    if at.ndim != 1 or at.shape != hit.shape or len(at) == 0:
        raise InputError("values and right should have the same length, at least 1")
    bad = ~np.isfinite(at)
    if bad.any():
        raise InputError(f"values: row {int(np.argmax(bad))} is a NaN or an infinity")
    points, of_row, counts = np.unique(at, return_inverse=True, return_counts=True)
    hits = np.bincount(of_row, weights=hit)
    pooled: list[list[float]] = []  # of each block: hits, rows, index of its first and of its last point
    for n, (of_point, rows) in enumerate(zip(hits.tolist(), counts.tolist(), strict=True)):
        block = [of_point, float(rows), n, n]
        while pooled and pooled[-1][0] * block[1] >= block[0] * pooled[-1][1]:
            before = pooled.pop()
            block = [before[0] + block[0], before[1] + block[1], before[2], n]
        pooled.append(block)
    edges: dict[int, float] = {}
    for of_block, rows, first, last in pooled:
        edges[int(first)] = edges[int(last)] = of_block / rows
    return Isotonic(tuple(points[list(edges)].tolist()), tuple(edges.values()))


def _softmax(logits: Floats) -> Floats:
    weights = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(weights / weights.sum(axis=1, keepdims=True))
