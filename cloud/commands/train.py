"""Train a teacher in mixed precision and write it to a folder.

The folder gets model.keras and training.json; 'edge-sdk compress' takes it from there.

example:
  edge-sdk train --data mnist -o teacher --seed 0
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import rich.console
import rich.table

from edge_sdk import files
from edge_sdk.datasets import GRAMMAR, load_splits

__all__ = ["configure", "run"]


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("--data", required=True, metavar="SPEC", help=GRAMMAR)
    parser.add_argument("-o", "--out", required=True, type=Path, metavar="DIR", help="folder to write")
    parser.add_argument("--epochs", type=int, help="passes over the training images (default: by their number)")
    parser.add_argument("--quick", action="store_true", help="train for less long, to try things out")
    parser.add_argument("--limit", type=int, metavar="N", help="use at most about N images")
    parser.add_argument("--size", type=int, metavar="PIXELS", help="side to resize images to")
    parser.add_argument("--seed", type=int, default=0, help="of splits, weights and augmentation (default: 0)")
    parser.add_argument(
        "--precision",
        choices=["auto", "float32", "mixed_bfloat16", "mixed_float16"],
        default="auto",
        help="Keras dtype policy; auto: mixed_float16 on a GPU, mixed_bfloat16 elsewhere",
    )
    parser.add_argument("--strategy", choices=["auto", "one", "mirrored", "tpu"], default="auto", help="devices to use")
    parser.add_argument("--tpu", metavar="NAME", help="address of a TPU; 'local' on a TPU machine")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(args: argparse.Namespace) -> int:
    """Train, save and print."""
    from edge_sdk.cloud.training import terminal

    started = time.perf_counter()
    splits = load_splits(args.data, seed=args.seed, limit=args.limit)
    with terminal.quiet() as console:
        from edge_sdk.cloud.training.loop import train  # before the folder: the extra may be missing

        bars = terminal.progress(console, {"train": "training the teacher"})
        with _folder(args.out), bars as on_progress:
            trained = train(
                splits,
                epochs=args.epochs,
                quick=args.quick,
                seed=args.seed,
                precision=args.precision,
                strategy=args.strategy,
                tpu=args.tpu,
                size=args.size,
                on_progress=on_progress,
            )
            trained.save(args.out)
    result = {
        "out": str(args.out),
        "data": args.data,
        "policy": trained.policy,
        "parameters": trained.model.count_params(),
        "classes": len(trained.classes),
        "images": {name: len(getattr(splits, name)) for name in splits.digests},
        "accuracy": trained.metrics,
        "digest": trained.digest,
        "seconds": round(time.perf_counter() - started, 1),
    }
    if args.json:
        json.dump(result, sys.stdout)
        sys.stdout.write("\n")
        return 0
    table = rich.table.Table(title=f"{args.out}: {trained.policy}, {result['parameters']:,} parameters")
    for column in ("split", "images", "accuracy", "95 % interval"):
        table.add_column(column, justify="left" if column == "split" else "right")
    for name, value in trained.metrics.items():
        table.add_row(name, f"{value['n']}", f"{value['value']:.2%}", f"{value['low']:.2%} – {value['high']:.2%}")
    rich.console.Console().print(table)
    return 0


@contextmanager
def _folder(path: Path) -> Iterator[None]:
    """Make a folder before the work, so that one that cannot be made is found first.

    It is removed again if it is new and the work fails.
    """
    new = not path.exists()
    files.make_folder(path)
    try:
        yield
    except BaseException:
        if new:
            with suppress(OSError):  # not empty: what is in it is whole
                path.rmdir()
        raise
