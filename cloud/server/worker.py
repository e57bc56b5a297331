"""A worker: one of the processes that serve under a supervisor, which runs this module in a fresh interpreter.

Its standard input brings what it should do, and ends when the supervisor does, however that ends; so does the worker.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import pickle
import signal
import socket
import sys
import threading
import time
import warnings
from collections.abc import Mapping
from functools import partial
from typing import Any

from edge_sdk.cloud.server.config import ServerConfig
from edge_sdk.cloud.server.descriptions import statistics
from edge_sdk.cloud.server.link import Link
from edge_sdk.cloud.server.metrics import metrics_of
from edge_sdk.cloud.server.openings import make_room
from edge_sdk.cloud.server.orders import Orders
from edge_sdk.cloud.server.rates import SharedRates
from edge_sdk.cloud.server.security import secured
from edge_sdk.cloud.server.service import Shared, loop_factory, opened, reload, serve
from edge_sdk.errors import EdgeSdkError, MissingExtraError, UnknownModelError, one_line

__all__ = ["main"]

_END_SECONDS = 5.0  # beyond the grace of what runs


def main() -> int:
    """Serve as the supervisor says, until it says otherwise or is gone."""
    end = socket.socket(fileno=int(sys.argv[1]))
    orders: Orders = pickle.load(sys.stdin.buffer)  # noqa: S301 - from our own parent
    config = orders.config
    threading.Thread(target=_end_with_parent, args=(config.grace_seconds,), daemon=True).start()
    logging.basicConfig(format=f"%(levelname)s %(name)s: worker {orders.number}: %(message)s")
    logging.getLogger("edge_sdk").setLevel(orders.log_level)
    if not sys.warnoptions:
        warnings.simplefilter("ignore")  # as in `edge_sdk.main`
    make_room(config)
    try:
        access, certificates = secured(config, SharedRates(orders.rates))
        with (
            opened(config, access, certificates) as shared,
            asyncio.Runner(loop_factory=loop_factory()) as runner,
        ):
            return runner.run(_work(config, shared, end))
    except EdgeSdkError as error:
        return _fail(end, error)
    except ModuleNotFoundError as error:
        return _fail(end, MissingExtraError(error.name or "a package", "cloud"))


async def _work(config: ServerConfig, shared: Shared, end: socket.socket) -> int:
    core, caught_up = shared.core, asyncio.Event()
    link = await Link.open(end, partial(_answer, shared, caught_up))
    saying: set[asyncio.Task[Any]] = set()

    def ready(_: Mapping[str, str], models: tuple[str, ...]) -> None:
        saying.add(asyncio.create_task(link.ask("ready", models=models)))

    with contextlib.suppress(ConnectionError):  # the supervisor is gone, and standard input says so, too
        others = await link.ask("loaded")
        for name in dict.fromkeys(row[0] for row in others["arms"]):
            core.routes.learn(name, others["arms"])
        for name in others["unloaded"]:
            with contextlib.suppress(UnknownModelError):
                await core.change_here("unload", name)
        caught_up.set()
        core.ask_others = link.ask
        try:
            await serve(config, shared, ready, ports_shared=True)
        except EdgeSdkError as error:
            await link.ask("failed", line=str(error))
            return 2
        await asyncio.gather(*saying)
        await link.ask("ending", counted=_counted(shared))
    return 0


async def _answer(shared: Shared, caught_up: asyncio.Event, what: str, about: dict[str, Any]) -> Any:
    core = shared.core
    match what:
        case "counted":
            return _counted(shared)
        case "arms":
            return core.routes.arms()
        case "reward":
            name, others = about["name"], about.pop("others")
            core.routes.learn(name, others)
            core.reward(**about)
            return core.routes.arms()
        case "learn":
            core.routes.learn(**about)
            return None
        case "statistics":
            return statistics(core, about["name"], about["version"])
        case "reload":
            await reload(shared)
            return None
        case "retire":
            shared.retiring.set()
            return None
        case "load" | "unload":
            await caught_up.wait()  # or an older unload of the same model might come last
            await core.change_here(what, about["name"])
            return None
    raise ValueError(what)


def _counted(shared: Shared) -> dict[str, Any]:
    return {"families": metrics_of(shared.core, shared.visitors), "arms": shared.core.routes.arms()}


def _fail(end: socket.socket, error: EdgeSdkError) -> int:
    """Tell the supervisor, as `Link.ask` would, why this worker cannot serve."""
    with contextlib.suppress(OSError):
        message = {"ask": 0, "what": "failed", "about": {"line": one_line(error)}}
        end.sendall(json.dumps(message).encode() + b"\n")
    return 2


def _end_with_parent(grace_seconds: float) -> None:
    with contextlib.suppress(OSError):
        while os.read(sys.stdin.fileno(), 1):
            pass
    os.kill(os.getpid(), signal.SIGTERM)  # while models are loaded, that is the end; then, it is an orderly one
    time.sleep(grace_seconds + _END_SECONDS)
    os._exit(1)


if __name__ == "__main__":
    sys.exit(main())
