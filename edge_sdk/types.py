"""Small frozen records that every room shares: tensors, timings, predictions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

__all__ = ["Classification", "Prediction", "Reason", "Source", "TensorSpec", "Timing"]

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
