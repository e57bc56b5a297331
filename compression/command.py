r"""Make a model small and fast, and pack it into a bundle for devices.

MODEL is a folder of 'edge-sdk train', or a model of your own: a .keras or .h5 file or a SavedModel folder of Keras.
A model of your own is compressed itself; say by --processing what it takes. A folder of 'edge-sdk train' teaches a
small network, which is compressed; give the same --data, --limit and --seed as in training, so that the splits are
the same. --keep and --small say otherwise. An .onnx, .tflite or SavedModel of another origin has no layers
to work on and can only teach: a small network as MODEL, or another MODEL as --distill.

The steps, in this order: distil, --channels, --prune, --cluster, --quantize. --prune and --cluster save bytes on the
way to a device, --channels and int8 save time on it. When something fails or is interrupted, the model of
the last finished step is in OUT.finished.keras, which may be MODEL again, with --processing as it was.

example:
  edge-sdk compress teacher --data mnist --prune 0.5 -o digits.edge --teacher-out digits-cloud.edge
  edge-sdk compress cars.keras --data folder:photos --processing unit --prune 0.8 --cluster 16 \
      --quantize int8-trained -o cars.edge
  edge-sdk compress cars.keras --data folder:photos --processing unit --channels 0.5 \
      --distill large.onnx other.keras --teacher-processing signed --unlabelled folder:more -o cars.edge
  edge-sdk compress large.onnx --data folder:photos --processing signed -o cars.edge
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import rich.console
import rich.table

from edge_sdk.cloud.training import memory, terminal
from edge_sdk.compression.report import BACKENDS, QUANTIZATIONS, RUNTIMES
from edge_sdk.datasets import GRAMMAR, Splits, load_splits, load_unlabelled
from edge_sdk.errors import InputError

if TYPE_CHECKING:
    from edge_sdk.cloud.training.loop import Trained
    from edge_sdk.compression.origins import Guide

__all__ = ["configure", "run"]

STAGES = {
    "teacher": "packing the teacher",
    "ingest": "taking it in as float32",
    "distill": "distilling",
    "narrow": "removing channels",
    "prune": "pruning",
    "cluster": "clustering its weights",
    "sensitivity": "looking at each layer",
    "quantize": "quantizing and converting",
    "measure": "measuring on the runtime",
    "pack": "packing the bundle",
}
ROWS = {
    "teacher": "teacher, float32",
    "model": "model as given, float32",
    "student_distilled": "distilled",
    "student_narrowed": "fewer channels",
    "student_pruned": "pruned",
    "student_clustered": "clustered",
}
TOLD = (
    "pixels (0 to 255: it scales them itself), unit (0 to 1), signed (-1 to 1), a JSON file as of 'edge-sdk pack', "
    "or a folder of 'edge-sdk train', which has it"
)


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    add = parser.add_argument
    add("teacher", type=Path, metavar="MODEL", help="folder of 'edge-sdk train', or a model file")
    add("--data", required=True, metavar="SPEC", help=GRAMMAR)
    add("-o", "--out", required=True, type=Path, metavar="OUT.edge", help="bundle to write")
    add("--teacher-out", type=Path, metavar="CLOUD.edge", help="also pack MODEL itself, in float32, for the cloud")
    add("--name", help="name of the bundle (default: that of the file, in lower case)")
    add("--version", default="1.0.0", help="its version (default: 1.0.0)")
    add("--limit", type=int, metavar="N", help="use about N images; as in training")
    add("--seed", type=int, default=0, help="of splits, weights and order; as in training (default: 0)")
    add("--epochs", type=int, help="passes over the training images (default: by their number)")
    add("--quick", action="store_true", help="train for less long, to try things out")
    add("--json", action="store_true", help="print one JSON object")
    own = parser.add_argument_group("a model of your own")
    own.add_argument("--processing", metavar="HOW", help=f"what is done to an image before it: {TOLD}")
    own.add_argument("--size", type=int, metavar="PIXELS", help="side of its input, where the model leaves it open")
    which = own.add_mutually_exclusive_group()
    which.add_argument("--keep", action="store_true", help="compress MODEL itself (default for a model of your own)")
    which.add_argument("--small", action="store_true", help="let MODEL teach a small network, and compress that")
    less = parser.add_argument_group(
        "how much",
        "With ,LAYER=VALUE after it, a value is another one for layers of that name or pattern: 0.8,conv*=0.5",
    )
    less.add_argument("--channels", default="0", metavar="SHARE", help="of channels to remove (default: 0)")
    less.add_argument("--prune", default="0.5", metavar="SHARE", help="of weights to zero (default: 0.5)")
    less.add_argument(
        "--pattern", default="any", metavar="any|N:M|RxC", help="which weights: any, 2:4, blocks such as 4x1"
    )
    less.add_argument("--cluster", default="0", metavar="N", help="values a kernel may have, 2 to 256 (default: any)")
    less.add_argument(
        "--quantize",
        choices=QUANTIZATIONS,
        default="int8",
        help="int8 rounds what is trained (default), int8-trained trains on the grid of int8 before; int8 is the fast "
        "one, int4 and float16 are small, int16x8 is exact and slow",
    )
    less.add_argument(
        "--float", nargs="+", default=[], metavar="LAYER", dest="float_layers", help="leave these in float32 in int8"
    )
    less.add_argument("--fallback", type=int, default=0, metavar="N", help="the same for the N most sensitive layers")
    less.add_argument("--runtime", choices=RUNTIMES, default="litert", help="onnx: float32 or int8 (default: litert)")
    less.add_argument(
        "--backend",
        choices=BACKENDS,
        default="native",
        help="who prunes, clusters and trains for int8 (default: native)",
    )
    recent = parser.add_argument_group("recent data, as in training (default: as MODEL was trained; inf: all alike)")
    recent.add_argument("--window", type=float, metavar="DAYS", help="leave out what is older than the newest by more")
    recent.add_argument("--half-life", type=float, metavar="DAYS", help="what is so much older weighs half")
    learn = parser.add_argument_group("learning from teachers")
    learn.add_argument("--distill", nargs="+", type=Path, default=[], metavar="TEACHER", help="MODEL learns from these")
    learn.add_argument("--teacher-processing", metavar="HOW", help="of teachers' files (default: as --processing)")
    learn.add_argument("--unlabelled", metavar="SPEC", help="more images, without labels: folder:PATH, npz:PATH")
    learn.add_argument(
        "--hint", nargs="+", default=[], metavar="LAYER=TEACHERS", help="this place follows that of the first teacher"
    )
    learn.add_argument("--temperature", type=float, default=3.0, help="how much second choices count (default: 3)")
    learn.add_argument("--alpha", type=float, default=0.7, help="share of the teachers in the loss (default: 0.7)")


def run(args: argparse.Namespace) -> int:
    """Compress, pack and print."""
    started = time.perf_counter()
    if args.teacher_out is not None and args.teacher_out.resolve() == args.out.resolve():
        raise InputError(f"--out and --teacher-out both name {args.out}")
    changes = _changes(args)
    memory.check_addresses()
    with terminal.quiet() as console, terminal.remarks(console):
        from edge_sdk.compression.distill import Hint
        from edge_sdk.compression.pipeline import check_target, compress, export_teacher, settled

        name = args.name or _called(args.out)
        options = settled(None, changes | {"hints": tuple(Hint(*_pair(text, "--hint")) for text in args.hint)})
        check_target(args.out, name, args.version)
        if args.teacher_out is not None:
            check_target(args.teacher_out, _called(args.teacher_out), args.version)
        splits = load_splits(args.data, seed=args.seed, limit=args.limit)
        unlabelled = None if args.unlabelled is None else load_unlabelled(args.unlabelled)
        trained, guides, keep = _opened(args, splits)
        with terminal.progress(console, STAGES) as on_progress:
            report = compress(
                trained,
                splits,
                out=args.out,
                name=name,
                version=args.version,
                options=options,
                teacher=guides,
                unlabelled=unlabelled,
                on_progress=on_progress,
                keep=keep,
            )
            if args.teacher_out is not None:
                export_teacher(
                    trained,
                    splits,
                    out=args.teacher_out,
                    name=_called(args.teacher_out),
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


def _called(out: Path) -> str:
    """Return the name that a bundle has by its file; names are in lower case."""
    return out.stem.lower()


def _changes(args: argparse.Namespace) -> dict[str, Any]:
    """Return the options of compression that need no model."""
    plain = (
        *("epochs", "quick", "temperature", "alpha", "seed", "quantize", "pattern", "fallback", "backend", "runtime"),
        *("window", "half_life"),
    )
    changes = {name: getattr(args, name) for name in plain} | {"float_layers": tuple(args.float_layers)}
    for name, kind, layers in (
        ("prune", float, "prune_layers"),
        ("cluster", int, "cluster_layers"),
        ("channels", float, "channel_layers"),
    ):
        changes[name], changes[layers] = _by_layer(getattr(args, name), kind, f"--{name}")
    return changes


def _opened(args: argparse.Namespace, splits: Splits) -> tuple[Trained, list[Guide], bool]:
    """Return the model, further teachers, and whether the model itself is compressed."""
    from edge_sdk.compression import sources

    told = None if args.processing is None else sources.read_processing(args.processing)
    theirs = told if args.teacher_processing is None else sources.read_processing(args.teacher_processing)
    if sources.can_only_teach(args.teacher):
        if args.keep or args.distill:
            raise InputError(
                f"{args.teacher} has no layers to compress: without --keep and --distill it teaches a small network"
            )
        guide = sources.open_guide(args.teacher, splits, processing=told)
        return sources.new_student(splits, guide.processing, seed=args.seed), [guide], True
    trained = sources.open_model(args.teacher, splits, processing=told, size=args.size)
    own = not sources.of_training(args.teacher)
    if theirs is None and own is False:
        theirs = trained.processing
    guides: list[Guide] = [
        sources.open_guide(path, splits, processing=None if sources.of_training(path) else theirs)  # a folder knows it
        for path in args.distill
    ]
    return trained, guides, args.keep or (not args.small and (own or bool(guides)))


def _by_layer(text: str, kind: Callable[[str], Any], option: str) -> tuple[Any, dict[str, Any]]:
    """Read ``VALUE,LAYER=VALUE,...``."""
    first, *others = text.split(",")
    try:
        pairs = [_pair(other, option) for other in others]
        return kind(first), {layer: kind(value) for layer, value in pairs}
    except ValueError as error:
        raise InputError(f"{option} is {text!r}; it should be a number, or such as 0.8,LAYER=0.5") from error


def _pair(text: str, option: str) -> tuple[str, str]:
    layer, found, value = text.rpartition("=")
    if not (layer and found and value):
        raise InputError(f"{option}: {text!r} should be NAME=VALUE")
    return layer, value


def _show(result: dict[str, Any]) -> None:
    sizes, final = result["sizes"], f"student_{result['precision']}"
    student = sizes["student_float32"]
    size_of = {
        "teacher": sizes.get("teacher_float32"),
        "model": sizes.get("model_float32"),
        "student_distilled": None if "student_narrowed" in result["accuracy"] else student,
        final: sizes[final],
    }
    table = rich.table.Table(title=result["bundle"])
    for column in ("model", "bytes", "validation", "test", "95 % interval"):
        table.add_column(column, justify="left" if column == "model" else "right")
    for key, title in (ROWS | {final: f"{result['precision']}, on the device's runtime"}).items():
        if key not in result["accuracy"]:
            continue
        validation, test = (result["accuracy"][key][split] for split in ("validation", "test"))
        size = size_of.get(key, student)
        table.add_row(
            title,
            "" if size is None else f"{size:,}",
            f"{validation['value']:.2%}",
            f"{test['value']:.2%}",
            f"{test['low']:.2%} – {test['high']:.2%}",
        )
    console = rich.console.Console()
    console.print(table)
    console.print(
        f"{result['sparsity']:.1%} of the weights are zero; the {result['precision']} file takes "
        f"{sizes[f'{final}_zstd']:,} bytes on the way, by zstd; the bundle has {sizes['bundle']:,}."
    )
    if "teacher_bundle" in result:
        console.print(f"MODEL for the cloud is in {result['teacher_bundle']}")
