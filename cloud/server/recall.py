"""A request to one model: answered from its cache, where it has one and knows, or else in its line."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import numpy as np

from edge_sdk.cloud.server.lines import Line
from edge_sdk.cloud.server.payloads import Payload
from edge_sdk.cloud.server.runs import Run

__all__ = ["ask"]

Array = np.ndarray[Any, Any]


async def ask(line: Line, inputs: Mapping[str, Array], payload: Payload, deadline: float | None, priority: int) -> Run:
    """Return what the model says, or said to an equal request; errors are those of `Line.ask`.

    Parameters
    ----------
    line
        Of the model.
    inputs, payload
        The request's tensors as they came, and as they were checked.
    deadline, priority
        As for `Line.ask`.
    """
    cache = line.cache
    if cache is None:
        return await line.ask(payload, deadline, priority)
    began = time.monotonic()
    key = await cache.key(inputs, payload.encoding, payload.nbytes)
    known = cache.get(key)
    looked = time.monotonic()
    if known is not None:
        line.count_hit(looked - began)
        return Run(list(known), 0.0, 0.0, 0.0, [], looked, cached=True)
    run = await line.ask(payload, deadline, priority)
    answered = time.monotonic()
    cache.put(key, run.outputs)
    line.counts.misses.add(looked - began + time.monotonic() - answered)
    line.counts.cached_bytes = cache.nbytes
    return run
