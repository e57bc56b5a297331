"""Rows and windows of numbers to what a model takes: gaps filled, bounded, standardised, categories looked up."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_sdk.processing import DeviceProcessor, ProcessingSpec
from harness import Case, Task

__all__ = ["tasks"]

Call = Callable[[], NDArray[Any]]

COLUMNS, PLACE, CODES = 12, 4, 6  # columns of the row, which is a category, and of how many


def _ours(spec: ProcessingSpec, x: NDArray[Any]) -> Call:
    process = DeviceProcessor(spec)
    out = np.empty(spec.output_shape, spec.output_dtype)

    def call() -> NDArray[Any]:
        return process(x, out)

    return call


def _numpy_window(x: NDArray[Any], mean: NDArray[np.float32], std: NDArray[np.float32], step: float) -> Call:
    def call() -> NDArray[Any]:
        y = (np.clip(np.where(np.isnan(x), mean, x), -40, 40) - mean) / std
        if not step:
            return np.asarray(y)[None]
        return np.asarray(np.clip(np.rint(y / step) + 3, -128, 127), np.int8)[None]

    return call


def _numpy_row(x: NDArray[Any], mean: NDArray[np.float64], std: NDArray[np.float64]) -> Call:
    numbers = [n for n in range(COLUMNS) if n != PLACE]

    def call() -> NDArray[Any]:
        values = x[numbers]
        y = (np.where(np.isnan(values), 0.0, values) - mean) / std
        place = np.zeros(CODES + 1)
        place[int(x[PLACE]) + 1] = 1.0
        return np.concatenate([y[:PLACE], place, y[PLACE:]]).astype(np.float32)[None]

    return call


def tasks() -> tuple[Task, ...]:
    """Return one task per kind of input."""
    random = np.random.default_rng(0)
    axes, mean, std = ["x", "y", "z"], np.array([0, 0, 9.75], np.float32), np.array([2, 2, 4], np.float32)
    window = random.normal(0, 9, (128, 3)).astype(np.float32)
    window[::17, 1] = np.nan
    sensor = partial(ProcessingSpec.sensor, axes, 128, impute=mean.tolist(), clip=(-40, 40), mean=mean.tolist())
    floats, step = sensor(std=std.tolist()), 0.0625
    integers = floats.with_quantize("int8", step, 3)

    names = [f"c{n}" for n in range(COLUMNS)]
    centre, spread = random.normal(0, 3, COLUMNS - 1), random.uniform(0.5, 4, COLUMNS - 1)
    row = random.normal(0, 3, COLUMNS)
    row[[2, 7]], row[PLACE] = np.nan, 3
    table = ProcessingSpec.table(
        names, categories={f"c{PLACE}": list(range(CODES))}, impute=0, mean=centre.tolist(), std=spread.tolist()
    )
    return (
        _task(
            "window",
            "128 rows of 3 sensors, float32",
            partial(_ours, floats, window),
            _numpy_window,
            window,
            mean,
            std,
            0.0,
        ),
        _task(
            "window-int8",
            "128 rows of 3 sensors, int8",
            partial(_ours, integers, window),
            _numpy_window,
            window,
            mean,
            std,
            step,
        ),
        _task("row", "a row of 11 numbers and a category", partial(_ours, table, row), _numpy_row, row, centre, spread),
    )


def _task(name: str, text: str, ours: Callable[[], Call], numpy: Callable[..., Call], *given: Any) -> Task:
    cases = (
        Case("edge-sdk", ours, pip="edge-sdk", ours=True),
        Case("numpy", partial(numpy, *given), module="numpy", pip="numpy"),
    )
    return Task(name, text, cases, tolerance=1e-5)
