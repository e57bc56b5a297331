"""Inputs: whatever an app has of what a model looks at, as the array that its processing takes."""

from __future__ import annotations

from typing import Any

from numpy.typing import NDArray

from edge_sdk.frames import as_frame
from edge_sdk.processing import ProcessingSpec

__all__ = ["Input", "as_input"]

Input = Any
"""For images, what `edge_sdk.frames.as_frame` takes."""


def as_input(spec: ProcessingSpec, value: Input) -> NDArray[Any]:
    """Return an input as the array that `DeviceProcessor` takes under a specification.

    Arrays are returned as they are, not copied.

    Raises
    ------
    InputError
        The value is not an input of this kind.
    MissingExtraError
        It must be decoded, and what decodes it is not installed.
    """
    return _READERS[spec.modality](spec, value)


_READERS = {"image": lambda spec, value: as_frame(value)}
