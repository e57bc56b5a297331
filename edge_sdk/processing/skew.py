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

Those are for images. What audio and tables are allowed follows from the input and the arithmetic of
the executor: `edge_sdk.processing.audio.audio_slack`, `edge_sdk.processing.tables.table_slack`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from edge_sdk.errors import InputError, SkewError
from edge_sdk.processing.audio import audio_slack
from edge_sdk.processing.device import DeviceProcessor
from edge_sdk.processing.grammar import Step
from edge_sdk.processing.oracle import reference
from edge_sdk.processing.spec import ProcessingSpec
from edge_sdk.processing.steps import CHECKS, RANGES, Cast, Color, Letterbox, Normalize, Quantize, Resize
from edge_sdk.processing.table_steps import Impute, Window
from edge_sdk.processing.tables import table_slack

__all__ = ["FLOAT_TOLERANCE", "SkewReport", "check_skew", "keras_tolerance", "processed_tolerance"]

FLOAT_TOLERANCE = 1 / 64
"""Largest difference of a float executor from the reference, in grey levels (of 0 to 255)."""

_BEYOND_FLOAT16 = 65520.0  # half to even

Executor = Callable[[NDArray[Any]], NDArray[Any]]
"""Takes one input and returns the processed tensor with its batch axis."""

BatchExecutor = Callable[[NDArray[Any]], ArrayLike]
"""Takes inputs with a leading batch axis, frames with their channel axis, and returns the float tensor."""


