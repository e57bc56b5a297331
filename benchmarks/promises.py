# ruff: noqa: INP001 - a script, not a module of a package
"""Count how well the cascade keeps its promises, in made-up worlds whose truth is known.

Certificates: in how many independent draws of calibration data the promise is broken, and how much the
edge keeps beside an oracle that knows the truth. Audits: false alarms of the guard, and how soon it finds
a rise. Journals: how far another rule's figures, judged from the journal of one, are from the truth.
All is seeded: the same numbers come out each time, in about a minute.

example:
  python benchmarks/promises.py --draws 200 --json promises.json
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))  # harness is not installed, and -P leaves it out

import numpy as np  # noqa: E402 - after the path is set, as the next lines
from rich import box  # noqa: E402
from rich.console import Console  # noqa: E402
from rich.progress import track  # noqa: E402
from rich.table import Table  # noqa: E402

from edge_sdk.cascade import Certificate, certify  # noqa: E402
from edge_sdk.cascade.audit import Guard  # noqa: E402
from edge_sdk.cascade.offpolicy import evaluate  # noqa: E402
from harness.worlds import IN_FORCE, Population, draw_journal, draw_pair, first_alarm, truth_of  # noqa: E402

ALPHA, CONFIDENCE = 0.01, 0.95
WITHIN = 0.015

Row = dict[str, str | float]


def row(what: str, value: float, promised: str) -> Row:
    """Return one line of the table."""
    return {"what": what, "value": value, "promised": promised}


def certificates(draws: int) -> Iterable[Row]:
    """Certify many draws of calibration data."""
    world = Population()
    oracle = world.oracle_share(ALPHA)
    for n, least in ((1000, 0.75), (5000, 0.9)):
        rng = np.random.default_rng(3)
        broken = naive = 0
        shares = []
        for _ in track(range(draws), f"certificates from {n} samples"):
            sample = draw_pair(n, rng)
            threshold = certify(*sample, max_accuracy_loss=ALPHA, confidence=CONFIDENCE, tuning=world.tuning).threshold
            broken += world.harm_at(threshold) > ALPHA
            naive += world.harm_at(world.naive_threshold(sample, ALPHA)) > ALPHA
            shares.append(world.share_at(threshold))
        yield row(f"promise broken, {n} samples", broken / draws, "0.05: at most 0.061 of 1,000 draws")
        yield row(f"promise broken by a naive threshold, {n} samples", naive / draws, "nothing")
        yield row(f"share kept beside the oracle's, {n} samples", float(np.mean(shares)) / oracle, f"at least {least}")


def guards(draws: int) -> Iterable[Row]:
    """Audit 100,000 requests at 1 %, with and without a rise from 5 to 15 % disagreement."""
    rng = np.random.default_rng(0)
    false = sum(
        first_alarm(Guard(0.05), rng.random(1000) < 0.05) is not None for _ in track(range(draws), "false alarms")
    )
    yield row("false alarms in 100,000 requests", false / draws, "at most 0.05")
    for kept in (None, 500):
        delays = []
        for _ in track(range(draws), "alarms"):
            guard = Guard(0.05)
            if kept is not None:
                seen = int(rng.binomial(kept, 0.05))
                guard = Guard.of(Certificate(ALPHA, CONFIDENCE, 1000, 3, 0.01, 0.5, {}, disagreements=seen))
            delays.append(first_alarm(guard, rng.random(5000) < 0.15) or 5000)
        known = "baseline known" if kept is None else f"baseline of {kept} kept answers"
        yield row(f"audits to an alarm, median, {known}", float(np.median(delays)), "at most 200")
        yield row(f"audits to an alarm, nine of ten, {known}", float(np.quantile(delays, 0.9)), "at most 400")


def journals(draws: int) -> Iterable[Row]:
    """Judge other thresholds from journals of 100,000 requests at 1 % audit."""
    near = {threshold: np.zeros(3) for threshold in (0.5, IN_FORCE, 0.9)}
    for seed in track(range(draws), "journals"):
        seen, told = draw_journal(100_000, seed)
        for threshold, count in near.items():
            result, true = evaluate(seen, threshold), truth_of(told, threshold)
            estimates = (result.coverage, result.agreement, result.accuracy)
            count += [
                estimate is not None and abs(estimate.value - value) <= WITHIN
                for estimate, value in zip(estimates, true, strict=True)
            ]
    for threshold, count in near.items():
        for name, value in zip(("coverage", "agreement", "accuracy"), count / draws, strict=True):
            yield row(f"{name} at threshold {threshold} within 1.5 points", float(value), "at least 0.95")


def main() -> None:
    """Count, then print."""
    parser = argparse.ArgumentParser(
        description=__doc__.partition("\n")[0], formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=__doc__[__doc__.index("example:") :],
    )  # fmt: skip
    parser.add_argument("--draws", type=int, default=1000, metavar="N", help="of each world (default 1000)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there as well")
    args = parser.parse_args()
    if args.draws < 1:
        parser.error(f"--draws is {args.draws}; it should be at least 1")
    rows = [*certificates(args.draws), *guards(args.draws), *journals(max(1, args.draws // 5))]
    table = Table(box=box.SIMPLE_HEAD)
    for heading in ("what", "counted", "promised"):
        table.add_column(heading, no_wrap=True)
    for one in rows:
        table.add_row(str(one["what"]), f"{one['value']:.4g}", str(one["promised"]))
    Console().print(table)
    if args.json is not None:
        args.json.write_text(json.dumps({"draws": args.draws, "rows": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
