"""The one small protocol that every runtime speaks, and how one is chosen by name."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from edge_sdk.errors import MissingExtraError, ModelError
from edge_sdk.types import TensorSpec

__all__ = ["Session", "open_session"]

_BUILT_IN = {
    # by name: module, distribution and extra
    "litert": ("edge_sdk.runtime.litert", "ai-edge-litert", "litert"),
    "onnx": ("edge_sdk.runtime.onnx", "onnxruntime", "onnx"),
}


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


def open_session(model: Path | bytes, runtime: str, *, threads: int = 1) -> Session:
    """Load a model file, or its bytes, in the named runtime.

    Parameters
    ----------
    model
        A path (memory-mapped where the runtime can) or the file's bytes.
    runtime
        ``litert``, ``onnx``, or a name in the entry-point group ``edge_sdk.runtimes``, whose
        value is a callable ``(model, threads) -> Session``.
    threads
        Threads the runtime may use for one inference.

    Raises
    ------
    MissingExtraError
        The runtime's package is not installed.
    ModelError
        There is no such runtime, or the model cannot be loaded.
    """
    factory: Callable[..., Session]
    if runtime in _BUILT_IN:
        module, distribution, extra = _BUILT_IN[runtime]
        try:
            factory = importlib.import_module(module).open_session
        except ModuleNotFoundError as error:
            raise MissingExtraError(distribution, extra) from error
    else:
        found = {point.name: point for point in metadata.entry_points(group="edge_sdk.runtimes")}
        if runtime not in found:
            names = ", ".join([*_BUILT_IN, *found])
            raise ModelError(f"there is no runtime {runtime!r}; there are {names}")
        factory = found[runtime].load()
    return factory(model, threads)


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
