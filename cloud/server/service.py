"""The server as a process: addresses, TLS, token, signals, and a clean end."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import grpc

from edge_sdk.cloud.server.access import Access, Caller, read_token
from edge_sdk.cloud.server.certificates import Certificates
from edge_sdk.cloud.server.core import Core
from edge_sdk.cloud.server.feedback import FeedbackFront
from edge_sdk.cloud.server.grpc_front import CallerInterceptor, GrpcFront
from edge_sdk.cloud.server.listening import address_of, check_address, open_socket
from edge_sdk.cloud.server.request_log import RequestLog
from edge_sdk.cloud.server.settings import Serving
from edge_sdk.cloud.server.standard import Health, reflection_handlers
from edge_sdk.errors import InputError, ServiceError
from edge_sdk.protocol import MAX_MESSAGE_BYTES

__all__ = ["ServerConfig", "run"]

_log = logging.getLogger("edge_sdk.cloud.server")
_LOOPBACK = ("127.0.0.1", "::1", "localhost")
_REFRESH_SECONDS = 1.0
_IDLE_CALLS = 16  # for each that is at work, so many may be open: streams that rest, and messages on their way


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerConfig:
    """How to serve.

    Attributes
    ----------
    paths
        Bundles, plain model files and repository folders.
    host
        Address to listen on.
    front
        Who speaks gRPC: ``"grpc"``, gRPC's own library, or ``"fast"``, an HTTP/2 of ours that takes less time.
    grpc_port, http_port, metrics_port
        Port of each front; 0 takes a free one, None opens none.
    tls_cert, tls_key
        PEM files of the server's certificate chain and key; both or none. For gRPC and HTTP; metrics
        are always plain. Changed files are taken for new connections within a second or two.
    tls_client_ca
        PEM file of the authorities whose certificates clients must show (mTLS).
    token_file
        File with a bearer token that lets its bearer do all. Without it and without ``serving.callers`` everybody may.
    allow_admin
        Whether clients may load and unload models of repository folders.
    log_requests
        File to which a line is appended for each inference request, ``-`` for standard error; None for none.
    serving
        How models are served.
    max_message_bytes
        Largest request or response.
    max_concurrent
        Requests at work or queued at a time, of each front; more are refused.
    grace_seconds
        How long running requests may go on after the server was told to stop.
    """

    paths: Sequence[Path]
    host: str = "127.0.0.1"
    front: Literal["grpc", "fast"] = "grpc"
    grpc_port: int = 8001
    http_port: int | None = None
    metrics_port: int | None = None
    tls_cert: Path | None = None
    tls_key: Path | None = None
    tls_client_ca: Path | None = None
    token_file: Path | None = None
    allow_admin: bool = False
    log_requests: Path | None = None
    serving: Serving = field(default_factory=Serving)
    max_message_bytes: int = MAX_MESSAGE_BYTES
    max_concurrent: int = 256
    grace_seconds: float = 2.0


OnReady = Callable[[Mapping[str, str], tuple[str, ...]], None]


def run(config: ServerConfig, on_ready: OnReady) -> None:
    """Serve until SIGTERM or SIGINT; call from the main thread.

    Parameters
    ----------
    config
        How to serve.
    on_ready
        Called once with the address (``host:port``) of each front, ``grpc``, ``http`` and ``metrics``,
        and the model names, when requests are taken.

    Raises
    ------
    PortInUseError
        A port is taken.
    ServiceError
        The address cannot be listened on.
    InputError, StorageError, BundleError, ModelError
        A model, certificate or token file is missing or unusable.
    """
    access = _access(config)
    certificates = _certificates(config)
    if access and certificates is None and config.host not in _LOOPBACK:
        _log.warning("tokens travel unencrypted: give --tls-cert and --tls-key, or encrypt in front of this server")
    for name, port in _ports(config).items():
        check_address(config.host, port, f"--{name}-port")  # before models are loaded: fail early
    with contextlib.ExitStack() as stack:
        log = None
        if config.log_requests is not None:
            log = RequestLog(config.log_requests)
            stack.callback(log.close)
        core = Core.load(config.paths, config.serving)
        stack.callback(core.close)
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            runner.run(_serve(config, _Shared(core, certificates, access, log), on_ready))


@dataclass(frozen=True, slots=True)
class _Shared:
    """What all fronts work with."""

    core: Core
    certificates: Certificates | None
    access: Access | None
    log: RequestLog | None


async def _serve(config: ServerConfig, shared: _Shared, on_ready: OnReady) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for signum in (signal.SIGTERM, signal.SIGINT):
        # instead of the command line's handler, which would raise in the middle of the loop
        loop.add_signal_handler(signum, stop.set)
    async with contextlib.AsyncExitStack() as stack:
        over_http = await _start_http(config, shared, stack)
        addresses = {"grpc": await _start_grpc(config, shared, stack), **over_http}  # what starts last ends first
        if shared.certificates is not None:
            refreshing = asyncio.create_task(_refresh(shared.certificates))
            stack.callback(refreshing.cancel)
        on_ready(addresses, tuple(dict.fromkeys(model.name for model in shared.core.models)))
        await stop.wait()
    for signum in (signal.SIGTERM, signal.SIGINT):
        loop.remove_signal_handler(signum)


async def _start_grpc(config: ServerConfig, shared: _Shared, stack: contextlib.AsyncExitStack) -> str:
    if config.front == "fast":
        return await _start_fast(config, shared, stack)
    server = grpc.aio.server(
        interceptors=[CallerInterceptor(shared.access)] if shared.access else [],
        options=[
            ("grpc.so_reuseport", 0),  # else a second server would silently share a busy port
            ("grpc.max_receive_message_length", config.max_message_bytes),
            ("grpc.max_send_message_length", config.max_message_bytes),
            # clients of ours ping a silent connection; do not take that for abuse
            ("grpc.keepalive_permit_without_calls", 1),
            ("grpc.http2.min_recv_ping_interval_without_data_ms", 5_000),
            ("grpc.max_concurrent_streams", config.max_concurrent),
            # who waits before Python sees him waits in vain where there are too many; to cancel his call costs little
            ("grpc.server.max_pending_requests", config.max_concurrent),
            ("grpc.server.max_pending_requests_hard_limit", config.max_concurrent + config.max_concurrent // 4 + 1),
            ("grpc.server_handshake_timeout_ms", 10_000),  # who connects and is silent is let go
            ("grpc.keepalive_time_ms", 60_000),  # and so is who has vanished without a word
            ("grpc.keepalive_timeout_ms", 20_000),
        ],
        maximum_concurrent_rpcs=_IDLE_CALLS * config.max_concurrent,
    )
    health, handlers = _grpc_handlers(config, shared)
    server.add_generic_rpc_handlers(handlers)
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

    async def end() -> None:
        await health.set(serving=False)  # load balancers send no more while what runs is finished
        await server.stop(config.grace_seconds)

    stack.push_async_callback(end)
    return address_of(config.host, port)


async def _start_fast(config: ServerConfig, shared: _Shared, stack: contextlib.AsyncExitStack) -> str:
    try:
        from edge_sdk.cloud.server.fast_front import FastServer, methods_of  # compiled, and not always there
    except ImportError as error:
        raise InputError(
            f"--front fast is compiled, and this installation is not ({error}): use --front grpc"
        ) from error
    health, handlers = _grpc_handlers(config, shared)
    interceptor = CallerInterceptor(shared.access) if shared.access else None
    server = FastServer(
        methods_of(handlers),
        lets_in=interceptor and interceptor.lets_in,
        unknown=shared.access.unknown if shared.access else "",
        max_message_bytes=config.max_message_bytes,
        max_streams=config.max_concurrent,
        max_calls=_IDLE_CALLS * config.max_concurrent,
        max_held_bytes=shared.core.serving.max_pending_bytes,
    )
    listening = open_socket(config.host, config.grpc_port, "--grpc-port")
    port = listening.getsockname()[1]
    await server.start(listening, None if shared.certificates is None else shared.certificates.ssl_context("h2"))

    async def end() -> None:
        await health.set(serving=False)
        await server.stop(config.grace_seconds)

    stack.push_async_callback(end)
    return address_of(config.host, port)


def _grpc_handlers(config: ServerConfig, shared: _Shared) -> tuple[Health, tuple[Any, ...]]:
    health = Health()
    front = GrpcFront(
        shared.core,
        max_concurrent=config.max_concurrent,
        allow_admin=config.allow_admin,
        log=shared.log,
        access=shared.access,
    )
    feedback = FeedbackFront(shared.core, front.admit)
    return health, (front.handler(), feedback.handler(), health.handler(), *reflection_handlers())


async def _start_http(config: ServerConfig, shared: _Shared, stack: contextlib.AsyncExitStack) -> dict[str, str]:
    """Open the fronts over HTTP that are asked for; return their addresses."""
    ports = {name: port for name, port in _ports(config).items() if name != "grpc"}
    if not ports:
        return {}
    from edge_sdk.cloud.server.rest_front import MetricsFront, RestFront, start  # what is not asked for is not loaded

    addresses = {}
    for name, port in ports.items():
        listening = open_socket(config.host, port, f"--{name}-port")
        addresses[name] = address_of(config.host, listening.getsockname()[1])
        if name == "http":
            rest = RestFront(
                shared.core,
                access=shared.access,
                max_bytes=config.max_message_bytes,
                max_concurrent=config.max_concurrent,
                allow_admin=config.allow_admin,
                log=shared.log,
            )
            tls = None if shared.certificates is None else shared.certificates.ssl_context()
            runner = await start(rest.application(), listening, tls, config.grace_seconds)
        else:
            runner = await start(MetricsFront(shared.core).application(), listening, None, config.grace_seconds)
        stack.push_async_callback(runner.cleanup)
    return addresses


def _ports(config: ServerConfig) -> dict[str, int]:
    ports = {"grpc": config.grpc_port, "http": config.http_port, "metrics": config.metrics_port}
    return {name: port for name, port in ports.items() if port is not None}


async def _refresh(certificates: Certificates) -> None:
    while True:
        await asyncio.sleep(_REFRESH_SECONDS)
        certificates.refresh()


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    with contextlib.suppress(ModuleNotFoundError):
        import uvloop

        factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
        return factory
    return None


def _access(config: ServerConfig) -> Access | None:
    callers = list(config.serving.callers)
    if any(caller.certificates for caller in callers) and config.tls_client_ca is None:
        raise InputError("callers known by certificates need --tls-client-ca")
    if config.token_file is not None:
        everything: tuple[str, ...] = ("describe", "infer", "admin")
        callers.append(Caller(name="--token-file", tokens=(read_token(config.token_file),), methods=everything))
    return Access(callers) if callers else None


def _certificates(config: ServerConfig) -> Certificates | None:
    if config.tls_cert is not None and config.tls_key is not None:
        return Certificates(config.tls_cert, config.tls_key, config.tls_client_ca)
    if config.tls_cert is not None or config.tls_key is not None:
        raise InputError("give both --tls-cert and --tls-key, or none")
    if config.tls_client_ca is not None:
        raise InputError("--tls-client-ca needs --tls-cert and --tls-key")
    return None
