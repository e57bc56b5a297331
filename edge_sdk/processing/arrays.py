"""Look at what a caller passed in, whatever it is: used by the executors' input checks."""

from __future__ import annotations

from typing import Any, TypeGuard

import numpy as np
from numpy.typing import NDArray

__all__ = ["channels_of", "describe", "is_frame"]


def is_frame(value: object) -> TypeGuard[NDArray[np.uint8]]:
    """Whether a value is a uint8 array of rank 2 or 3 that is not empty."""
    return isinstance(value, np.ndarray) and value.dtype == np.uint8 and value.ndim in (2, 3) and value.size > 0


def channels_of(frame: NDArray[np.uint8]) -> int:
    """Return the channels of a frame; 1 where it has no channel axis."""
    return 1 if frame.ndim == 2 else int(frame.shape[2])


def describe(value: object) -> str:
    """Return dtype and shape of an array, or the type of anything else, for an error message."""
    if isinstance(value, np.ndarray):
        array: NDArray[Any] = value
        return f"{array.dtype} of shape {array.shape}"
    return type(value).__name__
