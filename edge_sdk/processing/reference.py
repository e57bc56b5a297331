"""The reference executor of a processing specification: NumPy in float64, one step at a time.

Slow and plain on purpose. It is the oracle that the other executors are held against.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edge_sdk.errors import InputError
from edge_sdk.processing.arrays import channels_of, describe, is_frame
from edge_sdk.processing.geometry import Placement
from edge_sdk.processing.sources import Frame, Matrix, Pixels, is_video, matrix_constants, planes_of
from edge_sdk.processing.spec import ProcessingSpec
from edge_sdk.processing.steps import Cast, Color, Crop, Layout, Letterbox, Normalize, Quantize, Resize

__all__ = ["reference"]

LUMA = np.array([0.299, 0.587, 0.114])
"""Weights of red, green and blue in grey: ITU-R BT.601."""


def reference(
    spec: ProcessingSpec,
    frame: Frame,
    *,
    pixels: Pixels = "rgb",
    matrix: Matrix = "bt601",
    roi: tuple[int, int, int, int] | None = None,
) -> NDArray[np.float64]:
    """Return the exact result of a specification on one frame, before any rounding.

    Parameters
    ----------
    spec
        What to do.
    frame, pixels, matrix, roi
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
    if pixels == "rgb" and (not is_frame(frame) or not spec.accepts(channels_of(frame))):
        raise InputError(f"frame: need {spec.frame_text}, not {describe(frame)}")
    planes = planes_of(frame, pixels)
    if pixels != "rgb" and not spec.accepts(3):
        raise InputError(f"pixels: {pixels} has colours; without a color step, need {spec.frame_text}")
    color = spec.find(Color)
    height, width = planes[0].shape[:2]
    placement = spec.place(height, width, roi)
    x = planes[0].astype(np.float64)
    for step in spec.steps:
        match step:
            case Color() if not is_video(pixels):
                x = _colored(x, color)
            case Resize() | Letterbox():
                x = _resized(x, step, placement)
                if is_video(pixels):
                    chroma = _resized(planes[1].astype(np.float64), step, placement, (height, width))
                    x = _colored(_rgb(x[:, :, 0], chroma[:, :, 0], chroma[:, :, 1], matrix), color)
                if isinstance(step, Letterbox):
                    x = _filled_around(x, step, placement)
            case Normalize():
                x = (x - np.array(step.mean)) / np.array(step.std)
            case Layout(order="NCHW"):
                x = np.moveaxis(x, 2, 0)
            case Quantize():
                x = x / step.scale + step.zero_point
            case Color() | Crop() | Layout() | Cast():
                pass  # of video, with the resize; in the placement; as it is; rounds only
    return np.ascontiguousarray(x[None])


def _colored(x: NDArray[np.float64], color: Color | None) -> NDArray[np.float64]:
    if color is None:
        return x
    if color.mode == "rgb":
        return np.repeat(x, 3, axis=2) if x.shape[2] == 1 else x[:, :, :3]
    return x if x.shape[2] == 1 else (x[:, :, :3] @ LUMA)[:, :, None]


def _rgb(y: NDArray[np.float64], u: NDArray[np.float64], v: NDArray[np.float64], matrix: Matrix) -> NDArray[np.float64]:
    black, luma, v_to_r, u_to_g, v_to_g, u_to_b = matrix_constants(matrix)
    y, u, v = (y - black) * luma, u - 128, v - 128
    return np.clip(np.stack([y + v * v_to_r, y + u * u_to_g + v * v_to_g, y + u * u_to_b], axis=-1), 0, 255)


def _resized(
    x: NDArray[np.float64], step: Resize | Letterbox, placement: Placement, luma_size: tuple[int, int] | None = None
) -> NDArray[np.float64]:
    """Resize the window of a plane to the inner size; chroma is given the size of its luma."""
    window, inner = placement.window, placement.inner
    for axis, low, extent, count in (
        (0, window.top, window.height, inner.height),
        (1, window.left, window.width, inner.width),
    ):
        if isinstance(step, Resize) and step.antialias:
            if luma_size is not None:
                raise InputError("antialias: is for bilinear sampling of rgb and bgr frames")
            x = _averaged(x, axis, low, extent, count)
            continue
        nearest = isinstance(step, Resize) and step.method == "nearest"
        size = x.shape[axis] if luma_size is None else luma_size[axis]
        x = _sampled_axis(x, axis, low, extent, count, nearest, halved=x.shape[axis] < size)
    return x


def _filled_around(x: NDArray[np.float64], step: Letterbox, placement: Placement) -> NDArray[np.float64]:
    inner = placement.inner
    filled = np.full((step.height, step.width, x.shape[2]), step.fill)
    filled[inner.top : inner.top + inner.height, inner.left : inner.left + inner.width] = x
    return filled


def _sampled_axis(
    x: NDArray[np.float64], axis: int, low: int, extent: int, count: int, nearest: bool, *, halved: bool
) -> NDArray[np.float64]:
    """Half-pixel centres, clamped to the window; chroma has one sample in the middle of two pixels."""
    if nearest:
        pixel = low + (2 * np.arange(count) + 1) * extent // (2 * count)
        return np.take(x, pixel // 2 if halved else pixel, axis)
    at = low + (np.arange(count) + 0.5) * extent / count - 0.5
    at = np.clip((at + 0.5) / 2 - 0.5, 0, x.shape[axis] - 1) if halved else np.clip(at, low, low + extent - 1)
    first = at.astype(np.intp)
    second = np.minimum(first + 1, x.shape[axis] - 1)
    weight = (at - first).reshape((-1, 1, 1) if axis == 0 else (1, -1, 1))
    resized: NDArray[np.float64] = np.take(x, first, axis) * (1 - weight) + np.take(x, second, axis) * weight
    return resized


def _averaged(x: NDArray[np.float64], axis: int, low: int, extent: int, count: int) -> NDArray[np.float64]:
    """Average over triangles that reach as far as the sampled pixels are apart, at least one pixel."""
    scale = extent / count
    centres = (np.arange(count) + 0.5) * scale
    away = np.abs(np.arange(extent) + 0.5 - centres[:, None])
    weights = np.maximum(0.0, 1.0 - away / max(scale, 1.0))
    weights /= weights.sum(axis=1, keepdims=True)
    part = np.take(x, np.arange(low, low + extent), axis)
    averaged: NDArray[np.float64] = np.moveaxis(np.tensordot(weights, part, axes=(1, axis)), 0, axis)
    return averaged
