"""What a line runs its model with, and whether requests come alone."""

from __future__ import annotations

import queue
import threading
import time
from dataclasses import dataclass, field, replace

from edge_sdk.cloud.server.costs import BatchCosts
from edge_sdk.cloud.server.engines import Engine, is_shared
from edge_sdk.cloud.server.settings import ModelSettings
from edge_sdk.cloud.server.shares import available_cores
from edge_sdk.cloud.server.waiting import Job

__all__ = ["Company", "Instance", "fitted"]

_ALONE = 8  # requests in a row that found nobody to share a batch with
_LONG = 1e-3  # seconds of a run, beside which to hand it to a thread costs little
_CLOSE = 50e-6  # seconds: who comes so soon after a run came while it ran


@dataclass(slots=True, eq=False)
class Instance:
    """A model loaded for one thread, and what that thread is at.

    Attributes
    ----------
    engine
        Runs the model.
    inbox
        What its thread is given; None ends it.
    thread
        Its thread.
    jobs, started
        What runs now, and since when (a `time.monotonic` reading); also where it runs on the event loop.
    until
        When it is thought to be through.
    hangs
        It was given up, and has not returned yet.
    """

    engine: Engine
    inbox: queue.SimpleQueue[list[Job] | None] = field(default_factory=queue.SimpleQueue)
    thread: threading.Thread | None = None
    jobs: list[Job] = field(default_factory=list)
    started: float | None = None
    until: float = 0.0
    hangs: bool = False


class Company:
    """Whether requests come one by one: then to wait for others only costs time.

    Attributes
    ----------
    ended
        `time.monotonic` reading of when the last run on the event loop was through.
    """

    def __init__(self) -> None:
        self._alone, self.ended = 0, 0.0

    def came(self, together: int) -> None:
        """Note how many requests were there to share a batch."""
        self._alone = self._alone + 1 if together == 1 else 0

    def is_alone(self) -> bool:
        """Tell whether nobody else is to be expected."""
        if self._alone < _ALONE:
            return False
        if time.monotonic() - self.ended < _CLOSE:
            self._alone = 0
            return False
        return True


def fitted(engine: Engine, settings: ModelSettings, costs: BatchCosts) -> tuple[ModelSettings, int]:
    """Return how a model is served with a number of instances that fits it where none is said, and that number.

    Parameters
    ----------
    engine
        Its first.
    settings
        How it is to be served.
    costs
        As its warm-up found them.
    """
    count = settings.instances
    if count is None:
        on_processor = set(settings.providers) <= {"cpu"}
        measured = costs.table()  # nothing, where shapes are not known
        alone = min(measured.values(), default=0.0) >= _LONG and costs.best(costs.max_batch) == 1
        count = available_cores() // settings.threads if alone and on_processor and is_shared(engine) else 1
    return replace(settings, instances=max(1, count)), max(1, count)
