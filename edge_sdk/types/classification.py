"""The answer of a classifier."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from edge_sdk.types.prediction import Prediction

__all__ = ["Classification"]


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
