"""The reference executor of a processing specification: NumPy in float64, one step at a time.

Slow and plain on purpose. It is the oracle that the other executors are held against.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edge_sdk.errors import InputError
from edge_sdk.processing.arrays import channels_of, describe, is_frame
from edge_sdk.processing.spec import ProcessingSpec
from edge_sdk.processing.steps import Color, Layout, Normalize, Quantize, Resize

__all__ = ["reference"]

LUMA = np.array([0.299, 0.587, 0.114])
"""Weights of red, green and blue in grey: ITU-R BT.601."""


def reference(spec: ProcessingSpec, frame: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Return the exact result of a specification on one frame, before any rounding.

    Parameters
    ----------
    spec
        What to do.
    frame : ndarray of uint8, shape (H, W) or (H, W, C)
        As for `DeviceProcessor`.

    Returns
    -------
    ndarray of float64, shape `spec.output_shape`
        With a quantize step, the real value ``value / scale + zero_point``: neither rounded nor
        saturated.

    Raises
    ------
    InputError
        A frame of the wrong type, dtype, shape or size.
    """
    if not is_frame(frame) or not spec.accepts(channels_of(frame)):
        raise InputError(f"frame: need {spec.frame_text}, not {describe(frame)}")
    x = np.atleast_3d(frame).astype(np.float64)
    for step in spec.steps:
        match step:
            case Color(mode="rgb"):
                x = np.repeat(x, 3, axis=2) if x.shape[2] == 1 else x[:, :, :3]
            case Color():
                x = x if x.shape[2] == 1 else (x[:, :, :3] @ LUMA)[:, :, None]
            case Resize():
                x = _resize(_resize(x, step.height, axis=0), step.width, axis=1)
            case Normalize():
                x = (x - np.array(step.mean)) / np.array(step.std)
            case Layout(order="NCHW"):
                x = np.moveaxis(x, 2, 0)
            case Layout():
                pass
            case Quantize():
                x = x / step.scale + step.zero_point
    return np.ascontiguousarray(x[None])


def _resize(x: NDArray[np.float64], size: int, axis: int) -> NDArray[np.float64]:
    """Linear interpolation along one axis, half-pixel centres, edges clamped."""
    old = x.shape[axis]
    at = np.clip((np.arange(size) + 0.5) * old / size - 0.5, 0, old - 1)
    first = at.astype(np.intp)
    second = np.minimum(first + 1, old - 1)
    weight = (at - first).reshape((-1, 1, 1) if axis == 0 else (1, -1, 1))
    resized: NDArray[np.float64] = np.take(x, first, axis) * (1 - weight) + np.take(x, second, axis) * weight
    return resized
