# ruff: noqa: INP001 - a script, not a module of a package
"""Offer the server three times what it can do, each request with a deadline, and count what is answered in time.

Server and load have a processor each, so that what the load needs is not missed by the server. The peak is what 16
connections get that send one request after the other; then requests come at three times that rate, whatever becomes
of them. Both take turns, and medians are shown: of answers in time a second as a share of the peak, and of answers in
time for each second of the server's processor time, as a share of the same at the peak, which tells more on a machine
that is busy with other work.

example:
  python benchmarks/overload.py --models thumbnail cnn --rounds 7
  python benchmarks/overload.py --models mlp --deadline 50 --serve max-concurrent 32
"""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import os
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))  # -P leaves it out

from server import METHOD, MODELS, OPTIONS, body, load, serving, write_models  # noqa: E402 - after the path is set

CONNECTIONS = 16
WARM = 0.3  # seconds of the closed loop that are not counted


@dataclass(frozen=True)
class Flood:
    """What became of a flood: requests by how they ended, and the seconds that answers took from their call."""

    sent: int
    ends: dict[str, int]
    took: list[float]


def flood(address: str, data: bytes, rate: float, seconds: float, deadline: float, out: Any) -> None:
    """Send so many requests a second, whatever becomes of them; a process of its own."""
    import grpc
    import uvloop

    async def run() -> Flood:
        options = [*OPTIONS, ("grpc.use_local_subchannel_pool", 1), ("grpc.enable_retries", 0)]
        calls, ends, took = [], dict[str, int](), list[float]()
        for _ in range(8):
            channel = grpc.aio.insecure_channel(address, options)
            await channel.channel_ready()
            calls.append(channel.unary_unary(METHOD))

        async def one(number: int) -> None:
            start = time.perf_counter()
            try:
                await calls[number % len(calls)](data, timeout=deadline)
                name = "OK"
                took.append(time.perf_counter() - start)
            except grpc.aio.AioRpcError as error:
                name = error.code().name
            ends[name] = ends.get(name, 0) + 1

        begin, tasks, number = time.perf_counter(), set[asyncio.Task[None]](), 0
        while (now := time.perf_counter()) < begin + seconds:
            while number < (now - begin) * rate:
                tasks.add(asyncio.create_task(one(number)))
                number += 1
            await asyncio.sleep(0.001)
        await asyncio.gather(*tasks)
        return Flood(number, ends, sorted(took))

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        out.send(runner.run(run()))


def used(pid: int) -> float:
    """Return the seconds that a process and its children have run so far."""
    total = 0
    for task in Path(f"/proc/{pid}/task").iterdir():
        total += int((task / "schedstat").read_text(encoding="ascii").split()[0])
        for child in (task / "children").read_text(encoding="ascii").split():
            total += round(used(int(child)) * 1e9)
    return total / 1e9


def apart(work: Any, *arguments: Any) -> Any:
    """Do something in a process of its own, and return what it sends."""
    context = multiprocessing.get_context("spawn")
    receive, send = context.Pipe(duplex=False)
    process = context.Process(target=work, args=(*arguments, send))
    process.start()
    found = receive.recv()
    process.join()
    return found


def ran(address: str, model: str) -> int:
    """Return how many requests the model has run for so far."""
    import grpc

    from edge_sdk.protocol import messages

    with grpc.insecure_channel(address, [("grpc.use_local_subchannel_pool", 1)]) as channel:
        takes, gives = messages.METHODS["ModelStatistics"]
        ask = channel.unary_unary(
            METHOD.replace("ModelInfer", "ModelStatistics"), takes.SerializeToString, gives.FromString
        )
        said = ask(takes(name=model), timeout=30)
    return sum(int(one.inference_count) for one in said.model_stats)


@dataclass(frozen=True)
class Round:
    """One peak and one flood: of the peak, answers a second; of the flood, what the module says."""

    peak: float
    offered: float
    share: float
    share_by_work: float
    p50_ms: float
    p99_ms: float
    in_vain: int
    ends: dict[str, int]


def measure(address: str, pid: int, model: str, deadline: float, seconds: float, times: float) -> Round:
    """Find the peak, then offer so many times as much."""
    data, before = body(model, 1), used(pid)
    answers, _ = apart(load, address, data, CONNECTIONS, seconds, None)
    peak, peak_work = len(answers) / seconds, len(answers) * (seconds + WARM) / seconds / (used(pid) - before)
    earlier, before = ran(address, model), used(pid)
    found = apart(flood, address, data, times * peak, seconds, deadline)
    work, runs = used(pid) - before, ran(address, model) - earlier
    took = found.took or [0.0]
    return Round(
        peak,
        found.sent / seconds / peak,
        len(found.took) / seconds / peak,
        len(found.took) / work / peak_work,
        1e3 * took[len(took) // 2],
        1e3 * took[len(took) * 99 // 100],
        runs - len(found.took),
        found.ends,
    )


def main() -> int:
    """Measure, and print a line a round and one of medians."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["thumbnail"], choices=list(MODELS))
    parser.add_argument("--deadline", type=float, default=200.0, metavar="MS", help="(default: %(default)s)")
    parser.add_argument("--times", type=float, default=3.0, help="how much of the peak (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="(default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=2.0, help="of each load (default: %(default)s)")
    parser.add_argument("--serve", nargs="*", default=[], metavar="OPTION", help="of edge-sdk serve, without --")
    arguments = parser.parse_args()
    own, *others = sorted(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_models(folder)
        options = [f"--{one}" if not one[:1].isdigit() else one for one in arguments.serve]
        for model in arguments.models:
            os.sched_setaffinity(0, {own})  # as what is started has it
            command = [sys.executable, "-P", "-m", "edge_sdk", "serve", str(folder / f"{model}.onnx")]
            with serving([*command, "--grpc-port", "0", *options]) as (address, pid):
                os.sched_setaffinity(0, others or {own})
                rounds = [
                    measure(address, pid, model, arguments.deadline / 1e3, arguments.seconds, arguments.times)
                    for _ in range(arguments.rounds)
                ]
            show(model, rounds)
    return 0


def show(model: str, rounds: list[Round]) -> None:
    """Print what was found."""
    for one in rounds:
        print(
            f"{model}: peak {one.peak:.0f}/s, offered {one.offered:.2f} times that; in time {one.share:.0%} of it, "
            f"{one.share_by_work:.0%} by work; p50 {one.p50_ms:.1f} ms, p99 {one.p99_ms:.1f} ms; "
            f"run in vain {one.in_vain}; {one.ends}"
        )
    middle = {name: median(getattr(one, name) for one in rounds) for name in ("share", "share_by_work", "p99_ms")}
    print(
        f"{model}: medians of {len(rounds)}: in time {middle['share']:.0%} of the peak, "
        f"{middle['share_by_work']:.0%} by work, p99 {middle['p99_ms']:.1f} ms"
    )


if __name__ == "__main__":
    sys.exit(main())
