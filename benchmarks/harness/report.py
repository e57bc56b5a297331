"""Results for people (a table, a picture) and for programs (JSON)."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table

from harness.machine import Machine
from harness.measure import CaseResult, TaskResult

__all__ = ["print_tables", "write_json", "write_plot"]

FORMAT = 1


def duration(seconds: float) -> str:
    """Return a time with the unit that suits it."""
    for unit, size in (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6)):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds / 1e-9:.3g} ns"


def print_tables(console: Console, suite: str, results: Sequence[TaskResult]) -> None:
    """Print one table per task: fastest first, ratios above 1 mean slower than ours."""
    for result in results:
        title = f"{suite} / {result.name}: {result.what}"
        table = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD)
        table.add_column("case", no_wrap=True)
        for heading in ("median", "quartiles", "min", "max", "time over ours", "Δ answer"):
            table.add_column(heading, justify="right", no_wrap=True)
        for case in sorted(result.cases, key=lambda case: case.quantile(0.5)):
            table.add_row(*_row(case), style="green" if case.ours else None)
        console.print(table)
        for case in result.cases:
            if case.note:
                console.print(f"  {case.name}: {case.note}", highlight=False, markup=False)
        for skipped in result.skipped:
            console.print(f"  skipped {skipped.name}: {skipped.reason}", style="yellow", highlight=False, markup=False)


def _row(case: CaseResult) -> list[str]:
    ratio = "" if case.ours else f"{case.ratio:.2f}× ({case.ratio_low:.2f}–{case.ratio_high:.2f})"
    return [
        f"{case.name} {case.version}".strip(),
        duration(case.quantile(0.5)),
        f"{duration(case.quantile(0.25))} – {duration(case.quantile(0.75))}",
        duration(min(case.samples)),
        duration(max(case.samples)),
        ratio,
        "" if case.ours else f"{case.distance:.1g}",
    ]


def write_json(path: Path, machine: Machine, suites: Mapping[str, Sequence[TaskResult]]) -> None:
    """Write everything that was measured."""
    document = {
        "format": FORMAT,
        "machine": machine.to_json(),
        "suites": {name: [result.to_json() for result in results] for name, results in suites.items()},
    }
    path.write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def write_plot(path: Path, machine: Machine, suites: Mapping[str, Sequence[TaskResult]]) -> None:
    """Draw one panel per task with every sample as a point and the median as a bar."""
    from matplotlib.figure import Figure

    panels = [(suite, result) for suite, results in suites.items() for result in results]
    heights = [0.6 + 0.45 * len(result.cases) for _, result in panels]
    figure = Figure(figsize=(9, sum(heights) + 0.6), layout="constrained")
    axes = figure.subplots(len(panels), 1, squeeze=False, height_ratios=heights)[:, 0]
    for axis, (suite, result) in zip(axes, panels, strict=True):
        cases = sorted(result.cases, key=lambda case: -case.quantile(0.5))
        for place, case in enumerate(cases):
            color = "tab:green" if case.ours else "tab:gray"
            axis.barh(place, case.quantile(0.5) * 1e6, color=color, alpha=0.5)
            axis.plot([1e6 * x for x in case.samples], [place] * len(case.samples), ".", color=color, markersize=3)
        axis.set_yticks(range(len(cases)), [f"{case.name} {case.version}".strip() for case in cases])
        axis.set_xlim(left=0)
        axis.set_xlabel("µs per call")
        axis.set_title(f"{suite} / {result.name}: {result.what}", loc="left", fontsize=10)
    figure.suptitle(f"{machine.cpu}, {machine.cores} cores, {machine.python}", fontsize=9)
    figure.savefig(path, dpi=120)
