"""A request to one model: answered by its table, its cache, an equal one that is under way, or else in its line."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from edge_sdk.cloud.server.cache import INLINE_BYTES, ResponseCache
from edge_sdk.cloud.server.flights import Outcome
from edge_sdk.cloud.server.lines import Line
from edge_sdk.cloud.server.payloads import Payload
from edge_sdk.cloud.server.runs import Run
from edge_sdk.cloud.server.tables import Table

__all__ = ["ask"]

Array = np.ndarray[Any, Any]
_INLINE_ITEMS = 16  # that are looked up on the event loop: 0.2 ms


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
    table, cache = line.model.table, line.cache
    if table is not None:
        began = time.monotonic()
        outputs = await _look_up(table, inputs, payload)
        looked = time.monotonic()
        if outputs is not None:
            line.count_hit(looked - began, of_table=True)
            return Run(outputs, 0.0, 0.0, 0.0, [], looked, cached=True)
        line.counts.table_misses.add(looked - began)
    if cache is None:
        return await line.ask(payload, deadline, priority)
    began = time.monotonic()
    key = await cache.key(inputs, payload.encoding, payload.nbytes)
    known = cache.get(key)
    looked = time.monotonic()
    urgency = priority or line.settings.default_priority, math.inf if deadline is None else deadline
    if known is None:
        known = await _wait(line, cache, key, urgency, deadline)
    if known is not None:
        answered = time.monotonic()
        line.count_hit(answered - began)
        return Run(list(known), 0.0, 0.0, 0.0, [], answered, cached=True)

    def keep(run: Run) -> Sequence[Array] | None:
        answered = time.monotonic()
        kept = cache.put(key, run.outputs)
        line.counts.misses.add(looked - began + time.monotonic() - answered)
        line.counts.cached_bytes = cache.nbytes
        return kept

    return await cache.flights.lead(key, urgency, line.ask(payload, deadline, priority), keep)


async def _look_up(table: Table, inputs: Mapping[str, Array], payload: Payload) -> list[Array] | None:
    """Return what a table knows of a request; one of many bytes or items is looked up beside the loop."""
    if payload.nbytes <= INLINE_BYTES and payload.items <= _INLINE_ITEMS:
        return table.find(inputs, payload.encoding, payload.items)
    return await asyncio.to_thread(table.find, inputs, payload.encoding, payload.items)


async def _wait(
    line: Line, cache: ResponseCache, key: bytes, urgency: tuple[int, float], deadline: float | None
) -> Sequence[Array] | None:
    """Return what an equal request gets that is under way; None where the model should be asked."""
    outcome: Outcome = "gone"
    while outcome == "gone" and (flight := cache.flights.find(key, urgency)) is not None:
        try:
            outcome = await flight.join(deadline)
        except TimeoutError:
            line.counts.expired += 1
            raise
        except asyncio.CancelledError:
            line.counts.cancelled += 1
            raise
    return None if isinstance(outcome, str) else outcome
