"""ONNX Runtime (``.onnx``). Execution providers come from ``EDGE_SDK_ORT_PROVIDERS``, by default the CPU."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from edge_sdk.errors import ModelError
from edge_sdk.runtime.base import check_input, check_outputs, single
from edge_sdk.types import TensorSpec

__all__ = ["OnnxSession", "describe", "new_session", "open_session"]

_DTYPES = {
    "tensor(float)": "float32",
    "tensor(float16)": "float16",
    "tensor(double)": "float64",
    "tensor(int8)": "int8",
    "tensor(uint8)": "uint8",
    "tensor(int16)": "int16",
    "tensor(uint16)": "uint16",
    "tensor(int32)": "int32",
    "tensor(uint32)": "uint32",
    "tensor(int64)": "int64",
    "tensor(uint64)": "uint64",
    "tensor(bool)": "bool",
}


_MAX_BOUND = 4  # shapes, such as batch sizes, whose buffers are kept


class OnnxSession:
    """A ``.onnx`` model in an ONNX Runtime session."""

    def __init__(self, model: Path | bytes, threads: int, delegate: str | None = None) -> None:
        self._session: Any = new_session(model, threads, delegate)
        self.inputs, self.outputs = describe(self._session)
        self._input = single(self.inputs, "inputs")
        self._names = [spec.name for spec in self.outputs]
        self._bound: dict[tuple[int, ...], _Bound] = {}

    def run(self, x: NDArray[Any]) -> list[NDArray[Any]]:
        """Run the model on one input tensor; extents that the model leaves open are free."""
        bound = self._bound.get(x.shape)
        if bound is None or x.dtype != bound.x.dtype:
            return self._run_unbound(check_input(x, self._input))
        np.copyto(bound.x, x)
        try:
            self._session.run_with_iobinding(bound.binding)
        except Exception as error:  # onnxruntime raises types of its own that share no base
            raise ModelError(f"ONNX Runtime failed: {_first_line(error)}") from error
        return [y.copy() for y in bound.outputs]

    def close(self) -> None:
        """Release the session."""
        self._bound.clear()
        self._session = None

    def _run_unbound(self, x: NDArray[Any]) -> list[NDArray[Any]]:
        """Run with buffers of the runtime's making; where shapes allow it, bind ours for the next time."""
        try:
            outputs = [np.asarray(y) for y in self._session.run(self._names, {self._input.name: x})]
        except Exception as error:  # as above
            raise ModelError(f"ONNX Runtime failed: {_first_line(error)}") from error
        # an output with an extent of its own (of detections, say) may have another one next time
        if len(self._bound) < _MAX_BOUND and all(-1 not in spec.shape[1:] for spec in self.outputs):
            self._bound[x.shape] = _Bound(self._session, self._input.name, x, self._names, outputs)
        return outputs


class _Bound:
    """Buffers of one input shape that ONNX Runtime reads and writes in place: about half the cost of a small call."""

    def __init__(self, session: Any, name: str, x: NDArray[Any], names: list[str], outputs: list[NDArray[Any]]) -> None:
        self.x = np.empty_like(x)
        self.outputs = [np.empty_like(y) for y in outputs]
        self.binding = session.io_binding()
        self.binding.bind_input(name, "cpu", 0, x.dtype, x.shape, self.x.ctypes.data)
        for output, y in zip(names, self.outputs, strict=True):
            self.binding.bind_output(output, "cpu", 0, y.dtype, y.shape, y.ctypes.data)


def open_session(model: Path | bytes, threads: int, delegate: str | None = None) -> OnnxSession:
    """Load a model; see `edge_sdk.runtime.open_session`."""
    return OnnxSession(model, threads, delegate)


def new_session(
    model: Path | bytes,
    threads: int,
    delegate: str | None = None,
    provider_options: Mapping[str, Mapping[str, str]] | None = None,
) -> Any:
    """Return ONNX Runtime's own session of a model; raise `ModelError` where it cannot be loaded.

    Parameters
    ----------
    model
        The file, or its bytes.
    threads
        For one inference.
    delegate
        Execution providers, separated by commas; None leaves them to `providers`.
    provider_options
        Of execution providers, by their names.
    """
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 4  # errors are raised; the terminal is the app's
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        return ort.InferenceSession(
            str(model) if isinstance(model, Path) else model,
            options,
            providers=[(name, dict((provider_options or {}).get(name, {}))) for name in providers(delegate)],
            enable_fallback=0,  # would print on standard output and try the same again
        )
    except ModelError:
        raise
    except Exception as error:  # onnxruntime raises types of its own that share no base
        raise ModelError(f"ONNX Runtime cannot load the model: {_first_line(error)}") from error


def describe(session: Any, *, texts: bool = False) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
    """Return the inputs and outputs of ONNX Runtime's session; raise `ModelError` where they are of no use.

    Parameters
    ----------
    session
        The session.
    texts
        Whether tensors of strings, whose dtype is object, are of use.
    """
    dtypes = _DTYPES | ({"tensor(string)": "object"} if texts else {})
    inputs = tuple(_spec(tensor, dtypes) for tensor in session.get_inputs())
    return inputs, check_outputs(tuple(_spec(tensor, dtypes) for tensor in session.get_outputs()))


def providers(delegate: str | None = None) -> list[str]:
    """Return the execution providers to try, in order: the one named, else those of ``EDGE_SDK_ORT_PROVIDERS``.

    Raises
    ------
    ModelError
        One is named that this onnxruntime does not have.
    """
    source, named = ("EDGE_SDK_ORT_PROVIDERS", os.environ.get("EDGE_SDK_ORT_PROVIDERS", ""))
    if delegate is not None:
        source, named = "delegate", delegate
    wanted = [name.strip() for name in named.split(",") if name.strip()]
    there = ort.get_available_providers()
    for name in wanted:
        if name not in there:
            raise ModelError(f"{source} names {name}; this onnxruntime has {', '.join(there)}")
    return wanted or ["CPUExecutionProvider"]


def _spec(tensor: Any, dtypes: Mapping[str, str]) -> TensorSpec:
    if tensor.type not in dtypes:
        raise ModelError(f"tensor {tensor.name} has type {tensor.type}, which is not supported")
    shape = tuple(extent if isinstance(extent, int) else -1 for extent in tensor.shape)
    return TensorSpec(name=tensor.name, dtype=dtypes[tensor.type], shape=shape)


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
