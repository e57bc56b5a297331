"""Detectors in the cascade: how sure a set of boxes is, and what it costs to keep a wrong one.

A detector's answer has no probability of its own, only those of the boxes it kept, which may be none.
What is sure of nothing has not proven that nothing is there: an empty answer is worth 0 and always
escalates, so that a total miss reaches the cloud.

The promise for a detector is made by `edge_sdk.cascade.certify_detector`, of one of the losses here: of the
edge's boxes against true ones, or against the cloud's, which is agreement and says nothing of what is right.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from edge_sdk.errors import InputError

__all__ = [
    "DETECTIONS",
    "DetectionLoss",
    "detection_grid",
    "detection_loss",
    "detection_value",
    "detection_values",
    "harm_of_losses",
]

Floats = NDArray[np.float64]

DETECTIONS = "detections"
"""Name of the signal."""

DetectionLoss = Literal["f1", "missed"]


def detection_value(confidences: NDArray[Any], what: str = "confidences") -> float:
    """Return the mean confidence of the boxes that were kept; 0 where there are none.

    The sum is the exact one, rounded once: the order of the boxes does not matter, nor the machine.

    Parameters
    ----------
    confidences
        Of the boxes kept, float [k] in [0, 1]; k may be 0.
    what
        Name for messages.

    Raises
    ------
    InputError
        Not of rank 1, or a confidence is a NaN or not in [0, 1]; the message names the first such box.
    """
    array = np.asarray(confidences, dtype=np.float64)
    if array.ndim != 1:
        raise InputError(f"{what} should have shape [boxes], not {list(array.shape)}")
    if not len(array):
        return 0.0
    bad = ~((array >= 0.0) & (array <= 1.0))
    if bad.any():
        box = int(np.argmax(bad))
        raise InputError(f"{what}: box {box} has the confidence {array[box]:g}, not one between 0 and 1")
    return math.fsum(array.tolist()) / len(array)


def detection_values(answers: Iterable[NDArray[Any]]) -> Floats:
    """Return the value of each of n answers, which may have different numbers of boxes; float64 [n].

    Raises
    ------
    InputError
        As `detection_value`; the message names the row.
    """
    return np.array([detection_value(one, f"confidences: row {row}") for row, one in enumerate(answers)], np.float64)


def detection_grid(confidences: Iterable[NDArray[Any]], size: int = 200) -> tuple[float, ...]:
    """Lay out the thresholds to test, on validation data: from the most cautious down, and all above 0.

    Parameters
    ----------
    confidences
        Of the boxes kept, n arrays of float [k].
    size
        How many thresholds at most: quantiles of the signal, so that each keeps a like share more.

    Raises
    ------
    InputError
        A confidence is not in [0, 1], or no answer has a box.
    """
    values = detection_values(confidences)
    values = values[values > 0.0]
    if not len(values):
        raise InputError("no answer has a box whose confidence is above 0: there is no threshold to test")
    quantiles = np.quantile(values, np.linspace(1.0, 0.0, size), method="higher")
    return tuple(dict.fromkeys(quantiles.tolist()))


def detection_loss(
    boxes: NDArray[Any],
    labels: NDArray[Any],
    true_boxes: NDArray[Any],
    true_labels: NDArray[Any],
    *,
    kind: DetectionLoss = "f1",
    iou: float = 0.5,
) -> float:
    """Return what one answer of a detector loses against the truth, in [0, 1].

    Boxes are matched one to one and within a class, in the order given (surest first), each to the
    free true box that it overlaps most, if by ``iou`` at least.

    Parameters
    ----------
    boxes, labels
        What was found: float [k, 4] as x1, y1, x2, y2, and int [k]. Surest first.
    true_boxes, true_labels
        What is there, or what the cloud found: float [m, 4] and int [m].
    kind
        ``f1``: 1 − F1 of the boxes. ``missed``: the share of true boxes that were not found; false
        alarms cost nothing. Nothing found where nothing is loses nothing.
    iou
        Overlap, in (0, 1], from which a box counts as found.

    Raises
    ------
    InputError
        An array has another shape, a box holds a NaN or an infinity, or an option is out of range.
    """
    if kind not in ("f1", "missed"):
        raise InputError(f"kind is {kind!r}; it should be 'f1' or 'missed'")
    if not 0.0 < iou <= 1.0:
        raise InputError(f"iou is {iou}; it should be above 0 and at most 1")
    found, found_labels = _check(boxes, labels, "boxes", "labels")
    true, wanted = _check(true_boxes, true_labels, "true_boxes", "true_labels")
    overlap = np.where(found_labels[:, None] == wanted[None, :], _overlaps(found, true), 0.0)
    hits = 0
    for row in overlap:  # a column that is taken is at -1 from then on
        best = int(row.argmax()) if len(row) else 0
        if len(row) and row[best] >= iou:
            hits += 1
            overlap[:, best] = -1.0
    if kind == "missed":
        return 1.0 - hits / len(true) if len(true) else 0.0
    total = len(found) + len(true)
    return 1.0 - 2.0 * hits / total if total else 0.0


def harm_of_losses(edge: NDArray[Any], cloud: NDArray[Any]) -> Floats:
    """Return by how much each answer of the edge is worse than the cloud's; float64 [n] in [0, 1].

    Where losses are 0 and 1 this is the harm that `edge_sdk.cascade.certify` bounds: the edge wrong
    where the cloud is right.

    Parameters
    ----------
    edge, cloud
        Losses of the two against the truth, float [n] in [0, 1].

    Raises
    ------
    InputError
        The arrays differ in length.
    """
    losses = np.asarray(edge, dtype=np.float64), np.asarray(cloud, dtype=np.float64)
    if losses[0].ndim != 1 or losses[0].shape != losses[1].shape:
        raise InputError(
            f"edge {list(losses[0].shape)} and cloud {list(losses[1].shape)} should be losses of [n] alike"
        )
    return np.maximum(losses[0] - losses[1], 0.0)


def _check(boxes: NDArray[Any], labels: NDArray[Any], name: str, of: str) -> tuple[Floats, NDArray[Any]]:
    corners, classes = np.asarray(boxes, dtype=np.float64), np.asarray(labels)
    if corners.size == 0:
        corners = corners.reshape(0, 4)
    if corners.ndim != 2 or corners.shape[1] != 4 or classes.shape != (len(corners),):
        raise InputError(
            f"{name} should have shape [k, 4] and {of} [k], not {list(corners.shape)} and {list(classes.shape)}"
        )
    bad = ~np.isfinite(corners).all(axis=1)
    if bad.any():
        raise InputError(f"{name}: row {int(np.argmax(bad))} holds a NaN or an infinity")
    return corners, classes


def _overlaps(boxes: Floats, others: Floats) -> Floats:
    """Return intersection over union of each pair, float64 [k, m]; 0 where both have no area."""
    low, high = np.maximum(boxes[:, None, :2], others[None, :, :2]), np.minimum(boxes[:, None, 2:], others[None, :, 2:])
    shared = np.maximum(high - low, 0.0).prod(axis=2)
    areas = [np.maximum(each[:, 2:] - each[:, :2], 0.0).prod(axis=1) for each in (boxes, others)]
    union = areas[0][:, None] + areas[1][None, :] - shared
    return np.asarray(np.divide(shared, union, out=np.zeros_like(shared), where=union > 0.0))
