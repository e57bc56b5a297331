"""The learned deferral head: by how much the edge is likelier to be right than the cloud, from the edge's scores.

Confidence asks whether the edge is right. What deferral gains, though, is the difference: an input
that is hard for both is better kept, and one that the cloud masters is better sent, however sure the
edge may be. Two logistic regressions on the same features, P(edge right) and P(cloud right), are
subtracted. That pays most where the cloud is a specialist (Jitkrittum et al.).

A head is a few hundred numbers at most, travels in the policy, and is used only if it is better than
the largest probability on data that it was not fitted to.

References
----------
Jitkrittum, Gupta, Menon, Narasimhan, Rawat, Kumar, "When Does Confidence-Based Cascade Deferral
Suffice?", NeurIPS 2023.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_sdk.cascade.calibration import check_labels
from edge_sdk.cascade.signals import check_scores, max_probability
from edge_sdk.errors import CertificateError, InputError
from edge_sdk.ext.signals import MOST_CLASSES, Signal, features

__all__ = ["MOST_CLASSES", "Head", "fit_head", "held_out", "learn_head"]

Floats = NDArray[np.float64]

_RIDGE = 30.0  # as much as about so many samples; features are standardised
_NEWTON_STEPS = 50
_DIGITS = 8
_RESAMPLES = 400


@dataclass(frozen=True, slots=True)
class Head:
    """Two logistic regressions on `edge_sdk.ext.signals.features` of the edge's scores.

    Attributes
    ----------
    classes
        How many classes the scores have.
    edge, cloud
        Weights of the features, and last the bias, of "the edge is right" and "the cloud is right".
    """

    classes: int
    edge: tuple[float, ...]
    cloud: tuple[float, ...]

    def __post_init__(self) -> None:
        if not 1 <= self.classes <= MOST_CLASSES:
            raise CertificateError(f"head: {self.classes} classes; there should be 1 to {MOST_CLASSES}")
        size = 4 * self.classes + min(5, self.classes) + 3  # weights travel in the manifest
        for name, weights in (("edge", self.edge), ("cloud", self.cloud)):
            if len(weights) != size or not all(map(math.isfinite, weights)):
                raise CertificateError(f"head: {name} should be {size} finite weights")

    def signal(self, temperature: float = 1.0) -> Signal:
        """Return the signal ``learned`` of this head, with confidences at a temperature."""
        return Signal("learned", temperature, classes=self.classes, edge=self.edge, cloud=self.cloud)

    def values(self, scores: NDArray[Any]) -> Floats:
        """Return P(edge right) − P(cloud right) of each row of probabilities [n, classes]; float64 [n] in [−1, 1].

        Raises
        ------
        InputError
            The scores have another number of classes, or hold a NaN, an infinity or a negative number.
        """
        return self.signal().values(scores, normalized=False)

    def to_json(self) -> dict[str, Any]:
        """Return the head as JSON-compatible values."""
        return {"classes": self.classes, "edge": list(self.edge), "cloud": list(self.cloud)}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Head:
        """Read a head from JSON values; raise `CertificateError` or what a wrong type raises."""
        edge, cloud = (tuple(float(weight) for weight in value[name]) for name in ("edge", "cloud"))
        return cls(int(value["classes"]), edge, cloud)


def _sigmoid(x: Floats) -> Floats:
    # e^-|x| never overflows
    small = np.exp(-np.abs(x))
    return np.asarray(np.where(x >= 0.0, 1.0, small) / (1.0 + small))


def _logistic(inputs: Floats, hit: Floats) -> Floats:
    """Return the weights [inputs + 1], bias last, of a ridge logistic regression by Newton's method."""
    design = np.concatenate([inputs, np.ones((len(inputs), 1))], axis=1)
    ridge = np.full(design.shape[1], _RIDGE)
    ridge[-1] = 1e-3  # next to nothing: enough where all were right
    weights = np.zeros(design.shape[1])

    def loss(at: Floats) -> float:
        scaled = design @ at
        return float((np.logaddexp(0.0, scaled) - hit * scaled).sum() + 0.5 * (ridge * at**2).sum())

    value = loss(weights)
    for _ in range(_NEWTON_STEPS):
        given = _sigmoid(design @ weights)
        gradient = design.T @ (given - hit) + ridge * weights
        hessian = (design * (given * (1.0 - given))[:, None]).T @ design + np.diag(ridge)
        step = np.linalg.solve(hessian, gradient)
        decrement, size = float(gradient @ step), 1.0
        if decrement < 1e-9:
            break
        while loss(weights - size * step) > value - 1e-4 * size * decrement and size > 1e-6:
            size /= 2
        weights = weights - size * step
        value = loss(weights)
    return weights


