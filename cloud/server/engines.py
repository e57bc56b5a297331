"""What runs a model in the server: every runtime under one signature, with as many inputs as the model has.

ONNX Runtime and TensorFlow let several threads share one loaded model; of the others each thread loads its own.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, Self
from weakref import WeakSet

import numpy as np

from edge_sdk.cloud.saved_model import SavedModel
from edge_sdk.errors import InputError, ModelError, one_line
from edge_sdk.runtime import Session, open_session
from edge_sdk.types import TensorSpec

__all__ = ["PROVIDERS", "Bound", "Engine", "Providers", "bind", "bind_to", "is_shared", "open_engine", "stop"]

_log = logging.getLogger("edge_sdk.cloud.server")

Array = np.ndarray[Any, Any]

PROVIDERS = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
    "openvino": "OpenVINOExecutionProvider",
}
"""Short names of ONNX Runtime's execution providers; their own names are taken too."""

Providers = Sequence[tuple[str, Mapping[str, str]]]
"""Names of execution providers in the order to be tried, each with its options as ONNX Runtime names them."""


@dataclass(slots=True, eq=False, weakref_slot=True)
class Bound:
    """A model with buffers that it reads and writes in place, which costs less than new arrays for every call.

    Attributes
    ----------
    inputs, outputs
        The bytes of each tensor, in the order in which they were named.
    run
        Runs the model; may raise anything. Of a model that is closed it is of no use, and keeps nothing of it.
    """

    inputs: tuple[memoryview, ...]
    outputs: tuple[memoryview, ...]
    run: Callable[[], None]


class Engine(Protocol):
    """A model loaded for one thread.

    Attributes
    ----------
    inputs, outputs
        Tensor signatures as the runtime reports them.
    """

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]

    def run(self, feeds: Mapping[str, Array]) -> list[Array]:
        """Run the model on its inputs by name; raise `ModelError` where the runtime fails."""

    def another(self) -> Engine:
        """Return one for another thread."""

    def close(self) -> None:
        """Release the model."""


def open_engine(model: Path | bytes, runtime: str, *, threads: int = 1, providers: Providers = ()) -> Engine:
    """Load a model.

    Parameters
    ----------
    model
        The file, or its bytes; the folder of a SavedModel.
    runtime
        As for `edge_sdk.runtime.open_session`, or ``tensorflow``.
    threads
        Of the runtime, for one inference.
    providers
        Execution providers of ONNX Runtime, by their own names or those of `PROVIDERS`. Of those that do not work
        on this machine the log tells.

    Raises
    ------
    ModelError
        The runtime cannot load the model, or does not have a provider, or none of them works.
    InputError
        Providers are named for another runtime.
    MissingExtraError
        The runtime is not installed.
    """
    if runtime == "onnx":
        return _OnnxEngine.load(model, threads, providers)
    if providers:
        raise InputError(f"providers are for ONNX models; this one runs in {runtime}")
    if runtime == "tensorflow":
        assert isinstance(model, Path)
        return _TensorFlowEngine(SavedModel(model, threads))
    return _SessionEngine(model, runtime, threads)


def bind(engine: Engine, inputs: Mapping[str, Array], outputs: Mapping[str, Array]) -> Bound | None:
    """Return a model with buffers like these arrays, and with these outputs only; None where that cannot be."""
    like = functools.partial(np.zeros_like, order="C", subok=False)
    given, wanted = ({name: like(x) for name, x in tensors.items()} for tensors in (inputs, outputs))
    return bind_to(engine, given, wanted)


def bind_to(engine: Engine, inputs: Mapping[str, Array], outputs: Mapping[str, Array]) -> Bound | None:
    """Return a model with these arrays for buffers, and with these outputs only; None where that cannot be."""
    return engine.bind(inputs, outputs) if isinstance(engine, _OnnxEngine) else None


def is_shared(engine: Engine) -> bool:
    """Tell whether another thread's engine takes no second copy of the model, and runs beside the first."""
    return isinstance(engine, _OnnxEngine)


def stop(engine: Engine) -> None:
    """Let a run in another thread fail before its next operation, where the runtime can; else it goes on."""
    if isinstance(engine, _OnnxEngine):
        engine.stop()


