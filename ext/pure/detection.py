"""Boxes from the outputs of a detector: the twin of `edge_sdk.ext.detection`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from edge_sdk.errors import InputError
from edge_sdk.ext.pure.checks import check_writeable, dequantized, fraction, kind, pair

__all__ = ["decode_ssd", "decode_yolo"]

_Tensor: TypeAlias = NDArray[np.float32] | NDArray[np.int8] | NDArray[np.uint8]
_Doubles: TypeAlias = NDArray[np.float64]
_Found: TypeAlias = tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.int32], NDArray[np.int32]]
_Out: TypeAlias = Sequence[NDArray[np.float32] | NDArray[np.int32]]

_TYPES = (np.dtype(np.float32), np.dtype(np.int8), np.dtype(np.uint8))
_MAX_COUNT = 0x7FFFFFFF


class _Limits(NamedTuple):
    score_threshold: np.float32
    iou_threshold: float
    max_detections: int
    height: float
    width: float


def decode_yolo(
    x: _Tensor,
    *,
    score_threshold: float = 0.25,
    iou_threshold: float = 0.45,
    max_detections: int = 300,
    size: tuple[float, float] | None = None,
    quantization: tuple[float, int] | None = None,
    out: _Out | None = None,
) -> _Found:
    """Return the detections of a YOLO-style output: centre, size and class scores of each anchor."""
    _check_tensor("x", x)
    if x.ndim == 3 and x.shape[0] == 1:
        x = x[0]
    if x.ndim != 2 or x.shape[0] < 5 or max(x.shape) > _MAX_COUNT:
        raise InputError(f"x: need shape (4 + classes, anchors) or (1, 4 + classes, anchors), not {x.shape}")
    real = dequantized("quantization", x, quantization)
    limits = _limits(score_threshold, iou_threshold, max_detections, size)
    return _stored(_select(_from_centres(real[:4].T.astype(np.float64)), real[4:].T, limits), limits, out)


def decode_ssd(
    boxes: _Tensor,
    scores: _Tensor,
    *,
    anchors: NDArray[np.float32] | None = None,
    variances: tuple[float, float] = (0.1, 0.2),
    order: Literal["xy", "yx"] = "xy",
    background: bool = False,
    score_threshold: float = 0.25,
    iou_threshold: float = 0.45,
    max_detections: int = 300,
    size: tuple[float, float] | None = None,
    boxes_quantization: tuple[float, int] | None = None,
    scores_quantization: tuple[float, int] | None = None,
    out: _Out | None = None,
) -> _Found:
    """Return the detections of an SSD-style pair of outputs: boxes, and class scores of each anchor."""
    _check_tensor("boxes", boxes)
    _check_tensor("scores", scores)
    boxes, scores = (x[0] if x.ndim == 3 and x.shape[0] == 1 else x for x in (boxes, scores))
    first = int(bool(background))
    if boxes.ndim != 2 or boxes.shape[1] != 4 or boxes.shape[0] > _MAX_COUNT:
        raise InputError(f"boxes: need shape (n, 4) or (1, n, 4), not {boxes.shape}")
    if scores.ndim != 2 or scores.shape[0] != boxes.shape[0] or not first < scores.shape[1] <= _MAX_COUNT:
        wanted = "at least 2 classes, the first being the background" if background else "at least 1 class"
        raise InputError(f"scores: need shape ({boxes.shape[0]}, C) and {wanted}, not {scores.shape}")
    if order not in ("xy", "yx"):
        raise InputError(f"order: need 'xy' or 'yx', not {order!r}")
    corners = dequantized("boxes_quantization", boxes, boxes_quantization).astype(np.float64)
    if anchors is not None:
        corners = _from_offsets(corners, anchors, variances)
    if order == "yx":
        corners = corners[:, [1, 0, 3, 2]]
    real = dequantized("scores_quantization", scores, scores_quantization)
    limits = _limits(score_threshold, iou_threshold, max_detections, size)
    found = _select(corners, real[:, first:], limits)
    return _stored((found[0], found[1], found[2] + np.int32(first), found[3]), limits, out)


def _from_centres(boxes: _Doubles) -> _Doubles:
    centre, half = boxes[:, :2], boxes[:, 2:] * 0.5
    with np.errstate(invalid="ignore"):
        return np.hstack([centre - half, centre + half])


def _from_offsets(offsets: _Doubles, anchors: NDArray[np.float32], variances: tuple[float, float]) -> _Doubles:
    if not isinstance(anchors, np.ndarray) or anchors.dtype != np.float32 or anchors.shape != offsets.shape:
        raise InputError(f"anchors: need float32 of shape {offsets.shape}, not {kind(anchors)}")
    of_centres, of_sizes = pair("variances", variances)
    centre, extent = np.split(anchors.astype(np.float64), 2, axis=1)
    with np.errstate(over="ignore", invalid="ignore"):
        shifted = centre + offsets[:, :2] * of_centres * extent
        return _from_centres(np.hstack([shifted, extent * np.exp(offsets[:, 2:] * of_sizes)]))


def _select(corners: _Doubles, scores: NDArray[np.float32], limits: _Limits) -> _Found:
    with np.errstate(over="ignore", invalid="ignore"):
        corners = corners * [limits.width, limits.height, limits.width, limits.height]
        boxes = corners.astype(np.float32)
    scores = np.where(np.isnan(scores), np.float32(-np.inf), scores)
    classes = scores.argmax(axis=1).astype(np.int32)
    best = scores.max(axis=1)
    finite = (np.abs(corners) <= np.finfo(np.float32).max).all(axis=1)
    usable = finite & (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])
    order = np.flatnonzero((best >= limits.score_threshold) & usable).astype(np.int32)
    order = order[np.argsort(-best[order], kind="stable")]
    kept: list[int] = []
    while order.size > 0 and len(kept) < limits.max_detections:
        one, order = int(order[0]), order[1:]
        kept.append(one)
        same = classes[order] == classes[one]
        near = _overlap(boxes[one].astype(np.float64), boxes[order].astype(np.float64), limits.iou_threshold)
        order = order[~(same & near)]
    return boxes[kept], best[kept], classes[kept], np.array(kept, np.int32)


def _overlap(one: _Doubles, others: _Doubles, threshold: float) -> NDArray[np.bool_]:
    sides = np.minimum(one[2:], others[:, 2:]) - np.maximum(one[:2], others[:, :2])
    shared = np.maximum(sides, 0.0).prod(axis=1)
    union = (one[2:] - one[:2]).prod() + (others[:, 2:] - others[:, :2]).prod(axis=1) - shared
    return np.asarray(shared > threshold * union)


def _stored(found: _Found, limits: _Limits, out: _Out | None) -> _Found:
    if out is None:
        return found
    _check_out(out, limits.max_detections)
    count = len(found[0])
    for array, values in zip(out, found, strict=True):
        array[:count] = values
    return out[0][:count], out[1][:count], out[2][:count], out[3][:count]  # type: ignore[return-value]  # _check_out


def _check_tensor(name: str, value: object) -> None:
    if not isinstance(value, np.ndarray) or value.dtype not in _TYPES or value.size == 0:
        wanted = "need an array of float32, int8 or uint8 that is not empty"
        raise InputError(f"{name}: {wanted}, not {kind(value)}")


def _check_out(out: Any, rows: int) -> None:
    if not isinstance(out, (tuple, list)) or len(out) != 4:
        raise InputError("out: need four arrays: boxes, scores, classes and anchors")
    names, tails = ("boxes", "scores", "classes", "anchors"), ((4,), (), (), ())
    for name, dtype, tail, array in zip(names, ("float32", "float32", "int32", "int32"), tails, out, strict=True):
        fits = isinstance(array, np.ndarray) and array.dtype == dtype and array.ndim == 1 + len(tail)
        if not fits or array.shape[1:] != tail or array.shape[0] < rows:
            shape = ", ".join(map(str, (rows, *tail)))
            raise InputError(f"out: {name} needs {dtype} of shape ({shape}) or longer, not {kind(array)}")
        check_writeable(f"out: {name} needs", array)


def _limits(score_threshold: Any, iou_threshold: Any, max_detections: Any, size: Any) -> _Limits:
    score, iou = fraction("score_threshold", score_threshold), fraction("iou_threshold", iou_threshold)
    try:
        limit = int(max_detections.__index__())
    except AttributeError:
        raise InputError(f"max_detections: need an integer, not {type(max_detections).__name__}") from None
    if not 1 <= limit <= _MAX_COUNT:
        raise InputError(f"max_detections: need 1 to {_MAX_COUNT}, not {limit}")
    height, width = (1.0, 1.0) if size is None else pair("size", size)
    return _Limits(np.float32(score), iou, limit, height, width)
