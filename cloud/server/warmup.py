"""Warm-up: a model runs before it is ready, which shows what batches cost and whether it may be batched at all."""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Mapping
from typing import Any

import numpy as np

from edge_sdk.cloud.server.costs import BatchCosts
from edge_sdk.cloud.server.engines import Engine, stop
from edge_sdk.cloud.server.models import ServedModel
from edge_sdk.cloud.server.settings import ModelSettings
from edge_sdk.errors import ModelError

__all__ = ["warm_up"]

_log = logging.getLogger("edge_sdk.cloud.server")

Array = np.ndarray[Any, Any]
_MOST = 64  # items of a batch, where nothing is said
_STOPPING = 1.0  # seconds in which a run that is told to stop mostly does
_TOLERANCE = 0.02  # of the largest value: kernels for other sizes round otherwise


def warm_up(model: ServedModel, settings: ModelSettings) -> BatchCosts:
    """Run a model on its example, alone and in batches, and return what that cost.

    Raises
    ------
    ModelError
        It does not run, or is not through in time. It is then released if it ever returns.
    """
    found: queue.SimpleQueue[BatchCosts | BaseException] = queue.SimpleQueue()
    given_up = threading.Event()

    def work() -> None:
        try:
            found.put(_warm_up(model, settings))
        except BaseException as error:  # noqa: BLE001 - it is raised where it is waited for
            found.put(error)
        if given_up.is_set():
            model.engine.close()

    # most runtimes cannot be told to end a run: the thread is left behind where it never does
    thread = threading.Thread(target=work, name=f"warm-up-{model.name}", daemon=True)
    thread.start()
    try:
        costs = found.get(timeout=settings.warm_up_seconds)
    except queue.Empty:
        given_up.set()
        stop(model.engine)
        thread.join(_STOPPING)
        raise ModelError(
            f"the warm-up of model {model.name} {model.version} is not through after {settings.warm_up_seconds:g} s; "
            "warm_up_seconds gives it longer"
        ) from None
    if isinstance(costs, BaseException):
        raise costs
    return costs


def _warm_up(model: ServedModel, settings: ModelSettings) -> BatchCosts:
    wanted = _MOST if settings.max_batch is None else settings.max_batch
    example, engine = model.example, model.engine
    if example is None:
        # shapes are not known: batched only where the operator says that it may be
        return BatchCosts(wanted if model.batching == "batched" and settings.max_batch is not None else 1)
    if model.batching != "batched" or (wanted > 1 and not _is_batchable(engine, example)):
        if model.batching == "batched":
            _log.warning("model %s answers otherwise in a batch than alone; it is not batched", model.name)
        wanted = 1

    def run(size: int) -> float:
        feeds = example if size == 1 else {name: np.repeat(x, size, axis=0) for name, x in example.items()}
        before = time.monotonic()
        engine.run(feeds)
        return time.monotonic() - before

    costs = BatchCosts(wanted)
    costs.learn(run)
    return costs


def _is_batchable(engine: Engine, example: Mapping[str, Array]) -> bool:
    """Tell whether two items together give what each gives alone."""
    other = {name: np.ascontiguousarray(np.flip(x)) for name, x in example.items()}
    both = engine.run({name: np.concatenate([x, other[name]]) for name, x in example.items()})
    alone = zip(engine.run(example), engine.run(other), strict=True)
    return all(_close(have, first, second) for have, (first, second) in zip(both, alone, strict=True))


def _close(have: Array, first: Array, second: Array) -> bool:
    if first.shape[:1] != (1,) or second.shape[:1] != (1,) or first.shape[1:] != second.shape[1:]:
        return False
    want = np.concatenate([first, second])
    if have.shape != want.shape:
        return False
    if have.dtype.kind not in "fiu":
        return bool(np.array_equal(have, want))
    scale = float(np.abs(want.astype(np.float64)).max(initial=0.0))
    return bool(np.allclose(have, want, rtol=0, atol=_TOLERANCE * scale + 1e-6, equal_nan=True))
