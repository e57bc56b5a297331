"""What a line runs its model with."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from edge_sdk.cloud.server.costs import BatchCosts
from edge_sdk.cloud.server.engines import Engine, is_shared
from edge_sdk.cloud.server.models import ServedModel
from edge_sdk.cloud.server.outbox import Outbox
from edge_sdk.cloud.server.settings import ModelSettings
from edge_sdk.cloud.server.shares import available_cores
from edge_sdk.cloud.server.trays import Tray, tray_of
from edge_sdk.cloud.server.waiting import Job

__all__ = ["Instance", "fitted", "instance_of"]

_LITTLE = 0.85  # of what an item costs alone: a batch that spares less is not worth the cores that it leaves idle
_LONG_BATCH = 250e-6  # seconds of a full batch, likewise
_LONG = 1e-3  # seconds of a run, beside which to hand it to a thread costs little


@dataclass(slots=True, eq=False)
class Instance:
    """A model loaded for one thread, and what that thread is at.

    Attributes
    ----------
    engine
        Runs the model.
    tray
        Buffers for its batches, or None.
    inbox
        What its thread is given; None ends it.
    outbox
        What it has to tell.
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
    tray: Tray | None = None
    inbox: queue.SimpleQueue[list[Job] | None] = field(default_factory=queue.SimpleQueue)
    outbox: Outbox = field(default_factory=Outbox)
    thread: threading.Thread | None = None
    jobs: list[Job] = field(default_factory=list)
    started: float | None = None
    until: float = 0.0
    hangs: bool = False

    def begin(self, work: Callable[[Instance], None], name: str) -> None:
        """Start its thread, which gets the instance."""
        # a model that hangs must not keep the process from ending
        self.thread = threading.Thread(target=work, args=(self,), name=name, daemon=True)
        self.thread.start()

    def end(self, timeout: float) -> None:
        """Wait for the end of its thread, which was told to end, and release the model; not where it hangs."""
        assert self.thread is not None
        self.thread.join(0 if self.hangs else timeout)
        if not self.thread.is_alive():
            self.engine.close()


def instance_of(model: ServedModel, engine: Engine, costs: BatchCosts) -> Instance:
    """Return an instance of a model, with buffers where its batches may run in some."""
    together = model.bounded and model.batching == "batched" and costs.max_batch > 1
    return Instance(engine, tray_of(engine, costs.max_batch) if together else None)


def fitted(engine: Engine, settings: ModelSettings, costs: BatchCosts) -> tuple[ModelSettings, int]:
    """Return how a model is served with a number of instances that fits it where none is said, and that number.

    Parameters
    ----------
    engine
        Its first.
    settings
        How it is to be served.
    costs
        As its warm-up found them; of a model with several instances for which batches spare little, none are taken.
    """
    count = settings.instances
    if count is None:
        on_processor = set(settings.providers) <= {"cpu"}
        measured = costs.table()  # nothing, where shapes are not known
        alone = min(measured.values(), default=0.0) >= _LONG and costs.least_share() > _LITTLE
        several = alone or (bool(measured) and costs.seconds(costs.full) >= _LONG_BATCH)
        count = available_cores() // settings.threads if several and on_processor and is_shared(engine) else 1
        if count > 1 and alone:
            costs.take_each_alone()
    return replace(settings, instances=max(1, count)), max(1, count)
