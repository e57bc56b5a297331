"""From a model's outputs to an answer: one reader for each task of a bundle, loaded with its first model.

A reader is made once for a loaded model and refuses outputs that cannot be what the manifest calls
them. It holds no state of a call, so several threads may use it at once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from edge_sdk._lazy import loader
from edge_sdk.answers.base import Reader, Scored, Times
from edge_sdk.bundle import Manifest
from edge_sdk.processing import ProcessingSpec
from edge_sdk.types import TensorSpec

if TYPE_CHECKING:
    from edge_sdk.answers.boxes import Located
    from edge_sdk.answers.classes import Classes
    from edge_sdk.answers.values import Valued

__all__ = ["Classes", "Located", "Reader", "Scored", "Times", "Valued", "reader_for"]

_HOMES = {"Classes": "classes", "Located": "boxes", "Valued": "values"}
if not TYPE_CHECKING:  # or any name would pass for one that is there
    __getattr__ = loader(__name__, {name: f"{__name__}.{home}" for name, home in _HOMES.items()})


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
        from edge_sdk.answers.boxes import Boxes

        return Boxes(who, manifest.labels, manifest.detection, outputs, spec, anchors)
    if manifest.task == "classification":
        from edge_sdk.answers.classes import Classes

        return Classes(who, manifest.labels, manifest.outputs, outputs)
    from edge_sdk.answers.values import Values

    return Values(who, outputs)
