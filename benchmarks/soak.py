# ruff: noqa: INP001 - a script, not a module of a package
"""Use a hybrid model for an hour while one thing after another breaks, and count what it leaves behind.

Journal, outbox, cache, hedging and coalescing are on. Faults of the network and of the cloud come and go, seconds
each, drawn from a seed. All calls must be answered, in time, and memory, threads and sockets must be at the end
what they were after the first tenth.

example:
  python benchmarks/soak.py
  python benchmarks/soak.py --minutes 3 --json soak.json
"""

from __future__ import annotations

import argparse
import itertools
import json
import logging
import random
import sys
import threading
import time
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Self

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "tests" / "fixtures")]  # neither is installed, and -P leaves them out

import numpy as np  # noqa: E402 - after the path is set, as the next lines
from numpy.typing import NDArray  # noqa: E402
from rich import box  # noqa: E402
from rich.console import Console  # noqa: E402
from rich.table import Table  # noqa: E402

import edge_sdk  # noqa: E402
from edge_sdk.client import Cloud, Hedging, Outbox  # noqa: E402
from harness import Machine  # noqa: E402
from harness.attack import Resources, attack, seconds_until  # noqa: E402
from outside.faults import FAULTS, FaultyCloud, faulty_cloud  # noqa: E402
from outside.pairs import build_pair  # noqa: E402

LIMITS = {"threads": 3, "descriptors": 4, "memory": 16 << 20}  # of growth
SLACK = 0.010  # seconds
PATIENCE = 60.0
SAMPLE = 10.0  # seconds between two looks at what is held


class Trouble:
    """Has faults come and go, and looks at what this process holds, until it is stopped."""

    def __init__(self, cloud: FaultyCloud, seed: int, console: Console) -> None:
        self.faults: Counter[str] = Counter()
        self.samples: list[Resources] = []
        self._cloud, self._random, self._console = cloud, random.Random(seed), console
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._break), threading.Thread(target=self._watch)]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()

    def _break(self) -> None:
        faults = [fault for fault in FAULTS if fault != "certificate"]
        while not self._over.wait(self._random.uniform(1, 8)):
            fault = self._random.choice(faults)
            self.faults[fault] += 1
            self._cloud.begin(fault)
            self._over.wait(self._random.uniform(2, 15))
            self._cloud.end()

    def _watch(self) -> None:
        began = time.monotonic()
        while not self._over.wait(SAMPLE):
            held = Resources.now()
            self.samples.append(held)
            if len(self.samples) % 6 == 0:
                self._console.print(
                    f"{(time.monotonic() - began) / 60:.0f} min: {held.memory / 2**20:.1f} MiB, "
                    f"{held.threads} threads, {held.descriptors} descriptors",
                    style="dim",
                    highlight=False,
                )


