"""Which part of a frame becomes which part of a tensor, and the way back for boxes."""

from __future__ import annotations

import math
import operator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from edge_sdk.errors import InputError
from edge_sdk.processing.steps import Crop, Letterbox, Resize

__all__ = ["Box", "Placement", "place"]


class Box(NamedTuple):
    """A rectangle in whole pixels."""

    top: int
    left: int
    height: int
    width: int


@dataclass(frozen=True, slots=True)
class Placement:
    """Where a frame lies in a tensor.

    Attributes
    ----------
    window
        Part of the frame that is sampled.
    inner
        Part of the tensor that it is resized to; a letterbox fills the rest.
    """

    window: Box
    inner: Box

    def to_frame(self, boxes: ArrayLike) -> NDArray[np.float64]:
        """Return boxes of the tensor as boxes of the frame, clipped to the part that is sampled.

        Parameters
        ----------
        boxes : array-like, shape (…, 4)
            Left, top, right, bottom in pixels of the tensor; pixel edges lie on whole numbers.

        Returns
        -------
        ndarray of float64, same shape
        """
        window, inner = self.window, self.inner
        scale = np.array([window.width / inner.width, window.height / inner.height] * 2)
        moved = (_boxes(boxes) - np.array([inner.left, inner.top] * 2)) * scale
        clipped = np.clip(moved, 0.0, np.array([window.width, window.height] * 2, np.float64))
        mapped: NDArray[np.float64] = clipped + np.array([window.left, window.top] * 2)
        return mapped

    def to_tensor(self, boxes: ArrayLike) -> NDArray[np.float64]:
        """Return boxes of the frame as boxes of the tensor: the inverse of `to_frame`, not clipped."""
        window, inner = self.window, self.inner
        scale = np.array([inner.width / window.width, inner.height / window.height] * 2)
        moved = (_boxes(boxes) - np.array([window.left, window.top] * 2)) * scale
        mapped: NDArray[np.float64] = moved + np.array([inner.left, inner.top] * 2)
        return mapped


def _boxes(boxes: ArrayLike) -> NDArray[np.float64]:
    array = np.asarray(boxes, np.float64)
    if array.ndim == 0 or array.shape[-1] != 4:
        raise InputError(f"boxes: need shape (…, 4), not {array.shape}")
    return array


def place(
    crop: Crop | None,
    target: Resize | Letterbox,
    height: int,
    width: int,
    roi: tuple[int, int, int, int] | None = None,
) -> Placement:
    """Return where a frame of a size lies in the tensor.

    Parameters
    ----------
    crop, target
        The steps.
    height, width
        Of the frame.
    roi
        Region of interest (top, left, height, width): the frame is only this part of it.

    Raises
    ------
    InputError
        The region is not within the frame.
    """
    window = Box(0, 0, height, width)
    if roi is not None:
        try:
            window = Box(*(operator.index(value) for value in roi))
        except (TypeError, ValueError):
            raise InputError("roi: need (top, left, height, width) in whole pixels") from None
        if not (
            0 <= window.top < window.top + window.height <= height
            and 0 <= window.left < window.left + window.width <= width
        ):
            raise InputError(f"roi: {tuple(window)} is not within {height} x {width}")
    if crop is not None:
        scale = min(window.height / target.height, window.width / target.width) * crop.fraction
        tall = _whole(target.height * scale, window.height)
        wide = _whole(target.width * scale, window.width)
        window = Box(window.top + (window.height - tall) // 2, window.left + (window.width - wide) // 2, tall, wide)
    inner = Box(0, 0, target.height, target.width)
    if isinstance(target, Letterbox):
        scale = min(target.height / window.height, target.width / window.width)
        tall = _whole(window.height * scale, target.height)
        wide = _whole(window.width * scale, target.width)
        inner = Box((target.height - tall) // 2, (target.width - wide) // 2, tall, wide)
    return Placement(window, inner)


def _whole(length: float, limit: int) -> int:
    """Return the nearest whole number of pixels (half up), at least 1."""
    return max(1, min(limit, math.floor(length + 0.5)))
