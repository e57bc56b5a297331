"""The server without its transport: which models there are, and one request run through one.

Each model has one thread, so inference never blocks the event loop and a request that is still
queued when its time is up is dropped instead of run. Failures are plain exceptions that a front
translates: `LookupError` (no such model), `InputError` and `ProcessingError` (the request),
`TimeoutError` (no time left), `ModelError` (the runtime).
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edge_sdk.cloud.server.models import ServedModel, load_model
from edge_sdk.errors import InputError

__all__ = ["Core", "Request"]

_log = logging.getLogger("edge_sdk.cloud.server")


@dataclass(frozen=True, slots=True)
class Request:
    """One inference request.

    Attributes
    ----------
    model, version
        Which model; an empty version is the one there is.
    inputs
        Tensors by name.
    encoding
        What the tensor holds: one of `edge_sdk.protocol.ENCODINGS`.
    deadline
        `time.monotonic` reading after which no one waits for the answer; None is never.
    """

    model: str
    version: str
    inputs: Mapping[str, np.ndarray[Any, Any]]
    encoding: str
    deadline: float | None

    def check_deadline(self) -> None:
        """Raise `TimeoutError` where no time is left."""
        if self.deadline is not None and time.monotonic() >= self.deadline:
            raise TimeoutError("no time is left for this request")


class Core:
    """The models of one server."""

    def __init__(self, models: Sequence[ServedModel]) -> None:
        self._models: dict[str, ServedModel] = {}
        for model in models:
            if model.name in self._models:
                raise InputError(f"two models are called {model.name}; give one of them")
            self._models[model.name] = model
        self._threads = {
            name: ThreadPoolExecutor(max_workers=1, thread_name_prefix=f"model-{name}") for name in self._models
        }

    @classmethod
    def load(cls, paths: Sequence[Path], *, threads: int) -> Core:
        """Load every path with `load_model`; raise what that raises."""
        return cls([load_model(path, threads=threads) for path in paths])

    @property
    def models(self) -> tuple[ServedModel, ...]:
        """The models, in the order they were given."""
        return tuple(self._models.values())

    def model(self, name: str, version: str = "") -> ServedModel:
        """Return a model by name, and by version unless that is empty.

        Raises
        ------
        LookupError
            There is none.
        """
        model = self._models.get(name)
        if model is None:
            raise LookupError(f"unknown model {name[:80]!r}; served are {', '.join(self._models)}")
        if version not in ("", model.version):
            raise LookupError(f"model {name} has no version {version[:40]!r}; served is {model.version}")
        return model

    async def infer(self, request: Request) -> dict[str, np.ndarray[Any, Any]]:
        """Run one request in its model's thread and return the output tensors by name.

        Raises
        ------
        LookupError, InputError, ProcessingError, TimeoutError, ModelError
            As the module says.
        """
        model = self.model(request.model, request.version)
        request.check_deadline()

        def work() -> dict[str, np.ndarray[Any, Any]]:
            request.check_deadline()
            return model.run(dict(request.inputs), request.encoding, request.check_deadline)

        return await asyncio.get_running_loop().run_in_executor(self._threads[model.name], work)

    def close(self) -> None:
        """Finish what runs, drop what waits, release the models."""
        for thread in self._threads.values():
            thread.shutdown(wait=True, cancel_futures=True)
        for model in self._models.values():
            model.close()
        _log.debug("models released")
