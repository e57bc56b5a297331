"""Serve models to devices over the Open Inference Protocol v2: gRPC, REST, and metrics for Prometheus.

A PATH is a bundle (.edge or its unpacked folder), a plain .onnx or .tflite file, a SavedModel folder,
or a repository folder with NAME/VERSION/ in it. When requests are taken, one line is printed: "ready
grpc=HOST:PORT http=HOST:PORT metrics=HOST:PORT models=NAME,NAME". Port 0 takes a free one. SIGTERM
and Ctrl-C end the server when what runs is finished.

example:
  edge-sdk serve teacher-1.0.0.edge
  edge-sdk serve models --workers auto --http-port off --metrics-port 9002
"""

from __future__ import annotations

import argparse
import logging
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from edge_sdk.cloud.server import ServerConfig
from edge_sdk.cloud.server import run as run_server
from edge_sdk.cloud.server.listening import check_address
from edge_sdk.cloud.server.settings import Serving
from edge_sdk.cloud.server.shares import available_cores
from edge_sdk.errors import PortInUseError
from edge_sdk.protocol.names import MAX_MESSAGE_BYTES

__all__ = ["configure", "run"]

_log = logging.getLogger("edge_sdk.cloud.server")
_MOST_WORKERS = 1024
_MOST_DIGITS = 9
_LARGEST_MESSAGE = 2**30
_UNITS = {"MiB": 2**20, "GiB": 2**30, "MB": 10**6, "GB": 10**9}


class _Unasked(int):
    """A port that was not given."""


_DEFAULT_PORTS = {"http": _Unasked(8000), "metrics": _Unasked(8002)}


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("paths", nargs="+", type=Path, metavar="PATH", help="bundle, model file or repository folder")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    parser.add_argument(
        "--front",
        choices=["auto", "fast", "grpc"],
        default="auto",
        help="who speaks gRPC: an HTTP/2 of ours, gRPC's own library, or the first where it is there (default)",
    )
    parser.add_argument("--grpc-port", type=_port, default=8001, help="of gRPC (default: %(default)s)")
    for front, what in (("http", "of REST"), ("metrics", "of Prometheus' /metrics")):
        parser.add_argument(
            f"--{front}-port",
            type=_port_or_off,
            default=_DEFAULT_PORTS[front],
            metavar="PORT",
            help=f"{what}, or off (default: {_DEFAULT_PORTS[front]}; off where --grpc-port is 0)",
        )
    parser.add_argument("--metrics-host", metavar="HOST", help="address of /metrics (default: that of --host)")
    parser.add_argument("--metrics-plain", action="store_true", help="/metrics without TLS and token, for everybody")
    parser.add_argument(
        "--workers", type=_workers, metavar="N", help="so many processes, or auto: one a core, or one a GPU of --gpus"
    )
    parser.add_argument("--gpus", type=_names, default=(), metavar="ID,ID", help="one for each worker, in turn")
    parser.add_argument(
        "--max-worker-memory", type=_bytes, metavar="SIZE", help="replace workers that hold more, such as 2GiB"
    )
    parser.add_argument("--tls-cert", type=Path, metavar="PEM", help="certificate chain; turns TLS on")
    parser.add_argument("--tls-key", type=Path, metavar="PEM", help="private key of the certificate")
    parser.add_argument(
        "--tls-client-ca", type=Path, metavar="PEM", help="authorities of certificates clients must show"
    )
    parser.add_argument("--token-file", type=Path, metavar="FILE", help="file with the bearer token clients must show")
    parser.add_argument("--allow-admin", action="store_true", help="let clients load and unload models")
    parser.add_argument("--log-requests", type=Path, metavar="FILE", help="append a line for each request (-: stderr)")
    parser.add_argument("--otlp", metavar="URL", help="send traces to this collector, such as http://127.0.0.1:4317")
    parser.add_argument(
        "--max-concurrent", type=_count, default=256, help="requests under way at a time (default: %(default)s)"
    )
    parser.add_argument(
        "--max-calls",
        type=_count,
        metavar="N",
        help="open at a time, of each connection over gRPC (default: a quarter of --max-concurrent, at least 16)",
    )
    parser.add_argument(
        "--max-connections",
        type=_count,
        metavar="N",
        help="open at a time, of each of REST and gRPC, in each process (default: 10000, or what open files allow)",
    )
    parser.add_argument(
        "--max-message",
        type=_message,
        default=MAX_MESSAGE_BYTES,
        metavar="SIZE",
        help="the largest request or response, up to 1GiB (default: 16MiB)",
    )
    parser.add_argument("--threads", type=int, help="runtime threads per inference (default: 1)")
    parser.add_argument("--config", type=Path, metavar="TOML", help="how models are served: docs/scale-the-server.md")
    parser.add_argument(
        "--reload", type=float, metavar="SECONDS", help="how often to look for changes in repository folders"
    )


