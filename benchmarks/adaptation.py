# ruff: noqa: INP001 - a script, not a module of a package
"""Escalate over made-up networks with a budget of bytes, beside a planner that knows everything before.

Traces are like LTE, Wi-Fi and satellites, with outages; drawn with a seed, not recorded. The client's own
control and ladder run on them with a clock that is a number. Utility is the share of right answers before the
deadline. The planner knows the trace, all sizes and which answers are right (the optimum, exactly); a second
one knows trace and sizes, but not who is right. All is seeded: the same numbers come out each time.

example:
  python benchmarks/adaptation.py --seeds 10 --json adaptation.json
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))  # harness is not installed, and -P leaves it out

import numpy as np  # noqa: E402 - after the path is set, as the next lines
from rich import box  # noqa: E402
from rich.console import Console  # noqa: E402
from rich.progress import track  # noqa: E402
from rich.table import Table  # noqa: E402

from harness.roads import LADDERS, Row, compare  # noqa: E402
from harness.traces import ROADS  # noqa: E402

BUDGETS = {"ample": 30_000.0, "medium": 8_000.0, "tight": 3_000.0}
"""Bytes a request on average, by name; a third of the requests is to be escalated, each some 50 kB at quality 75."""


def main() -> None:
    """Drive, then print."""
    parser = argparse.ArgumentParser(
        description=__doc__.partition("\n")[0], formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=__doc__[__doc__.index("example:") :],
    )  # fmt: skip
    parser.add_argument("--seeds", type=int, default=10, metavar="N", help="traces of each kind (default 10)")
    parser.add_argument("--requests", type=int, default=2000, metavar="N", help="on each trace (default 2000)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there as well")
    args = parser.parse_args()
    for name in ("seeds", "requests"):
        if getattr(args, name) < 1:
            parser.error(f"--{name} is {getattr(args, name)}; it should be at least 1")
    rows: list[dict[str, object]] = []
    table = Table(box=box.SIMPLE_HEAD, title=f"means of {args.seeds} traces, {args.requests} requests each")
    headings = "network,budget,ladder,of optimum,worst,of informed,late,in vain,closed,unforeseen,asked,spent"
    for heading in headings.split(","):
        table.add_column(heading, no_wrap=True)
    cases = [(road, budget, ladder) for road in ROADS for budget in BUDGETS for ladder in LADDERS]
    for road, budget, ladder in track(cases, "driving"):
        of = [compare(ROADS[road], args.requests, seed, BUDGETS[budget], LADDERS[ladder]) for seed in range(args.seeds)]
        mean = {name: float(np.mean([getattr(row, name) for row in of])) for name in Row._fields}
        mean["worst"] = min(row.of_optimum for row in of)
        rows.append({"network": road, "budget": budget, "ladder": ladder, **mean})
        table.add_row(
            road,
            budget,
            ladder,
            f"{mean['of_optimum']:.1%}",
            f"{mean['worst']:.1%}",
            f"{mean['of_informed']:.1%}",
            f"{mean['late']:.2%}",
            f"{mean['in_vain']:.2%}",
            f"{mean['closed']:.2%}",
            f"{mean['unforeseen']:.2%}",
            f"{mean['asked']:.1%}",
            f"{mean['spent']:.0%}",
        )
    Console(width=120).print(table)
    if args.json is not None:
        args.json.write_text(
            json.dumps({"seeds": args.seeds, "requests": args.requests, "rows": rows}, indent=2) + "\n"
        )


if __name__ == "__main__":
    main()