def fit_head(edge_scores: NDArray[Any], cloud_scores: NDArray[Any], labels: NDArray[Any]) -> Head:
    """Fit the head to validation data.

    Parameters
    ----------
    edge_scores, cloud_scores
        Probabilities of the two deployed models on the same inputs, float [n, classes].
    labels
        True classes, int [n].

    Raises
    ------
    InputError
        The arrays are not what they should be, do not belong together, or have more than 256 classes.
    """
    edge, right, cloud_right = _check(edge_scores, cloud_scores, labels)
    return _fit(edge, right, cloud_right)


def _check(
    edge_scores: NDArray[Any], cloud_scores: NDArray[Any], labels: NDArray[Any]
) -> tuple[Floats, NDArray[np.bool_], NDArray[np.bool_]]:
    edge, cloud = check_scores(edge_scores, "edge_scores"), check_scores(cloud_scores, "cloud_scores")
    if edge.shape != cloud.shape:
        raise InputError(f"edge_scores {list(edge.shape)} and cloud_scores {list(cloud.shape)} differ in shape")
    if edge.shape[1] > MOST_CLASSES:
        raise InputError(f"scores have {edge.shape[1]} classes; a deferral head takes at most {MOST_CLASSES}")
    truth = check_labels(labels, *edge.shape)
    return edge, edge.argmax(axis=1) == truth, cloud.argmax(axis=1) == truth


def _fit(edge: Floats, right: NDArray[np.bool_], cloud_right: NDArray[np.bool_]) -> Head:
    made_of = features(edge)
    mean, spread = made_of.mean(axis=0), made_of.std(axis=0)
    spread[spread < 1e-9] = 1.0
    made = []
    for hit in (right, cloud_right):
        weights = _logistic((made_of - mean) / spread, hit.astype(np.float64))
        plain = weights[:-1] / spread  # so that the device need not standardise
        plain = np.append(plain, weights[-1] - plain @ mean)
        made.append(tuple(float(f"{weight:.{_DIGITS}g}") for weight in plain))
    return Head(edge.shape[1], *made)


def held_out(
    edge_scores: NDArray[Any], cloud_scores: NDArray[Any], labels: NDArray[Any], *, folds: int = 5, seed: int = 0
) -> Floats:
    """Return the head's value of each sample, from a head fitted to the other folds; float64 [n].

    Parameters and errors are those of `fit_head`; ``folds`` is at least 2 and at most n.
    """
    edge, right, cloud_right = _check(edge_scores, cloud_scores, labels)
    if not 2 <= folds <= len(edge):
        raise InputError(f"folds is {folds}; it should be from 2 to the {len(edge)} samples")
    of_row = np.random.default_rng(seed).permutation(len(edge)) % folds
    values = np.empty(len(edge))
    for fold in range(folds):
        out = of_row == fold
        values[out] = _fit(edge[~out], right[~out], cloud_right[~out]).values(edge[out])
    return values


def learn_head(
    edge_scores: NDArray[Any], cloud_scores: NDArray[Any], labels: NDArray[Any], *, seed: int = 0
) -> Head | None:
    """Return a head if it is better than the largest probability on held-out data, or else None.

    Better: its mean accuracy over all shares escalated is higher, with 95 % confidence by a paired
    bootstrap of the samples, each judged by a head that was fitted to other folds.

    Parameters and errors are those of `fit_head`.
    """
    edge, right, cloud_right = _check(edge_scores, cloud_scores, labels)
    if len(edge) < 10:
        return None
    gain = cloud_right.astype(np.float64) - right
    orders = [
        np.argsort(values, kind="stable")
        for values in (held_out(edge_scores, cloud_scores, labels, seed=seed), max_probability(edge))
    ]
    rng, n = np.random.default_rng(seed), len(edge)
    better = np.empty(_RESAMPLES)
    for draw in range(_RESAMPLES):
        times = np.bincount(rng.integers(0, n, n), minlength=n)
        areas = [float((np.cumsum((times * gain)[order]) * times[order]).sum()) for order in orders]
        better[draw] = areas[0] - areas[1]
    return _fit(edge, right, cloud_right) if np.quantile(better, 0.05) > 0.0 else None
