"""Routers beside each other: what each signal achieves with a pair of models, beside chance and the oracle."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_sdk.cascade.calibration import check_labels
from edge_sdk.cascade.deferral import MOST_CLASSES, held_out
from edge_sdk.cascade.evaluation import (
    Curve,
    Selective,
    oracle_curve,
    random_curve,
    router_curve,
    selective,
    share_needed,
)
from edge_sdk.cascade.signals import SIGNALS, check_scores
from edge_sdk.errors import InputError

__all__ = ["FILTERS", "Point", "Router", "compare_routers", "filter_points", "point_of"]

FILTERS = {"Sedna Threshold": "max_probability", "Sedna CrossEntropy": "entropy"}
"""Hard-example filters of KubeEdge Sedna that see scores, and the signals that they are."""

_DEFAULT = 0.5  # Sedna's threshold, unless its user sets another one
_FOLDS = 5


@dataclass(frozen=True, slots=True)
class Router:
    """One way to choose what goes to the cloud.

    Attributes
    ----------
    name
        Of the signal, or ``random`` or ``oracle``.
    curve
        Accuracy of the pair at every share escalated.
    needed
        Smallest share escalated at which the pair is as accurate as the cloud alone; None where never.
    judged
        The signal as a judge of the edge's answers; None for ``random`` and ``oracle``.
    """

    name: str
    curve: Curve
    needed: float | None
    judged: Selective | None = None

    def accuracy(self, share: float) -> float:
        """Return the accuracy of the pair if this share is escalated."""
        return float(np.interp(share, self.curve.share, self.curve.accuracy))


@dataclass(frozen=True, slots=True)
class Point:
    """What a rule with a fixed threshold does.

    Attributes
    ----------
    name
        Of the rule.
    escalated, accuracy, harm
        Share sent to the cloud; accuracy of the pair; share kept, wrong there, and right in the cloud.
    """

    name: str
    escalated: float
    accuracy: float
    harm: float


def compare_routers(
    edge_scores: NDArray[Any], cloud_scores: NDArray[Any], labels: NDArray[Any], *, seed: int = 0
) -> tuple[Router, ...]:
    """Compare every signal, chance and the oracle on test data.

    The learned head is judged by cross-validation: no sample is scored by a head that was fitted to
    it. It is left out where there are too few samples or too many classes for one.

    Parameters
    ----------
    edge_scores, cloud_scores
        Probabilities of the two models on the same inputs, float [n, classes].
    labels
        True classes, int [n].
    seed
        Of the folds.

    Raises
    ------
    InputError
        Scores or labels are not what they should be, or do not belong together.
    """
    edge, right, cloud_right = _right(edge_scores, cloud_scores, labels)
    goal = float(cloud_right.mean())
    signals = {name: of(edge, 1.0) for name, of in SIGNALS.items()}
    if len(edge) >= 2 * _FOLDS and edge.shape[1] <= MOST_CLASSES:
        signals["learned"] = held_out(edge_scores, cloud_scores, labels, folds=_FOLDS, seed=seed)
    bounds = {"random": random_curve(right, cloud_right), "oracle": oracle_curve(right, cloud_right)}
    made = [Router(name, curve, share_needed(curve, goal)) for name, curve in bounds.items()]
    for name, values in signals.items():
        curve = router_curve(values, right, cloud_right)
        made.append(Router(name, curve, share_needed(curve, goal), selective(values, right)))
    return tuple(made)


def filter_points(
    edge_scores: NDArray[Any], cloud_scores: NDArray[Any], labels: NDArray[Any], *, threshold: float = _DEFAULT
) -> tuple[Point, ...]:
    """Return what Sedna's filters do at a threshold, by default theirs; errors are those of `compare_routers`."""
    edge, right, cloud_right = _right(edge_scores, cloud_scores, labels)
    return tuple(
        point_of(f"{name} at {threshold:g}", SIGNALS[signal](edge, 1.0) >= threshold, right, cloud_right)
        for name, signal in FILTERS.items()
    )


def point_of(name: str, local: NDArray[Any], edge_right: NDArray[Any], cloud_right: NDArray[Any]) -> Point:
    """Return what a rule does that keeps these; arguments are bool [n]."""
    accuracy = np.where(local, edge_right, cloud_right).mean()
    harmed = local & ~edge_right & cloud_right
    return Point(name, float(1.0 - local.mean()), float(accuracy), float(harmed.mean()))


def _right(
    edge_scores: NDArray[Any], cloud_scores: NDArray[Any], labels: NDArray[Any]
) -> tuple[NDArray[np.float64], NDArray[np.bool_], NDArray[np.bool_]]:
    edge, cloud = check_scores(edge_scores, "edge_scores"), check_scores(cloud_scores, "cloud_scores")
    if edge.shape != cloud.shape:
        raise InputError(f"edge_scores {list(edge.shape)} and cloud_scores {list(cloud.shape)} differ in shape")
    truth = check_labels(labels, *edge.shape)
    return edge, edge.argmax(axis=1) == truth, cloud.argmax(axis=1) == truth
