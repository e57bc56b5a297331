"""What follows a detector, in NumPy and float64: the oracle and documentation of the kernels.

`edge_sdk.ext.detection` computes the same much faster; its docstrings say what the parameters are.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

__all__ = ["reference_ssd", "reference_yolo"]

Quantization = tuple[float, int]
Tensor = NDArray[np.float32] | NDArray[np.int8] | NDArray[np.uint8]
Doubles = NDArray[np.float64]
Found = tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.int32], NDArray[np.int32]]


def reference_yolo(
    x: Tensor,
    *,
    score_threshold: float = 0.25,
    iou_threshold: float = 0.45,
    max_detections: int = 300,
    size: tuple[float, float] | None = None,
    quantization: Quantization | None = None,
) -> Found:
    """Compute what `edge_sdk.ext.detection.decode_yolo` does, from `x` of shape (4 + C, n)."""
    real = _real(x, quantization)
    boxes = _from_centres(real[:4].T.astype(np.float64))
    return _select(boxes, real[4:].T, size, score_threshold, iou_threshold, max_detections)


def reference_ssd(
    boxes: Tensor,
    scores: Tensor,
    *,
    anchors: NDArray[np.float32] | None = None,
    variances: tuple[float, float] = (0.1, 0.2),
    order: Literal["xy", "yx"] = "xy",
    background: bool = False,
    score_threshold: float = 0.25,
    iou_threshold: float = 0.45,
    max_detections: int = 300,
    size: tuple[float, float] | None = None,
    boxes_quantization: Quantization | None = None,
    scores_quantization: Quantization | None = None,
) -> Found:
    """Compute what `edge_sdk.ext.detection.decode_ssd` does, from `boxes` (n, 4) and `scores` (n, C)."""
    corners = _real(boxes, boxes_quantization).astype(np.float64)
    if anchors is not None:
        centre, extent = np.split(anchors.astype(np.float64), 2, axis=1)
        with np.errstate(over="ignore", invalid="ignore"):
            shifted = centre + corners[:, :2] * variances[0] * extent
            corners = _from_centres(np.hstack([shifted, extent * np.exp(corners[:, 2:] * variances[1])]))
    if order == "yx":
        corners = corners[:, [1, 0, 3, 2]]
    first = int(background)
    found = _select(
        corners, _real(scores, scores_quantization)[:, first:], size, score_threshold, iou_threshold, max_detections
    )
    return found[0], found[1], found[2] + np.int32(first), found[3]


def _real(x: Tensor, quantization: Quantization | None) -> NDArray[np.float32]:
    if quantization is None:
        return x.astype(np.float32)
    scale, zero_point = quantization
    return (x.astype(np.float32) - np.float32(zero_point)) * np.float32(scale)


def _from_centres(boxes: Doubles) -> Doubles:
    centre, half = boxes[:, :2], boxes[:, 2:] * 0.5
    with np.errstate(invalid="ignore"):
        return np.hstack([centre - half, centre + half])


def _select(
    corners: Doubles,
    scores: NDArray[np.float32],
    size: tuple[float, float] | None,
    score_threshold: float,
    iou_threshold: float,
    max_detections: int,
) -> Found:
    height, width = size or (1.0, 1.0)
    with np.errstate(over="ignore", invalid="ignore"):
        corners = corners * [width, height, width, height]
        boxes = corners.astype(np.float32)
    scores = np.where(np.isnan(scores), np.float32(-np.inf), scores)
    classes = scores.argmax(axis=1).astype(np.int32)
    best = scores.max(axis=1)
    finite = (np.abs(corners) <= np.finfo(np.float32).max).all(axis=1)
    usable = finite & (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])
    order = np.flatnonzero((best >= np.float32(score_threshold)) & usable).astype(np.int32)
    order = order[np.argsort(-best[order], kind="stable")]
    kept: list[int] = []
    while order.size > 0 and len(kept) < max_detections:
        one, order = int(order[0]), order[1:]
        kept.append(one)
        same = classes[order] == classes[one]
        order = order[~(same & _overlap(boxes[one].astype(np.float64), boxes[order].astype(np.float64), iou_threshold))]
    return boxes[kept], best[kept], classes[kept], np.array(kept, np.int32)


def _overlap(one: Doubles, others: Doubles, threshold: float) -> NDArray[np.bool_]:
    sides = np.minimum(one[2:], others[:, 2:]) - np.maximum(one[:2], others[:, :2])
    shared = np.maximum(sides, 0.0).prod(axis=1)
    union = (one[2:] - one[:2]).prod() + (others[:, 2:] - others[:, :2]).prod(axis=1) - shared
    return np.asarray(shared > threshold * union)
