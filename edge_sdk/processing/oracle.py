"""The reference executor of a processing specification: NumPy in float64, one step at a time.

Slow and plain on purpose. It is the oracle that the other executors are held against.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_sdk.errors import InputError
from edge_sdk.ext.pure.image import colored, rgb_of, sampled
from edge_sdk.processing.arrays import channels_of, describe, is_frame
from edge_sdk.processing.geometry import Placement
from edge_sdk.processing.sources import Frame, Matrix, Pixels, is_video, matrix_constants, planes_of
from edge_sdk.processing.spec import ProcessingSpec
from edge_sdk.processing.steps import Cast, Color, Crop, Layout, Letterbox, Normalize, Quantize, Resize

__all__ = ["reference"]


def reference(
    spec: ProcessingSpec,
    frame: Frame | NDArray[Any],
    *,
    pixels: Pixels = "rgb",
    matrix: Matrix = "bt601",
    roi: tuple[int, int, int, int] | None = None,
) -> NDArray[np.float64]:
    """Return the exact result of a specification on one input, before any rounding.

    Parameters
    ----------
    spec
        What to do.
    frame, pixels, matrix, roi
        As for `DeviceProcessor`; the last three are for images.

    Returns
    -------
    ndarray of float64, shape `spec.output_shape`
        With a quantize step, the real value ``value / scale + zero_point``: neither rounded nor
        saturated.

    Raises
    ------
    InputError
        An input of the wrong type, dtype, shape or size.
    """
    if spec.modality == "audio":
        from edge_sdk.processing.audio import audio_reference

        return audio_reference(spec, frame)
    if spec.modality == "table":
        from edge_sdk.processing.tables import table_reference

        return table_reference(spec, frame)
    return _image(spec, frame, pixels, matrix, roi)


def _image(
    spec: ProcessingSpec, frame: Any, pixels: Pixels, matrix: Matrix, roi: tuple[int, int, int, int] | None
) -> NDArray[np.float64]:
    if pixels == "rgb" and (not is_frame(frame) or not spec.accepts(channels_of(frame))):
        raise InputError(f"frame: need {spec.frame_text}, not {describe(frame)}")
    planes = planes_of(frame, pixels)
    if pixels != "rgb" and not spec.accepts(3):
        raise InputError(f"pixels: {pixels} has colours; without a color step, need {spec.frame_text}")
    height, width = planes[0].shape[:2]
    placement = spec.place(height, width, roi)
    x = planes[0].astype(np.float64)
    for step in spec.steps:
        match step:
            case Color() if not is_video(pixels):
                x = colored(x, spec.channels)
            case Resize() | Letterbox():
                x = _resized(x, step, placement)
                if is_video(pixels):
                    chroma = _resized(planes[1].astype(np.float64), step, placement, (height, width))
                    x = colored(rgb_of(x, chroma, np.array(matrix_constants(matrix))), spec.channels)
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


def _resized(
    x: NDArray[np.uint8] | NDArray[np.float64],
    step: Resize | Letterbox,
    placement: Placement,
    luma_size: tuple[int, int] | None = None,
) -> NDArray[np.float64]:
    """Resize the window of a plane to the inner size; chroma is given the size of its luma."""
    nearest = isinstance(step, Resize) and step.method == "nearest"
    antialias = isinstance(step, Resize) and step.antialias
    if antialias and luma_size is not None:
        raise InputError("antialias: is for bilinear sampling of rgb and bgr frames")
    size = (placement.inner.height, placement.inner.width)
    return sampled(x, placement.window, size, nearest=nearest, antialias=antialias, luma_size=luma_size)


def _filled_around(x: NDArray[np.float64], step: Letterbox, placement: Placement) -> NDArray[np.float64]:
    inner = placement.inner
    filled = np.full((step.height, step.width, x.shape[2]), step.fill)
    filled[inner.top : inner.top + inner.height, inner.left : inner.left + inner.width] = x
    return filled
