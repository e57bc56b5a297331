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
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))  # harness is not installed, and -P leaves it out

from rich import box  # noqa: E402 - after the path is set, as the next lines
from rich.console import Console  # noqa: E402
from rich.table import Table  # noqa: E402

from edge_sdk.cascade.routers import Point, Router, compare_routers, filter_points  # noqa: E402
from harness.pairs import Pair, mlperf_tiny, specialist  # noqa: E402

SHARES = (0.1, 0.2, 0.3, 0.4, 0.5)


def show(console: Console, pair: Pair, routers: Sequence[Router], points: Sequence[Point]) -> None:
    """Print the table of one pair."""
    title = (
        f"{pair.name}: {len(pair.labels)} pictures, edge {pair.edge_right.mean():.2%}, "
        f"cloud {pair.cloud_right.mean():.2%}"
    )
    table = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD)
    table.add_column("router", no_wrap=True)
    for heading in (*(f"at {share:.0%}" for share in SHARES), "needs for cloud's", "AURC", "AUGRC", "E-AURC"):
        table.add_column(heading, justify="right", no_wrap=True)
    for router in routers:
        needs = "never" if router.needed is None else f"{router.needed:.1%}"
        judged = [] if router.judged is None else [f"{value:.4f}" for value in asdict(router.judged).values()]
        table.add_row(router.name, *(f"{router.accuracy(share):.2%}" for share in SHARES), needs, *judged)
    console.print(table)
    for point in points:
        console.print(f"  {point.name}: {point.escalated:.1%} escalated, {point.accuracy:.2%} right")


def record(router: Router) -> dict[str, Any]:
    """Return the figures of one router, for programs."""
    judged = {} if router.judged is None else asdict(router.judged)
    at = {f"{share:g}": router.accuracy(share) for share in SHARES}
    return {"router": router.name, "accuracy": at, "needed": router.needed, **judged}


def draw(path: Path, results: Mapping[str, Sequence[Router]]) -> None:
    """Write accuracy against share escalated, one picture a pair."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, len(results), figsize=(6.5 * len(results), 4.5), squeeze=False, layout="constrained")
    for axis, (name, routers) in zip(axes[0], results.items(), strict=True):
        for router in routers:
            label = router.name.replace("_", " ")
            axis.plot(100 * router.curve.share, 100 * router.curve.accuracy, label=label, linewidth=1.3)
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
        scores = (each.edge, each.cloud, each.labels)
        pictures[each.name], points = compare_routers(*scores), filter_points(*scores)
        show(console, each, pictures[each.name], points)
        figures[each.name] = {
            "routers": [record(router) for router in pictures[each.name]],
            "filters": [asdict(point) for point in points],
        }
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=1) + "\n")
    if arguments.plot:
        draw(arguments.plot, pictures)
    return 0


if __name__ == "__main__":
    sys.exit(main())
