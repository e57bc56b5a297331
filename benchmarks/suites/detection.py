"""A detector's output to boxes: decode, threshold, and non-maximum suppression within each class.

The output is that of a YOLO model with 80 classes on 640×640 pixels: [84, 8400]. Thirty objects have
ten anchors each; nearly all others are far below the threshold.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness import Case, Task, largest_difference

__all__ = ["tasks"]

Floats = NDArray[np.float32]
Tensor = NDArray[np.float32] | NDArray[np.int8]
Quantization = tuple[float, int]
Answer = tuple[Floats, Floats, NDArray[Any]]  # boxes, scores, classes
Call = Callable[[], Answer]

SIDE = 640
CLASSES = 80
ANCHORS = 8400
SCORE = 0.25
IOU = 0.45
LIMIT = 300

# A peer in Rust reads these when it is imported.
os.environ.setdefault("RAYON_NUM_THREADS", "1")
os.environ.setdefault("EDGEFIRST_DISABLE_GL", "1")


def _scene(seed: int) -> Floats:
    """Return an output of shape (4 + CLASSES, ANCHORS), boxes as fractions of the picture's side."""
    random = np.random.default_rng(seed)
    x = np.empty((4 + CLASSES, ANCHORS), np.float32)
    x[:2] = random.uniform(0, 1, (2, ANCHORS))
    x[2:4] = random.uniform(0.02, 0.3, (2, ANCHORS))
    x[4:] = random.beta(0.3, 30, (CLASSES, ANCHORS)).clip(max=0.2)
    places = random.permutation(ANCHORS)[:300].reshape(30, 10)
    for anchors in places:
        levels = random.permutation(np.arange(77, 243))  # of which no two are one int8 score
        middle, extent = random.uniform(0.1, 0.9, 2), random.uniform(0.05, 0.3, 2)
        x[:4, anchors] = np.concatenate([middle, extent])[:, None] + random.normal(0, 0.005, (4, 10))
        x[4 + random.integers(CLASSES), anchors] = levels[:10] / 255
    return x


def _distance(answer: Answer, expected: Answer) -> float:
    """Compare detections whatever their order."""
    rows = [np.column_stack(found) for found in (answer, expected)]
    return largest_difference(*(found[np.lexsort(found.T)] for found in rows))


def _real(x: Tensor, quantization: Quantization | None) -> Floats:
    if quantization is None:
        return x.astype(np.float32, copy=False)
    scale, zero_point = quantization
    real = x.astype(np.float32)
    real -= zero_point
    real *= scale
    real[:4] *= SIDE
    return real


def _ours(x: Tensor, quantization: Quantization | None) -> Call:
    from edge_sdk.ext.detection import decode_yolo

    size = None if quantization is None else (SIDE, SIDE)
    out = (
        np.empty((LIMIT, 4), np.float32),
        np.empty(LIMIT, np.float32),
        np.empty(LIMIT, np.int32),
        np.empty(LIMIT, np.int32),
    )

    def call() -> Answer:
        boxes, scores, classes, _ = decode_yolo(
            x,
            score_threshold=SCORE,
            iou_threshold=IOU,
            max_detections=LIMIT,
            size=size,
            quantization=quantization,
            out=out,
        )
        return boxes, scores, classes

    return call


def _numpy(x: Tensor, quantization: Quantization | None) -> Call:
    def call() -> Answer:
        rows = _real(x, quantization).T
        classes = rows[:, 4:].argmax(axis=1)
        scores = rows[:, 4:].max(axis=1)
        keep = scores >= SCORE
        boxes, scores, classes = rows[keep, :4], scores[keep], classes[keep]
        boxes = np.concatenate([boxes[:, :2] - boxes[:, 2:] / 2, boxes[:, :2] + boxes[:, 2:] / 2], axis=1)
        areas = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
        order = (-scores).argsort(kind="stable")
        kept: list[int] = []
        while order.size > 0 and len(kept) < LIMIT:
            one, order = order[0], order[1:]
            kept.append(int(one))
            low = np.maximum(boxes[one, :2], boxes[order, :2])
            high = np.minimum(boxes[one, 2:], boxes[order, 2:])
            shared = (high - low).clip(min=0).prod(axis=1)
            overlap = shared / (areas[one] + areas[order] - shared)
            order = order[(overlap <= IOU) | (classes[order] != classes[one])]
        return boxes[kept], scores[kept], classes[kept]

    return call


