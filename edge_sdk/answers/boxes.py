"""The outputs of detectors to `Detections`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edge_sdk.answers.base import BYTES, Scored, Times, check_scale, finite, golden_of, spent
from edge_sdk.bundle import Detector
from edge_sdk.errors import ModelError
from edge_sdk.ext.detection import decode_ssd, decode_yolo
from edge_sdk.processing import Placement, ProcessingSpec
from edge_sdk.types import Detections, TensorSpec

if TYPE_CHECKING:
    from edge_sdk.cascade.policy import Decision

__all__ = ["Boxes", "Located"]

_FLOATS = ("float16", "float32", "float64")


@dataclass(slots=True, eq=False)
class Located(Scored):
    """What a detector said.

    Attributes
    ----------
    boxes
        Float32 [k, 4]: left, top, right and bottom in pixels of the frame.
    indices
        Classes, int32 [k].
    """

    boxes: NDArray[np.float32]
    indices: NDArray[np.int32]


class Boxes:
    """Boxes and scores in the outputs of a detector."""

    def __init__(
        self,
        who: str,
        labels: tuple[str, ...],
        detector: Detector,
        outputs: tuple[TensorSpec, ...],
        spec: ProcessingSpec,
        anchors: NDArray[Any] | None,
    ) -> None:
        if spec.modality != "image":
            raise ModelError(f"{who}: a detector needs images, and its processing takes {spec.modality}")
        self._who, self._labels, self._outputs, self._spec = who, labels, outputs, spec
        self._first = int(detector.background)
        self._size = (spec.target.height, spec.target.width)
        self._placed: tuple[tuple[int, ...], Placement] | None = None
        options = {
            "score_threshold": detector.score_threshold,
            "iou_threshold": detector.iou_threshold,
            "max_detections": detector.max_detections,
            "size": self._size if detector.normalized else None,
        }
        columns = len(labels) + self._first
        if detector.decoder == "yolo":
            self._used: tuple[int, ...] = (0,)
            self._decode: Callable[..., Any] = self._yolo(len(labels), options)
        else:
            self._used = (detector.boxes, detector.scores)
            self._decode = self._ssd(detector, columns, anchors, options)

    def _yolo(self, classes: int, options: dict[str, Any]) -> Callable[..., Any]:
        (output,) = self._checked()
        rows = 4 + classes
        turned = output.shape[1] != rows
        if output.shape[2 if turned else 1] != rows:
            raise ModelError(
                f"{self._who}: the model's output is {list(output.shape)}; for {classes} labels a YOLO output should "
                f"be [1, {rows}, anchors] or [1, anchors, {rows}]"
            )
        decode: Callable[..., Any] = partial(decode_yolo, quantization=_quantization(output), **options)
        return (lambda x: decode(x.transpose(0, 2, 1))) if turned else decode

    def _ssd(
        self, detector: Detector, columns: int, anchors: NDArray[Any] | None, options: dict[str, Any]
    ) -> Callable[..., Any]:
        boxes, scores = self._checked()
        fits = boxes.shape[2] == 4 and scores.shape[2] == columns and boxes.shape[1] == scores.shape[1]
        if not fits:
            more = " and the background" if detector.background else ""
            raise ModelError(
                f"{self._who}: the model's boxes are {list(boxes.shape)} and its scores {list(scores.shape)}; for "
                f"{len(self._labels)} labels{more} they should be [1, anchors, 4] and [1, anchors, {columns}]"
            )
        if anchors is not None:
            wanted = (boxes.shape[1], 4)
            if anchors.dtype != np.float32 or anchors.shape != wanted or not np.isfinite(anchors).all():
                raise ModelError(
                    f"{self._who}: the anchors are {anchors.dtype}{list(anchors.shape)}; "
                    f"they should be finite float32{list(wanted)}"
                )
        return partial(
            decode_ssd,
            anchors=anchors,
            variances=detector.variances,
            order=detector.order,
            background=detector.background,
            boxes_quantization=_quantization(boxes),
            scores_quantization=_quantization(scores),
            **options,
        )

    def _checked(self) -> list[TensorSpec]:
        """Return the outputs that are decoded, after what all decoders ask of them."""
        if max(self._used) >= len(self._outputs):
            raise ModelError(f"{self._who}: its decoder reads output {max(self._used)} of {len(self._outputs)}")
        used = [self._outputs[n] for n in self._used]
        for output in used:
            check_scale(self._who, output)
            if len(output.shape) != 3 or output.shape[0] not in (1, -1):
                raise ModelError(
                    f"{self._who}: output {output.name} is {list(output.shape)}; a decoder takes [1, …, …]"
                )
            if output.dtype not in (*_FLOATS, *BYTES):
                raise ModelError(f"{self._who}: output {output.name} is {output.dtype}, which no decoder reads")
        return used

    def read(self, raw: Sequence[NDArray[Any]], shape: tuple[int, ...] | None, times: Times) -> Located:
        """Return the boxes in pixels of the frame."""
        tensors = [self._tensor(raw[n], self._outputs[n]) for n in self._used]
        boxes, scores, classes, _ = self._decode(*tensors)
        height, width = self._size
        if shape is None:
            boxes = np.clip(boxes, 0.0, np.array([width, height] * 2, np.float32))
        else:
            boxes = self._placement(shape).to_frame(boxes).astype(np.float32)
        inside = (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])  # not wholly in a letterbox's margin
        if not inside.all():
            boxes, scores, classes = boxes[inside], scores[inside], classes[inside]
        return Located(scores, *spent(times), boxes, classes - np.int32(self._first))

    def answer(self, scored: Scored, decision: Decision | None, **common: Any) -> Detections:
        """Put them into the record that apps get."""
        assert isinstance(scored, Located)
        indices = tuple(scored.indices.tolist())
        return Detections(
            boxes=tuple(map(tuple, scored.boxes.tolist())),
            scores=tuple(scored.probabilities.tolist()),
            indices=indices,
            labels=tuple(self._labels[index] for index in indices),
            **common,
        )

    def golden(self, raw: Sequence[NDArray[Any]]) -> tuple[NDArray[np.float32], ...]:
        """Return the outputs, thinned."""
        return golden_of(self._who, raw, self._outputs)

    def _tensor(self, raw: NDArray[Any], output: TensorSpec) -> NDArray[Any]:
        return raw if raw.dtype.kind != "f" else finite(self._who, raw, output)

    def _placement(self, shape: tuple[int, ...]) -> Placement:
        placed = self._placed  # frames of a stream are of one size
        if placed is None or placed[0] != shape:
            placed = self._placed = (shape, self._spec.place(shape[0], shape[1]))
        return placed[1]


def _quantization(output: TensorSpec) -> tuple[float, int] | None:
    if output.scale is None or output.zero_point is None or output.dtype not in BYTES:
        return None
    return output.scale, output.zero_point
