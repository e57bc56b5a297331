# ruff: noqa: INP001 - a script, not a module of a package
"""Measure how fast a bundle reaches a device: blocks over MQTT, and ranges over HTTP, in turn in one run.

Mosquitto and `edge-sdk ota serve` on one side; nginx, or aiohttp where there is no nginx, on the other. All
processes are on this machine. Blocks are 120 KiB, and the device's own client asks for them each way. Two kinds of
work, the same on both sides: `arrives` only counts the bytes; `durable` is the agent's download, each block and
the whole checked by SHA-256, written and fsynced. Processor time is that of all processes: it says more than the
rates where others use the machine.

example:
  python benchmarks/updates.py --megabytes 10 --rounds 15 --json updates.json
"""

from __future__ import annotations

import argparse
import contextlib
import getpass
import hashlib
import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import aiohttp

from edge_sdk.cloud.ota.broker import EmbeddedBroker
from edge_sdk.ota.channel import Channel, Source
from edge_sdk.ota.link import Broker, Link, Message
from edge_sdk.ota.ranges import Ranges
from edge_sdk.ota.records import Target
from edge_sdk.ota.topics import BLOCK_BYTES, Topics
from edge_sdk.ota.transfer import Download

FLEET, DEVICE = "bench", "cam-1"
NGINX = """\
daemon off; pid {folder}/pid; error_log {folder}/error; worker_processes 1; {user}
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
def mqtt(repository: Path, window: int) -> Iterator[tuple[Channel, list[int]]]:
    """Yield a device's channel to a repository that is served over mosquitto, and the ids of these processes."""
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
                channel = Channel(lambda data, key: link.send(topics.get, data, key), window=window)
                link.connect()
                yield channel, children(os.getpid())
                link.close()
            finally:
                service.terminate()


@contextlib.contextmanager
def web(repository: Path, folder: Path) -> Iterator[tuple[Ranges, list[int]]]:
    """Yield a source of ranges of the same files from nginx or aiohttp, and the ids of the server's processes."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    if nginx := find_nginx():
        user = f"user {getpass.getuser()};" if os.getuid() == 0 else ""  # else its worker may not read the folder
        (folder / "nginx.conf").write_text(NGINX.format(folder=folder, root=repository, port=port, user=user))
        command = [nginx, "-c", str(folder / "nginx.conf")]
    else:
        command = [sys.executable, "-P", "-c", AIOHTTP, str(repository), str(port)]
    with subprocess.Popen(command) as server, contextlib.closing(Ranges(f"http://127.0.0.1:{port}")) as source:
        try:
            for _ in range(200):
                with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
                    break
                time.sleep(0.05)
            yield source, [server.pid, *children(server.pid)]
        finally:
            server.terminate()


def find_nginx() -> str | None:
    """Return the path of nginx, if it is installed."""
    return shutil.which("nginx", path=f"/usr/sbin:{os.environ['PATH']}")


def children(process: int) -> list[int]:
    """Return the ids of a process's children."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            if int(stat.read_text().rpartition(")")[2].split()[1]) == process:
                found.append(int(stat.parent.name))
    return found


def used(processes: Sequence[int]) -> float:
    """Return the processor time of these processes and this one, in seconds."""
    spent = time.process_time()
    for process in processes:
        for thread in Path(f"/proc/{process}/task").glob("*/schedstat"):
            spent += int(thread.read_text().split()[0]) / 1e9
    return spent


def arrives(source: Source, target: Target, folder: Path) -> None:
    """Fetch all blocks of a file and count their bytes."""
    requests = [{"target": target.stored_path, "block": block} for block in range(len(target.blocks))]
    assert sum(len(reply.data) for _, reply in source.fetch(requests)) == target.size


def durable(source: Source, target: Target, folder: Path) -> None:
    """Download the file as the agent does, and remove it."""
    download = Download(folder, target)
    download.fetch(source)
    download.discard()


def made_up(repository: Path, size: int) -> Target:
    """Put a file of random bytes into the repository, and describe it as it would be signed."""
    data = os.urandom(size)
    blocks = [data[at : at + BLOCK_BYTES] for at in range(0, size, BLOCK_BYTES)]
    target = Target(
        path="bundles/made-up.edge",
        size=size,
        sha256=hashlib.sha256(data).hexdigest(),
        name="made-up",
        version="1.0.0",
        bundle_digest="sha256:" + "0" * 64,
        block_bytes=BLOCK_BYTES,
        blocks=tuple(hashlib.sha256(block).hexdigest() for block in blocks),
    )
    path = repository / "targets" / target.stored_path
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return target


def measure(size: int, rounds: int, window: int, folder: Path) -> dict[str, dict[str, dict[str, float]]]:
    """Return, by work and by way, MB/s (best and median) and the least processor time of a fetch in milliseconds."""
    repository, took, spent = folder / "repository", dict[tuple[str, str], list[float]](), {}
    make = [sys.executable, "-P", "-m", "edge_sdk", "ota", "init", str(repository), "--bins", "2"]
    subprocess.run(make, check=True, stdout=subprocess.DEVNULL)
    target = made_up(repository, size)
    peer = "nginx" if find_nginx() else f"aiohttp {aiohttp.__version__}"
    works: tuple[Callable[[Source, Target, Path], None], ...] = (arrives, durable)
    with mqtt(repository, window) as (channel, broker), web(repository, folder) as (ranges, server):
        ways = {
            f"MQTT over mosquitto, window {window}": (channel, broker),
            f"HTTP ranges from {peer}": (ranges, server),
        }
        for number in range(rounds + 1):
            for work in works:
                for way, (source, processes) in ways.items():
                    before, started = used(processes), time.perf_counter()
                    work(source, target, folder / "download")
                    seconds = time.perf_counter() - started
                    if number:  # the first warms up
                        took.setdefault((work.__name__, way), []).append(seconds)
                        spent.setdefault((work.__name__, way), []).append(used(processes) - before)
    return {
        work.__name__: {
            way: {
                "best": size / min(took[work.__name__, way]) / 1e6,
                "median": size / statistics.median(took[work.__name__, way]) / 1e6,
                "processor_ms": min(spent[work.__name__, way]) * 1e3,
            }
            for way in ways
        }
        for work in works
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=float, default=10.0, help="size of the file (default %(default)s)")
    parser.add_argument("--rounds", type=int, default=15, help="fetches of each way, in turn (default %(default)s)")
    parser.add_argument(
        "--window", type=int, default=16, help="blocks under way over MQTT, at most (default %(default)s)"
    )
    parser.add_argument("--folder", type=Path, help="where the files are (default: a temporary folder)")
    parser.add_argument("--json", type=Path, help="write the figures to this file as well")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        figures = measure(int(args.megabytes * 1e6), args.rounds, args.window, Path(folder))
    for work, rates in figures.items():
        for way, rate in rates.items():
            print(
                f"{work:<8} {way:<34} best {rate['best']:5.0f} MB/s   median {rate['median']:5.0f} MB/s"
                f"   processor {rate['processor_ms']:5.0f} ms"
            )
        over_mqtt, over_http = rates.values()
        best, median = (over_mqtt[key] / over_http[key] for key in ("best", "median"))
        print(f"{work:<8} MQTT / HTTP: best {best:.2f}, median {median:.2f}")
    if args.json:
        args.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
