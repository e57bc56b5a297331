"""Small frozen records that every room shares: tensors, timings, predictions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = [
    "Box",
    "Classification",
    "Detection",
    "Detections",
    "Prediction",
    "Reason",
    "Source",
    "TensorSpec",
    "Tensors",
    "Timing",
]

Box = tuple[float, float, float, float]
"""Left, top, right and bottom in pixels of the frame; edges of pixels lie on whole numbers."""

Source = Literal["edge", "cloud", "cache"]
Reason = Literal[
    "confident",  # the rule kept the edge's answer
    "escalated",  # the rule asked the cloud and it answered
    "audit",  # confident, but sent to the cloud by lot
    "forced",  # the mode decides, not the rule
    "deadline",  # the cloud did not answer in time
    "offline",  # the cloud cannot be reached
    "breaker",  # the cloud failed often; it is being left alone for a moment
    "budget",  # escalations are used up
    "privacy",  # this input may not leave the device
    "rejected",  # the cloud's answer was unusable
]


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """Signature of one tensor of a model.

    Attributes
    ----------
    name
        Name in the model file.
    dtype
        NumPy name of the element type, such as ``"int8"``.
    shape
        Extents; -1 is a dynamic one.
    scale, zero_point
        Per-tensor affine quantization, ``real = scale * (q - zero_point)``; None where the
        tensor is not quantized.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    scale: float | None = None
    zero_point: int | None = None


@dataclass(frozen=True, slots=True)
class Timing:
    """Where the time of one prediction went, in milliseconds.

    ``cloud_ms`` is 0 where the cloud was not asked. ``total_ms`` is the wall time of the call.
    """

    pre_ms: float = 0.0
    infer_ms: float = 0.0
    post_ms: float = 0.0
    cloud_ms: float = 0.0
    total_ms: float = 0.0

    def to_dict(self) -> dict[str, float]:
        """Return the fields as a plain dictionary."""
        return {
            "pre_ms": self.pre_ms,
            "infer_ms": self.infer_ms,
            "post_ms": self.post_ms,
            "cloud_ms": self.cloud_ms,
            "total_ms": self.total_ms,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """What every kind of answer has in common.

    Attributes
    ----------
    source
        Who answered: ``edge``, ``cloud`` or ``cache``.
    reason
        Why that one answered; see `Reason`.
    certified
        True only where the answer stands under a valid certificate: False if the rule wanted
        it escalated and it was not, or if there is no certificate.
    timing
        Where the time went.
    decision_id
        Names this decision in feedback and logs.
    model_digest
        Digest of the model that answered.
    """

    source: Source
    reason: Reason
    certified: bool
    timing: Timing
    decision_id: str
    model_digest: str

    def to_dict(self) -> dict[str, Any]:
        """Return the record as JSON-compatible values."""
        return {
            "source": self.source,
            "reason": self.reason,
            "certified": self.certified,
            "timing": self.timing.to_dict(),
            "decision_id": self.decision_id,
            "model_digest": self.model_digest,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Classification(Prediction):
    """One class for one input.

    Attributes
    ----------
    index, label
        The class, by position and by name.
    confidence
        Its probability, calibrated where the model has a policy; in [0, 1].
    scores
        Probability of every class, as the model gave them (not calibrated).
    """

    index: int
    label: str
    confidence: float
    scores: tuple[float, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return the record as JSON-compatible values."""
        return {
            "index": self.index,
            "label": self.label,
            "confidence": self.confidence,
            "scores": list(self.scores),
            **Prediction.to_dict(self),
        }


@dataclass(frozen=True, slots=True)
class Detection:
    """One object that was found.

    Attributes
    ----------
    box
        Where, in pixels of the frame, and not beyond it.
    score
        How sure the model is, in [0, 1].
    index, label
        Its class, by position and by name.
    """

    box: Box
    score: float
    index: int
    label: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Detections(Prediction):
    """The objects found in one frame, the surest first; iterate over it for one `Detection` each.

    Attributes
    ----------
    boxes, scores, indices, labels
        The same by column: one `Box`, score, class and name an object.
    """

    boxes: tuple[Box, ...]
    scores: tuple[float, ...]
    indices: tuple[int, ...]
    labels: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.boxes)

    def __getitem__(self, n: int) -> Detection:
        return Detection(self.boxes[n], self.scores[n], self.indices[n], self.labels[n])

    def __iter__(self) -> Iterator[Detection]:
        return map(Detection, self.boxes, self.scores, self.indices, self.labels)

    def to_dict(self) -> dict[str, Any]:
        """Return the record as JSON-compatible values: a list of ``detections``, one object each."""
        return {
            "detections": [
                {"box": list(one.box), "score": one.score, "index": one.index, "label": one.label} for one in self
            ],
            **Prediction.to_dict(self),
        }


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Tensors(Prediction):
    """The outputs of a model that estimates numbers, or that embeds, as they are.

    ``answer[0]`` is the first output, ``answer["name"]`` the one of that name.

    Attributes
    ----------
    outputs
        Float32 arrays by name, dequantized, without the batch axis; they cannot be written to.
    """

    outputs: Mapping[str, NDArray[np.float32]]

    def __getitem__(self, key: str | int) -> NDArray[np.float32]:
        return self.outputs[key] if isinstance(key, str) else list(self.outputs.values())[key]

    def to_dict(self) -> dict[str, Any]:
        """Return the record as JSON-compatible values; arrays become lists."""
        return {
            "outputs": {name: values.tolist() for name, values in self.outputs.items()},
            **Prediction.to_dict(self),
        }