def run(args: argparse.Namespace) -> int:
    """Serve until told to stop."""
    workers = args.workers
    if workers == "auto":
        workers = len(args.gpus) or available_cores()
    check_address(args.host, args.grpc_port, "--grpc-port")  # before it is said what else is taken
    config = ServerConfig(
        paths=args.paths,
        host=args.host,
        front=args.front,
        grpc_port=args.grpc_port,
        http_port=_optional(args, "http", args.host),
        metrics_port=_optional(args, "metrics", args.metrics_host or args.host),
        metrics_host=args.metrics_host,
        metrics_plain=args.metrics_plain,
        tls_cert=args.tls_cert,
        tls_key=args.tls_key,
        tls_client_ca=args.tls_client_ca,
        token_file=args.token_file,
        allow_admin=args.allow_admin,
        log_requests=args.log_requests,
        otlp=args.otlp,
        max_concurrent=args.max_concurrent,
        max_connections=args.max_connections,
        max_calls=args.max_calls,
        max_message_bytes=args.max_message,
        serving=_serving(args),
        workers=workers,
        max_worker_bytes=args.max_worker_memory,
        gpus=args.gpus,
    )
    run_server(config, on_ready=_print_ready)
    return 0


def _serving(args: argparse.Namespace) -> Serving:
    serving = Serving() if args.config is None else Serving.read(args.config)
    models = dict(serving.models)
    if args.threads is not None:
        models["*"] = {**models.get("*", {}), "threads": args.threads}
    reload_seconds = serving.reload_seconds if args.reload is None else args.reload
    return replace(serving, models=models, reload_seconds=reload_seconds)


def _print_ready(addresses: Mapping[str, str], models: tuple[str, ...]) -> None:
    where = " ".join(f"{front}={address}" for front, address in addresses.items())
    print(f"ready {where} models={','.join(models)}", flush=True)


def _count(text: str) -> int:
    if not (_is_number(text) and int(text) >= 1):
        raise argparse.ArgumentTypeError(f"{text} is not a count: 1 or more")
    return int(text)


def _optional(args: argparse.Namespace, front: str, host: str) -> int | None:
    """Return the port of a front that need not be open: of one that nobody asked for, only where it is free."""
    given: int | _Unasked | None = getattr(args, f"{front}_port")
    if not isinstance(given, _Unasked):
        return given
    if args.grpc_port == 0:
        return None
    port = int(given)
    try:
        check_address(host, port, f"--{front}-port")
    except PortInUseError:
        _log.warning(
            "port %d on %s is in use, so there is no %s: give another with --%s-port, or off", port, host, front, front
        )
        return None
    return port


def _port(text: str) -> int:
    if not (_is_number(text) and int(text) <= 65535):
        raise argparse.ArgumentTypeError(f"{text} is not a port: 0 to 65535")
    return int(text)


def _port_or_off(text: str) -> int | None:
    return None if text == "off" else _port(text)


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdecimal() and len(text) <= _MOST_DIGITS


def _workers(text: str) -> int | str:
    if text != "auto" and not (_is_number(text) and 1 <= int(text) <= _MOST_WORKERS):
        raise argparse.ArgumentTypeError(f"{text} is no number of processes: 1 to {_MOST_WORKERS}, or auto")
    return text if text == "auto" else int(text)


def _names(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(","))


def _message(text: str) -> int:
    size = _bytes(text)
    if size > _LARGEST_MESSAGE:
        raise argparse.ArgumentTypeError(f"{text} is too large: at most 1GiB")
    return size


def _bytes(text: str) -> int:
    found = re.fullmatch(r"(\d{1,9}(?:\.\d{1,3})?) ?(MiB|GiB|MB|GB)", text)
    size = int(float(found[1]) * _UNITS[found[2]]) if found else 0
    if not size:
        raise argparse.ArgumentTypeError(f"{text} is no size, such as 800MiB or 1.5GiB")
    return size
