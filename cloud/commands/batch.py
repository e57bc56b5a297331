"""Let a model answer every row of a Parquet file, or every file of a folder, into a Parquet file.

A MODEL is a bundle, a plain .onnx or .tflite file, or a SavedModel folder. An INPUT is a folder of
pictures (.wav, .json or .npy files, as the model takes them), or a Parquet file: pictures as bytes,
lists of numbers, or a column for each of a table's names. OUTPUT has one row for each input, in their
order; a row that cannot be answered has a text in its column "error", and does not end the run.

A run that was killed goes on where it was when the same command is given again. The exit code is 0
when the file is written, whatever number of rows failed, and 1 when not one row could be answered.

With --table, OUTPUT is for `edge-sdk serve` instead: the model's output tensors, and for each input the
key by which a request that holds it is known.

example:
  edge-sdk batch teacher-1.0.0.edge pictures/ answers.parquet
  edge-sdk batch teacher-1.0.0.edge pictures.parquet answers.parquet --column image --workers 4 --json
  edge-sdk batch teacher-1.0.0.edge pictures/ table.parquet --table jpeg
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from edge_sdk.cloud.batch import predict_batch

__all__ = ["configure", "run"]


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("model", type=Path, metavar="MODEL", help="bundle, .onnx or .tflite file, or SavedModel folder")
    parser.add_argument("input", type=Path, metavar="INPUT", help="Parquet file or folder")
    parser.add_argument("output", type=Path, metavar="OUTPUT", help="Parquet file to write")
    parser.add_argument("--column", metavar="NAME", help="column that holds the inputs (default: the one that can)")
    parser.add_argument("--id", metavar="NAME", help="column that names a row (default: id, path, or its number)")
    parser.add_argument(
        "--workers", type=int, default=os.cpu_count() or 1, metavar="N", help="rows at a time (default: one a core)"
    )
    parser.add_argument("--threads", type=int, default=1, help="of the runtime, for one inference (default: 1)")
    parser.add_argument(
        "--part-rows",
        type=int,
        default=1000,
        metavar="N",
        help="rows kept together, and lost by a kill (default: 1000)",
    )
    parser.add_argument(
        "--table",
        metavar="ENCODING",
        choices=["captured", "jpeg", "resized", "tensor"],
        help="write the table of a server instead, for requests of this encoding",
    )
    parser.add_argument(
        "--engine", choices=("local", "ray"), default="local", help="who answers: this process, or Ray's workers"
    )
    parser.add_argument("--ray-address", metavar="HOST:PORT", help="of a Ray cluster (default: RAY_ADDRESS, or none)")
    parser.add_argument("--json", action="store_true", help="print the summary as JSON")


def run(args: argparse.Namespace) -> int:
    """Predict, show how far it is, and say what became of it."""
    with _progress() as on_progress:
        summary = predict_batch(
            args.model,
            args.input,
            args.output,
            column=args.column,
            id_column=args.id,
            workers=args.workers,
            threads=args.threads,
            part_rows=args.part_rows,
            table=args.table,
            engine=args.engine,
            ray_address=args.ray_address,
            on_progress=on_progress,
        )
    if args.json:
        print(json.dumps(summary.to_dict()))
    else:
        before = f", {summary.resumed} of them by an earlier run" if summary.resumed else ""
        print(f"{summary.output}: {summary.rows} rows{before}; {summary.failed} failed")
    return 1 if summary.rows and summary.failed == summary.rows else 0


@contextmanager
def _progress() -> Iterator[Callable[[int, int, int], None]]:
    console = Console(stderr=True)
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=30),
        MofNCompleteColumn(),
        TextColumn("{task.fields[failed]}"),
        TimeRemainingColumn(),
        console=console,
        disable=not console.is_terminal,
    )
    task = bar.add_task("rows", total=None, failed="")

    def on_progress(done: int, total: int, failed: int) -> None:
        bar.update(task, completed=done, total=total, failed=f"{failed} failed" if failed else "")

    with bar:
        yield on_progress
