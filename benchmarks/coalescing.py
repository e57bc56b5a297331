# ruff: noqa: INP001 - a script, not a module of a package
"""Count what an item costs where many threads ask the cloud at once: items a second, and processor time.

Three ways in turns, of one client process and one `edge-sdk serve`: as the client does it by default, with a
call an item, and gRPC alone with a call an item. Processor time tells the same on a machine that is busy.

example:
  python benchmarks/coalescing.py
  python benchmarks/coalescing.py --callers 8 --rounds 20
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))  # harness and suites are not installed, and -P leaves them out

from harness import Machine  # noqa: E402 - after the path is set, as the next lines
from suites.coalescing import FRONT, ITEMS, server_pid, tasks  # noqa: E402


def processor_seconds(pid: int) -> float:
    """Return what a process has used of processors so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def sample(call: Callable[[], Any], items: int, server: int) -> tuple[float, float, float]:
    """Return items a second, and the microseconds of client and server an item."""
    before, started = (time.process_time(), processor_seconds(server)), time.perf_counter()
    call()
    seconds = time.perf_counter() - started
    client, served = time.process_time() - before[0], processor_seconds(server) - before[1]
    return items / seconds, client / items * 1e6, served / items * 1e6


def main() -> int:
    """Measure, and print one line a way."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--callers", type=int, default=32, choices=[1, 8, 32], help="threads (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=9, help="samples of each way (default: %(default)s)")
    parser.add_argument("--front", choices=["fast", "grpc"], default="fast", help="(default: %(default)s)")
    args = parser.parse_args()
    FRONT[1] = args.front
    (task,) = [task for task in tasks() if task.name == f"{args.callers} callers"]
    calls = {case.name: case.make() for case in task.cases}
    for call in calls.values():
        call()
    seen: dict[str, list[tuple[float, float, float]]] = {name: [] for name in calls}
    for _ in range(args.rounds):
        for name, call in calls.items():
            seen[name].append(sample(call, args.callers * ITEMS, server_pid()))
    machine = Machine.here(set())
    print(f"{machine.cpu}, {machine.cores} cores, load {machine.load}; {task.what}; medians of {args.rounds}")
    rates = {name: tuple(median(column) for column in zip(*rows, strict=True)) for name, rows in seen.items()}
    ours = rates[task.ours.name]
    for name, (rate, client, server) in rates.items():
        times = (client + server) / (ours[1] + ours[2])
        print(
            f"{name:26} {rate:7.0f} items/s, processor time an item: client {client:4.0f} µs, server {server:4.0f} µs; "
            f"ours is {ours[0] / rate:.2f} times as fast, of {times:.2f} times less work"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
