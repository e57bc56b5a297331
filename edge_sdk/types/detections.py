"""The answer of a detector."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from edge_sdk.types.prediction import Prediction

if TYPE_CHECKING:
    from edge_sdk.types import Box

__all__ = ["Detection", "Detections"]


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
