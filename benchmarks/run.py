"""Run benchmark suites and show ours beside its peers.

example:
  python benchmarks/run.py preprocess softmax --json results.json --plot results.png
"""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))  # harness and suites are not installed, and -P leaves them out

from rich.console import Console  # noqa: E402 - after the path is set, as the next lines

from harness import DisagreementError, Machine, measure  # noqa: E402
from harness.report import print_tables, write_json, write_plot  # noqa: E402


def suite_names() -> list[str]:
    """Return the name of every suite."""
    return sorted(path.stem for path in (HERE / "suites").glob("*.py") if path.stem != "__init__")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the suites named on the command line; return the exit code."""
    known = suite_names()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("suites", nargs="*", metavar="SUITE", help=f"which ones (default: all): {', '.join(known)}")
    parser.add_argument("--rounds", type=int, default=30, help="samples of each case (default: %(default)s)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything measured, for programs")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw the samples as a PNG or SVG picture")
    arguments = parser.parse_args(argv)
    unknown = sorted(set(arguments.suites) - set(known))
    if unknown:
        parser.error(f"no suite {', '.join(unknown)}; the suites are {', '.join(known)}")
    if arguments.rounds < 1:
        parser.error("--rounds must be 1 or more")

    declared = {name: importlib.import_module(f"suites.{name}").tasks() for name in arguments.suites or known}
    used = {case.pip for tasks in declared.values() for task in tasks for case in task.cases if case.installed}
    machine = Machine.here(used - {""})
    console = Console()
    if not console.is_terminal:
        console.width = 120  # a file or pipe has no width of its own
    console.print(
        f"{machine.cpu}, {machine.cores} cores, governor {machine.governor or 'unknown'}, load {machine.load}, "
        f"{machine.python}, {machine.system}",
        highlight=False,
    )
    results = {}
    for name, tasks in declared.items():
        try:
            results[name] = [measure(task, rounds=arguments.rounds) for task in tasks]
        except DisagreementError as error:
            print(f"benchmarks: error: {error}", file=sys.stderr)
            return 1
        print_tables(console, name, results[name])
    if arguments.json:
        write_json(arguments.json, machine, results)
    if arguments.plot:
        write_plot(arguments.plot, machine, results)
    return 0


if __name__ == "__main__":
    sys.exit(main())
