"""A specification of images as the constants of one fused pass."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from edge_sdk.processing.steps import Letterbox, Normalize, Quantize, Resize

if TYPE_CHECKING:
    from edge_sdk.processing.spec import ProcessingSpec

__all__ = ["FoldedSteps", "constants", "fold"]


class FoldedSteps(NamedTuple):
    """A specification folded into the constants of one fused pass.

    A value of channel ``c`` is ``(level - mean[c]) * gain[c]``; with an integer `dtype` that is
    rounded half to even, `zero_point` is added, and the sum saturates.
    """

    height: int
    width: int
    channels: int
    planar: bool
    dtype: np.dtype[Any]
    mean: NDArray[np.float32]
    gain: NDArray[np.float32]
    zero_point: int
    nearest: bool
    antialias: bool
    fill: float


def fold(spec: ProcessingSpec) -> FoldedSteps:
    """Return the constants of the fused pass of a specification of images."""
    quantize, target = spec.find(Quantize), spec.target
    mean, gain = constants(spec)
    return FoldedSteps(
        height=target.height,
        width=target.width,
        channels=spec.channels,
        planar=spec.order == "NCHW",
        dtype=spec.output_dtype,
        mean=np.array(mean, np.float32),
        gain=np.array(gain, np.float32),
        zero_point=0 if quantize is None else quantize.zero_point,
        nearest=isinstance(target, Resize) and target.method == "nearest",
        antialias=isinstance(target, Resize) and target.antialias,
        fill=target.fill if isinstance(target, Letterbox) else 0.0,
    )


def constants(spec: ProcessingSpec, quantized: bool = True) -> tuple[list[float], list[float]]:
    """Return mean and gain a channel, with or without the scale of the quantize step."""
    normalize, quantize = spec.find(Normalize), spec.find(Quantize)
    scale = quantize.scale if quantize is not None and quantized else 1.0
    if normalize is None:
        return [0.0] * spec.channels, [1.0 / scale] * spec.channels
    gains = [float(np.float64(1.0) / np.float64(std) / np.float64(scale)) for std in normalize.std]
    return list(normalize.mean), gains
