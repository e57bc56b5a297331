"""What readers of every task have in common: what they return, and how numbers are taken from outputs."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from edge_sdk.errors import ModelError
from edge_sdk.ext.quantization import dequantize
from edge_sdk.types import TensorSpec

if TYPE_CHECKING:
    from edge_sdk.cascade.policy import Decision
    from edge_sdk.types import Prediction

__all__ = ["BYTES", "Reader", "Scored", "Times", "check_scale", "finite", "golden_of", "real", "spent"]

Times = tuple[float, float, float]
"""``time.perf_counter()`` when a call started, when its tensor was ready, and when the model was done."""

BYTES = ("int8", "uint8")


@dataclass(slots=True, eq=False)  # not frozen, which would double its cost a call
class Scored:
    """What a model said of one input, before any rule.

    Attributes
    ----------
    probabilities
        What a policy decides on, float32. Of a classifier: [classes]. Of a detector: the scores of
        the boxes it kept [k], descending. Of other models: empty.
    pre_ms, infer_ms, post_ms
        Milliseconds spent on processing, in the runtime, and on the outputs.
    """

    probabilities: NDArray[np.float32]
    pre_ms: float
    infer_ms: float
    post_ms: float


class Reader(Protocol):
    """Reads the outputs of one model."""

    def read(self, raw: Sequence[NDArray[Any]], shape: tuple[int, ...] | None, times: Times) -> Scored:
        """Return what the outputs say.

        Parameters
        ----------
        raw
            The model's output tensors, for one input.
        shape
            Of the input before processing; None where only the processed tensor is known.
        times
            Of the call so far.

        Raises
        ------
        ModelError
            They hold a NaN or an infinity.
        """

    def answer(self, scored: Scored, decision: Decision | None, **common: Any) -> Prediction:
        """Put it into the record that apps get; ``common`` are the fields of `Prediction`."""

    def golden(self, raw: Sequence[NDArray[Any]]) -> tuple[NDArray[np.float32], ...]:
        """Return what a golden example stores of the outputs, one row each."""


def golden_of(
    who: str, raw: Sequence[NDArray[Any]], outputs: tuple[TensorSpec, ...]
) -> tuple[NDArray[np.float32], ...]:
    """Return what a golden example stores of outputs that are read as they are."""
    from edge_sdk.bundle import thinned

    rows = []
    for array, output in zip(raw, outputs, strict=True):
        if array.size == 0:
            raise ModelError(f"{who}: output {output.name} is empty; outputs should have one shape for every input")
        rows.append(thinned(finite(who, array, output)))
    return tuple(rows)


def spent(times: Times) -> Times:
    """Return the milliseconds of processing, of the runtime, and since then."""
    started, ready, done = times
    return (ready - started) * 1e3, (done - ready) * 1e3, (time.perf_counter() - done) * 1e3


def check_scale(who: str, output: TensorSpec) -> None:
    """Refuse integers that nobody can turn into the numbers they stand for."""
    if output.dtype in BYTES and output.scale is None:
        raise ModelError(
            f"{who}: output {output.name} is {output.dtype} and has no scale and zero point; "
            "end the model with a dequantize operator, or quantize it per tensor"
        )


def real(raw: NDArray[Any], output: TensorSpec) -> NDArray[np.float32]:
    """Return an output as contiguous float32, dequantized."""
    if output.scale is not None and output.zero_point is not None:
        if raw.size > 0 and raw.dtype.itemsize == 1:
            return dequantize(raw, output.scale, output.zero_point)
        raw = (raw.astype(np.float32) - output.zero_point) * np.float32(output.scale)
    return np.ascontiguousarray(raw, dtype=np.float32)


def finite(who: str, raw: NDArray[Any], output: TensorSpec) -> NDArray[np.float32]:
    """Return an output as `_real` does; raise `ModelError` where it holds a NaN or an infinity."""
    if raw.dtype.kind == "f" and not np.isfinite(raw).all():
        raise ModelError(f"{who}: output {output.name} holds a NaN or an infinity")
    return real(raw, output)
