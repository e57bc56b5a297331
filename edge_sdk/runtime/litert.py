"""LiteRT (``.tflite``) through its interpreter, with XNNPACK; tflite-runtime, its predecessor, where only that is.

``CompiledModel`` takes 180 ms to start, so the interpreter it is.
"""

from __future__ import annotations

import ctypes
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

try:
    from ai_edge_litert.interpreter import Interpreter, OpResolverType, load_delegate
except ModuleNotFoundError:  # the legacy package, where numpy is below 2
    from tflite_runtime.interpreter import Interpreter, OpResolverType, load_delegate

from edge_sdk.errors import ModelError
from edge_sdk.runtime.base import check_input, check_outputs, single
from edge_sdk.types import TensorSpec

__all__ = ["LiteRTSession", "open_session"]

_first = threading.Lock()  # taken by the first session and never released


class LiteRTSession:
    """A ``.tflite`` model in a LiteRT interpreter."""

    def __init__(self, model: Path | bytes, threads: int, delegate: str | None = None) -> None:
        options = {"model_path": str(model)} if isinstance(model, Path) else {"model_content": model}
        options |= _delegate(delegate)
        try:
            with _greeting_logged():
                self._interpreter: Any = Interpreter(**options, num_threads=threads)
                self._interpreter.allocate_tensors()
            inputs, outputs = self._interpreter.get_input_details(), self._interpreter.get_output_details()
        except (ValueError, RuntimeError) as error:  # also a name of a tensor that is no text
            raise ModelError(f"LiteRT cannot load the model: {_first_line(error)}") from error
        self.inputs = tuple(_spec(detail) for detail in inputs)
        self.outputs = check_outputs(tuple(_spec(detail) for detail in outputs))
        self._input = single(self.inputs, "inputs")
        self._shape, self._dtype = self._input.shape, np.dtype(self._input.dtype)
        self._input_index = inputs[0]["index"]
        self._output_indices = [detail["index"] for detail in outputs]

    def run(self, x: NDArray[Any]) -> list[NDArray[Any]]:
        """Run the model on one input tensor of exactly its shape."""
        if x.shape != self._shape or x.dtype != self._dtype or not x.flags.c_contiguous:
            x = check_input(x, self._input)
        interpreter = self._interpreter
        try:
            interpreter.set_tensor(self._input_index, x)
            interpreter.invoke()
            return [interpreter.get_tensor(index) for index in self._output_indices]
        except (ValueError, RuntimeError) as error:
            raise ModelError(f"LiteRT failed: {_first_line(error)}") from error

    def close(self) -> None:
        """Release the interpreter."""
        self._interpreter = None


def open_session(model: Path | bytes, threads: int, delegate: str | None = None) -> LiteRTSession:
    """Load a model; see `edge_sdk.runtime.open_session`."""
    return LiteRTSession(model, threads, delegate)


def _delegate(name: str | None) -> dict[str, Any]:
    if name is None:
        return {}
    if name == "none":
        return {"experimental_op_resolver_type": OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES}
    try:
        ctypes.CDLL(name)  # load_delegate leaves a broken object behind where this fails
        return {"experimental_delegates": [load_delegate(name)]}
    except (OSError, ValueError, RuntimeError, AttributeError) as error:
        raise ModelError(f"the delegate {name!r} cannot be loaded: {_first_line(error)}") from error


@contextmanager
def _greeting_logged() -> Iterator[None]:
    """Send what LiteRT writes to standard error when it first starts to our log instead.

    It greets the process with one line from C ("Created TensorFlow Lite XNNPACK delegate"), for
    which it has no switch; an app's terminal is not ours to write to.
    """
    caught = _catcher() if _first.acquire(blocking=False) else None
    if caught is None:
        yield
        return
    with caught:
        terminal = os.dup(2)
        os.dup2(caught.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(terminal, 2)
            os.close(terminal)
            if "logging" in sys.modules:  # else nobody listens, and it takes 2 ms to load
                _log(caught)


def _log(caught: IO[bytes]) -> None:
    import logging

    caught.seek(0)
    for line in caught.read().decode(errors="replace").splitlines():
        logging.getLogger("edge_sdk.runtime.litert").debug("%s", line)


def _catcher() -> IO[bytes] | None:
    """Return a file to write to, or None where there is no room for one or no standard error (a daemon)."""
    try:
        os.fstat(2)
        if hasattr(os, "memfd_create"):
            return os.fdopen(os.memfd_create("greeting"), "w+b")
        import tempfile

        return tempfile.TemporaryFile()
    except OSError:
        return None


def _spec(detail: dict[str, Any]) -> TensorSpec:
    scales, zero_points = detail["quantization_parameters"]["scales"], detail["quantization_parameters"]["zero_points"]
    quantized = len(scales) == 1
    signature = detail.get("shape_signature")
    shape = detail["shape"] if signature is None or len(signature) == 0 else signature
    # a dynamic batch is allocated as 1; the other extents are what the file says
    extents = tuple(int(have) if want == -1 else int(want) for want, have in zip(shape, detail["shape"], strict=True))
    return TensorSpec(
        name=str(detail["name"]),
        dtype=np.dtype(detail["dtype"]).name,
        shape=extents,
        scale=float(scales[0]) if quantized else None,
        zero_point=int(zero_points[0]) if quantized else None,
    )


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