def _survivors(x: Tensor, quantization: Quantization | None) -> tuple[Floats, Floats, NDArray[np.intp]]:
    """Return boxes (left, top, width, height), scores and classes of survivors, as fast as NumPy does it."""
    real = _real(x, quantization)
    best = real[4:].max(axis=0)
    keep = np.flatnonzero(best >= SCORE)
    columns = real[:, keep]
    boxes = columns[:4].T.copy()
    boxes[:, :2] -= boxes[:, 2:] * 0.5
    return boxes, best[keep], columns[4:].argmax(axis=0)


def _opencv(x: Tensor, quantization: Quantization | None) -> Call:
    import cv2

    suppress: Any = cv2.dnn.NMSBoxesBatched  # typed for lists, made for arrays

    def call() -> Answer:
        boxes, scores, classes = _survivors(x, quantization)
        kept = np.asarray(suppress(boxes, scores, classes, SCORE, IOU))[:LIMIT]
        boxes[:, 2:] += boxes[:, :2]
        return boxes[kept], scores[kept], classes[kept]

    return call


def _supervision(x: Tensor, quantization: Quantization | None) -> Call:
    from supervision import Detections

    def call() -> Answer:
        boxes, scores, classes = _survivors(x, quantization)
        boxes[:, 2:] += boxes[:, :2]
        found = Detections(xyxy=boxes, confidence=scores, class_id=classes).with_nms(IOU)[:LIMIT]
        return found.xyxy, found.confidence, found.class_id

    return call


def _edgefirst(x: Tensor, quantization: Quantization | None) -> Call:
    import edgefirst_hal as hal

    output = hal.Output.detection(shape=[1, 4 + CLASSES, ANCHORS]).with_normalized(quantization is not None)
    if quantization is not None:
        output = output.with_quantization(*quantization)
    decoder = hal.Decoder.new_from_outputs([output], SCORE, IOU, hal.Nms.ClassAware, hal.DecoderVersion.Yolov8)
    tensor = hal.Tensor([1, 4 + CLASSES, ANCHORS], x.dtype.name, hal.TensorMemory.MEM)
    tensor.from_numpy(x[None])
    size = 1 if quantization is None else SIDE

    def call() -> Answer:
        boxes, scores, classes, *_ = decoder.decode([tensor], LIMIT)
        return boxes * size, scores, classes

    return call


def tasks() -> tuple[Task, ...]:
    """Return one task for a float32 output and one for the same in int8."""
    scene = _scene(0)
    quantization = (1 / 255, -128)
    integers = np.rint(scene * 255 - 128).clip(-128, 127).astype(np.int8)
    scene[:4] *= SIDE
    made = []
    jobs: tuple[tuple[str, Tensor, Quantization | None], ...] = (
        ("float32", scene, None),
        ("int8", integers, quantization),
    )
    for name, x, given in jobs:
        decoded = "its own suppression; what comes before is NumPy, thresholding first"
        made.append(
            Task(
                f"{name}-{4 + CLASSES}x{ANCHORS}",
                f"YOLO output {4 + CLASSES}×{ANCHORS} {name} → boxes, scores, classes",
                (
                    Case("edge-sdk", partial(_ours, x, given), pip="edge-sdk", ours=True),
                    Case("numpy", partial(_numpy, x, given), module="numpy", pip="numpy", note="as textbooks have it"),
                    Case(
                        "opencv", partial(_opencv, x, given), module="cv2", pip="opencv-python-headless", note=decoded
                    ),
                    Case(
                        "supervision",
                        partial(_supervision, x, given),
                        module="supervision",
                        pip="supervision",
                        note=decoded,
                    ),
                    Case(
                        "edgefirst-hal",
                        partial(_edgefirst, x, given),
                        module="edgefirst_hal",
                        pip="edgefirst-hal",
                        note="all of it, without the copy of the output into its memory",
                    ),
                ),
                tolerance=0.01,  # of a pixel
                distance=_distance,
            )
        )
    return tuple(made)
