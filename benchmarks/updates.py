# ruff: noqa: INP001 - a script, not a module of a package
"""Measure how fast a bundle reaches a device: blocks over MQTT, and ranges over HTTP, in turn in one run.

Mosquitto and `edge-sdk ota serve` on one side; nginx, or aiohttp where there is no nginx, on the other. All
processes are on this machine. Blocks are 120 KiB; what arrives is counted, not written.

example:
  python benchmarks/updates.py --megabytes 10 --rounds 15 --json updates.json
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import aiohttp

from edge_sdk.cloud.ota.broker import EmbeddedBroker
from edge_sdk.ota.link import Broker, Link, Message
from edge_sdk.ota.ranges import Ranges
from edge_sdk.ota.topics import BLOCK_BYTES, Topics
from edge_sdk.ota.transfer import Channel, Source

FLEET, DEVICE = "bench", "cam-1"
NGINX = """\
daemon off; pid {folder}/pid; error_log {folder}/error; worker_processes 1;
events {{}}
http {{ access_log off; sendfile on; tcp_nodelay on; keepalive_requests 1000000;
server {{ listen 127.0.0.1:{port}; root {root}; }} }}
"""
AIOHTTP = """
import sys
from aiohttp import web

application = web.Application()
application.router.add_static("/", sys.argv[1])
web.run_app(application, host="127.0.0.1", port=int(sys.argv[2]), print=None, access_log=None)
"""


@contextlib.contextmanager
def mqtt(repository: Path, window: int) -> Iterator[Channel]:
    """Yield a device's channel to a repository that is served over mosquitto."""
    topics = Topics(FLEET, DEVICE)
    with EmbeddedBroker(engine="mosquitto") as broker:
        command = [sys.executable, "-P", "-m", "edge_sdk", "ota", "serve", str(repository), "--fleet", FLEET]
        with subprocess.Popen([*command, "--broker", broker.url], stdout=subprocess.PIPE, text=True) as service:
            try:
                assert service.stdout is not None
                service.stdout.readline()

                def heard(message: Message) -> None:
                    channel.deliver(message.correlation, message.payload, message.properties)

                link = Link(Broker.parse(broker.url), DEVICE, subscriptions=[(topics.reply, 0)], on_message=heard)
                channel = Channel(
                    lambda data, key: link.publish(topics.get, data, qos=0, correlation=key), window=window
                )
                link.connect()
                yield channel
                link.close()
            finally:
                service.terminate()


@contextlib.contextmanager
def web(repository: Path, folder: Path) -> Iterator[Ranges]:
    """Yield a source of ranges of the same files from nginx or aiohttp."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    if nginx := shutil.which("nginx", path=f"/usr/sbin:{os.environ['PATH']}"):
        (folder / "nginx.conf").write_text(NGINX.format(folder=folder, root=repository, port=port))
        command = [nginx, "-c", str(folder / "nginx.conf")]
    else:
        command = [sys.executable, "-P", "-c", AIOHTTP, str(repository), str(port)]
    with subprocess.Popen(command) as server, contextlib.closing(Ranges(f"http://127.0.0.1:{port}")) as source:
        try:
            for _ in range(200):
                with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
                    break
                time.sleep(0.05)
            yield source
        finally:
            server.terminate()


def seconds(source: Source, name: str, size: int) -> float:
    """Fetch a file once, all of its blocks; return how long it took."""
    started = time.perf_counter()
    requests = [{"target": name, "block": block} for block in range(-(-size // BLOCK_BYTES))]
    assert sum(len(reply.data) for _, reply in source.fetch(requests)) == size
    return time.perf_counter() - started


def measure(size: int, rounds: int, window: int) -> dict[str, dict[str, float]]:
    """Return MB/s, best and median, of each way."""
    with tempfile.TemporaryDirectory() as temporary:
        folder, took = Path(temporary), dict[str, list[float]]()
        repository = folder / "repository"
        make = [sys.executable, "-P", "-m", "edge_sdk", "ota", "init", str(repository), "--bins", "2"]
        subprocess.run(make, check=True, stdout=subprocess.DEVNULL)
        name = f"bundles/{'0' * 64}.made-up.edge"
        (repository / "targets" / "bundles").mkdir(parents=True, exist_ok=True)
        (repository / "targets" / name).write_bytes(os.urandom(size))
        peer = (
            "nginx"
            if shutil.which("nginx", path=f"/usr/sbin:{os.environ['PATH']}")
            else f"aiohttp {aiohttp.__version__}"
        )
        with mqtt(repository, window) as channel, web(repository, folder) as ranges:
            ways: dict[str, Callable[[], float]] = {
                f"MQTT over mosquitto, window {window}": lambda: seconds(channel, name, size),
                f"HTTP ranges from {peer}": lambda: seconds(ranges, name, size),
            }
            for number in range(rounds + 1):
                for way, once in ways.items():
                    value = once()
                    if number:  # the first warms up
                        took.setdefault(way, []).append(size / value / 1e6)
    return {way: {"best": max(rates), "median": statistics.median(rates)} for way, rates in took.items()}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=float, default=10.0, help="size of the file (default %(default)s)")
    parser.add_argument("--rounds", type=int, default=15, help="fetches of each way, in turn (default %(default)s)")
    parser.add_argument("--window", type=int, default=8, help="blocks under way over MQTT (default %(default)s)")
    parser.add_argument("--json", type=Path, help="write the figures to this file as well")
    args = parser.parse_args()
    rates = measure(int(args.megabytes * 1e6), args.rounds, args.window)
    for way, rate in rates.items():
        print(f"{way:<34} best {rate['best']:6.0f} MB/s   median {rate['median']:6.0f} MB/s")
    over_mqtt, over_http = rates.values()
    best, median = (over_mqtt[key] / over_http[key] for key in ("best", "median"))
    print(f"MQTT / HTTP: best {best:.2f}, median {median:.2f}")
    if args.json:
        args.json.write_text(json.dumps(rates, indent=2) + "\n")


if __name__ == "__main__":
    main()
