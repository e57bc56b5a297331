# ruff: noqa: INP001 - a script, not a module of a package
"""Measure what hedging does to the slowest answers of a server with a tail, and how many more calls it costs.

A server answers most requests within a few milliseconds, and some after a long time by lot, as one does whose
processor is shared or whose network loses packets. Two models ask it in turns, one of them with hedging. Seeded:
the same requests are slow each time. Takes three minutes.

example:
  python benchmarks/hedging.py
  python benchmarks/hedging.py --calls 1000 --share 0.03 --json hedging.json
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "tests" / "fixtures")]  # neither is installed, and -P leaves them out

import numpy as np  # noqa: E402 - after the path is set, as the next lines
from rich import box  # noqa: E402
from rich.console import Console  # noqa: E402
from rich.progress import track  # noqa: E402
from rich.table import Table  # noqa: E402

import edge_sdk  # noqa: E402
from edge_sdk.client import Cloud, Hedging, HybridModel  # noqa: E402
from harness import Machine  # noqa: E402
from outside.pairs import build_pair  # noqa: E402
from outside.replicas import Replica  # noqa: E402

QUANTILES = (0.5, 0.95, 0.99, 0.999)
ROUND = 50  # calls of one model before it is the other's turn
USUAL = (0.001, 0.004)  # seconds that most answers take, uniformly
DEADLINE = 30.0


class Tail:
    """Answers after a time by lot."""

    def __init__(self, share: float, seconds: float, seed: int) -> None:
        rng = np.random.default_rng(seed)
        waits = rng.uniform(*USUAL, 100_000)
        waits[rng.random(waits.size) < share] = seconds
        self._waits = waits.tolist()

    def answer(self, number: int, context: Any) -> tuple[float, float, float]:
        """Wait, and return probabilities."""
        time.sleep(self._waits[number % len(self._waits)])
        return 1.0, 0.0, 0.0


def ask(model: HybridModel, frame: Any, calls: int) -> list[float]:
    """Return the seconds that each call took."""
    took = []
    for _ in range(calls):
        started = time.perf_counter()
        answer = model.predict(frame)
        took.append(time.perf_counter() - started)
        if answer.source != "cloud":
            raise SystemExit(f"the server did not answer: {answer.reason}")
    return took


def measure(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Ask both in turns; return what was measured of each."""
    pair = build_pair(folder)
    hedging = Hedging(share=args.share, quantile=args.quantile)
    took: dict[str, list[float]] = {"without": [], "with": []}
    with (
        Replica(Tail(args.tail_share, args.tail, 1).answer) as plain,
        Replica(Tail(args.tail_share, args.tail, 2).answer, threads=64) as hedged,
        edge_sdk.connect(pair.edge, cloud=plain.address, mode="cloud", deadline=DEADLINE) as without,
        edge_sdk.connect(
            pair.edge, cloud=Cloud(hedged.address, hedging=hedging), mode="cloud", deadline=DEADLINE
        ) as with_,
    ):
        models = {"without": without, "with": with_}
        for model in models.values():
            ask(model, pair.hard[0], ROUND)  # until it is known how long answers take
        for _ in track(range(args.calls // ROUND), "calls", disable=not sys.stderr.isatty()):
            for name, model in models.items():
                took[name] += ask(model, pair.hard[0], ROUND)
        rows = {}
        for name, server in (("without", plain), ("with", hedged)):
            rows[name] = {
                "calls": len(took[name]),
                "milliseconds": {f"p{100 * q:g}": round(float(np.quantile(took[name], q)) * 1e3, 3) for q in QUANTILES},
                "extra_calls": models[name].counters["extra_calls"],
                "extra_share": server.calls / (len(took[name]) + ROUND) - 1.0,
            }
    return rows


def main() -> int:
    """Measure, print, and write."""
    parser = argparse.ArgumentParser(
        description=__doc__.partition("\n")[0], formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=__doc__[__doc__.index("example:") :],
    )  # fmt: skip
    parser.add_argument("--calls", type=int, default=5000, metavar="N", help="of each (default 5000)")
    parser.add_argument("--share", type=float, default=0.05, metavar="X", help="that may be hedged (default 0.05)")
    parser.add_argument("--quantile", type=float, default=0.95, metavar="X", help="of answer times (default 0.95)")
    parser.add_argument("--tail-share", type=float, default=0.01, metavar="X", help="slow requests (default 0.01)")
    parser.add_argument("--tail", type=float, default=1.0, metavar="S", help="what they take (default 1)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there as well")
    args = parser.parse_args()
    if args.calls < ROUND:
        parser.error(f"--calls is {args.calls}; it should be at least {ROUND}")
    with TemporaryDirectory() as folder:
        rows = measure(args, Path(folder))
    table = Table(
        "hedging", *(f"p{100 * q:g} ms" for q in QUANTILES), "extra calls",
        title=f"{args.calls} calls of each; {args.tail_share:.1%} of requests take {args.tail * 1e3:g} ms",
        title_justify="left", box=box.SIMPLE_HEAD,
    )  # fmt: skip
    for name, row in rows.items():
        table.add_row(name, *(f"{value:.1f}" for value in row["milliseconds"].values()), f"{row['extra_share']:.2%}")
    gain = rows["without"]["milliseconds"]["p99.9"] / rows["with"]["milliseconds"]["p99.9"]
    console = Console()
    console.print(table)
    console.print(f"p99.9 is {gain:.1f} times better", highlight=False)
    if args.json is not None:
        machine = Machine.here(["grpcio"]).to_json()
        document = {"machine": machine, "share": args.share, "gain_p99.9": gain, "hedging": rows}
        args.json.write_text(json.dumps(document, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