def median_of(samples: list[Resources]) -> dict[str, int]:
    """Return the median of each figure: single ones go up and down with what is under way."""
    rows = [asdict(sample) for sample in samples]
    return {name: sorted(row[name] for row in rows)[len(rows) // 2] for name in LIMITS}


def soak(args: argparse.Namespace, folder: Path, console: Console) -> dict[str, Any]:
    """Run it; return the figures."""
    pair = build_pair(folder)
    numbers = itertools.count()
    frames = [*pair.hard, *pair.easy[: len(pair.hard) // 2]]
    with (
        faulty_cloud(pair.cloud) as cloud,
        Outbox(folder / "outbox", max_items=500) as outbox,  # full within minutes: what it remembers is bounded
        edge_sdk.connect(
            pair.edge,
            cloud=Cloud(cloud.address(), hedging=Hedging()),
            deadline=args.deadline,
            journal=folder / "journal",
            outbox=outbox,
            cache=100,
        ) as model,
    ):

        def new(frame: NDArray[np.uint8]) -> NDArray[np.uint8]:
            number, changed = next(numbers), frame.copy()
            changed[0, 0] = number % 256, number // 256 % 256, number // 65536 % 256
            return changed

        def ask(frame: NDArray[np.uint8]) -> str:
            # one in four is a picture that the cache may know
            return model.predict(frame if next(numbers) % 4 == 0 else new(frame)).reason

        def is_back() -> bool:
            return model.predict(new(pair.hard[0])).source == "cloud"

        if seconds_until(is_back, PATIENCE) is None:
            raise SystemExit("the cloud did not answer before anything was broken")
        with Trouble(cloud, args.seed, console) as trouble:
            result = attack(
                ask,
                frames,
                round(args.minutes * 60 * args.rate),
                threads=args.threads,
                rate=args.rate,
            )
        back = seconds_until(is_back, PATIENCE)
        counters = model.counters
    tenth = max(1, len(trouble.samples) // 10)
    early, late = median_of(trouble.samples[tenth : 2 * tenth + 1]), median_of(trouble.samples[-tenth - 1 :])
    grown = {name: late[name] - early[name] for name in LIMITS}
    broken = [f"growth of {name}" for name, most in LIMITS.items() if grown[name] > most]
    if result.answered != result.calls:
        broken.append("answers")
    if result.quantile(0.999) > args.deadline + SLACK:
        broken.append("time")
    if back is None:
        broken.append("return")
    return {
        "minutes": args.minutes,
        "calls": result.calls,
        "answered": result.answered,
        "outcomes": result.outcomes,
        "milliseconds": {f"p{100 * q:g}": round(result.quantile(q) * 1e3, 3) for q in (0.5, 0.99, 0.999, 1.0)},
        "timer_late_milliseconds_p99.9": round(float(np.quantile(result.timer, 0.999)) * 1e3, 3),
        "faults": dict(trouble.faults),
        "early": early,
        "late": late,
        "resumed_seconds": back,
        "counters": {name: counters[name] for name in ("requests", "escalated", "failed_uploads", "cache", "outbox")},
        "broken": broken,
    }


def show(console: Console, row: dict[str, Any]) -> None:
    """Print the figures."""
    table = Table(box=box.SIMPLE_HEAD, show_header=False)
    table.add_row("answered", f"{row['answered']} of {row['calls']}")
    table.add_row("milliseconds", ", ".join(f"{name} {value:.1f}" for name, value in row["milliseconds"].items()))
    table.add_row("a timer was late", f"{row['timer_late_milliseconds_p99.9']:.1f} ms (p99.9)")
    for name in LIMITS:
        scale = 2**20 if name == "memory" else 1
        table.add_row(name, f"{row['early'][name] / scale:.4g} → {row['late'][name] / scale:.4g}")
    table.add_row("reasons", ", ".join(f"{name} {count}" for name, count in sorted(row["outcomes"].items())))
    table.add_row("faults", ", ".join(f"{name} {count}" for name, count in sorted(row["faults"].items())))
    table.add_row("promises", ", ".join(row["broken"]) or "kept")
    console.print(table)


def main() -> int:
    """Run; 1 where a promise was broken."""
    parser = argparse.ArgumentParser(
        description=__doc__.partition("\n")[0], formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=__doc__[__doc__.index("example:") :],
    )  # fmt: skip
    parser.add_argument("--minutes", type=float, default=60.0, metavar="N", help="of use (default 60)")
    parser.add_argument("--rate", type=float, default=50.0, metavar="N", help="calls a second (default 50)")
    parser.add_argument("--deadline", type=float, default=0.100, metavar="S", help="of a call (default 0.1)")
    parser.add_argument("--threads", type=int, default=4, metavar="N", help="that call (default 4)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the faults (default 0)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there as well")
    args = parser.parse_args()
    if args.minutes < 0.5:
        parser.error(f"--minutes is {args.minutes}; it should be at least 0.5")
    logging.getLogger("edge_sdk").setLevel(logging.ERROR)
    console, machine = Console(), Machine.here(["grpcio"])
    with TemporaryDirectory() as folder:
        row = soak(args, Path(folder), console)
    show(console, row)
    if args.json is not None:
        args.json.write_text(json.dumps({"machine": machine.to_json(), **row}, indent=2) + "\n")
    return int(bool(row["broken"]))


if __name__ == "__main__":
    raise SystemExit(main())
