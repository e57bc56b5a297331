"""Routers beside each other: what each signal achieves with a pair of models, beside chance and the oracle."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_sdk.cascade.calibration import check_labels
from edge_sdk.cascade.deferral import MOST_CLASSES, held_out
from edge_sdk.cascade.detections import detection_values
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

__all__ = ["FILTERS", "Point", "Router", "compare_detectors", "compare_routers", "filter_points", "point_of"]

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
    sent
        Bytes sent, on average over all inputs; None where sizes are not known.
    """

    name: str
    escalated: float
    accuracy: float
    harm: float
    sent: float | None = None


def compare_routers(
    edge_scores: NDArray[Any],
    cloud_scores: NDArray[Any],
    labels: NDArray[Any],
    *,
    sizes: NDArray[Any] | None = None,
    seed: int = 0,
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
    sizes
        Bytes that each input is sent as, [n], for the curves against bytes.
    seed
        Of the folds.

    Raises
    ------
    InputError
        Scores or labels are not what they should be, or do not belong together.
    """
    edge, right, cloud_right = _right(edge_scores, cloud_scores, labels)
    signals = {name: of(edge, 1.0) for name, of in SIGNALS.items()}
    if len(edge) >= 2 * _FOLDS and edge.shape[1] <= MOST_CLASSES:
        signals["learned"] = held_out(edge_scores, cloud_scores, labels, folds=_FOLDS, seed=seed)
    return _routers(signals, right, cloud_right, sizes, judge=right)


def _routers(
    signals: Mapping[str, NDArray[np.float64]],
    edge: NDArray[Any],
    cloud: NDArray[Any],
    sizes: NDArray[Any] | None,
    *,
    judge: NDArray[np.bool_] | None,
) -> tuple[Router, ...]:
    """Return chance, the oracle and every signal; ``judge`` is which answers of the edge are right, if known."""
    goal = float(np.mean(cloud))
    bounds = {"random": random_curve(edge, cloud, sizes=sizes), "oracle": oracle_curve(edge, cloud, sizes=sizes)}
    made = [Router(name, curve, share_needed(curve, goal)) for name, curve in bounds.items()]
    for name, values in signals.items():
        curve = router_curve(values, edge, cloud, sizes=sizes)
        made.append(Router(name, curve, share_needed(curve, goal), None if judge is None else selective(values, judge)))
    return tuple(made)


def compare_detectors(
    confidences: Sequence[NDArray[Any]],
    edge_losses: NDArray[Any],
    cloud_losses: NDArray[Any],
    *,
    sizes: NDArray[Any] | None = None,
) -> tuple[Router, ...]:
    """Compare what could decide about the answers of a detector; accuracy is 1 less the mean loss.

    Of peers, Sedna's Threshold filter is the mean confidence of the boxes, and its IBT the share of
    boxes that are surer than 0.5; both call an answer without boxes easy, and are compared as they are.

    Parameters
    ----------
    confidences
        Of the boxes that the edge kept, n arrays of float [k].
    edge_losses, cloud_losses
        What each answer loses against the truth, float [n] in [0, 1]; see
        `edge_sdk.cascade.detections.detection_loss`.
    sizes
        Bytes that each input is sent as, [n].

    Raises
    ------
    InputError
        A confidence is not in [0, 1], or the arrays differ in length.
    """
    values = detection_values(confidences)
    empty = np.array([len(one) == 0 for one in confidences], dtype=bool)
    surer = np.array([np.mean(np.asarray(one) > _DEFAULT) if len(one) else 0.0 for one in confidences])
    signals = {
        "detections": values,
        "Sedna Threshold": np.where(empty, np.inf, values),
        "Sedna IBT": np.where(empty, np.inf, surer),
    }
    quality = [1.0 - np.asarray(losses, dtype=np.float64) for losses in (edge_losses, cloud_losses)]
    return _routers(signals, quality[0], quality[1], sizes, judge=None)


def filter_points(
    edge_scores: NDArray[Any],
    cloud_scores: NDArray[Any],
    labels: NDArray[Any],
    *,
    threshold: float = _DEFAULT,
    sizes: NDArray[Any] | None = None,
) -> tuple[Point, ...]:
    """Return what Sedna's filters do at a threshold, by default theirs; see `compare_routers` for the rest."""
    edge, right, cloud_right = _right(edge_scores, cloud_scores, labels)
    return tuple(
        point_of(f"{name} at {threshold:g}", SIGNALS[signal](edge, 1.0) >= threshold, right, cloud_right, sizes)
        for name, signal in FILTERS.items()
    )


def point_of(
    name: str,
    local: NDArray[Any],
    edge_right: NDArray[Any],
    cloud_right: NDArray[Any],
    sizes: NDArray[Any] | None = None,
) -> Point:
    """Return what a rule does that keeps these; arguments are bool [n], and sizes bytes [n]."""
    accuracy = np.where(local, edge_right, cloud_right).mean()
    harmed = local & ~edge_right & cloud_right
    sent = None if sizes is None else float(np.where(local, 0.0, sizes).mean())
    return Point(name, float(1.0 - local.mean()), float(accuracy), float(harmed.mean()), sent)


def _right(
    edge_scores: NDArray[Any], cloud_scores: NDArray[Any], labels: NDArray[Any]
) -> tuple[NDArray[np.float64], NDArray[np.bool_], NDArray[np.bool_]]:
    edge, cloud = check_scores(edge_scores, "edge_scores"), check_scores(cloud_scores, "cloud_scores")
    if edge.shape != cloud.shape:
        raise InputError(f"edge_scores {list(edge.shape)} and cloud_scores {list(cloud.shape)} differ in shape")
    truth = check_labels(labels, *edge.shape)
    return edge, edge.argmax(axis=1) == truth, cloud.argmax(axis=1) == truth