class _OnnxEngine:
    """ONNX Runtime, whose sessions may be run from several threads at once."""

    def __init__(self, session: Any, inputs: tuple[TensorSpec, ...], outputs: tuple[TensorSpec, ...]) -> None:
        from onnxruntime import RunOptions

        self._session, self.inputs, self.outputs = session, inputs, outputs
        self._names = [spec.name for spec in outputs]
        self._options = RunOptions()
        self._run = _unwrapped(session)
        self._bound: WeakSet[Bound] = WeakSet()

    @classmethod
    def load(cls, model: Path | bytes, threads: int, providers: Providers) -> Self:
        from edge_sdk.runtime.onnx import describe, new_session

        wanted = {PROVIDERS.get(name.lower(), name): options for name, options in providers}
        session = new_session(model, threads, ",".join(wanted) or None, wanted)
        idle = [name for name in wanted if name not in session.get_providers()]  # ONNX Runtime leaves them out silently
        if idle:
            said = f"{' and '.join(idle)} cannot be used on this machine: libraries or a device are missing"
            if len(idle) == len(wanted):
                raise ModelError(said)
            _log.warning("%s; the next provider runs the model", said)
        return cls(session, *describe(session, texts=True))

    def run(self, feeds: Mapping[str, Array]) -> list[Array]:
        self._options.terminate = False
        try:
            outputs: list[Array] = self._run(self._names, feeds, self._options)
        except Exception as error:  # onnxruntime raises types of its own that share no base
            raise ModelError(f"ONNX Runtime failed: {one_line(error, 300)}") from error
        return outputs

    def bind(self, inputs: Mapping[str, Array], outputs: Mapping[str, Array]) -> Bound | None:
        if self._session.get_providers() != ["CPUExecutionProvider"]:
            return None
        binding, views = self._session.io_binding(), []
        for tensors, bind in ((inputs, binding.bind_input), (outputs, binding.bind_output)):
            for name, array in tensors.items():
                bind(name, "cpu", 0, array.dtype, array.shape, array.ctypes.data)
                views.append(array.reshape(-1).view(np.uint8).data)  # keeps the array
        run = _runner(self._session, binding, self._options)
        bound = Bound(tuple(views[: len(inputs)]), tuple(views[len(inputs) :]), run)
        self._bound.add(bound)
        return bound

    def stop(self) -> None:
        self._options.terminate = True

    def another(self) -> _OnnxEngine:
        return _OnnxEngine(self._session, self.inputs, self.outputs)

    def close(self) -> None:
        for bound in self._bound:  # which others may keep
            bound.run = _closed
        self._session, self._run = None, _closed


def _runner(session: Any, binding: Any, options: Any) -> Callable[[], None]:
    """Return what runs a session of the processor with its buffers.

    ONNX Runtime's wrapper asks each time about kinds of graphs that only other providers have, and options are made
    anew for each run that is given none: with cold caches that is a third of a small run. Where what is below the
    wrapper is not as it was when this was written, the wrapper is taken. A run that was stopped stays so until the next
    one without buffers.
    """
    options.terminate = False
    try:
        run = functools.partial(session._sess.run_with_iobinding, binding._iobinding, options)  # noqa: SLF001
        run()
    except Exception:  # noqa: BLE001 - of another version, or of the model, which the wrapper then says
        return functools.partial(session.run_with_iobinding, binding, options)
    return run


def _unwrapped(session: Any) -> Callable[..., Any]:
    """Return what runs a session with arrays; what its wrapper looks at for other providers is passed by, as above."""
    run: Callable[..., Any] = session.run
    if session.get_providers() == ["CPUExecutionProvider"]:
        run = getattr(getattr(session, "_sess", None), "run", run)
    return run


def _closed(*_: object) -> None:
    raise ModelError("the model is closed")


class _TensorFlowEngine:
    """TensorFlow, whose sessions may be run from several threads at once."""

    def __init__(self, model: SavedModel) -> None:
        self._model, self.inputs, self.outputs = model, model.inputs, model.outputs
        self.run = model.run

    def another(self) -> _TensorFlowEngine:
        return _TensorFlowEngine(self._model)

    def close(self) -> None:
        self._model.close()


class _SessionEngine:
    """Any runtime of `edge_sdk.runtime`: one input, one thread."""

    def __init__(self, model: Path | bytes, runtime: str, threads: int) -> None:
        self._source = (model, runtime, threads)
        self._session: Session = open_session(model, runtime, threads=threads)
        self.inputs, self.outputs = self._session.inputs, self._session.outputs

    def run(self, feeds: Mapping[str, Array]) -> list[Array]:
        (x,) = feeds.values()
        return self._session.run(x)

    def another(self) -> _SessionEngine:
        return _SessionEngine(*self._source)

    def close(self) -> None:
        self._session.close()
