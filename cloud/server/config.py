"""What a server is started with."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from edge_sdk.cloud.server.settings import Serving
from edge_sdk.errors import InputError
from edge_sdk.protocol.names import MAX_MESSAGE_BYTES

__all__ = ["OnReady", "ServerConfig"]

OnReady = Callable[[Mapping[str, str], tuple[str, ...]], None]
"""Is told the address (``host:port``) of each front, ``grpc``, ``http`` and ``metrics``, and the names of models."""


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
        Who speaks gRPC: ``"fast"``, an HTTP/2 of ours, which is compiled; ``"grpc"``, gRPC's own library; or
        ``"auto"``: the first where it is there, else the second.
    grpc_port, http_port, metrics_port
        Port of each front; 0 takes a free one, None opens none.
    metrics_host
        Address of metrics; None is that of ``host``.
    metrics_plain
        Whether metrics are without TLS and for everybody, whatever the other fronts ask for.
    tls_cert, tls_key
        PEM files of the server's certificate chain and key; both or none. Changed files are taken for new
        connections within a second or two.
    tls_client_ca
        PEM file of the authorities whose certificates clients must show (mTLS).
    token_file
        File with a bearer token that lets its bearer do all. Without it and without ``serving.callers`` everybody may.
    allow_admin
        Whether clients may load and unload models of repository folders.
    log_requests
        File to which a line is appended for each inference request, ``-`` for standard error; None for none.
    otlp
        Address of a collector that gets OpenTelemetry's traces over gRPC, such as ``http://127.0.0.1:4317``; None:
        that of OpenTelemetry's environment variables, or no traces where they name none.
    serving
        How models are served.
    max_message_bytes
        Largest request or response.
    max_concurrent
        Requests at work or queued at a time, of each front of each process; more are refused.
    max_connections
        Open at a time, of each front of each process but that of metrics; more are refused. None is 10,000, or what
        the system's limit of open files leaves room for.
    max_calls
        Open at a time, of each connection over gRPC; a client holds further ones back. None is a quarter of
        ``max_concurrent``, at least 16.
    grace_seconds
        How long running requests may go on after the server was told to stop.
    workers
        Processes that serve, under one that starts them again; None serves in this one.
    max_worker_bytes
        Memory that a worker may hold; one that holds more is replaced by a new one. None sets no limit.
    connection_seconds
        With ``workers``, clients are asked to make their connection over gRPC anew after so long, which spreads them
        among the workers. Of gRPC's own library, a worker that is replaced waits so long for those that it has.
    silent_seconds
        A worker that says nothing for so long is killed, and started again.
    gpus
        As ``CUDA_VISIBLE_DEVICES`` names them: each worker sees one of them, in turn. None leaves it as it is.
    """

    paths: Sequence[Path]
    host: str = "127.0.0.1"
    front: Literal["auto", "fast", "grpc"] = "auto"
    grpc_port: int = 8001
    http_port: int | None = None
    metrics_port: int | None = None
    metrics_host: str | None = None
    metrics_plain: bool = False
    tls_cert: Path | None = None
    tls_key: Path | None = None
    tls_client_ca: Path | None = None
    token_file: Path | None = None
    allow_admin: bool = False
    log_requests: Path | None = None
    otlp: str | None = None
    serving: Serving = field(default_factory=Serving)
    max_message_bytes: int = MAX_MESSAGE_BYTES
    max_concurrent: int = 256
    max_connections: int | None = None
    max_calls: int | None = None
    grace_seconds: float = 2.0
    workers: int | None = None
    max_worker_bytes: int | None = None
    connection_seconds: float = 300.0
    silent_seconds: float = 60.0
    gpus: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.front not in ("auto", "fast", "grpc"):
            raise InputError(f"front is {self.front!r}; it should be auto, fast or grpc")
        for name in ("workers", "max_worker_bytes", "max_connections", "max_calls"):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
                raise InputError(f"{name} is {value!r}; it should be a whole number, at least 1")
        if self.workers is None and (self.max_worker_bytes is not None or self.gpus):
            raise InputError("a limit of memory and GPUs are of workers: say how many there should be")
        if not all(isinstance(gpu, str) and gpu.strip() and "," not in gpu for gpu in self.gpus):
            raise InputError(f"gpus is {self.gpus!r}; it should name GPUs one by one")

    @property
    def leave_seconds(self) -> float:
        """How long a worker may take to lead its clients elsewhere; gRPC spreads the end of connections by a tenth."""
        return 1.1 * self.connection_seconds + self.grace_seconds + 1.0

    @property
    def addresses(self) -> dict[str, tuple[str, int]]:
        """Host and port of each front that is opened."""
        return {
            front: (self.metrics_host or self.host if front == "metrics" else self.host, port)
            for front, port in (("grpc", self.grpc_port), ("http", self.http_port), ("metrics", self.metrics_port))
            if port is not None
        }
