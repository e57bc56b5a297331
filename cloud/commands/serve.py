"""Serve models to devices over the Open Inference Protocol v2: gRPC, and HTTP where it is asked for.

A PATH is a bundle (.edge or its unpacked folder), a plain .onnx or .tflite file, a SavedModel folder,
or a repository folder with NAME/VERSION/ in it. When requests are taken, one line is printed: "ready
grpc=HOST:PORT models=NAME,NAME", with "http=" and "metrics=" where they are open. Port 0 takes a free
one. SIGTERM and Ctrl-C end the server.

example:
  edge-sdk serve teacher-1.0.0.edge
  edge-sdk serve teacher-1.0.0.edge --http-port 8000 --metrics-port 8002
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from edge_sdk.cloud.server import ServerConfig
from edge_sdk.cloud.server import run as run_server
from edge_sdk.cloud.server.settings import Serving

__all__ = ["configure", "run"]


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("paths", nargs="+", type=Path, metavar="PATH", help="bundle, model file or repository folder")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    parser.add_argument(
        "--front",
        choices=["grpc", "fast"],
        default="grpc",
        help="who speaks gRPC: gRPC's own library, or an HTTP/2 of ours that takes less time (default: %(default)s)",
    )
    parser.add_argument("--grpc-port", type=_port, default=8001, help="of gRPC (default: %(default)s)")
    parser.add_argument("--http-port", type=_port, help="of REST, such as 8000 (default: none)")
    parser.add_argument("--metrics-port", type=_port, help="of Prometheus' /metrics, such as 8002 (default: none)")
    parser.add_argument("--tls-cert", type=Path, metavar="PEM", help="certificate chain; turns TLS on")
    parser.add_argument("--tls-key", type=Path, metavar="PEM", help="private key of the certificate")
    parser.add_argument(
        "--tls-client-ca", type=Path, metavar="PEM", help="authorities of certificates clients must show"
    )
    parser.add_argument("--token-file", type=Path, metavar="FILE", help="file with the bearer token clients must show")
    parser.add_argument("--allow-admin", action="store_true", help="let clients load and unload models")
    parser.add_argument("--log-requests", type=Path, metavar="FILE", help="append a line for each request (-: stderr)")
    parser.add_argument(
        "--max-concurrent", type=_count, default=256, help="requests under way at a time (default: %(default)s)"
    )
    parser.add_argument("--threads", type=int, help="runtime threads per inference (default: 1)")
    parser.add_argument("--config", type=Path, metavar="TOML", help="how models are served: docs/scale-the-server.md")
    parser.add_argument(
        "--reload", type=float, metavar="SECONDS", help="how often to look for changes in repository folders"
    )


def run(args: argparse.Namespace) -> int:
    """Serve until told to stop."""
    config = ServerConfig(
        paths=args.paths,
        host=args.host,
        front=args.front,
        grpc_port=args.grpc_port,
        http_port=args.http_port,
        metrics_port=args.metrics_port,
        tls_cert=args.tls_cert,
        tls_key=args.tls_key,
        tls_client_ca=args.tls_client_ca,
        token_file=args.token_file,
        allow_admin=args.allow_admin,
        log_requests=args.log_requests,
        max_concurrent=args.max_concurrent,
        serving=_serving(args),
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
    count = int(text)
    if count < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a count: 1 or more")
    return count


def _port(text: str) -> int:
    port = int(text)
    if not 0 <= port <= 65535:
        raise argparse.ArgumentTypeError(f"{text} is not a port: 0 to 65535")
    return port