@dataclass(frozen=True, slots=True)
class SkewReport:
    """What a passed check measured.

    Attributes
    ----------
    frames
        Number of inputs compared.
    device_error, keras_error
        Largest difference from the reference, in grey levels; for audio and tables, in units of the
        output without its quantize step (of the real value, so up to half a step where the device
        quantizes); None where there was no such executor.
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
    frames: Sequence[NDArray[Any]],
    *,
    device: Callable[[ProcessingSpec], Executor] = DeviceProcessor,
    keras: Callable[[ProcessingSpec], BatchExecutor] | None = None,
) -> SkewReport:
    """Compare the executors of a specification with the reference.

    Parameters
    ----------
    spec
        What they should compute.
    frames : sequence of ndarray
        Real inputs as `DeviceProcessor` takes them, at least one; sizes of pictures may differ.
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
        An executor departs beyond the tolerances above; names executor, input, step and the
        worst element.
    InputError
        No inputs, or one that the specification does not accept.
    """
    if len(frames) == 0:
        raise InputError("frames: need at least one to compare executors")
    run = device(spec)
    unquantized = spec.without_quantize()
    layer = None if keras is None else keras(unquantized)
    device_error, keras_error, off, elements = 0.0, 0.0, 0, 0
    noun = _NOUNS[spec.modality]
    for index, frame in enumerate(frames):
        found = _compare(spec, frame, run(frame))
        if found.fault is not None:
            step = _first_departure(spec, frame, lambda prefix, part: device(prefix)(part))
            raise SkewError(f"device executor departs from the reference at {step}, {noun} {index}: {found.fault}")
        device_error = max(device_error, found.error)
        off += found.off
        elements += found.elements
        if keras is not None and layer is not None:
            found = _compare(unquantized, frame, _batched(layer, frame), keras=True)
            if found.fault is not None:
                step = _first_departure(unquantized, frame, lambda prefix, part: _batched(keras(prefix), part), True)
                raise SkewError(f"keras layer departs from the reference at {step}, {noun} {index}: {found.fault}")
            keras_error = max(keras_error, found.error)
    return SkewReport(len(frames), device_error, None if keras is None else keras_error, off / elements)


_NOUNS = {"image": "frame", "audio": "clip", "table": "table"}


@dataclass(frozen=True, slots=True)
class _Difference:
    error: float  # largest, in grey levels or units of the output without quantization
    off: int  # integer elements other than the rounded reference
    elements: int
    fault: str | None


def _batched(layer: BatchExecutor, x: NDArray[Any]) -> NDArray[Any]:
    return np.asarray(layer((np.atleast_3d(x) if x.dtype == np.uint8 else x)[None]))


def _compare(spec: ProcessingSpec, x: NDArray[Any], got: NDArray[Any], keras: bool = False) -> _Difference:
    """Compare one output with the real-valued reference."""
    expected = reference(spec, x)
    if got.shape != spec.output_shape or got.dtype != spec.output_dtype:
        wanted = f"{spec.output_dtype} of shape {spec.output_shape}"
        return _Difference(np.inf, 0, expected.size, f"it returned {got.dtype} of shape {got.shape}, not {wanted}")
    slack, unit = _slack(spec, x, expected, keras), _unit(spec)
    quantize = spec.find(Quantize)
    off = 0
    if quantize is None:
        allowed = slack + 2 * np.spacing(np.abs(expected).astype(np.float32)).astype(np.float64)
        if spec.find(Cast) is not None:
            allowed += np.abs(expected) * 2.0**-11 + 2.0**-25
    else:
        expected = np.clip(expected, *RANGES[quantize.dtype])
        allowed = 0.5 + np.minimum(slack, 0.5)
        off = int(np.count_nonzero(got != np.rint(expected)))
    error = np.abs(got.astype(np.float64) - expected)
    if spec.find(Cast) is not None:  # too large becomes infinite
        error[np.isinf(got) & ((got > 0) == (expected > 0)) & (np.abs(expected) + slack >= _BEYOND_FLOAT16)] = 0.0
    error[~np.isfinite(error)] = np.inf
    largest = float(np.max(error / unit))
    excess = error / allowed
    if not np.max(excess) > 1.0:
        return _Difference(largest, off, expected.size, None)
    worst = tuple(int(i) for i in np.unravel_index(np.argmax(excess), excess.shape))
    fault = (
        f"worst element {list(worst)} is {got[worst]:.9g}, reference {expected[worst]:.9g}"
        f" (off by {error[worst]:.3g}, allowed {np.broadcast_to(allowed, error.shape)[worst]:.3g})"
    )
    return _Difference(largest, off, expected.size, fault)


def _slack(spec: ProcessingSpec, x: NDArray[Any], expected: NDArray[np.float64], keras: bool) -> NDArray[np.float64]:
    """Return what an executor may be off by before it rounds, in units of its output."""
    if spec.modality == "audio":
        return audio_slack(spec, x, expected)
    if spec.modality == "table":
        return table_slack(spec, expected, keras=keras)
    return _unit(spec) * (keras_tolerance(*x.shape[:2]) if keras else FLOAT_TOLERANCE)


def _unit(spec: ProcessingSpec) -> NDArray[np.float64]:
    """Return how much of the output one unit is that errors are told in, shaped to broadcast over an output."""
    if spec.modality != "image":
        quantize = spec.find(Quantize)
        return np.array(1.0 if quantize is None else 1.0 / quantize.scale)
    gain = spec.fold().gain.astype(np.float64)
    return gain.reshape((1, -1, 1, 1) if spec.order == "NCHW" else (1, 1, 1, -1))


def processed_tolerance(spec: ProcessingSpec, inputs: Sequence[NDArray[Any]]) -> float:
    """Return what the device executor may give otherwise on another machine, for these inputs.

    One step of a quantized tensor; of a float one, what the check above allows.
    """
    if spec.find(Quantize) is not None:
        return 1.0
    if spec.modality == "image":
        return float(np.max(FLOAT_TOLERANCE * _unit(spec)))
    worst = 0.0
    for x in inputs:
        expected = reference(spec, x)
        slack = _slack(spec, x, expected, False) + 2 * np.spacing(np.abs(expected).astype(np.float32))
        if spec.find(Cast) is not None:
            slack += np.abs(expected) * 2.0**-11
        worst = max(worst, 2 * float(slack.max()))
    return worst


def _first_departure(
    spec: ProcessingSpec,
    x: NDArray[Any],
    run: Callable[[ProcessingSpec, NDArray[Any]], NDArray[Any]],
    keras: bool = False,
) -> str:
    """Name the first step whose prefix of the specification already departs."""
    for count, step in enumerate(spec.steps, start=1):
        prefix = _prefix(spec, count, x)
        if prefix is not None and _compare(prefix, x, run(prefix, x), keras).fault is not None:
            return f"step {count - 1} ({step.op})"
    return f"step {len(spec.steps) - 1} ({spec.steps[-1].op})"


def _prefix(spec: ProcessingSpec, count: int, x: NDArray[Any]) -> ProcessingSpec | None:
    """Return the first steps as a specification of their own, or None where they take another input than all."""
    if spec.modality == "image":
        return _runnable(spec.steps[:count], x, spec.channels)
    steps = list(spec.steps[:count])
    if spec.modality == "table":
        missing = spec.find(Impute)
        if missing is not None and missing not in steps and np.isnan(x).any():
            return None
        window = spec.find(Window)
        if window is not None and window not in steps:
            steps.append(window)  # the rank of the input
    return ProcessingSpec(tuple(steps))


def _runnable(steps: Sequence[Step], frame: NDArray[np.uint8], channels: int) -> ProcessingSpec:
    """Return a prefix as a specification of its own: resizing to the same size and normalising by nothing."""
    kinds: dict[type[Step], Step] = {type(step): step for step in steps}
    if Resize not in kinds and Letterbox not in kinds:
        kinds[Resize] = Resize(*frame.shape[:2])
    if Color not in kinds and Normalize not in kinds:
        kinds[Normalize] = Normalize((0.0,) * channels, (1.0,) * channels)
    return ProcessingSpec(tuple(kinds[kind] for kind in CHECKS if kind in kinds))
