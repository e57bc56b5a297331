"""How a runtime is chosen by name, and loaded only then."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from edge_sdk.errors import InputError, MissingExtraError, ModelError

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

    from edge_sdk.runtime.base import Session

__all__ = ["Threads", "check_runtime", "find_runtime", "open_session"]

_BUILT_IN = {
    # by name: module, distribution and extra, and the packages one of which it imports
    "litert": ("edge_sdk.runtime.litert", "ai-edge-litert", "litert", ("ai_edge_litert", "tflite_runtime")),
    "onnx": ("edge_sdk.runtime.onnx", "onnxruntime", "onnx", ("onnxruntime",)),
}


Threads = int | Literal["auto"]
"""Threads for one inference; ``auto`` tries one and one a core, and keeps the faster."""


def open_session(model: Path | bytes, runtime: str, *, threads: Threads = 1, delegate: str | None = None) -> Session:
    """Load a model file, or its bytes, in the named runtime.

    Parameters
    ----------
    model
        A path (memory-mapped where the runtime can) or the file's bytes.
    runtime
        ``litert``, ``onnx``, or a name in the entry-point group ``edge_sdk.runtimes``, whose
        value is a callable ``(model, threads, delegate) -> Session``.
    threads
        Threads the runtime may use for one inference, or ``auto``.
    delegate
        What should compute. LiteRT: ``none`` (no XNNPACK) or the path of a delegate's library. ONNX
        Runtime: an execution provider, such as ``CUDAExecutionProvider``. None leaves it to the runtime.

    Raises
    ------
    MissingExtraError
        The runtime's package is not installed.
    ModelError
        There is no such runtime or delegate, or the model cannot be loaded.
    InputError
        ``threads`` is neither ``auto`` nor at least 1, or the delegate is no text.
    """
    if threads != "auto" and not (isinstance(threads, int) and threads >= 1):
        raise InputError(f"threads is {threads!r}; it should be 'auto' or at least 1")
    if delegate is not None and not isinstance(delegate, str):
        raise InputError(f"delegate should be a name or a path as text, not {type(delegate).__name__}")
    factory = find_runtime(runtime)
    if threads == "auto":
        from edge_sdk.runtime.tuning import fastest

        return fastest(lambda count: factory(model, count, delegate))
    return factory(model, threads, delegate)


def find_runtime(runtime: str) -> Callable[[Path | bytes, int, str | None], Session]:
    """Return what opens models in the named runtime; raise as `open_session` does if it is not installed."""
    if runtime in _BUILT_IN:
        module, distribution, extra, _ = _BUILT_IN[runtime]
        try:
            built_in: Callable[[Path | bytes, int, str | None], Session] = importlib.import_module(module).open_session
        except ModuleNotFoundError as error:
            raise MissingExtraError(distribution, extra) from error
        return built_in
    point = _entry_point(runtime)
    try:
        loaded: Callable[[Path | bytes, int, str | None], Session] = point.load()
    except Exception as error:  # whatever a package of others raises when it is imported
        raise ModelError(f"the runtime {runtime!r} cannot be loaded ({point.value}): {error}") from error
    return loaded


def check_runtime(runtime: str) -> None:
    """Raise as `find_runtime` does if the named runtime is not installed; load nothing of it."""
    if runtime not in _BUILT_IN:
        point = _entry_point(runtime)
        if importlib.util.find_spec(point.module.partition(".")[0]) is None:
            raise ModelError(f"the runtime {runtime!r} cannot be loaded ({point.value}): its package is not installed")
        return
    _, distribution, extra, packages = _BUILT_IN[runtime]
    if not any(importlib.util.find_spec(package) for package in packages):
        raise MissingExtraError(distribution, extra)


def _entry_point(runtime: str) -> EntryPoint:
    from importlib import metadata  # brings half of the standard library

    found = {point.name: point for point in metadata.entry_points(group="edge_sdk.runtimes")}
    if runtime not in found:
        names = ", ".join([*_BUILT_IN, *found])
        raise ModelError(f"there is no runtime {runtime!r}; there are {names}: install the package that brings it")
    return found[runtime]
