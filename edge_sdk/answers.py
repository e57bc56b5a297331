"""From a model's outputs to an answer: one reader for each task of a bundle.

A reader is made once for a loaded model and refuses outputs that cannot be what the manifest calls
them. It holds no state of a call, so several threads may use it at once.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from edge_sdk.bundle import Detector, Manifest, thinned
from edge_sdk.cascade.policy import Decision
from edge_sdk.errors import ModelError
from edge_sdk.ext.detection import decode_ssd, decode_yolo
from edge_sdk.ext.quantization import dequantize
from edge_sdk.ext.scores import softmax
from edge_sdk.processing import Placement, ProcessingSpec
from edge_sdk.types import Classification, Detections, Prediction, Tensors, TensorSpec

__all__ = ["Classes", "Located", "Reader", "Scored", "Times", "Valued", "reader_for"]

Times = tuple[float, float, float]
"""``time.perf_counter()`` when a call started, when its tensor was ready, and when the model was done."""

_BYTES = ("int8", "uint8")
_FLOATS = ("float16", "float32", "float64")


@dataclass(frozen=True, slots=True)
class Scored:
    """What a model said of one input, before any rule.

    Attributes
    ----------
    probabilities
        What a policy decides on, float32. Of a classifier: [classes]. Of a detector: the scores of
        the boxes it kept [k], descending. Of other models: empty.
    pre_ms, infer_ms, post_ms
        Milliseconds spent on processing, in the runtime, and on the outputs.
    """

    probabilities: NDArray[np.float32]
    pre_ms: float
    infer_ms: float
    post_ms: float


@dataclass(frozen=True, slots=True)
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


@dataclass(frozen=True, slots=True)
class Valued(Scored):
    """What a model that estimates or embeds said.

    Attributes
    ----------
    outputs
        Float32 arrays by name, without the batch axis, read-only.
    """

    outputs: Mapping[str, NDArray[np.float32]]


class Reader(Protocol):
    """Reads the outputs of one model."""

    def read(self, raw: Sequence[NDArray[Any]], shape: tuple[int, ...] | None, times: Times) -> Scored:
        """Return what the outputs say.

        Parameters
        ----------
        raw
            The model's output tensors, for one input.
        shape
            Of the input before processing; None where only the processed tensor is known.
        times
            Of the call so far.

        Raises
        ------
        ModelError
            They hold a NaN or an infinity.
        """

    def answer(self, scored: Scored, decision: Decision | None, **common: Any) -> Prediction:
        """Put it into the record that apps get; ``common`` are the fields of `Prediction`."""

    def golden(self, raw: Sequence[NDArray[Any]]) -> tuple[NDArray[np.float32], ...]:
        """Return what a golden example stores of the outputs, one row each."""


def reader_for(
    manifest: Manifest, outputs: tuple[TensorSpec, ...], spec: ProcessingSpec, anchors: NDArray[Any] | None
) -> Reader:
    """Return the reader of a bundle's task.

    Parameters
    ----------
    manifest
        Of the bundle.
    outputs
        The signature of the loaded model.
    spec
        The processing before it.
    anchors
        The array that the manifest names, of a detector that has one.

    Raises
    ------
    ModelError
        The outputs do not fit the task, the labels, or the decoder.
    """
    who = f"{manifest.name} {manifest.version}"
    if manifest.detection is not None:
        return _Boxes(who, manifest.labels, manifest.detection, outputs, spec, anchors)
    if manifest.task == "classification":
        return Classes(who, manifest.labels, manifest.outputs, outputs)
    return _Values(who, outputs)


class Classes:
    """Class scores [1, classes] in the first output."""

    def __init__(self, who: str, labels: tuple[str, ...], holds: str, outputs: tuple[TensorSpec, ...]) -> None:
        self._who, self._labels, self._holds, self._output = who, labels, holds, outputs[0]
        gives = self._output.shape
        if not gives or gives[0] not in (1, -1) or math.prod(gives[1:]) != len(labels):
            raise ModelError(
                f"{who}: the model's output is {list(gives)}; for {len(labels)} labels it should be [1, {len(labels)}]"
            )
        _check_scale(who, self._output)

    def probabilities(self, raw: NDArray[Any]) -> NDArray[np.float32]:
        """Return float32 [n, classes] of an output [n, …]."""
        scores = _real(raw.reshape(len(raw), -1), self._output)
        if not np.isfinite(scores).all():
            raise ModelError(f"{self._who}: the model answered with a NaN or an infinity")
        if self._holds == "logits":
            return softmax(scores)
        return scores if self._output.scale is None else _normalized(scores)

    def read(self, raw: Sequence[NDArray[Any]], shape: tuple[int, ...] | None, times: Times) -> Scored:
        """Return the probabilities."""
        return Scored(self.probabilities(raw[0])[0], *_spent(times))

    def answer(self, scored: Scored, decision: Decision | None, **common: Any) -> Classification:
        """Name the likeliest class."""
        index = int(scored.probabilities.argmax())
        return Classification(
            index=index,
            label=self._labels[index],
            confidence=float(scored.probabilities[index]) if decision is None else decision.confidence,
            scores=tuple(scored.probabilities.tolist()),
            **common,
        )

    def golden(self, raw: Sequence[NDArray[Any]]) -> tuple[NDArray[np.float32], ...]:
        """Return the probabilities."""
        return (self.probabilities(raw[0])[0],)


class _Values:
    """Every output as it is."""

    def __init__(self, who: str, outputs: tuple[TensorSpec, ...]) -> None:
        self._who, self._outputs = who, outputs
        names = [output.name for output in outputs]
        if len(set(names)) != len(names):
            raise ModelError(f"{who}: two outputs of the model have one name ({', '.join(names)})")
        for output in outputs:
            _check_scale(who, output)
        self._nothing: NDArray[np.float32] = np.empty(0, np.float32)

    def read(self, raw: Sequence[NDArray[Any]], shape: tuple[int, ...] | None, times: Times) -> Valued:
        outputs = {}
        for output, array in zip(self._outputs, raw, strict=True):
            values = _finite(self._who, array, output)
            if array.shape[:1] == (1,) and output.shape[0] in (1, -1):
                values = values[0]
            values.setflags(write=False)
            outputs[output.name] = values
        return Valued(self._nothing, *_spent(times), MappingProxyType(outputs))

    def answer(self, scored: Scored, decision: Decision | None, **common: Any) -> Tensors:
        assert isinstance(scored, Valued)
        return Tensors(outputs=scored.outputs, **common)

    def golden(self, raw: Sequence[NDArray[Any]]) -> tuple[NDArray[np.float32], ...]:
        return _golden_of(self._who, raw, self._outputs)


class _Boxes:
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
            _check_scale(self._who, output)
            if len(output.shape) != 3 or output.shape[0] not in (1, -1):
                raise ModelError(
                    f"{self._who}: output {output.name} is {list(output.shape)}; a decoder takes [1, …, …]"
                )
            if output.dtype not in (*_FLOATS, *_BYTES):
                raise ModelError(f"{self._who}: output {output.name} is {output.dtype}, which no decoder reads")
        return used

    def read(self, raw: Sequence[NDArray[Any]], shape: tuple[int, ...] | None, times: Times) -> Located:
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
        return Located(scores, *_spent(times), boxes, classes - np.int32(self._first))

    def answer(self, scored: Scored, decision: Decision | None, **common: Any) -> Detections:
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
        return _golden_of(self._who, raw, self._outputs)

    def _tensor(self, raw: NDArray[Any], output: TensorSpec) -> NDArray[Any]:
        return raw if raw.dtype.kind != "f" else _finite(self._who, raw, output)

    def _placement(self, shape: tuple[int, ...]) -> Placement:
        placed = self._placed  # frames of a stream are of one size
        if placed is None or placed[0] != shape:
            placed = self._placed = (shape, self._spec.place(shape[0], shape[1]))
        return placed[1]


def _golden_of(
    who: str, raw: Sequence[NDArray[Any]], outputs: tuple[TensorSpec, ...]
) -> tuple[NDArray[np.float32], ...]:
    rows = []
    for array, output in zip(raw, outputs, strict=True):
        if array.size == 0:
            raise ModelError(f"{who}: output {output.name} is empty; outputs should have one shape for every input")
        rows.append(thinned(_finite(who, array, output)))
    return tuple(rows)


def _spent(times: Times) -> Times:
    started, ready, done = times
    return (ready - started) * 1e3, (done - ready) * 1e3, (time.perf_counter() - done) * 1e3


def _quantization(output: TensorSpec) -> tuple[float, int] | None:
    if output.scale is None or output.zero_point is None or output.dtype not in _BYTES:
        return None
    return output.scale, output.zero_point


def _check_scale(who: str, output: TensorSpec) -> None:
    """Refuse integers that nobody can turn into the numbers they stand for."""
    if output.dtype in _BYTES and output.scale is None:
        raise ModelError(
            f"{who}: output {output.name} is {output.dtype} and has no scale and zero point; "
            "end the model with a dequantize operator, or quantize it per tensor"
        )


def _real(raw: NDArray[Any], output: TensorSpec) -> NDArray[np.float32]:
    """Return an output as contiguous float32, dequantized."""
    if output.scale is not None and output.zero_point is not None:
        if raw.size > 0 and raw.dtype.itemsize == 1:
            return dequantize(raw, output.scale, output.zero_point)
        raw = (raw.astype(np.float32) - output.zero_point) * np.float32(output.scale)
    return np.ascontiguousarray(raw, dtype=np.float32)


def _finite(who: str, raw: NDArray[Any], output: TensorSpec) -> NDArray[np.float32]:
    """Return an output as `_real` does; raise `ModelError` where it holds a NaN or an infinity."""
    if raw.dtype.kind == "f" and not np.isfinite(raw).all():
        raise ModelError(f"{who}: output {output.name} holds a NaN or an infinity")
    return _real(raw, output)


def _normalized(scores: NDArray[np.float32]) -> NDArray[np.float32]:
    """Take the rounding of a quantized softmax out of its sum; where all classes were rounded to 0, none leads."""
    totals = scores.sum(axis=1, keepdims=True)
    if not totals.all():
        empty = totals[:, 0] == 0
        scores[empty], totals[empty] = 1.0, scores.shape[1]
    return np.asarray(scores / totals)
