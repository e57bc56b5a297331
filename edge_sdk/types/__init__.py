"""Small frozen records that every room shares: tensors, timings, predictions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from edge_sdk._lazy import loader
from edge_sdk.types.tensors import TensorSpec

if TYPE_CHECKING:
    from edge_sdk.types.classification import Classification
    from edge_sdk.types.detections import Detection, Detections
    from edge_sdk.types.outputs import Tensors
    from edge_sdk.types.prediction import Prediction, Timing

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

# a device loads the answers of the tasks that it has
_HOMES = {
    "classification": ("Classification",),
    "detections": ("Detection", "Detections"),
    "outputs": ("Tensors",),
    "prediction": ("Prediction", "Timing"),
}
if not TYPE_CHECKING:  # or any name would pass for one that is there
    __getattr__ = loader(__name__, {name: f"{__name__}.{home}" for home, names in _HOMES.items() for name in names})
