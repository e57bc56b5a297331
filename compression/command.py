"""Distil, prune, cluster and quantize a model into a bundle for devices.

MODEL is a folder of 'edge-sdk train'; give the same --data, --limit and --seed as there, so that the
splits are the same. By default MODEL teaches a small network, which is compressed; with --keep or --distill
it is MODEL itself. When interrupted, the model of the last finished step is beside OUT.edge.

example:
  edge-sdk compress teacher --data mnist --prune 0.5 -o digits.edge --teacher-out digits-cloud.edge
  edge-sdk compress teacher --data mnist --keep --prune 0.8 --cluster 16 --quantize int8-trained -o small.edge
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any, get_args

import rich.console
import rich.table

from edge_sdk.compression.report import Quantization
from edge_sdk.datasets import GRAMMAR, load_splits
from edge_sdk.errors import InputError

__all__ = ["configure", "run"]

STAGES = {
    "teacher": "packing the teacher",
    "ingest": "teacher to float32",
    "distill": "distilling a student",
    "prune": "pruning it",
    "cluster": "clustering its weights",
    "quantize": "quantizing to int8",
    "measure": "measuring on the runtime",
    "pack": "packing the bundle",
}
ROWS = {
    "teacher": "teacher, float32",
    "student_distilled": "student, distilled",
    "student_pruned": "student, pruned",
    "student_clustered": "student, clustered",
    "student_int8": "student, int8 on the device's runtime",
}


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("teacher", type=Path, metavar="MODEL", help="folder of 'edge-sdk train'")
    parser.add_argument("--data", required=True, metavar="SPEC", help=GRAMMAR)
    parser.add_argument("-o", "--out", required=True, type=Path, metavar="OUT.edge", help="bundle to write")
    parser.add_argument("--teacher-out", type=Path, metavar="CLOUD.edge", help="also pack the teacher for the cloud")
    parser.add_argument("--name", help="name of the bundle (default: that of the file)")
    parser.add_argument("--version", default="1.0.0", help="its version (default: 1.0.0)")
    parser.add_argument("--prune", type=float, default=0.5, metavar="SHARE", help="of weights to zero (default: 0.5)")
    parser.add_argument(
        "--pattern", default="any", metavar="any|N:M|RxC", help="which weights: any, 2:4, blocks such as 4x1"
    )
    parser.add_argument("--cluster", type=int, default=0, metavar="N", help="values a kernel may have (default: any)")
    parser.add_argument(
        "--quantize",
        choices=get_args(Quantization),
        default="int8",
        help="round the trained model, or train it on the grid of int8 before (default: int8)",
    )
    parser.add_argument("--keep", action="store_true", help="compress MODEL itself, not a small network it teaches")
    parser.add_argument("--distill", type=Path, metavar="TEACHER", help="compress MODEL itself, which learns from this")
    parser.add_argument("--epochs", type=int, help="passes over the training images (default: by their number)")
    parser.add_argument("--quick", action="store_true", help="train for less long, to try things out")
    parser.add_argument("--temperature", type=float, default=3.0, help="of distillation (default: 3)")
    parser.add_argument("--alpha", type=float, default=0.7, help="share of the teacher in the loss (default: 0.7)")
    parser.add_argument("--limit", type=int, metavar="N", help="as in training")
    parser.add_argument("--seed", type=int, default=0, help="as in training (default: 0)")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(args: argparse.Namespace) -> int:
    """Compress, pack and print."""
    from edge_sdk.cloud.training import terminal

    started = time.perf_counter()
    if args.teacher_out is not None and args.teacher_out.resolve() == args.out.resolve():
        raise InputError(f"--out and --teacher-out both name {args.out}")
    splits = load_splits(args.data, seed=args.seed, limit=args.limit)
    with terminal.quiet() as console:
        from edge_sdk.cloud.training.loop import load_trained
        from edge_sdk.compression.pipeline import compress, export_teacher

        trained = load_trained(args.teacher)
        name = args.name or args.out.stem
        with terminal.progress(console, STAGES) as on_progress:
            report = compress(
                trained,
                splits,
                out=args.out,
                name=name,
                version=args.version,
                prune=args.prune,
                epochs=args.epochs,
                quick=args.quick,
                temperature=args.temperature,
                alpha=args.alpha,
                seed=args.seed,
                cluster=args.cluster,
                quantize=args.quantize,
                keep=args.keep,
                pattern=args.pattern,
                teacher=None if args.distill is None else load_trained(args.distill),
                on_progress=on_progress,
            )
            if args.teacher_out is not None:
                export_teacher(
                    trained,
                    splits,
                    out=args.teacher_out,
                    name=args.teacher_out.stem,
                    version=args.version,
                    on_progress=on_progress,
                )
    result = report.to_dict() | {"total_seconds": round(time.perf_counter() - started, 1)}
    if args.teacher_out is not None:
        result["teacher_bundle"] = str(args.teacher_out)
    if args.json:
        json.dump(result, sys.stdout)
        sys.stdout.write("\n")
    else:
        _show(result)
    return 0


def _show(result: dict[str, Any]) -> None:
    sizes = result["sizes"]
    size_of = {
        "teacher": sizes["teacher_float32"],
        "student_distilled": sizes["student_float32"],
        "student_pruned": sizes["student_float32"],
        "student_clustered": sizes["student_float32"],
        "student_int8": sizes["student_int8"],
    }
    table = rich.table.Table(title=result["bundle"])
    for column in ("model", "bytes", "validation", "test", "95 % interval"):
        table.add_column(column, justify="left" if column == "model" else "right")
    for key, title in ROWS.items():
        if key not in result["accuracy"]:
            continue
        validation, test = (result["accuracy"][key][split] for split in ("validation", "test"))
        table.add_row(
            title,
            f"{size_of[key]:,}",
            f"{validation['value']:.2%}",
            f"{test['value']:.2%}",
            f"{test['low']:.2%} – {test['high']:.2%}",
        )
    console = rich.console.Console()
    console.print(table)
    console.print(
        f"{result['sparsity']:.1%} of the weights are zero; the int8 file takes {sizes['student_int8_zstd']:,} bytes "
        f"on the way, by zstd; the bundle has {sizes['bundle']:,}."
    )
    if "teacher_bundle" in result:
        console.print(f"the teacher for the cloud is in {result['teacher_bundle']}")
