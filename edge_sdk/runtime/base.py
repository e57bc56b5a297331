"""The one small protocol that every runtime speaks, and what all of them check."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from edge_sdk.errors import ModelError
from edge_sdk.types import TensorSpec

__all__ = ["Session", "check_input", "check_outputs", "single"]


class Session(Protocol):
    """One loaded model. Not thread-safe: its owner takes turns.

    Attributes
    ----------
    inputs, outputs
        Tensor signatures as the runtime reports them.
    """

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]

    def run(self, x: NDArray[Any]) -> list[NDArray[Any]]:
        """Run the model on its one input and return fresh output arrays.

        Raises
        ------
        ModelError
            The runtime refused the tensor or failed.
        """

    def close(self) -> None:
        """Release the model; it is not used afterwards."""


def check_outputs(specs: tuple[TensorSpec, ...]) -> tuple[TensorSpec, ...]:
    """Return the outputs of a signature; raise `ModelError` where there are none."""
    if not specs:
        raise ModelError("the model has no output")
    return specs


def single(specs: tuple[TensorSpec, ...], what: str) -> TensorSpec:
    """Return the only tensor of a signature; raise `ModelError` where there are none or several."""
    if len(specs) != 1:
        raise ModelError(f"the model has {len(specs)} {what}; only models with one are supported")
    return specs[0]


def check_input(x: NDArray[Any], spec: TensorSpec) -> NDArray[Any]:
    """Return ``x`` contiguous; raise `ModelError` unless it fits the signature."""
    fits = len(x.shape) == len(spec.shape) and all(
        want in (-1, have) for want, have in zip(spec.shape, x.shape, strict=True)
    )
    if not fits or x.dtype != np.dtype(spec.dtype):
        raise ModelError(f"input {spec.name} takes {spec.dtype}{list(spec.shape)}, not {x.dtype}{list(x.shape)}")
    return np.ascontiguousarray(x)
