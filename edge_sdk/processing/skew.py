"""Hold the executors of one processing specification against the float64 reference.

Training-serving skew is two code paths that should compute the same and do not. The check runs
every executor on real frames and refuses a difference that rounding cannot explain; it names the
first step at which the executor departs.

Tolerances:

- **float32**: `FLOAT_TOLERANCE` grey levels, plus two units in the last place of the value;
- **float16**: as float32, but rounding to 11 bits comes on top;
- **int8, uint8**: at most one step, and only where the real value is so close to a rounding
  boundary that `FLOAT_TOLERANCE` grey levels carry it across;
- **keras**: as float32, but the backends compute sample positions in float32, which on large
  frames is worth `keras_tolerance` grey levels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from edge_sdk.errors import InputError, SkewError
from edge_sdk.processing.device import DeviceProcessor
from edge_sdk.processing.reference import reference
from edge_sdk.processing.spec import ProcessingSpec
from edge_sdk.processing.steps import RANGES, STEP_ORDER, Cast, Color, Letterbox, Normalize, Quantize, Resize, Step

__all__ = ["FLOAT_TOLERANCE", "SkewReport", "check_skew", "keras_tolerance"]

FLOAT_TOLERANCE = 1 / 64
"""Largest difference of a float executor from the reference, in grey levels (of 0 to 255)."""

Executor = Callable[[NDArray[np.uint8]], NDArray[Any]]
"""Takes one frame and returns the processed tensor with its batch axis."""

BatchExecutor = Callable[[NDArray[np.uint8]], ArrayLike]
"""Takes frames of shape (N, H, W, C) and returns the float tensor."""


@dataclass(frozen=True, slots=True)
class SkewReport:
    """What a passed check measured.

    Attributes
    ----------
    frames
        Number of frames compared.
    device_error, keras_error
        Largest difference from the reference, in grey levels (of the real value, so up to half
        a step where the device quantizes); None where there was no such executor.
    rounded_otherwise
        Share of integer elements that differ by one step from the rounded reference; 0 for
        float outputs.
    """

    frames: int
    device_error: float
    keras_error: float | None
    rounded_otherwise: float


def keras_tolerance(height: int, width: int) -> float:
    """Return the tolerance of a Keras layer on frames of a size, in grey levels.

    The backends compute sample positions in float32: near ``p`` pixels they are off by up to about
    ``p * 2**-24`` on each axis, and neighbouring pixels differ by up to 255 levels. The bound is
    twice that sum.
    """
    return max(FLOAT_TOLERANCE, 255 * max(height, width) * 2.0**-22)


def check_skew(
    spec: ProcessingSpec,
    frames: Sequence[NDArray[np.uint8]],
    *,
    device: Callable[[ProcessingSpec], Executor] = DeviceProcessor,
    keras: Callable[[ProcessingSpec], BatchExecutor] | None = None,
) -> SkewReport:
    """Compare the executors of a specification with the reference.

    Parameters
    ----------
    spec
        What they should compute.
    frames : sequence of ndarray of uint8, shape (H, W) or (H, W, C)
        Real inputs, at least one; sizes may differ.
    device
        Builds the device executor of a specification.
    keras
        Builds the Keras layer, such as ``edge_sdk.processing.keras.ProcessingLayer``; compared
        without the quantize step, which a layer leaves out.

    Returns
    -------
    SkewReport

    Raises
    ------
    SkewError
        An executor departs beyond the tolerances above; names executor, frame, step and the
        worst element.
    InputError
        No frames, or one that the specification does not accept.
    """
    if len(frames) == 0:
        raise InputError("frames: need at least one to compare executors")
    run = device(spec)
    unquantized = spec.without_quantize()
    layer = None if keras is None else keras(unquantized)
    device_error, keras_error, off, elements = 0.0, 0.0, 0, 0
    for index, frame in enumerate(frames):
        expected = reference(spec, frame)
        found = _compare(spec, run(frame), expected, FLOAT_TOLERANCE)
        if found.fault is not None:
            step = _first_departure(spec, frame, lambda prefix, part: device(prefix)(part), FLOAT_TOLERANCE)
            raise SkewError(f"device executor departs from the reference at {step}, frame {index}: {found.fault}")
        device_error = max(device_error, found.levels)
        off += found.off
        elements += expected.size
        if keras is not None and layer is not None:
            tolerance = keras_tolerance(*frame.shape[:2])
            found = _compare(unquantized, _batched(layer, frame), reference(unquantized, frame), tolerance)
            if found.fault is not None:
                step = _first_departure(
                    unquantized, frame, lambda prefix, part: _batched(keras(prefix), part), tolerance
                )
                raise SkewError(f"keras layer departs from the reference at {step}, frame {index}: {found.fault}")
            keras_error = max(keras_error, found.levels)
    return SkewReport(len(frames), device_error, None if keras is None else keras_error, off / elements)


@dataclass(frozen=True, slots=True)
class _Difference:
    levels: float  # largest, in grey levels
    off: int  # integer elements other than the rounded reference
    fault: str | None


def _batched(layer: BatchExecutor, frame: NDArray[np.uint8]) -> NDArray[Any]:
    return np.asarray(layer(np.atleast_3d(frame)[None]))


def _compare(spec: ProcessingSpec, got: NDArray[Any], expected: NDArray[np.float64], tolerance: float) -> _Difference:
    """Compare one output with the real-valued reference."""
    if got.shape != spec.output_shape or got.dtype != spec.output_dtype:
        wanted = f"{spec.output_dtype} of shape {spec.output_shape}"
        return _Difference(np.inf, 0, f"it returned {got.dtype} of shape {got.shape}, not {wanted}")
    per_level = _units_per_level(spec)
    quantize = spec.find(Quantize)
    off = 0
    if quantize is None:
        allowed = tolerance * per_level + 2 * np.spacing(np.abs(expected).astype(np.float32)).astype(np.float64)
        if spec.find(Cast) is not None:
            allowed += np.abs(expected) * 2.0**-11 + 2.0**-25
    else:
        expected = np.clip(expected, *RANGES[quantize.dtype])
        allowed = 0.5 + np.minimum(tolerance * per_level, 0.5)
        off = int(np.count_nonzero(got != np.rint(expected)))
    error = np.abs(got.astype(np.float64) - expected)
    error[~np.isfinite(error)] = np.inf
    levels = float(np.max(error / per_level))
    excess = error / allowed
    if not np.max(excess) > 1.0:
        return _Difference(levels, off, None)
    worst = tuple(int(i) for i in np.unravel_index(np.argmax(excess), excess.shape))
    fault = (
        f"worst element {list(worst)} is {got[worst]:.9g}, reference {expected[worst]:.9g}"
        f" (off by {error[worst]:.3g}, allowed {np.broadcast_to(allowed, error.shape)[worst]:.3g})"
    )
    return _Difference(levels, off, fault)


def _units_per_level(spec: ProcessingSpec) -> NDArray[np.float64]:
    """How much of the output one grey level is, per channel, shaped to broadcast over an output."""
    gain = spec.fold().gain.astype(np.float64)
    return gain.reshape((1, -1, 1, 1) if spec.order == "NCHW" else (1, 1, 1, -1))


def _first_departure(
    spec: ProcessingSpec,
    frame: NDArray[np.uint8],
    run: Callable[[ProcessingSpec, NDArray[np.uint8]], NDArray[Any]],
    tolerance: float,
) -> str:
    """Name the first step whose prefix of the specification already departs."""
    for count, step in enumerate(spec.steps, start=1):
        prefix = _runnable(spec.steps[:count], frame, spec.channels)
        if _compare(prefix, run(prefix, frame), reference(prefix, frame), tolerance).fault is not None:
            return f"step {count - 1} ({step.op})"
    return f"step {len(spec.steps) - 1} ({spec.steps[-1].op})"


def _runnable(steps: Sequence[Step], frame: NDArray[np.uint8], channels: int) -> ProcessingSpec:
    """Return a prefix as a specification of its own: resizing to the same size and normalising by nothing."""
    kinds: dict[type[Step], Step] = {type(step): step for step in steps}
    if Resize not in kinds and Letterbox not in kinds:
        kinds[Resize] = Resize(*frame.shape[:2])
    if Color not in kinds and Normalize not in kinds:
        kinds[Normalize] = Normalize((0.0,) * channels, (1.0,) * channels)
    return ProcessingSpec(tuple(kinds[kind] for kind in STEP_ORDER if kind in kinds))
