# ruff: noqa: INP001 - a script, not a module of a package
"""Break the network and the cloud in every way, and count whether a hybrid model still answers in time.

For each fault: calls from several threads, nearly all of which the edge's rule wants to escalate. All must be
answered, 99.9 % of them within the deadline and 10 ms, with no more threads, sockets and memory at the end
than after the first tenth; and once the fault is over, the cloud must answer again within 5 s. The cloud and
the network between run in other processes. Takes half a minute a fault. "timer" is how late, 99.9 % of the
time at most, a timer of this process was meanwhile: what the machine itself adds to p99.9.

example:
  python benchmarks/faults.py
  python benchmarks/faults.py --fault blackhole --fault loss --calls 2000 --json faults.json
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "tests" / "fixtures")]  # neither is installed, and -P leaves them out

import numpy as np  # noqa: E402 - after the path is set, as the next lines
from rich import box  # noqa: E402
from rich.console import Console  # noqa: E402
from rich.table import Table  # noqa: E402

import edge_sdk  # noqa: E402
from edge_sdk.client import Cloud  # noqa: E402
from harness import Machine  # noqa: E402
from harness.attack import Attack, attack, seconds_until  # noqa: E402
from outside.faults import FAULTS, faulty_cloud  # noqa: E402
from outside.pairs import Pair, build_pair  # noqa: E402

SLACK, RETURN = 0.010, 5.0  # seconds
PATIENCE = 60.0


def run(fault: str, pair: Pair, folder: Path, args: argparse.Namespace) -> dict[str, Any]:
    """Have one fault happen; return what came of it."""
    tls = folder if fault == "certificate" else None
    with faulty_cloud(pair.cloud, tls) as cloud:
        there = Cloud(cloud.address(), tls_ca=None if tls is None else tls / "cert.pem")
        with edge_sdk.connect(pair.edge, cloud=there, deadline=args.deadline) as model:

            def answered_by_cloud() -> bool:
                return model.predict(pair.hard[0]).source == "cloud"

            if seconds_until(answered_by_cloud, PATIENCE) is None:
                raise SystemExit(f"{fault}: the cloud did not answer before anything was broken")
            attack(lambda frame: model.predict(frame).reason, pair.hard, args.calls // 10, threads=args.threads)
            if fault != "none":
                cloud.begin(fault)
            result = attack(
                lambda frame: model.predict(frame).reason,
                pair.hard,
                args.calls,
                threads=args.threads,
                rate=args.rate,
            )
            cloud.end()
            resumed = seconds_until(answered_by_cloud, PATIENCE)
    return record(fault, result, resumed, args.deadline)


def record(fault: str, result: Attack, resumed: float | None, deadline: float) -> dict[str, Any]:
    """Return the figures of a fault, and the promises that it broke."""
    grown = {
        "threads": result.late.threads - result.early.threads,
        "descriptors": result.late.descriptors - result.early.descriptors,
        "memory_bytes": result.late.memory - result.early.memory,
    }
    broken = []
    if result.answered != result.calls:
        broken.append("answers")
    if result.quantile(0.999) > deadline + SLACK:
        broken.append("time")
    if grown["threads"] > 2 or grown["descriptors"] > 2 or grown["memory_bytes"] > 8 << 20:
        broken.append("growth")
    if resumed is None or resumed > RETURN:
        broken.append("return")
    return {
        "fault": fault,
        "calls": result.calls,
        "answered": result.answered,
        "outcomes": result.outcomes,
        "milliseconds": {
            f"p{100 * share:g}": round(result.quantile(share) * 1e3, 3) for share in (0.5, 0.99, 0.999, 1.0)
        },
        "timer_late_milliseconds_p99.9": round(float(np.quantile(result.timer, 0.999)) * 1e3, 3),
        "grown": grown,
        "early": asdict(result.early),
        "resumed_seconds": resumed,
        "broken": broken,
    }


def show(console: Console, rows: list[dict[str, Any]], deadline: float) -> None:
    """Print one line a fault."""
    table = Table(
        title=f"deadline {deadline * 1e3:g} ms", title_justify="left", title_style="bold", box=box.SIMPLE_HEAD
    )
    table.add_column("fault", no_wrap=True)
    headings = (
        "answered",
        "p50 ms",
        "p99 ms",
        "p99.9 ms",
        "max ms",
        "timer",
        "threads",
        "sockets",
        "MiB",
        "back after",
        "",
    )
    for heading in headings:
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("reasons")
    for row in rows:
        grown, resumed = row["grown"], row["resumed_seconds"]
        table.add_row(
            row["fault"],
            f"{row['answered']} of {row['calls']}",
            *(f"{value:.1f}" for value in row["milliseconds"].values()),
            f"{row['timer_late_milliseconds_p99.9']:.1f}",
            f"{grown['threads']:+d}",
            f"{grown['descriptors']:+d}",
            f"{grown['memory_bytes'] / 2**20:+.1f}",
            "never" if resumed is None else f"{resumed:.2f} s",
            "kept" if not row["broken"] else ", ".join(row["broken"]),
            ", ".join(f"{name} {count}" for name, count in sorted(row["outcomes"].items(), key=lambda x: -x[1])),
            style="red" if row["broken"] else None,
        )
    console.print(table)


def main() -> int:
    """Run the faults; 1 where one of them broke a promise."""
    parser = argparse.ArgumentParser(
        description=__doc__.partition("\n")[0], formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=__doc__[__doc__.index("example:") :],
    )  # fmt: skip
    names = ("none", *FAULTS)
    parser.add_argument("--fault", action="append", choices=names, metavar="NAME", help=f"one of {', '.join(names)}")
    parser.add_argument("--calls", type=int, default=10_000, metavar="N", help="a fault (default 10000)")
    parser.add_argument("--deadline", type=float, default=0.050, metavar="S", help="of a call (default 0.05)")
    parser.add_argument("--threads", type=int, default=4, metavar="N", help="that call (default 4)")
    parser.add_argument("--rate", type=float, default=500.0, metavar="N", help="calls a second (default 500)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there as well")
    args = parser.parse_args()
    if args.calls < 100:
        parser.error(f"--calls is {args.calls}; it should be at least 100")
    logging.getLogger("edge_sdk").setLevel(logging.ERROR)
    console, machine, rows = Console(), Machine.here(["grpcio"]), []
    for fault in args.fault or names:
        with TemporaryDirectory() as folder:
            pair = build_pair(Path(folder))
            (Path(folder) / "tls").mkdir()
            rows.append(run(fault, pair, Path(folder) / "tls", args))
        console.print(f"{fault}: {', '.join(rows[-1]['broken']) or 'kept'}", style="dim", highlight=False)
    show(console, rows, args.deadline)
    if args.json is not None:
        document = {"machine": machine.to_json(), "deadline_seconds": args.deadline, "faults": rows}
        args.json.write_text(json.dumps(document, indent=2) + "\n")
    return int(any(row["broken"] for row in rows))


if __name__ == "__main__":
    raise SystemExit(main())
