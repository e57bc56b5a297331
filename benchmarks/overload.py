# ruff: noqa: INP001 - a script, not a module of a package
"""Offer the server three times what it can do, each request with a deadline, and count what is answered in time.

Server and load have a processor each, so that what the load needs is not missed by the server; the load is that of
``offering.py``, which sends on time whatever becomes of earlier requests, and knows an answer from a refusal. The peak
is what 16 connections get that send one request after the other; then requests come at three times that rate over 16
connections. Both take turns, and medians are shown: of answers in time a second as a share of the peak, and of answers
in time for each second of the server's processor time, as a share of the same at the peak, which tells more on a
machine that is busy with other work. Times are those of answers alone. Ends of other calls are shown by gRPC's number:
1 CANCELLED, 4 DEADLINE_EXCEEDED, 8 RESOURCE_EXHAUSTED. Where the server mostly waited for its processor, the last
figure of a round, a flood shows what else runs there; where less than three times the peak was offered, the rest waited
at its client, as a server may ask. Limits of gRPC's front come last, where it is that one: what a bare grpc.aio server
takes that refuses what is beyond the peak by its handlers, and what part of its own peak one keeps that runs the model,
looks at nothing, and has gRPC's library cancel what is too much of as many calls as ours was offered.

example:
  python benchmarks/overload.py --models thumbnail cnn --rounds 7
  python benchmarks/overload.py --models mlp --deadline 50
  python benchmarks/overload.py --models mlp --deadline 50 --front grpc --serve max-concurrent=48
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))  # -P leaves it out

from offering import Load  # noqa: E402 - after the path is set, as the next line
from server import METHOD, MODELS, PEERS, body, serving, write_models  # noqa: E402

CONNECTIONS = 16
WAITING = "96"  # calls at the bare server


def send(address: str, data: bytes, seconds: float, options: Sequence[str]) -> Load:
    """Load the server from a process of its own."""
    with tempfile.TemporaryDirectory() as name:
        request = Path(name) / "request"
        request.write_bytes(data)
        command = [sys.executable, "-P", str(HERE / "offering.py"), address, METHOD, str(request)]
        command += ["--seconds", str(seconds), "--connections", str(CONNECTIONS), *options]
        return Load(**json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout))


def used(pid: int) -> float:
    """Return the seconds that a process and its children have run so far."""
    total = 0
    for task in Path(f"/proc/{pid}/task").iterdir():
        total += int((task / "schedstat").read_text(encoding="ascii").split()[0])
        for child in (task / "children").read_text(encoding="ascii").split():
            total += round(used(int(child)) * 1e9)
    return total / 1e9


def starved(pid: int) -> float:
    """Return the seconds for which the first thread of a process, that of its loop, waited for a processor so far."""
    return int(Path(f"/proc/{pid}/task/{pid}/schedstat").read_text(encoding="ascii").split()[1]) / 1e9


def ran(address: str, model: str) -> int:
    """Return how many requests the model has run for so far."""
    import grpc

    from edge_sdk.protocol import messages

    with grpc.insecure_channel(address, [("grpc.use_local_subchannel_pool", 1)]) as channel:
        takes, gives = messages.METHODS["ModelStatistics"]
        ask = channel.unary_unary(
            METHOD.replace("ModelInfer", "ModelStatistics"), takes.SerializeToString, gives.FromString
        )
        end = time.monotonic() + 30
        while True:
            try:
                said = ask(takes(name=model), timeout=30)
                break
            except grpc.RpcError:  # cancelled, for the flood is still there
                if time.monotonic() > end:
                    raise
                time.sleep(0.1)
    return sum(int(one.inference_count) for one in said.model_stats)


@dataclass(frozen=True)
class Round:
    """One peak, in answers a second, what came of one flood, and how much of a processor the server had and missed."""

    peak: float
    offered: float
    share: float
    share_by_work: float
    p50_ms: float
    p99_ms: float
    ends: dict[str, int]
    late: int
    in_vain: int
    had: float
    missed: float


def measure(address: str, pid: int, model: str, deadline_ms: float, seconds: float, times: float) -> Round:
    """Find the peak, then offer so many times as much."""
    data, before = body(model, 1), used(pid)
    calm = send(address, data, seconds, [])
    if not calm.answers:
        raise SystemExit(f"{address} answers nothing: {calm.ends}")
    peak, peak_work = len(calm.answers) / seconds, len(calm.answers) / (used(pid) - before)
    earlier, before, waited = ran(address, model), used(pid), starved(pid)
    timeout = ["--timeout", f"{deadline_ms * 1e3:.0f}u"]
    flood = send(address, data, seconds, ["--rate", f"{times * peak:.3f}", *timeout])
    work, waited, runs = used(pid) - before, starved(pid) - waited, ran(address, model) - earlier
    answers = flood.answers or [0.0]
    good = sum(took <= deadline_ms for took in flood.answers)
    return Round(
        peak,
        flood.ended / seconds / peak,
        good / seconds / peak,
        good / work / peak_work,
        answers[len(answers) // 2],
        answers[len(answers) * 99 // 100],
        flood.ends,
        len(flood.answers) - good,
        runs - len(flood.answers),
        work / seconds,
        waited / seconds,
    )


def main() -> int:
    """Measure, and print a line a round and one of medians."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["thumbnail"], choices=list(MODELS))
    parser.add_argument("--deadline", type=float, default=200.0, metavar="MS", help="(default: %(default)s)")
    parser.add_argument("--times", type=float, default=3.0, help="how much of the peak (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="(default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=2.0, help="of each load (default: %(default)s)")
    parser.add_argument("--front", choices=["fast", "grpc"], default="fast", help="(default: %(default)s)")
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
            with serving([*command, "--front", arguments.front, "--grpc-port", "0", *options]) as (address, pid):
                os.sched_setaffinity(0, others or {own})
                rounds = [
                    measure(address, pid, model, arguments.deadline, arguments.seconds, arguments.times)
                    for _ in range(arguments.rounds)
                ]
            show(model, rounds)
            if arguments.front != "grpc":
                continue
            rate = (arguments.times - 1) * median(one.peak for one in rounds)
            os.sched_setaffinity(0, {own})
            with serving([sys.executable, str(PEERS / "echo.py"), "refuse"]) as (address, pid):
                os.sched_setaffinity(0, others or {own})
                show_limit(rate, refusing(address, pid, model, rate, arguments.seconds))
            os.sched_setaffinity(0, {own})
            runs = [str(PEERS / "echo.py"), "run", f"{len(body(model, 1))}:{folder / model}.onnx", WAITING]
            with serving([sys.executable, *runs]) as (address, pid):
                os.sched_setaffinity(0, others or {own})
                rate *= arguments.times / (arguments.times - 1)
                show_bare(rate, [bare(address, pid, model, rate, arguments) for _ in range(arguments.rounds)])
    return 0


def refusing(address: str, pid: int, model: str, rate: float, seconds: float) -> tuple[float, float]:
    """Return how many calls a second a bare server refuses of so many, and the processor time that it takes."""
    send(address, body(model, 1), seconds, [])
    before = used(pid)
    ended = send(address, body(model, 1), seconds, ["--rate", f"{rate:.3f}"]).ended
    return ended / seconds, (used(pid) - before) / ended


def show_limit(rate: float, limit: tuple[float, float]) -> None:
    """Print what refusing leaves of a processor at best, where handlers refuse."""
    done, each = limit
    print(
        f"a bare grpc.aio server that refuses each call in its handler: {done:.0f} of {rate:.0f}/s, "
        f"{1e6 * each:.0f} µs each; so {max(0.0, 1 - rate * each):.0%} of a processor is left for answers"
    )


def bare(address: str, pid: int, model: str, rate: float, given: argparse.Namespace) -> tuple[float, float]:
    """Return the peak of a bare server, and how many answers a second it gives in time of so many calls."""
    data, timeout = body(model, 1), f"{given.deadline * 1e3:.0f}u"
    peak = len(send(address, data, given.seconds, []).answers) / given.seconds
    flood = send(address, data, given.seconds, ["--rate", f"{rate:.3f}", "--timeout", timeout])
    return peak, sum(took <= given.deadline for took in flood.answers) / given.seconds


def show_bare(rate: float, found: Sequence[tuple[float, float]]) -> None:
    """Print what bare servers keep."""
    peak, good = (median(values) for values in zip(*found, strict=True))
    print(
        f"a bare grpc.aio server that runs the model, and gRPC's library cancels what is too much: peak {peak:.0f}/s; "
        f"of {rate:.0f} calls a second in time {good:.0f}/s, {good / peak:.0%} of its peak"
    )


def show(model: str, rounds: list[Round]) -> None:
    """Print what was found."""
    for one in rounds:
        ends = ", ".join(f"{count} of {status}" for status, count in sorted(one.ends.items())) or "none otherwise"
        print(
            f"{model}: peak {one.peak:.0f}/s; of {one.offered:.2f} times that, in time {one.share:.0%} of the peak, "
            f"{one.share_by_work:.0%} by work; p50 {one.p50_ms:.1f} ms, p99 {one.p99_ms:.1f} ms; "
            f"{ends}, {one.late} late, {one.in_vain} run in vain; "
            f"{one.had:.0%} of a processor, and waited for it {one.missed:.0%} of the time"
        )
    middle = {name: median(getattr(one, name) for one in rounds) for name in ("share", "share_by_work", "p99_ms")}
    print(
        f"{model}: medians of {len(rounds)}: in time {middle['share']:.0%} of the peak, "
        f"{middle['share_by_work']:.0%} by work, p99 {middle['p99_ms']:.1f} ms"
    )


if __name__ == "__main__":
    sys.exit(main())
