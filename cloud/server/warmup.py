"""Warm-up: a model runs before it is ready, which shows what batches cost and whether it may be batched at all."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from typing import Any

import numpy as np

from edge_sdk.cloud.server.costs import BatchCosts
from edge_sdk.cloud.server.engines import Engine
from edge_sdk.cloud.server.models import ServedModel
from edge_sdk.cloud.server.settings import ModelSettings

__all__ = ["warm_up"]

_log = logging.getLogger("edge_sdk.cloud.server")

Array = np.ndarray[Any, Any]
_MOST = 64  # items of a batch, where nothing is said
_TOLERANCE = 0.02  # of the largest value: kernels for other sizes round otherwise


def warm_up(model: ServedModel, settings: ModelSettings) -> BatchCosts:
    """Run a model on its example, alone and in batches, and return what that cost.

    Raises
    ------
    ModelError
        It does not run.
    """
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
