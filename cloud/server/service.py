"""The server as a process: addresses, TLS, token, signals, and a clean end."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import gc
import math
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import grpc

from edge_sdk.cloud.server.access import Access
from edge_sdk.cloud.server.certificates import Certificates
from edge_sdk.cloud.server.config import OnReady, ServerConfig
from edge_sdk.cloud.server.core import Core
from edge_sdk.cloud.server.door import INFER
from edge_sdk.cloud.server.entrance import Visitors
from edge_sdk.cloud.server.families import Family
from edge_sdk.cloud.server.feedback import FeedbackFront
from edge_sdk.cloud.server.grpc_front import CallerInterceptor, GrpcFront
from edge_sdk.cloud.server.leaving import are_gone, keep_off, stop_listening
from edge_sdk.cloud.server.listening import address_of, check_address, open_socket
from edge_sdk.cloud.server.metrics import metrics_of
from edge_sdk.cloud.server.openings import MOST_OF_METRICS, make_room, room_for
from edge_sdk.cloud.server.request_log import Notes, RequestLog
from edge_sdk.cloud.server.security import secured, warn_of_tokens
from edge_sdk.cloud.server.standard import Health, methods_of, reflection_handlers
from edge_sdk.cloud.server.traces import Traces, traces_are_wanted
from edge_sdk.errors import ServiceError

__all__ = ["Shared", "loop_factory", "opened", "reload", "run_alone", "serve"]

_LEAST_WAITING = 32  # in gRPC; else as many as may be at work
_LEAST_STREAMS = 16  # of a connection
_UNREAD_BYTES = 256 * 2**10  # of each message that gRPC takes in before it is asked for
_LAST_SECONDS = 0.2  # that connections have to be completed which have begun
_IDLE_CALLS = 16  # for each that is at work, so many may be open: streams that rest, and messages on their way


def run_alone(config: ServerConfig, on_ready: OnReady) -> None:
    """Serve in this process; as `edge_sdk.cloud.server.run`."""
    access, certificates = secured(config)
    warn_of_tokens(config, access, certificates)
    make_room(config)
    for front, (host, port) in config.addresses.items():
        check_address(host, port, f"--{front}-port")  # before models are loaded: fail early
    with opened(config, access, certificates) as shared, asyncio.Runner(loop_factory=loop_factory()) as runner:
        runner.run(serve(config, shared, on_ready))


@contextlib.contextmanager
def opened(config: ServerConfig, access: Access | None, certificates: Certificates | None) -> Iterator[Shared]:
    """Yield the loaded models, and what else all fronts work with."""
    with contextlib.ExitStack() as stack:
        log = None
        if config.log_requests is not None:
            log = RequestLog(config.log_requests)
            stack.callback(log.close)
        traces = Traces(config.otlp, log) if config.otlp is not None or traces_are_wanted() else None
        if traces is not None:
            stack.callback(traces.close)
        core = Core.load(config.paths, config.serving)
        stack.callback(core.close)
        if traces is not None:
            core.on_run = traces.ran
        yield Shared(core, certificates, access, traces or log, traces)


@dataclass(frozen=True, slots=True)
class Shared:
    """What all fronts work with.

    Attributes
    ----------
    core, certificates, access, log, traces, visitors
        Of their classes.
    retiring
        Others serve from now on: clients are led there, and then all ends.
    leaving
        What makes each front take no more connections.
    """

    core: Core
    certificates: Certificates | None
    access: Access | None
    log: Notes | None
    traces: Traces | None = None
    visitors: list[Visitors] = field(default_factory=list)
    retiring: asyncio.Event = field(default_factory=asyncio.Event)
    leaving: list[Callable[[], None]] = field(default_factory=list)


async def serve(config: ServerConfig, shared: Shared, on_ready: OnReady, *, ports_shared: bool = False) -> None:
    """Open all fronts, and serve until SIGTERM or SIGINT.

    Parameters
    ----------
    config, shared
        How to serve, and what.
    on_ready
        As for `edge_sdk.cloud.server.run`.
    ports_shared
        Whether other processes serve on the same ports.
    """
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for signum in (signal.SIGTERM, signal.SIGINT):
        # instead of the command line's handler, which would raise in the middle of the loop
        loop.add_signal_handler(signum, stop.set)
    reloading: set[asyncio.Task[None]] = set()  # the loop holds tasks only weakly

    def look_again() -> None:
        reloading.add(task := loop.create_task(reload(shared)))
        task.add_done_callback(reloading.discard)

    loop.add_signal_handler(signal.SIGHUP, look_again)
    async with contextlib.AsyncExitStack() as stack:
        over_http = await _start_http(config, shared, stack, ports_shared)
        over_grpc = await _start_grpc(config, shared, stack, ports_shared)  # what starts last ends first
        addresses = {"grpc": over_grpc, **over_http}
        if shared.certificates is not None:
            refreshing = asyncio.create_task(shared.certificates.keep_fresh())
            stack.callback(refreshing.cancel)
        gc.collect()
        gc.freeze()  # what is loaded stays: collections of a busy server need not look at it
        stack.callback(gc.unfreeze)
        on_ready(addresses, tuple(dict.fromkeys(model.name for model in shared.core.models)))
        ends = [asyncio.create_task(stop.wait()), asyncio.create_task(shared.retiring.wait())]
        for task in ends:
            stack.callback(task.cancel)
        await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        if not stop.is_set():
            await _lead_away(config, shared, stop, [int(at.rpartition(":")[2]) for at in addresses.values()])
    for signum in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        loop.remove_signal_handler(signum)


async def reload(shared: Shared) -> None:
    """Take anew what can be while it is served: certificates and repository folders."""
    if shared.certificates is not None:
        shared.certificates.refresh()
    await asyncio.to_thread(shared.core.look_again, settled=True)


async def _lead_away(config: ServerConfig, shared: Shared, stop: asyncio.Event, ports: list[int]) -> None:
    """Let clients go to other processes of the same ports, so that none is here any more when this one ends."""
    for port in ports:
        keep_off(port)
    await asyncio.sleep(_LAST_SECONDS)
    for leave in shared.leaving:
        leave()
    if config.front == "fast":
        ports = ports[1:]  # its clients are told to go in the end, and go then
    await are_gone(ports, config.leave_seconds, stop.is_set)


def _streams(config: ServerConfig) -> int:
    """Return how many calls a connection may have open: a client with more waits by itself, so four find room."""
    return config.max_calls or max(_LEAST_STREAMS, config.max_concurrent // 4)


async def _start_grpc(config: ServerConfig, shared: Shared, stack: contextlib.AsyncExitStack, port_shared: bool) -> str:
    if config.front == "fast":
        return await _start_fast(config, shared, stack, port_shared)
    waiting = max(_LEAST_WAITING, config.max_concurrent)
    server = grpc.aio.server(
        interceptors=[CallerInterceptor(shared.access)] if shared.access else [],
        options=[
            ("grpc.so_reuseport", int(port_shared)),  # else a second server would silently share a busy port
            ("grpc.max_receive_message_length", config.max_message_bytes),
            ("grpc.max_send_message_length", config.max_message_bytes),
            # clients of ours ping a silent connection; do not take that for abuse
            ("grpc.keepalive_permit_without_calls", 1),
            # a window that grows as long as bytes come would let unread messages in, whoever sent them
            ("grpc.http2.bdp_probe", 0),
            ("grpc.http2.lookahead_bytes", _UNREAD_BYTES),
            ("grpc.http2.min_recv_ping_interval_without_data_ms", 5_000),
            ("grpc.max_concurrent_streams", _streams(config)),
            # else it refuses some of a client that holds to that, as it counts calls for longer than the client does
            ("grpc.http.overload_protection", 0),
            # who waits before Python sees him gets older in no order of deadlines; to cancel his call costs little, and
            # is surer than to refuse it
            ("grpc.server.max_pending_requests", waiting),
            ("grpc.server.max_pending_requests_hard_limit", waiting + 1),
            ("grpc.server_handshake_timeout_ms", 10_000),  # who connects and is silent is let go
            ("grpc.keepalive_time_ms", 60_000),  # and so is who has vanished without a word
            ("grpc.keepalive_timeout_ms", 20_000),
            # where others serve, too: how one of them may end while nobody is here
            *([("grpc.max_connection_age_ms", int(1000 * config.connection_seconds))] if port_shared else []),
            ("grpc.max_allowed_incoming_connections", room_for(config)),
        ],
        maximum_concurrent_rpcs=_IDLE_CALLS * config.max_concurrent,
    )
    health, front, handlers = _grpc_handlers(config, shared)
    server.add_generic_rpc_handlers((front.door(handlers),))
    if not port_shared:
        check_address(config.host, config.grpc_port, "--grpc-port")
    address = address_of(config.host, config.grpc_port)
    try:
        if shared.certificates is None:
            port = server.add_insecure_port(address)
        else:
            port = server.add_secure_port(address, shared.certificates.grpc_credentials())
    except RuntimeError as error:
        raise ServiceError(f"cannot listen on {address}: {error}") from error
    await server.start()
    shared.leaving.append(functools.partial(stop_listening, port))

    async def end() -> None:
        await health.set(serving=False)  # load balancers send no more while what runs is finished
        await front.lull(config.grace_seconds / 2)  # gRPC drops requests that no handler has begun with when it stops
        await server.stop(config.grace_seconds)

    stack.push_async_callback(end)
    return address_of(config.host, port)


async def _start_fast(config: ServerConfig, shared: Shared, stack: contextlib.AsyncExitStack, port_shared: bool) -> str:
    from edge_sdk.cloud.server.fast_front import FastServer  # compiled, and not always there

    health, front, handlers = _grpc_handlers(config, shared)
    interceptor = CallerInterceptor(shared.access) if shared.access else None
    server = FastServer(
        methods_of(handlers),
        lets_in=interceptor and interceptor.lets_in,
        unknown=shared.access.unknown if shared.access else "",
        refusal=front.refusal,
        refused=front.refused,
        lasts=shared.core.lasts,
        swift={INFER.encode(): front.take},
        max_message_bytes=config.max_message_bytes,
        max_streams=_streams(config),
        max_calls=_IDLE_CALLS * config.max_concurrent,
        max_held_bytes=shared.core.serving.max_pending_bytes,
        max_connections=room_for(config),
        age_seconds=config.connection_seconds if port_shared else math.inf,
    )
    shared.visitors.append(server.visitors)
    shared.leaving.append(server.close)
    listening = open_socket(config.host, config.grpc_port, "--grpc-port", shared=port_shared)
    port = listening.getsockname()[1]
    await server.start(listening, None if shared.certificates is None else shared.certificates.tls("h2"))

    async def end() -> None:
        await health.set(serving=False)
        await server.stop(config.grace_seconds)

    stack.push_async_callback(end)
    return address_of(config.host, port)


def _grpc_handlers(config: ServerConfig, shared: Shared) -> tuple[Health, GrpcFront, tuple[Any, ...]]:
    health = Health()
    front = GrpcFront(
        shared.core,
        max_concurrent=config.max_concurrent,
        allow_admin=config.allow_admin,
        log=shared.log,
        access=shared.access,
        traces=shared.traces,
        max_message_bytes=config.max_message_bytes,
    )
    feedback = FeedbackFront(shared.core, front.admit)
    return health, front, (front.handler(), feedback.handler(), health.handler(), *reflection_handlers())


async def _start_http(
    config: ServerConfig, shared: Shared, stack: contextlib.AsyncExitStack, ports_shared: bool
) -> dict[str, str]:
    """Open the fronts over HTTP that are asked for; return their addresses."""
    asked = {front: address for front, address in config.addresses.items() if front != "grpc"}
    if not asked:
        return {}
    from edge_sdk.cloud.server.http_server import start  # what is not asked for is not loaded
    from edge_sdk.cloud.server.metrics_front import MetricsFront
    from edge_sdk.cloud.server.rest_front import RestFront

    addresses = {}
    for front, (host, port) in asked.items():
        listening = open_socket(host, port, f"--{front}-port", shared=ports_shared)
        addresses[front] = address_of(host, listening.getsockname()[1])
        if front == "http":
            application = RestFront(
                shared.core,
                access=shared.access,
                max_bytes=config.max_message_bytes,
                max_concurrent=config.max_concurrent,
                allow_admin=config.allow_admin,
                log=shared.log,
                traces=shared.traces,
            ).application()
        else:
            application = MetricsFront(
                lambda: _counted(shared), None if config.metrics_plain else shared.access
            ).application()
        certificates = None if front == "metrics" and config.metrics_plain else shared.certificates
        tls = None if certificates is None else certificates.tls()
        server = await start(
            application,
            listening,
            tls,
            config.grace_seconds,
            name=front,
            max_connections=MOST_OF_METRICS if front == "metrics" else room_for(config),
        )
        shared.visitors.append(server.visitors)
        shared.leaving.append(server.leave)
        stack.push_async_callback(server.end)
    return addresses


async def _counted(shared: Shared) -> list[Family]:
    return metrics_of(shared.core, shared.visitors)


def loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """Return what makes event loops: the faster ones, where they are installed."""
    with contextlib.suppress(ModuleNotFoundError):
        import uvloop

        factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
        return factory
    return None
