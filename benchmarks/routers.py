# ruff: noqa: INP001 - a script, not a module of a package
"""Compare what decides which inputs go to the cloud, on pairs of real models.

DATA is a folder with ``mlperf_tiny/`` (the benchmark's TFLite models) and ``cifar10/`` (JPEG test
pictures with an index). The learned head is judged by cross-validation: no picture is scored by a head
that was fitted to it. Of peers, Sedna's Threshold filter is the largest probability and its CrossEntropy
filter the entropy, both at a threshold of 0.5 unless the user finds a better one.

example:
  python benchmarks/routers.py DATA --json routers.json --plot routers.png
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))  # harness is not installed, and -P leaves it out

import numpy as np  # noqa: E402 - after the path is set, as the next lines
from rich import box  # noqa: E402
from rich.console import Console  # noqa: E402
from rich.table import Table  # noqa: E402

from edge_sdk.cascade.deferral import held_out  # noqa: E402
from edge_sdk.cascade.evaluation import (  # noqa: E402
    Curve,
    oracle_curve,
    random_curve,
    router_curve,
    selective,
    share_needed,
)
from edge_sdk.cascade.signals import SIGNALS  # noqa: E402
from harness.pairs import Pair, mlperf_tiny, specialist  # noqa: E402

SHARES = (0.1, 0.2, 0.3, 0.4, 0.5)
SEDNA = {"Sedna Threshold at 0.5": "max_probability", "Sedna CrossEntropy at 0.5": "entropy"}


def compare(pair: Pair) -> tuple[list[dict[str, Any]], dict[str, Curve]]:
    """Return one row a router, and its curve."""
    edge, cloud = pair.edge_right, pair.cloud_right
    signals = {name: of(pair.edge, 1.0) for name, of in SIGNALS.items()}
    signals["learned"] = held_out(pair.edge, pair.cloud, pair.labels)
    curves = {"random": random_curve(edge, cloud), "oracle": oracle_curve(edge, cloud)}
    curves |= {name: router_curve(values, edge, cloud) for name, values in signals.items()}
    rows: list[dict[str, Any]] = []
    for name, curve in curves.items():
        at = {f"{share:.0%}": float(np.interp(share, curve.share, curve.accuracy)) for share in SHARES}
        judged = asdict(selective(signals[name], edge)) if name in signals else {}
        rows.append({"router": name, "accuracy": at, "needs": share_needed(curve, float(cloud.mean())), **judged})
    for name, signal in SEDNA.items():
        sent = signals[signal] < 0.5
        accuracy = float(np.where(sent, cloud, edge).mean())
        rows.append({"router": name, "escalated": float(sent.mean()), "reached": accuracy})
    return rows, curves


def show(console: Console, pair: Pair, rows: list[dict[str, Any]]) -> None:
    """Print the table of one pair."""
    title = (
        f"{pair.name}: {len(pair.labels)} pictures, edge {pair.edge_right.mean():.2%}, "
        f"cloud {pair.cloud_right.mean():.2%}"
    )
    table = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD)
    table.add_column("router", no_wrap=True)
    for heading in (*(f"at {share:.0%}" for share in SHARES), "needs for cloud's", "AURC", "AUGRC", "E-AURC"):
        table.add_column(heading, justify="right", no_wrap=True)
    for row in rows:
        if "accuracy" in row:
            needs = "never" if row["needs"] is None else f"{row['needs']:.1%}"
            judged = [f"{row[key]:.4f}" if key in row else "" for key in ("aurc", "augrc", "e_aurc")]
            table.add_row(row["router"], *(f"{value:.2%}" for value in row["accuracy"].values()), needs, *judged)
    console.print(table)
    for row in rows:
        if "reached" in row:
            console.print(f"  {row['router']}: {row['escalated']:.1%} escalated, {row['reached']:.2%} right")


def draw(path: Path, results: dict[str, dict[str, Curve]]) -> None:
    """Write accuracy against share escalated, one picture a pair."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, len(results), figsize=(6.5 * len(results), 4.5), squeeze=False, layout="constrained")
    for axis, (name, curves) in zip(axes[0], results.items(), strict=True):
        for router, curve in curves.items():
            axis.plot(100 * curve.share, 100 * curve.accuracy, label=router.replace("_", " "), linewidth=1.3)
        axis.set(title=name, xlabel="escalated (%)", ylabel="accuracy of the pair (%)")
        axis.legend(fontsize="small")
    figure.savefig(path, dpi=120)


def main() -> int:
    """Compare, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, metavar="DATA", help="folder with mlperf_tiny/ and cifar10/")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures, for programs")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw accuracy against share escalated")
    arguments = parser.parse_args()
    if not (arguments.data / "mlperf_tiny").is_dir() or not (arguments.data / "cifar10").is_dir():
        parser.error(f"{arguments.data} should hold mlperf_tiny/ and cifar10/")
    console = Console()
    if not console.is_terminal:
        console.width = 140  # a file or pipe has no width of its own
    pair = mlperf_tiny(arguments.data)
    figures, pictures = {}, {}
    for each in (pair, specialist(pair)):
        rows, pictures[each.name] = compare(each)
        figures[each.name] = rows
        show(console, each, rows)
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=1) + "\n")
    if arguments.plot:
        draw(arguments.plot, pictures)
    return 0


if __name__ == "__main__":
    sys.exit(main())
