"""The device executor of a processing specification: for images, the fused Cython kernel."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast, get_args

import numpy as np
from numpy.typing import NDArray

from edge_sdk.errors import InputError
from edge_sdk.ext.image import ImagePlan
from edge_sdk.processing.arrays import channels_of, describe, is_frame
from edge_sdk.processing.sources import Frame, Matrix, Pixels, is_video, matrix_constants
from edge_sdk.processing.spec import ProcessingSpec
from edge_sdk.processing.steps import Color, Crop, Letterbox, Quantize, Resize

__all__ = ["DeviceProcessor", "size_of", "to_rgb"]

PLANS = 8  # kept: more kinds of frames than cameras give; one takes about 20 kB


class DeviceProcessor:
    """Turn inputs into a model's input tensors.

    One processor may be used from several threads at once, and the kernel releases the GIL. For the
    last few kinds of frames (their size, and what their bytes are) it keeps where to read them.

    Parameters
    ----------
    spec
        What to do.
    """

    def __init__(self, spec: ProcessingSpec) -> None:
        self.spec = spec
        other = _OTHERS.get(spec.modality)
        self._shape, self._dtype = spec.output_shape, spec.output_dtype
        self._plans: dict[object, ImagePlan] = {}  # never changed: replaced
        self._other = None if other is None else other(spec)
        if other is not None:
            return
        self._folded = spec.fold()
        self._whole = spec.find(Crop) is None and spec.find(Letterbox) is None

    def __call__(
        self,
        frame: Frame | NDArray[Any],
        out: NDArray[Any] | None = None,
        *,
        pixels: Pixels = "rgb",
        matrix: Matrix = "bt601",
        roi: tuple[int, int, int, int] | None = None,
    ) -> NDArray[Any]:
        """Process one input.

        Parameters
        ----------
        frame : ndarray of uint8, shape (H, W) or (H, W, C), or what `pixels` says
            Audio is float32 or int16 (samples,), where an integer stands for 1/32768. A table is
            float32 or float64, (columns,) or (length, columns), with NaN where a value is missing;
            `pixels`, `matrix` and `roi` are for images.
            C is 1, 3 (RGB) or 4 (RGBA) where the specification has a color step, and the
            specification's channels otherwise. Any strides; a frame whose pixels are not
            contiguous within a row is copied first.
        pixels
            What the bytes are, read in place:

            - ``"rgb"``: as above;
            - ``"bgr"``: (H, W, 3) or (H, W, 4);
            - ``"nv12"``: a pair of Y (H, W) and UV (ceil(H/2), ceil(W/2), 2), or both in one
              array of shape (H * 3/2, W) with even H and W;
            - ``"yuyv"``: (H, W, 2) with an even W.
        matrix
            How colours are made of NV12 and YUYV.
        roi
            Region of interest (top, left, height, width), in place of the whole frame.
        out : ndarray of `spec.output_dtype`, shape `spec.output_shape`, C-contiguous, optional
            Filled and returned. A fresh array by default.

        Returns
        -------
        ndarray of `spec.output_dtype`, shape `spec.output_shape`

        Raises
        ------
        InputError
            A frame or `out` of the wrong type, dtype, shape or size.
        """
        if out is None:
            out = np.empty(self._shape, self._dtype)
        plan = self._plan(frame, pixels, matrix) if roi is None else None
        if plan is None or not plan.fill(frame, out):
            self._check_out(out, self._shape)
            self._fill(frame, out, pixels, matrix, roi)
        return out

    def batch(
        self,
        frames: Sequence[Frame | NDArray[Any]],
        out: NDArray[Any] | None = None,
        *,
        pixels: Pixels = "rgb",
        matrix: Matrix = "bt601",
    ) -> NDArray[Any]:
        """Process several inputs, frames of equal or different sizes, into one batch.

        Parameters
        ----------
        frames
            At least one, each as for a single call.
        out : ndarray of `spec.output_dtype`, shape (n, *spec.output_shape[1:]), optional
            Filled and returned. A fresh array by default.
        pixels, matrix
            As for a single call.

        Returns
        -------
        ndarray of `spec.output_dtype`, shape (n, *spec.output_shape[1:])

        Raises
        ------
        InputError
            No frames, or one or `out` of the wrong type, dtype, shape or size.
        """
        if len(frames) == 0:
            raise InputError("frames: need at least one")
        shape = (len(frames), *self._shape[1:])
        if out is None:
            out = np.empty(shape, self._dtype)
        else:
            self._check_out(out, shape)
        for frame, tensor in zip(frames, out[:, None], strict=True):
            plan = self._plan(frame, pixels, matrix)
            if plan is None or not plan.fill(frame, tensor):
                self._fill(frame, tensor, pixels, matrix, None)
        return out

    def _plan(self, frame: object, pixels: Pixels, matrix: Matrix) -> ImagePlan | None:
        try:
            return self._plans.get((_layout(frame), pixels, matrix))
        except TypeError:  # not even names; refused where a plan is made
            return None

    def _check_out(self, out: object, shape: tuple[int, ...]) -> None:
        if not isinstance(out, np.ndarray) or out.dtype != self._dtype or out.shape != shape:
            raise InputError(f"out: need {self._dtype} of shape {shape}, not {describe(out)}")

    def _fill(
        self,
        frame: object,
        tensor: NDArray[Any],
        pixels: Pixels,
        matrix: Matrix,
        roi: tuple[int, int, int, int] | None,
    ) -> None:
        if self._other is not None:
            self._other(frame, tensor[0])
            return
        if not isinstance(pixels, str):
            raise InputError(f"pixels: need {', '.join(get_args(Pixels))}, not {describe(pixels)}")
        matrix_constants(matrix)
        if pixels == "rgb":
            if not is_frame(frame) or not self.spec.accepts(channels_of(frame)):
                raise InputError(f"frame: need {self.spec.frame_text}, not {describe(frame)}")
            if not _rows_are_contiguous(frame):
                frame = np.ascontiguousarray(frame)
        elif not self.spec.accepts(3):
            raise InputError(f"pixels: {pixels} has colours; without a color step, need {self.spec.frame_text}")
        folded = self._folded
        window = inner = None
        if roi is not None or not self._whole:
            placement = self.spec.place(*size_of(frame, pixels), roi)
            window, inner = placement.window, placement.inner
        plan = ImagePlan(
            cast("Frame", frame),
            tensor,
            mean=folded.mean,
            gain=folded.gain,
            planar=folded.planar,
            zero_point=folded.zero_point,
            pixels=pixels,
            window=window,
            inner=inner,
            fill=folded.fill,
            nearest=folded.nearest,
            antialias=folded.antialias,
            yuv=np.array(matrix_constants(matrix), np.float32) if is_video(pixels) else None,
        )
        if not plan.fill(frame, tensor):
            raise InputError("out: need a writeable C-contiguous array")
        if roi is None:
            kept = list(self._plans.items())[1 - PLANS :]
            self._plans = {**dict(kept), (_layout(frame), pixels, matrix): plan}


def to_rgb(frame: Frame, pixels: Pixels, matrix: Matrix = "bt601") -> NDArray[np.uint8]:
    """Return a frame as a camera delivers it as a picture of its size, rounded to grey levels.

    Parameters are those of `DeviceProcessor`.

    Returns
    -------
    ndarray of uint8, shape (H, W, 3)

    Raises
    ------
    InputError
        Not a frame of this format.
    """
    height, width = size_of(frame, pixels)
    spec = ProcessingSpec((Color("rgb"), Resize(height, width), Quantize("uint8", 1.0, 0)))
    return cast("NDArray[np.uint8]", DeviceProcessor(spec)(frame, pixels=pixels, matrix=matrix)[0])


def _layout(frame: object) -> object:
    """Return what frames of one plan have in common."""
    if isinstance(frame, np.ndarray):
        return frame.shape
    return tuple(map(_layout, frame)) if isinstance(frame, tuple) else None


_Fill = Callable[[object, NDArray[Any]], None]


# loaded where they are needed: most devices look at pictures
def _audio(spec: ProcessingSpec) -> _Fill:
    from edge_sdk.processing.audio import AudioProcessor

    return AudioProcessor(spec)


def _table(spec: ProcessingSpec) -> _Fill:
    from edge_sdk.processing.tables import TableProcessor

    return TableProcessor(spec)


_OTHERS: dict[str, Callable[[ProcessingSpec], _Fill]] = {"audio": _audio, "table": _table}


def size_of(frame: object, pixels: Pixels) -> tuple[int, int]:
    """Return height and width; of what is no frame too, which the kernel then refuses."""
    planes = frame if isinstance(frame, tuple) and frame else (frame,)
    if not is_frame(planes[0]):
        return 1, 1
    height, width = planes[0].shape[:2]
    return (height // 3 * 2, width) if pixels == "nv12" and len(planes) == 1 else (height, width)


def _rows_are_contiguous(frame: NDArray[np.uint8]) -> bool:
    """Whether the pixels of each row follow one another; axes of extent 1 have no stride to speak of."""
    channels = channels_of(frame)
    return (channels == 1 or frame.strides[2] == 1) and (frame.shape[1] == 1 or frame.strides[1] == channels)
