"""The line in front of one model: who may wait, who goes next and with whom, and the threads that run it.

Requests go by priority, then by deadline. When an instance of the model is free it takes as many of them as
pay together (`BatchCosts`). A request is refused at once where those before it would not leave it the time;
one whose caller has gone, or whose time is up, is not run.

Requests arrive on the event loop and are answered there. Threads take their work under one lock, without
asking the loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from edge_sdk.cloud.server.admission import SHORTEST_RETRY, Admission
from edge_sdk.cloud.server.cache import ResponseCache
from edge_sdk.cloud.server.company import Company
from edge_sdk.cloud.server.costs import BatchCosts
from edge_sdk.cloud.server.counts import Counts
from edge_sdk.cloud.server.crew import Crew
from edge_sdk.cloud.server.engines import stop
from edge_sdk.cloud.server.instances import Instance, fitted, instance_of
from edge_sdk.cloud.server.ledger import Ledger
from edge_sdk.cloud.server.models import ServedModel
from edge_sdk.cloud.server.payloads import Payload
from edge_sdk.cloud.server.runs import Run, run_batch, run_tensors
from edge_sdk.cloud.server.settings import ModelSettings
from edge_sdk.cloud.server.waiting import Job, Order, Place, Results, RetiredError, WaitingList, settle, settle_here
from edge_sdk.cloud.server.warmup import warm_up
from edge_sdk.errors import EdgeSdkError, ModelError, NotReadyError, OverloadedError

__all__ = ["Line"]

_log = logging.getLogger("edge_sdk.cloud.server")

Array = np.ndarray[Any, Any]
_LAG = 0.05  # how much one answer corrects what the way back takes
_LONE = 500e-6  # seconds of a batch that runs on the loop where nobody else asks, who would have to wait
_SHORT = 100e-6  # seconds of a batch that costs less than to wake a thread for it


class Line:
    """One version of a model, its queue and its threads; ready when made.

    Parameters
    ----------
    model
        The model; the line closes it.
    settings
        How it is served.
    """

    def __init__(self, model: ServedModel, settings: ModelSettings) -> None:
        self._costs: BatchCosts = warm_up(model, settings)
        self.settings, instances = fitted(model.engine, settings, self._costs)
        self.model, self._ledger = model, Ledger(self._costs)
        self.is_brief = self._costs.is_brief
        self.counts = self._ledger.counts
        self.cache = ResponseCache(settings.cache_bytes) if settings.cache_bytes else None
        self._lock = threading.Lock()
        self._queue = WaitingList()
        self.has_priorities = False  # some requests go before others, so one may be taken where another is not
        self._lag = 0.0
        self._retired = False
        self._scheduled: asyncio.AbstractEventLoop | None = None  # on which instances will be given work
        engines = [model.engine, *(model.engine.another() for _ in range(instances - 1))]
        self._instances = [instance_of(model, engine, self._costs) for engine in engines]
        self._crew = Crew(self._instances, self._costs)
        self.company = Company()
        self._admission = Admission(
            model.name, max_queue=settings.max_queue, waiting=self._queue, costs=self._costs, crew=self._crew
        )
        for index, instance in enumerate(self._instances):
            instance.begin(self._work, f"model-{model.name}-{index}")

    @property
    def is_plain(self) -> bool:
        """Every request is for the model itself: there is neither a cache nor a table."""
        return self.cache is None and self.model.table is None

    @property
    def hangs(self) -> bool:
        """No instance answers."""
        return all(instance.hangs for instance in self._instances)

    def counted(self) -> Counts:
        """Return the counters, up to date."""
        with self._lock:
            self._ledger.catch_up()
        return self.counts

    @property
    def batch_costs(self) -> dict[int, float]:
        """Seconds by batch size, as learned so far."""
        with self._lock:
            self._ledger.catch_up()
            return self._costs.table()

    @property
    def lasts(self) -> float:
        """Seconds for which what waits keeps its instances at work; 0 where the event loop has to give one work."""
        return 0.0 if self._crew.idle else self._costs.drain(self._queue.items) / len(self._instances)

    @property
    def soonest(self) -> float:
        """Seconds after which there may be room for a request that found none."""
        return max(self._costs.seconds(1), SHORTEST_RETRY)

    def refusal(self, deadline: float | None) -> OverloadedError | None:
        """Return why a request of one item is refused now, and count it as such; None where it may be taken."""
        if not self._queue or self.cache is not None:  # what the cache knows needs no place here
            return None
        with self._lock:
            if self._retired or self.hangs:
                return None
            return self._refusal(Order(self.settings.default_priority, deadline, time.monotonic()), 1, 0.0)

    async def ask(self, payload: Payload, deadline: float | None, priority: int) -> Run:
        """Wait in line and return what the model says.

        Raises
        ------
        RetiredError
            The line takes no more.
        OverloadedError
            There is no room, or not the time.
        NotReadyError
            The model hangs.
        InputError, ProcessingError, ModelError, MemoryError
            The input cannot be processed, or the model failed.
        TimeoutError
            The time was up before its turn came.
        """
        now = time.monotonic()
        if self.may_run_here(payload) and (run := self._at_once(payload, now)) is not None:
            return run
        future: asyncio.Future[Run] = asyncio.get_running_loop().create_future()
        self.enter(payload, deadline, priority, future)
        run = None
        try:
            run = await future
        finally:
            self.leave(payload, run, gone=future.cancelled())
        return run

    def enter(self, payload: Payload, deadline: float | None, priority: int, place: Place) -> None:
        """Let a request wait in line; `leave` follows when it has its answer, or its caller has gone.

        Errors are those of `ask` that come before its turn.
        """
        loop, preparing = asyncio.get_running_loop(), self._ledger.preparing(payload)
        job = Job(
            payload, deadline, time.monotonic(), place, loop, preparing, priority or self.settings.default_priority
        )
        with self._lock:
            self._admit(job)
            self.counts.pending += 1
            self.counts.pending_bytes += payload.nbytes
            waiting = self._queue.items
            begins = waiting >= 2 * self._costs.best(waiting) and self._crew.may_begin(waiting)
        if begins:
            self._dispatch()  # more would not run together, and this turn of the loop may be long
        else:
            self._schedule(loop)  # after all that came in the same turn of the loop

    def leave(self, payload: Payload, run: Run | None, *, gone: bool) -> None:
        """Count a request no longer as waiting; the model may have said something to it, or its caller may be gone."""
        with self._lock:
            self.counts.pending -= 1
            self.counts.pending_bytes -= payload.nbytes
            self.counts.cancelled += gone
        if run is not None:
            self._lag += _LAG * (time.monotonic() - run.done - self._lag)

    def count_hit(self, seconds: float, *, of_table: bool = False) -> None:
        """Count a request that the cache answered, or the table."""
        with self._lock:
            self.counts.hit(seconds, of_table=of_table)

    def retire(self) -> None:
        """Take no more; what waits is answered."""
        with self._lock:
            self._retired = True

    @property
    def drained(self) -> bool:
        """Nothing waits or runs."""
        with self._lock:
            return self.counts.pending == 0

    def close(self, timeout: float = 5.0) -> None:
        """Finish what runs, drop what waits, release the model."""
        with self._lock:
            self._retired = True
            waiting = self._queue.clear()
        self._fail(waiting, NotReadyError(f"model {self.model.name} is closed"))
        for instance in self._instances:
            instance.inbox.put(None)
        for instance in self._instances:
            instance.end(timeout)

    def watch(self, now: float) -> None:
        """Give up runs that take too long; call from time to time."""
        name = f"{self.model.name} {self.model.version}"
        for instance in self._instances:
            instance.outbox.send()  # the run that it waits for may hang
            with self._lock:
                started, jobs = instance.started, list(instance.jobs)
                if started is None or instance.hangs or now - started < self.settings.hang_seconds:
                    continue
                instance.hangs = True
                waiting = self._queue.clear() if self.hangs else []
                for job in jobs:
                    self.counts.failure.add(now - job.arrived)
            stop(instance.engine)
            _log.error("model %s has not returned for %.1f s; it is not ready until it does", name, now - started)
            self._fail(jobs, ModelError(f"model {name} did not answer within {now - started:.1f} s"))
            self._fail(waiting, NotReadyError(f"model {name} hangs"))
        with self._lock:  # whom they waited for hangs, or else they do not wait long any more
            self._wake(self._queue.first.loop if self._crew.idle and self._queue else None)

    # admission: under the lock, on the loop

    def _admit(self, job: Job) -> None:
        if self._retired:
            raise RetiredError
        if self._instances[0].hangs and self.hangs:
            raise NotReadyError(f"model {self.model.name} hangs")
        if error := self._refusal(job, job.payload.items, job.preparing):
            raise error
        self._admission.learn(refused=False)
        self.has_priorities = self.has_priorities or job.priority != self.settings.default_priority
        self._queue.put(job)

    def _refusal(self, order: Order | Job, items: int, preparing: float) -> OverloadedError | None:
        if self._crew.idle and not self._queue:
            return None  # with nobody before it nothing is lost by trying
        error = self._admission.refusal(order, items, preparing, self._lag)
        if error is not None:
            self.counts.shed += 1
            self._admission.learn(refused=True)
        return error

    # taking from the line

    def _schedule(self, loop: asyncio.AbstractEventLoop) -> None:
        """Give free instances what waits, in the next turn of a loop."""
        if self._scheduled is not loop:
            self._scheduled = loop
            loop.call_soon(self._dispatch)

    def _wake(self, loop: asyncio.AbstractEventLoop | None) -> None:
        """Do as `_schedule`, from another thread."""
        if loop is not None:
            with contextlib.suppress(RuntimeError):  # it has been closed, and those who waited with it
                loop.call_soon_threadsafe(self._schedule, loop)

    def _dispatch(self) -> None:
        """Give free instances what waits, unless others had better be waited for."""
        loop, self._scheduled = self._scheduled, None
        with self._lock:  # an instance's thread might take the last that waits meanwhile
            some_wait = loop is not None and self._crew.may_begin(self._queue.items)
            awaited = some_wait and self.company.is_awaited(self._queue, self._costs)
        if loop is not None and awaited:
            self._schedule(loop)
            return
        while True:
            with self._lock:
                jobs, late = self._crew.take(self._queue, self._lag)
                instance = self._crew.idle.pop() if jobs else None
            self._expire(late)
            if instance is None:
                return
            items = sum(job.payload.items for job in jobs)
            self.company.met(len(jobs))
            if self._costs.seconds(items) < _SHORT and all(self.may_run_here(job.payload) for job in jobs):
                self._run_here(instance, jobs)
                return
            instance.inbox.put(jobs)

    def may_run_here(self, payload: Payload) -> bool:
        """Tell whether a payload may run on the loop, in a batch that is short enough."""
        # how long decoding, processing or a shape of its own take is the input's choice
        return self.model.bounded and payload.encoding == "tensor" and payload.kind is None

    def _at_once(self, payload: Payload, arrived: float) -> Run | None:
        """Run a short batch without a queue; the loop does not turn meanwhile. None where it has to wait after all."""
        instance = self.seize(payload.items)
        if instance is None:
            return None
        started, done = time.monotonic(), None
        try:
            feeds = payload.tensors(lambda: None)  # the loop does not turn, so nobody can have gone
            outputs = run_tensors(self.model, instance.engine, feeds, payload.items)
            done = time.monotonic()
        finally:
            self.release(instance, payload.items, arrived, done)
            if done is None:
                self.counts.failure.add(time.monotonic() - arrived)
        compute = done - started
        return Run(outputs, 0.0, 0.0, compute, [(payload.items, compute)], done)

    def seize(self, items: int) -> Instance | None:
        """Take a free instance for so many items, to run here and now; None where they have to wait.

        Only for payloads that `may_run_here`. It is given back by `release` before the loop turns.

        Raises
        ------
        RetiredError
            The line takes no more.
        """
        if self._queue or not self._crew.idle or not self._crew.rests:
            return None
        seconds = self._costs.seconds(items)
        if not self.is_brief(items) and (seconds >= _LONE or not self.company.is_alone()):
            return None
        if items > 1 and (self.model.batching != "batched" or self._costs.best(items) < items):
            return None
        with self._lock:
            if self._retired:
                raise RetiredError
            if not self._crew.idle:
                return None
            instance = self._crew.idle.pop()
            self.counts.pending += 1  # else a retired model might be released
            instance.started = time.monotonic()
        return instance

    def release(self, instance: Instance, items: int, arrived: float, done: float | None) -> None:
        """Give back what `seize` gave, and say when it was through; None where nothing is to be counted."""
        with self._lock:
            started, instance.started = instance.started, None
            hung, instance.hangs = instance.hangs, False
            self._crew.idle.append(instance)
            self.counts.pending -= 1
            if done is not None and started is not None:
                self._ledger.ran_at_once(items, arrived, started, done)
                self.company.ended = done
        if hung:
            self._say_back()

    def _run_here(self, instance: Instance, jobs: list[Job]) -> None:
        """Run a short batch on the loop, and let the loop turn before the next."""
        results = self._run(instance, jobs, self._costs.correct_short)
        with self._lock:
            self._crew.idle.append(instance)
        if self._queue:
            self._schedule(jobs[0].loop)
        settle_here(results)

    def _work(self, instance: Instance) -> None:
        while (jobs := instance.inbox.get()) is not None:
            while jobs:
                instance.outbox.put(self._run(instance, jobs, self._costs.correct), more=bool(self._queue))
                with self._lock:
                    gathers = self.company.is_incomplete(self._queue, self._costs)
                    loop = self._queue.first.loop if gathers else None
                    self._crew.idle.append(instance)
                    jobs, late = ([], []) if gathers else self._crew.take(self._queue, self._lag)
                    if jobs:
                        self._crew.idle.remove(instance)
                self._expire(late)
                self._wake(loop)
            instance.outbox.send()

    # running: in an instance's thread, or on the loop

    def _run(self, instance: Instance, jobs: list[Job], correct: Callable[[int, float], None]) -> Results:
        items, preparing = sum([job.payload.items for job in jobs]), sum([job.preparing for job in jobs])
        with self._lock:
            started, beside = time.monotonic(), self._crew.is_beside()
            instance.started = started
            instance.jobs = jobs
            instance.until = started + self._costs.drain(items) + preparing
        try:
            results = run_batch(self.model, instance.engine, jobs, self._costs, instance.tray)
        except Exception as error:  # noqa: BLE001 - of a runtime or model, which is anybody's; the thread lives on
            results = [(job, ModelError(f"{type(error).__name__}: {error}")) for job in jobs]
        with self._lock:
            instance.started, hung = None, instance.hangs
            instance.jobs, instance.hangs = [], False
            self._crew.note(items, time.monotonic() - started, beside=beside)
            self._ledger.ran(started, results, correct)
        if hung:
            self._say_back()
        return results

    def _say_back(self) -> None:
        _log.warning("model %s %s has returned and is ready again", self.model.name, self.model.version)

    def _expire(self, jobs: list[Job]) -> None:
        if jobs:
            with self._lock:
                self.counts.expired += len(jobs)
            self._fail(jobs, TimeoutError("no time is left for this request"))

    def _fail(self, jobs: Iterable[Job], error: EdgeSdkError | TimeoutError) -> None:
        settle([(job, error) for job in jobs])
