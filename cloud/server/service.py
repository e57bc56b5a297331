"""The server as a process: address, TLS, token, signals, and a clean end."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import signal
import socket
import ssl
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc

from edge_sdk.cloud.server.core import Core
from edge_sdk.cloud.server.grpc_front import GrpcFront, TokenInterceptor
from edge_sdk.cloud.server.standard import Health, reflection_handlers
from edge_sdk.errors import InputError, PortInUseError, ServiceError, StorageError
from edge_sdk.protocol import MAX_MESSAGE_BYTES

__all__ = ["ServerConfig", "run"]

_log = logging.getLogger("edge_sdk.cloud.server")
_LOOPBACK = ("127.0.0.1", "::1", "localhost")


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerConfig:
    """How to serve.

    Attributes
    ----------
    paths
        Bundles and plain model files.
    host, grpc_port
        Address to listen on; port 0 takes a free one.
    tls_cert, tls_key
        PEM files of the server's certificate chain and key; both or none.
    token_file
        File whose content clients must present as their bearer token; None lets all in.
    threads
        Threads of the runtime for one inference.
    max_message_bytes
        Largest request or response.
    max_concurrent
        Requests at work or queued at a time; more are refused with RESOURCE_EXHAUSTED.
    grace_seconds
        How long running requests may go on after the server was told to stop.
    """

    paths: Sequence[Path]
    host: str = "127.0.0.1"
    grpc_port: int = 8001
    tls_cert: Path | None = None
    tls_key: Path | None = None
    token_file: Path | None = None
    threads: int = 1
    max_message_bytes: int = MAX_MESSAGE_BYTES
    max_concurrent: int = 256
    grace_seconds: float = 2.0


def run(config: ServerConfig, on_ready: Callable[[str, tuple[str, ...]], None]) -> None:
    """Serve until SIGTERM or SIGINT; call from the main thread.

    Parameters
    ----------
    config
        How to serve.
    on_ready
        Called once with the address (``host:port``) and the model names, when requests are taken.

    Raises
    ------
    PortInUseError
        The port is taken.
    ServiceError
        The address cannot be listened on, or the certificate and key are unusable.
    InputError, StorageError, BundleError, ModelError
        A model, certificate or token file is missing or unusable.
    """
    token = _read_token(config.token_file)
    credentials = _read_credentials(config.tls_cert, config.tls_key)
    if token and credentials is None and config.host not in _LOOPBACK:
        _log.warning("the token travels unencrypted: give --tls-cert and --tls-key, or encrypt in front of this server")
    _check_address(config.host, config.grpc_port)  # before models are loaded: fail early
    core = Core.load(config.paths, threads=config.threads)
    try:
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            runner.run(_serve(config, core, credentials, token, on_ready))
    finally:
        core.close()


async def _serve(
    config: ServerConfig,
    core: Core,
    credentials: Any,
    token: str | None,
    on_ready: Callable[[str, tuple[str, ...]], None],
) -> None:
    server = grpc.aio.server(
        interceptors=[TokenInterceptor(token)] if token else [],
        options=[
            ("grpc.so_reuseport", 0),  # else a second server would silently share a busy port
            ("grpc.max_receive_message_length", config.max_message_bytes),
            ("grpc.max_send_message_length", config.max_message_bytes),
            # clients of ours ping a silent connection; do not take that for abuse
            ("grpc.keepalive_permit_without_calls", 1),
            ("grpc.http2.min_recv_ping_interval_without_data_ms", 5_000),
        ],
        maximum_concurrent_rpcs=config.max_concurrent,
    )
    health = Health()
    server.add_generic_rpc_handlers((GrpcFront(core).handler(), health.handler(), *reflection_handlers()))
    port = _bind(server, config, credentials)
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for signum in (signal.SIGTERM, signal.SIGINT):
        # instead of the command line's handler, which would raise in the middle of the loop
        loop.add_signal_handler(signum, stop.set)
    await server.start()
    try:
        on_ready(_address(config.host, port), tuple(dict.fromkeys(model.name for model in core.models)))
        await stop.wait()
    finally:
        await health.set(serving=False)  # load balancers send no more while what runs is finished
        await server.stop(config.grace_seconds)
        for signum in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(signum)


def _bind(server: Any, config: ServerConfig, credentials: Any) -> int:
    _check_address(config.host, config.grpc_port)
    address = _address(config.host, config.grpc_port)
    try:
        if credentials is None:
            return int(server.add_insecure_port(address))
        return int(server.add_secure_port(address, credentials))
    except RuntimeError as error:
        raise ServiceError(f"cannot listen on {address}: {error}") from error


def _address(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _check_address(host: str, port: int) -> None:
    """Try the address with a plain socket, whose errors say what is wrong (gRPC's do not)."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise PortInUseError(
                f"port {port} on {host} is in use: give another with --grpc-port, or 0 for a free one"
            ) from error
        raise ServiceError(f"cannot listen on {_address(host, port)}: {error.strerror or error}") from error


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    with contextlib.suppress(ModuleNotFoundError):
        import uvloop

        factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
        return factory
    return None


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        raise InputError(f"there is no file {path}") from error
    except OSError as error:
        raise StorageError(f"cannot read {path}: {os.strerror(error.errno or 0)}") from error


def _read_token(path: Path | None) -> str | None:
    if path is None:
        return None
    token = _read(path).decode("ascii", errors="replace").strip()
    if not token or not token.isascii() or not token.isprintable() or " " in token:
        raise InputError(f"{path} should hold one token of printable ASCII without spaces")
    return token


def _read_credentials(cert: Path | None, key: Path | None) -> Any:
    if cert is None and key is None:
        return None
    if cert is None or key is None:
        raise InputError("give both --tls-cert and --tls-key, or none")
    pem = [(_read(key), _read(cert))]
    try:
        # gRPC would say what is wrong only in a log of its own, and only when it listens
        ssl.create_default_context(ssl.Purpose.CLIENT_AUTH).load_cert_chain(cert, key, password="")
    except (ssl.SSLError, OSError, ValueError) as error:
        raise InputError(f"{cert} and {key} are not a certificate and its key in PEM: {error}") from error
    return grpc.ssl_server_credentials(pem)
