"""Quantising and dequantising tensors: a picture with one scale, and weights with a scale for each channel."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from harness import Case, Task

__all__ = ["tasks"]

Floats = NDArray[np.float32]
Call = Callable[[], NDArray[Any]]


def _ours(x: Floats, scale: Any, axis: int | None) -> Call:
    from edge_sdk.ext.quantization import quantize

    out = np.empty(x.shape, np.int8)

    def call() -> NDArray[Any]:
        return quantize(x, scale, 3, out, axis=axis)

    return call


def _numpy(x: Floats, scale: Any, axis: int | None) -> Call:
    spread = np.asarray(scale, np.float32)
    if axis is not None:
        spread = spread.reshape([-1 if n == axis else 1 for n in range(x.ndim)])

    def call() -> NDArray[Any]:
        steps = np.rint(x / spread)
        steps += 3
        np.clip(steps, -128, 127, out=steps)
        return cast("NDArray[Any]", steps.astype(np.int8))

    return call


def _ours_back(q: NDArray[np.int8], scale: Any, axis: int | None) -> Call:
    from edge_sdk.ext.quantization import dequantize

    out = np.empty(q.shape, np.float32)

    def call() -> NDArray[Any]:
        return dequantize(q, scale, 3, out, axis=axis)

    return call


def _numpy_back(q: NDArray[np.int8], scale: Any, axis: int | None) -> Call:
    spread = np.asarray(scale, np.float32)
    if axis is not None:
        spread = spread.reshape([-1 if n == axis else 1 for n in range(q.ndim)])

    def call() -> NDArray[Any]:
        real = q.astype(np.float32)
        real -= 3
        real *= spread
        return real

    return call


def tasks() -> tuple[Task, ...]:
    """Return one task per tensor and direction."""
    random = np.random.default_rng(0)
    made = []
    for name, shape, axis, text in (
        ("tensor", (224, 224, 3), None, "a picture of 224 × 224 × 3 with one scale"),
        ("axis0", (128, 3, 3, 64), 0, "weights of 128 × 3 × 3 × 64 with a scale for each of the first axis"),
        ("axis3", (3, 3, 64, 128), 3, "weights of 3 × 3 × 64 × 128 with a scale for each of the last axis"),
    ):
        x = random.normal(0, 2, shape).astype(np.float32)
        q = random.integers(-128, 128, shape).astype(np.int8)
        scale = 0.05 if axis is None else random.uniform(0.02, 0.1, shape[axis]).astype(np.float32)
        made.append(_task(f"quantize-{name}", text, partial(_ours, x, scale, axis), partial(_numpy, x, scale, axis)))
        back = (partial(_ours_back, q, scale, axis), partial(_numpy_back, q, scale, axis))
        made.append(_task(f"dequantize-{name}", text, *back))
    return tuple(made)


def _task(name: str, text: str, ours: Callable[[], Call], numpy: Callable[[], Call]) -> Task:
    cases = (
        Case("edge-sdk", ours, pip="edge-sdk", ours=True),
        Case("numpy", numpy, module="numpy", pip="numpy"),
    )
    return Task(name, f"{name.partition('-')[0]} {text}, int8", cases, tolerance=1e-6)
