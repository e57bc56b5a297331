"""One batch through a model: tensors made of what requests hold, put together, run, and taken apart again."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import numpy as np

from edge_sdk.cloud.server.costs import BatchCosts
from edge_sdk.cloud.server.engines import Engine
from edge_sdk.cloud.server.models import ServedModel
from edge_sdk.cloud.server.payloads import Payload
from edge_sdk.cloud.server.trays import Tray
from edge_sdk.errors import InputError, ModelError, ProcessingError

__all__ = ["Run", "Waiting", "run_batch", "run_tensors"]

Array = np.ndarray[Any, Any]
Batch = list[tuple[int, float]]


class Waiting(Protocol):
    """Who waits for an answer."""

    payload: Payload
    deadline: float | None

    @property
    def gone(self) -> bool:
        """Nobody waits any more."""


T = TypeVar("T", bound=Waiting)


@dataclass(slots=True)
class Run:
    """What the model says to one request.

    Attributes
    ----------
    outputs
        The model's output tensors, in its order; none where the payload has them (`Payload.said`).
    prepare, prepare_item
        Seconds of decoding and processing: of this request, and an item.
    compute
        Seconds that the model took, for the whole batch.
    batch
        Sizes that the model ran with, and the seconds of each; one list for all requests of a batch.
    done
        `time.monotonic` reading when the model was through.
    cached
        It was asked the same before.
    """

    outputs: list[Array]
    prepare: float
    prepare_item: float
    compute: float
    batch: Batch
    done: float
    cached: bool = False


def run_batch(
    model: ServedModel, engine: Engine, jobs: Sequence[T], costs: BatchCosts, tray: Tray | None = None
) -> list[tuple[T, Run | BaseException]]:
    """Run requests together, in the buffers of a tray where they fit; one that cannot be processed harms no other.

    Returns
    -------
    The answer to each, or why there is none: `InputError`, `ProcessingError`, `TimeoutError`, `ModelError`
    or `MemoryError`.
    """
    if tray is not None and (run := _run_in(tray, jobs, costs)) is not None:
        return [(job, run) for job in jobs]
    if len(jobs) == 1 and jobs[0].payload.items == 1:
        return [(jobs[0], _run_one(model, engine, jobs[0]))]
    results: list[tuple[T, Run | BaseException]] = []
    ready: list[tuple[T, Mapping[str, Array], float]] = []
    for job in jobs:
        before = time.monotonic()
        try:
            feeds = job.payload.tensors(_alive([job]))
        except (InputError, ProcessingError, TimeoutError, MemoryError) as error:
            results.append((job, error))
        else:
            ready.append((job, feeds, time.monotonic() - before))
    if not ready:
        return results
    try:
        return results + _run(model, engine, ready, costs)
    except (ModelError, TimeoutError, MemoryError) as error:
        if len(ready) == 1:
            return [*results, (ready[0][0], error)]
    for one in ready:  # it may be for one of them only
        try:
            results += _run(model, engine, [one], costs)
        except (ModelError, TimeoutError, MemoryError) as error:
            results.append((one[0], error))
    return results


def _run_one(model: ServedModel, engine: Engine, job: Waiting) -> Run | BaseException:
    """Run a request of one item by itself; its answer, or why there is none."""
    check, before = _alive([job]), time.monotonic()
    try:
        feeds = job.payload.tensors(check)
        started = time.monotonic()
        check()
        outputs = run_tensors(model, engine, feeds, 1)
    except (InputError, ProcessingError, ModelError, TimeoutError, MemoryError) as error:
        return error
    done = time.monotonic()
    prepare, compute = started - before, done - started
    return Run(outputs, prepare, prepare, compute, [(1, compute)], done)


def _run_in(tray: Tray, jobs: Sequence[T], costs: BatchCosts) -> Run | None:
    """Run requests in buffers; None where that cannot be, or failed: who was to blame then shows in the usual way."""
    payloads = [job.payload for job in jobs]
    items = sum([payload.items for payload in payloads])
    if not tray.holds(payloads, items) or costs.best(items) < items:
        return None
    before = time.monotonic()
    try:
        _alive(jobs)()
        if not tray.run(payloads, items):
            return None
    except Exception:  # noqa: BLE001 - of a runtime, which is anybody's
        return None
    done = time.monotonic()
    return Run([], 0.0, 0.0, done - before, [(items, done - before)], done)


def run_tensors(model: ServedModel, engine: Engine, feeds: Mapping[str, Array], items: int) -> list[Array]:
    """Run one request's tensors in one go, and return the model's output tensors, in its order.

    Raises
    ------
    ModelError, MemoryError
        It fails, or gives outputs for another number of items.
    """
    try:
        outputs = engine.run(feeds)
    except (ModelError, MemoryError):
        raise
    except Exception as error:  # of a runtime or model, which is anybody's
        raise ModelError(f"{type(error).__name__}: {error}") from error
    _check(model, outputs, items)
    return outputs


def _check(model: ServedModel, outputs: list[Array], items: int) -> None:
    if model.batching != "whole" and any(output.shape[:1] != (items,) for output in outputs):
        raise ModelError(f"the model gives outputs of {[y.shape[:1] for y in outputs]} items for {items}")


def _run(
    model: ServedModel, engine: Engine, ready: Sequence[tuple[T, Mapping[str, Array], float]], costs: BatchCosts
) -> list[tuple[T, Run | BaseException]]:
    items = sum(job.payload.items for job, _, _ in ready)
    feeds = ready[0][1]
    if len(ready) > 1:
        feeds = {name: np.concatenate([one[name] for _, one, _ in ready]) for name in feeds}
    chunk = items
    if model.batching == "in turn":
        chunk = 1
    elif model.batching == "batched" and costs.max_batch > 1:
        chunk = costs.best(items)
    batch: Batch = []
    outputs = _compute(engine, feeds, items, chunk, batch, _alive([job for job, _, _ in ready]))
    _check(model, outputs, items)
    done, compute = time.monotonic(), sum(seconds for _, seconds in batch)
    results: list[tuple[T, Run | BaseException]] = []
    at = 0
    for job, _, prepare in ready:
        end = at + job.payload.items
        own = outputs if len(ready) == 1 else [output[at:end] for output in outputs]
        results.append((job, Run(own, prepare, prepare / job.payload.items, compute, batch, done)))
        at = end
    return results


def _compute(
    engine: Engine, feeds: Mapping[str, Array], items: int, chunk: int, batch: Batch, go_on: Callable[[], None]
) -> list[Array]:
    parts = []
    for at in range(0, items, chunk):
        go_on()
        part = feeds if chunk >= items else {name: x[at : at + chunk] for name, x in feeds.items()}
        before = time.monotonic()
        parts.append(engine.run(part))
        batch.append((min(chunk, items - at), time.monotonic() - before))
    return parts[0] if len(parts) == 1 else [np.concatenate(outputs) for outputs in zip(*parts, strict=True)]


def _alive(jobs: Sequence[Waiting]) -> Callable[[], None]:
    """Return what raises `TimeoutError` when nobody waits any more."""

    def check() -> None:
        for job in jobs:
            if not job.gone and (job.deadline is None or time.monotonic() < job.deadline):
                return
        raise TimeoutError("no time is left for this request")

    return check
