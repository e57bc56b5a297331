"""Several processes that serve on the same ports, and one that keeps them: this one, which loads no model.

Each worker is a fresh interpreter that listens by itself (SO_REUSEPORT), so the kernel spreads connections among
them. This process holds the ports, starts a worker again when it ends, replaces one that holds too much memory, adds up
what they count, and passes on what one of them is asked for and all should do.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import os
import signal
import time
from collections import Counter
from collections.abc import Coroutine, Iterable, Mapping
from functools import partial
from typing import Any

from edge_sdk.cloud.server.access import Access
from edge_sdk.cloud.server.certificates import Certificates
from edge_sdk.cloud.server.config import OnReady, ServerConfig
from edge_sdk.cloud.server.entrance import Visitors, visitor_metrics
from edge_sdk.cloud.server.families import Family, process_metrics, resident_bytes
from edge_sdk.cloud.server.listening import address_of, open_socket, reserve
from edge_sdk.cloud.server.openings import MOST_OF_METRICS
from edge_sdk.cloud.server.orders import Orders
from edge_sdk.cloud.server.rates import SharedRates
from edge_sdk.cloud.server.security import secured, warn_of_tokens
from edge_sdk.cloud.server.shares import environment_of, share_of
from edge_sdk.cloud.server.sums import Arms, Sums
from edge_sdk.cloud.server.workers import Worker, spawn
from edge_sdk.errors import EdgeSdkError, ModelError, ServiceError

__all__ = ["run_workers"]

_log = logging.getLogger("edge_sdk.cloud.server")
_LOOK_SECONDS = 1.0
_SCRAPE_SECONDS = 2.0  # metrics wait for a worker at most; then what it said last is taken
_END_SECONDS = 6.0  # that a worker has beyond the grace of what runs
_AT_ONCE_SECONDS = 5.0
_MOST_AT_ONCE = 5  # times in a row that a worker may end so soon after it was ready
_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 10.0


def run_workers(config: ServerConfig, on_ready: OnReady) -> None:
    """Serve with several processes; as `edge_sdk.cloud.server.run`."""
    with contextlib.ExitStack() as stack:
        # one for each of the callers, and the one of --token-file
        rates = stack.enter_context(SharedRates.file(len(config.serving.callers) + 1)).fileno()
        access, certificates = secured(config, SharedRates(rates))
        warn_of_tokens(config, access, certificates)
        ports = {}
        for front, (host, port) in config.addresses.items():
            if front != "metrics":
                held = stack.enter_context(reserve(host, port, f"--{front}-port"))
                ports[front] = held.getsockname()[1]
        supervisor = _Supervisor(share_of(config, ports), config, rates)
        asyncio.run(supervisor.run(access, certificates, on_ready))


class _StartError(Exception):
    """A worker ended before it was ready."""

    def __init__(self, line: str, *, crashed: bool) -> None:
        super().__init__(line)
        self.crashed = crashed


class _Supervisor:
    """Keeps workers while it runs.

    Parameters
    ----------
    share
        What each worker is started with.
    config
        Of the server.
    rates
        Descriptor of the file of `SharedRates`.
    """

    def __init__(self, share: ServerConfig, config: ServerConfig, rates: int) -> None:
        self._share, self._config, self._rates = share, config, rates
        self._numbers = itertools.count(1)
        self._workers: dict[int, Worker] = {}
        self._is_complete = asyncio.Event()  # every worker has been ready once
        self._missing = config.workers or 1
        self._sums, self._arms = Sums(), Arms()
        self._restarts: Counter[str] = Counter(died=0, memory=0, asked=0)
        self._unloaded: set[str] = set()
        self._visitors: Visitors | None = None  # of metrics
        self._departing = 0  # that have been replaced, and hold their memory still
        self._tasks: set[asyncio.Task[None]] = set()
        self._changing, self._rewarding, self._replacing = asyncio.Lock(), asyncio.Lock(), asyncio.Lock()

    async def run(self, access: Access | None, certificates: Certificates | None, on_ready: OnReady) -> None:
        """Serve until SIGTERM or SIGINT; raise `ServiceError` where workers cannot."""
        stop, loop = asyncio.Event(), asyncio.get_running_loop()
        for signum in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(signum, stop.set)
        loop.add_signal_handler(signal.SIGHUP, lambda: self._begin(self._reload(certificates)))
        loop.add_signal_handler(signal.SIGUSR2, self._replace_all)
        async with contextlib.AsyncExitStack() as stack:
            addresses = {
                front: address_of(self._config.host, port)
                for front, port in (("grpc", self._share.grpc_port), ("http", self._share.http_port))
                if port is not None
            }
            addresses |= await self._start_metrics(access, certificates, stack)
            stack.push_async_callback(self._end_all)
            tasks = [asyncio.create_task(self._keep(place)) for place in range(self._missing)]
            tasks.append(asyncio.create_task(stop.wait()))  # type: ignore[arg-type]
            complete = asyncio.create_task(self._is_complete.wait())
            for task in (*tasks, complete):
                stack.callback(task.cancel)
            await asyncio.wait([*tasks, complete], return_when=asyncio.FIRST_COMPLETED)
            if complete.done() and not any(task.done() for task in tasks):
                models = itertools.chain.from_iterable(worker.models for worker in self._workers.values())
                on_ready(addresses, tuple(dict.fromkeys(models)))
                await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in tasks:
                if task.done():
                    task.result()

    async def _keep(self, place: int) -> None:
        """Keep one of the workers; ends with an error where that is no use."""
        failures, was_ready = 0, False
        while True:
            try:
                worker = await self._bring_up(place)
            except _StartError as error:
                failures += 1
                alone = not any(worker.ready.is_set() for worker in self._workers.values())
                if (failures >= _MOST_AT_ONCE) if error.crashed else (not was_ready or alone):
                    raise ServiceError(str(error)) from error
                _log.error("a worker cannot be started: %s; it is tried again", error)
            else:
                if not was_ready:
                    was_ready = True
                    self._missing -= 1
                    if not self._missing:
                        self._is_complete.set()
                worker = await self._until_it_ends(place, worker)
                failures = failures + 1 if time.monotonic() < worker.ready_at + _AT_ONCE_SECONDS else 1
                self._restarts["died"] += 1
                if failures >= _MOST_AT_ONCE:
                    raise ServiceError(
                        f"a worker ended {failures} times in a row as soon as it was ready: {worker.how_it_ended}"
                    )
                _log.error("worker %d ended: %s; another is started", worker.number, worker.how_it_ended)
            await asyncio.sleep(min(_FIRST_PAUSE * 2 ** (failures - 1), _LONGEST_PAUSE))

    async def _until_it_ends(self, place: int, worker: Worker) -> Worker:
        """Wait until a worker ends that nobody told to; replace it whenever it should be. Return the last one."""
        while True:
            ended, old = asyncio.create_task(worker.process.wait()), asyncio.create_task(worker.outdated.wait())
            try:
                await asyncio.wait({ended, old}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                old.cancel()
                ended.cancel()
            if worker.process.returncode is not None:
                self._forget(worker)
                return worker
            async with self._replacing:  # one at a time
                try:
                    new = await self._bring_up(place)
                except _StartError as error:
                    _log.error("worker %d cannot be replaced: %s", worker.number, error)
                    await asyncio.sleep(_LONGEST_PAUSE)
                    worker.outdated.clear()
                    continue
                self._restarts[worker.why] += 1
                self._begin(self._let_go(worker))
                worker = new

    async def _bring_up(self, place: int) -> Worker:
        """Start a worker, and return it when it is ready; raise `_StartError` where it ends before."""
        number = next(self._numbers)
        orders = Orders(self._share, number, logging.getLogger("edge_sdk").getEffectiveLevel(), self._rates)
        environment = environment_of(place, self._config.gpus, os.environ)
        worker = self._workers[number] = await spawn(orders, environment, partial(self._answer, number))
        ready, ended = asyncio.create_task(worker.ready.wait()), asyncio.create_task(worker.process.wait())
        try:
            await asyncio.wait({ready, ended}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            ready.cancel()
            ended.cancel()
        if not worker.ready.is_set():
            await worker.link.ended  # it may have said why
            self._forget(worker)
            line = worker.failure or f"a worker ended before it was ready: {worker.how_it_ended}"
            raise _StartError(line, crashed=not worker.failure)
        worker.ready_at = time.monotonic()
        limit, held = self._config.max_worker_bytes, resident_bytes(worker.process.pid)
        if limit is not None and held > limit:
            line = f"a worker that has done nothing yet holds {held >> 20} MiB, more than --max-worker-memory"
            if not self._is_complete.is_set():
                raise ServiceError(line)
            _log.warning(line)
            limit = None
        self._begin(self._watch(worker, limit))
        return worker

    def _begin(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)  # the loop holds tasks only weakly
        task.add_done_callback(self._tasks.discard)

    async def _watch(self, worker: Worker, limit: int | None) -> None:
        """Look at a worker while it lives: what it counts, whether it answers at all, and how large it is."""
        with contextlib.suppress(ConnectionError):
            while worker.process.returncode is None:
                await asyncio.sleep(_LOOK_SECONDS)
                try:
                    await self._count(worker, self._config.silent_seconds)
                except TimeoutError:
                    _log.error(
                        "worker %d says nothing for %g s: it is killed", worker.number, self._config.silent_seconds
                    )
                    worker.send(signal.SIGKILL)
                    return
                held = resident_bytes(worker.process.pid)
                if limit is not None and held > limit and not worker.outdated.is_set() and not self._departing:
                    _log.warning("worker %d holds %d MiB and is replaced", worker.number, held >> 20)
                    worker.why = "memory"
                    worker.outdated.set()

    async def _answer(self, number: int, what: str, about: dict[str, Any]) -> Any:
        """Answer what a worker asks."""
        worker = self._workers[number]
        match what:
            case "loaded":
                async with self._changing:
                    worker.is_member = True
                    return {"unloaded": sorted(self._unloaded), "arms": self._arms.others(number)}
            case "ready":
                worker.models = tuple(about["models"])
                worker.ready.set()
            case "failed":
                worker.failure = about["line"]
            case "ending":
                self._take(worker, about["counted"])
            case "load" | "unload":
                await self._change(worker, what, about["name"])
            case "reward":
                await self._reward(worker, about)
            case "statistics":
                return await self._ask(self._members(but=worker), what, about)
            case _:
                raise ValueError(what)
        return None

    async def _change(self, asking: Worker, what: str, name: str) -> None:
        """Let all workers load or unload a model, in one order; what the asking one says counts first."""
        async with self._changing:
            members = [asking, *self._members(but=asking)]
            ends = await asyncio.gather(*(one.link.ask(what, name=name) for one in members), return_exceptions=True)
            if isinstance(ends[0], EdgeSdkError):
                raise ends[0]
            (self._unloaded.add if what == "unload" else self._unloaded.discard)(name)
            for worker, end in zip(members, ends, strict=True):
                if isinstance(end, EdgeSdkError):
                    raise ModelError(f"worker {worker.number}: {end}")

    async def _reward(self, asking: Worker, about: dict[str, Any]) -> None:
        """Let the asking worker learn, with what all know; then tell the others."""
        async with self._rewarding:
            members = self._members()
            ends = await asyncio.gather(*(worker.link.ask("arms") for worker in members), return_exceptions=True)
            for worker, end in zip(members, ends, strict=True):
                if not isinstance(end, BaseException) and worker.number in self._workers:
                    self._arms.take(worker.number, end)
            rows = await asking.link.ask("reward", **about, others=self._arms.others(asking.number))
            if asking.number in self._workers:
                self._arms.take(asking.number, rows)
            told = {"name": about["name"], "decision": about["decision"]}
            learning = [
                worker.link.ask("learn", **told, others=self._arms.others(worker.number))
                for worker in self._members(but=asking)
            ]
            await asyncio.gather(*learning, return_exceptions=True)

    async def _ask(self, workers: Iterable[Worker], what: str, about: dict[str, Any]) -> list[Any]:
        """Return what workers answer; of those that cannot, nothing."""
        ends = await asyncio.gather(*(one.link.ask(what, **about) for one in workers), return_exceptions=True)
        return [end for end in ends if not isinstance(end, BaseException)]

    def _members(self, but: Worker | None = None) -> list[Worker]:
        return [worker for worker in self._workers.values() if worker.is_member and worker is not but]

    async def _start_metrics(
        self, access: Access | None, certificates: Certificates | None, stack: contextlib.AsyncExitStack
    ) -> dict[str, str]:
        if "metrics" not in self._config.addresses:
            return {}
        from edge_sdk.cloud.server.http_server import start
        from edge_sdk.cloud.server.metrics_front import MetricsFront

        host, port = self._config.addresses["metrics"]
        listening = open_socket(host, port, "--metrics-port")
        address = address_of(host, listening.getsockname()[1])
        tls = None
        if self._config.metrics_plain:
            access = None
        elif certificates is not None:
            tls = certificates.tls()
            refreshing = asyncio.create_task(certificates.keep_fresh())
            stack.callback(refreshing.cancel)
        application = MetricsFront(self._collect, access).application()
        most = MOST_OF_METRICS
        server = await start(application, listening, tls, 0.0, name="metrics", max_connections=most)
        self._visitors = server.visitors
        stack.push_async_callback(server.end)
        return {"metrics": address}

    async def _collect(self) -> list[Family]:
        ready = [worker for worker in self._workers.values() if worker.ready.is_set()]
        await asyncio.gather(*(self._count(worker, _SCRAPE_SECONDS) for worker in ready), return_exceptions=True)
        restarts: list[tuple[str, Mapping[str, str], float]] = [
            ("", {"reason": reason}, count) for reason, count in self._restarts.items()
        ]
        ours = [
            *process_metrics(),
            *visitor_metrics([] if self._visitors is None else [self._visitors]),
            Family("edge_workers", "gauge", "Workers that are ready.", [("", {}, len(ready))]),
            Family("edge_worker_restarts_total", "counter", "Workers that took the place of another.", restarts),
        ]
        self._sums.take(0, ours)
        return self._sums.families()

    async def _count(self, worker: Worker, seconds: float) -> None:
        self._take(worker, await asyncio.wait_for(worker.link.ask("counted"), seconds))

    def _take(self, worker: Worker, counted: Mapping[str, Any]) -> None:
        if worker.number in self._workers:
            self._sums.take(worker.number, [Family(*family) for family in counted["families"]])
            self._arms.take(worker.number, counted["arms"])

    def _forget(self, worker: Worker) -> None:
        self._workers.pop(worker.number, None)
        self._sums.end(worker.number)
        self._arms.end(worker.number)
        worker.link.close()

    async def _reload(self, certificates: Certificates | None) -> None:
        """Let every process take anew what can be while it serves."""
        if certificates is not None:
            certificates.refresh()
        await self._ask(self._members(), "reload", {})

    def _replace_all(self) -> None:
        """Put a new worker in the place of each, one after the other."""
        for worker in self._members():
            worker.why = "asked"
            worker.outdated.set()

    async def _let_go(self, worker: Worker) -> None:
        """Let a worker lead its clients to the others, and end it."""
        worker.ready.clear()
        self._departing += 1
        try:
            with contextlib.suppress(ConnectionError, EdgeSdkError):
                await worker.link.ask("retire")
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(worker.process.wait(), self._config.leave_seconds)
            await self._end(worker)
        finally:
            self._departing -= 1

    async def _end(self, worker: Worker) -> None:
        """Let a worker finish what it does, and forget it."""
        await worker.end(self._config.grace_seconds + _END_SECONDS)
        self._forget(worker)

    async def _end_all(self) -> None:
        await asyncio.gather(*(self._end(worker) for worker in list(self._workers.values())))
