"""What a frame's bytes are: pictures, and the formats that cameras deliver.

A source format is no step of a specification: it says how the device executor reads a frame, and
the model never sees it. Colours of video are made after sampling: luma and chroma are resized
each on its own grid, with chroma in the middle of the pixels that share it, then converted and
clipped to 0..255.
"""

from __future__ import annotations

from typing import Literal, cast, get_args

import numpy as np
from numpy.typing import NDArray

from edge_sdk.errors import InputError
from edge_sdk.ext.pure.image import planes_in
from edge_sdk.processing.arrays import channels_of, describe, is_frame

__all__ = ["Frame", "Matrix", "Pixels", "is_video", "matrix_constants", "planes_of"]

Pixels = Literal["rgb", "bgr", "nv12", "yuyv"]
"""``rgb`` is also grey and RGBA, and ``bgr`` also BGRA, by the number of channels."""

Matrix = Literal["bt601", "bt601-full", "bt709"]
"""``bt601`` and ``bt709``: luma 16..235, as most cameras; ``bt601-full``: 0..255, as in JPEG."""

Frame = NDArray[np.uint8] | tuple[NDArray[np.uint8], NDArray[np.uint8]]

# weights of red and blue in luma, and whether luma fills all of 0..255
_MATRICES: dict[str, tuple[float, float, bool]] = {
    "bt601": (0.299, 0.114, False),
    "bt601-full": (0.299, 0.114, True),
    "bt709": (0.2126, 0.0722, False),
}


def is_video(pixels: Pixels) -> bool:
    """Whether a format has luma and chroma instead of colours."""
    return pixels in ("nv12", "yuyv")


def matrix_constants(matrix: Matrix) -> tuple[float, float, float, float, float, float]:
    """Return black level and gain of Y, then V to R, U to G, V to G and U to B.

    Raises
    ------
    InputError
        There is no such matrix.
    """
    if not isinstance(matrix, str) or matrix not in _MATRICES:
        raise InputError(f"matrix: need {', '.join(_MATRICES)}, not {matrix!r}")
    red, blue, full = _MATRICES[matrix]
    green = 1.0 - red - blue
    luma, chroma = (1.0, 1.0) if full else (255 / 219, 255 / 224)
    v_to_r, u_to_b = 2 * (1 - red) * chroma, 2 * (1 - blue) * chroma
    return (0.0 if full else 16.0, luma, v_to_r, -u_to_b * blue / green, -v_to_r * red / green, u_to_b)


def planes_of(frame: object, pixels: Pixels) -> tuple[NDArray[np.uint8], ...]:
    """Return the planes of a frame: (H, W, C), or luma (H, W, 1) and chroma of half the columns.

    Raises
    ------
    InputError
        Not a frame of this format.
    """
    if not isinstance(pixels, str) or pixels not in get_args(Pixels):
        raise InputError(f"pixels: need {', '.join(get_args(Pixels))}, not {pixels!r}")
    if pixels == "nv12":
        _check_nv12(frame)
    else:
        if not is_frame(frame):
            raise InputError(f"frame: need uint8 of rank 2 or 3, not empty, not {describe(frame)}")
        channels = channels_of(frame)
        if pixels == "yuyv" and (channels != 2 or frame.shape[1] % 2):
            raise InputError(f"frame: need uint8 of shape (H, W, 2) with an even W, not {describe(frame)}")
        if pixels == "bgr" and channels not in (3, 4):
            raise InputError(f"frame: need uint8 of shape (H, W, 3|4), not {describe(frame)}")
        if pixels == "rgb" and channels not in (1, 3, 4):
            raise InputError(f"frame: need uint8 of shape (H, W) or (H, W, 1|3|4), not {describe(frame)}")
    return planes_in(cast("Frame", frame), pixels)


def _check_nv12(frame: object) -> None:
    if isinstance(frame, tuple) and len(frame) == 2:
        luma, chroma = frame
        if not is_frame(luma) or luma.ndim != 2:
            raise InputError(f"frame[0]: need uint8 of shape (H, W), not {describe(luma)}")
        shape = ((luma.shape[0] + 1) // 2, (luma.shape[1] + 1) // 2, 2)
        if not is_frame(chroma) or chroma.shape != shape:
            raise InputError(f"frame[1]: need uint8 of shape {shape}, not {describe(chroma)}")
    elif not is_frame(frame) or frame.ndim != 2 or frame.shape[0] % 3 or frame.shape[1] % 2:
        raise InputError(f"frame: need uint8 of shape (H * 3/2, W), or a pair Y, UV, not {describe(frame)}")
