"""``threads="auto"``: how many threads a model runs fastest with, by trying it here."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_sdk.runtime.base import Session, single

__all__ = ["fastest"]

logger = logging.getLogger("edge_sdk.runtime")

ROUNDS = 15
WORTH = 0.95  # more threads cost power and contend with the app: they must win by this much


def fastest(open_with: Callable[[int], Session]) -> Session:
    """Open a model with one thread and with one a core, and keep the one that answers sooner.

    The two take turns, so that a busy moment of the machine hits both; medians are compared, and one
    thread is kept unless the others win by 5 %.

    Parameters
    ----------
    open_with
        Opens the model with so many threads.
    """
    session = open_with(1)
    cores = os.cpu_count() or 1
    if cores == 1:
        return session
    try:
        other = open_with(cores)
    except BaseException:
        session.close()
        raise
    spec = single(session.inputs, "inputs")
    x = np.zeros([max(extent, 1) for extent in spec.shape], spec.dtype)
    times: dict[int, list[float]] = {1: [], cores: []}
    for _ in range(ROUNDS):
        times[1].append(_timed(session, x))
        times[cores].append(_timed(other, x))
    one, many = median(times[1]), median(times[cores])
    logger.info("one thread takes %.3f ms, %d take %.3f ms", one * 1e3, cores, many * 1e3)
    if many < WORTH * one:
        session, other = other, session
    other.close()
    return session


def _timed(session: Session, x: NDArray[Any]) -> float:
    start = time.perf_counter()
    session.run(x)
    return time.perf_counter() - start
