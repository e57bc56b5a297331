"""Do the main job end to end on real images, in one go, and report what was measured.

It trains a teacher in mixed precision, compresses it to a small int8 student, certifies when the
student may be trusted, ships it over MQTT to a device, runs it there with a fallback server behind
it, and breaks things on purpose. Exit code 0 says that every promise held, 1 that one did not.

example:
  edge-sdk demo --quick
  edge-sdk demo --data folder:photos --out demo-photos
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from edge_sdk.cloud.training.terminal import progress, quiet
from edge_sdk.datasets import GRAMMAR
from edge_sdk.examples.demo import report
from edge_sdk.examples.demo.workspace import prepare

__all__ = ["configure", "run"]


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``edge-sdk demo``."""
    parser.add_argument("--data", default="mnist", metavar="SPEC", help=f"{GRAMMAR} (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=Path("demo-out"), metavar="DIR", help="default: %(default)s")
    parser.add_argument("--seed", type=int, default=0, help="of splits and training (default: %(default)s)")
    parser.add_argument("--quick", action="store_true", help="train for less long, within two minutes in all")
    parser.add_argument("--broker", metavar="URL", help="MQTT 5 broker to use, such as mqtt://127.0.0.1:1883")
    parser.add_argument("--json", action="store_true", help="print the report as JSON and nothing else")


def run(args: argparse.Namespace) -> int:
    """Run the demo, print what it found, and judge it."""
    with quiet():
        from edge_sdk.examples.demo.run import check_input, run_demo  # imports TensorFlow, which greets at length

        splits = check_input(args.data, seed=args.seed, broker=args.broker)
    prepare(args.out)  # removes what an earlier demo left: only now
    with quiet(args.out / "logs" / "demo.log") as console, progress(console) as on_progress:
        result = run_demo(
            splits, args.out, seed=args.seed, quick=args.quick, broker=args.broker, on_progress=on_progress
        )
    held = all(promise["held"] for promise in result["promises"])
    if args.json:
        print(json.dumps(result, sort_keys=True))
    else:
        _print(Console(), result, args.out)
    return 0 if held else 1


def _print(console: Console, result: dict[str, Any], out: Path) -> None:
    figures = Table(title=f"edge-sdk demo: {result['data']}", title_justify="left", show_header=False)
    figures.add_column(style="bold")
    figures.add_column()
    for key, value in report.rows(result):
        figures.add_row(key, value)
    console.print(figures)
    promises = Table(title="What was promised", title_justify="left", show_header=False)
    promises.add_column()
    promises.add_column()
    promises.add_column()
    for promise in result["promises"]:
        mark = "[green]✓[/green]" if promise["held"] else "[red]✗[/red]"
        promises.add_row(mark, promise["text"], promise["seen"])
    console.print(promises)
    console.print(f"{result['seconds']:.0f} s; the page is {report.shown(out / 'report.html')}")
