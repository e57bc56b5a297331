"""Train a teacher in mixed precision and write it to a folder.

Data are images, rows of a table, windows of a sensor or clips of sound; a file of one's own is checked first.

The folder gets model.keras and training.json; 'edge-sdk compress' takes it from there. While it trains,
its folder checkpoints has what --resume goes on from after an interrupt, a kill or a power cut.

example:
  edge-sdk train --data mnist -o teacher --seed 0
  edge-sdk train --data mnist -o teacher --seed 0 --resume
  edge-sdk train --data mnist --write-contract digits.json
  edge-sdk train --data table:patients.csv#outcome -o teacher
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import rich.console
import rich.table

from edge_sdk import files
from edge_sdk.cloud.training import memory, terminal
from edge_sdk.datasets import GRAMMAR, Splits, load_splits
from edge_sdk.errors import InputError

if TYPE_CHECKING:
    from edge_sdk.cloud.training import Options, Trained

__all__ = ["configure", "run"]

CHECKPOINTS = "checkpoints"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("--data", required=True, metavar="SPEC", help=GRAMMAR)
    parser.add_argument("-o", "--out", type=Path, metavar="DIR", help="folder to write")
    parser.add_argument(
        "--model", metavar="FILE.keras|MODULE:FUNCTION", help="network of your own (default: one that fits the data)"
    )
    parser.add_argument("--epochs", type=int, help="passes over the training data (default: by their number)")
    parser.add_argument("--quick", action="store_true", help="train for less long, to try things out")
    parser.add_argument("--limit", type=int, metavar="N", help="use at most about N samples")
    parser.add_argument("--size", type=int, metavar="PIXELS", help="side to resize images to")
    parser.add_argument("--seed", type=int, default=0, help="of splits, weights and augmentation (default: 0)")
    parser.add_argument("--start", type=Path, metavar="DIR", help="begin with the weights of this teacher")
    parser.add_argument("--json", action="store_true", help="print one JSON object")

    devices = parser.add_argument_group("devices")
    devices.add_argument(
        "--precision",
        choices=["auto", "float32", "mixed_bfloat16", "mixed_float16"],
        default="auto",
        help="Keras dtype policy; auto: mixed_float16 on a GPU, mixed_bfloat16 elsewhere",
    )
    devices.add_argument(
        "--strategy",
        choices=["auto", "one", "mirrored", "multiworker", "tpu"],
        default="auto",
        help="devices to use; multiworker: the machines of TF_CONFIG",
    )
    devices.add_argument("--tpu", metavar="NAME", help="address of a TPU; 'local' on a TPU machine")

    steps = parser.add_argument_group("steps")
    steps.add_argument("--batch", type=int, metavar="N", help="samples in a step, over all devices")
    steps.add_argument("--parts", type=int, default=1, metavar="N", help="compute each step in N parts, in less memory")
    steps.add_argument("--rate", type=float, default=4e-3, help="highest learning rate (default: 0.004)")
    steps.add_argument(
        "--schedule",
        choices=["cosine", "step", "inverse", "constant"],
        default="cosine",
        help="of the learning rate (default: cosine)",
    )
    steps.add_argument(
        "--warmup", type=float, default=0.1, metavar="SHARE", help="of the steps, over which the rate rises"
    )
    steps.add_argument("--decay", type=float, default=1e-4, help="weight decay (default: 0.0001)")
    steps.add_argument(
        "--patience", type=int, metavar="EPOCHS", help="stop after so many without better validation; keep the best"
    )

    recent = parser.add_argument_group("recent data, by 'times' of an .npz file or a table")
    recent.add_argument("--window", type=float, metavar="DAYS", help="leave out what is older than the newest by more")
    recent.add_argument("--half-life", type=float, metavar="DAYS", help="what is so much older weighs half")

    safety = parser.add_argument_group("checks and checkpoints")
    safety.add_argument("--contract", type=Path, metavar="FILE", help="refuse data that break this contract")
    safety.add_argument("--write-contract", type=Path, metavar="FILE", help="write a contract that the data keep")
    safety.add_argument("--resume", action="store_true", help="go on where this folder's run ended")
    safety.add_argument("--checkpoint-every", type=int, metavar="STEPS", help="default: what a minute takes")

    watching = parser.add_argument_group("watching and searching")
    watching.add_argument("--tensorboard", type=Path, metavar="DIR", help="write metrics for TensorBoard")
    watching.add_argument("--mlflow", metavar="URI", help="log the run to this MLflow server")
    watching.add_argument(
        "--search",
        type=int,
        metavar="TRIALS",
        help="first look for a better rate, decay and warm-up, with Optuna",
    )


def run(args: argparse.Namespace) -> int:
    """Train, save and print."""
    if args.out is None and args.write_contract is None:
        raise InputError("say where to: -o DIR trains, --write-contract FILE only measures the data")
    if args.out is not None:
        memory.check_addresses()
    started = time.perf_counter()
    splits = load_splits(args.data, seed=args.seed, limit=args.limit)
    if args.write_contract is not None:
        _write_contract(args.write_contract, splits)
        if args.out is None:
            print(f"{args.write_contract}: read it, and correct what is only so by chance")
            return 0
    with terminal.quiet() as console, terminal.remarks(console):
        trained = _train(args, splits, console)
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
    for column in ("split", "inputs", "accuracy", "95 % interval"):
        table.add_column(column, justify="left" if column == "split" else "right")
    for name, value in trained.metrics.items():
        table.add_row(name, f"{value['n']}", f"{value['value']:.2%}", f"{value['low']:.2%} – {value['high']:.2%}")
    rich.console.Console().print(table)
    return 0


def _train(args: argparse.Namespace, splits: Splits, console: rich.console.Console) -> Trained:
    from edge_sdk.cloud.training import Options, checkpoints, load_trained, loop, strategy, tracking
    from edge_sdk.cloud.training.architecture import name_of, teacher
    from edge_sdk.cloud.training.contract import Contract
    from edge_sdk.cloud.training.own import network_of

    network = teacher if args.model is None else network_of(args.model)
    options = Options(**{field.name: getattr(args, field.name) for field in fields(Options)})
    start = None if args.start is None else load_trained(args.start)
    contract = None if args.contract is None else Contract.read(args.contract)
    titles = {"train": "training the teacher", "search": "searching"}
    with ExitStack() as stack:
        stack.enter_context(_folder(args.out))
        on_progress = stack.enter_context(terminal.progress(console, titles))
        if args.search is not None:
            from edge_sdk.cloud.training.search import search

            options = search(
                splits,
                options,
                trials=args.search,
                folder=args.out / "search",
                network=network,
                on_progress=on_progress,
            )
        if args.resume and (done := _finished(args.out, splits, options, name_of(network))) is not None:
            return done
        watchers: list[Any] = []
        if args.tensorboard is not None:
            watchers.append(stack.enter_context(tracking.tensorboard(args.tensorboard)))
        if args.mlflow is not None:
            watchers.append(stack.enter_context(tracking.mlflow(args.mlflow, options)))
        with _told_how_to_go_on(args.out / CHECKPOINTS, console):
            trained = loop.train(
                splits,
                options,
                network=network,
                start=start,
                contract=contract,
                checkpoints=args.out / CHECKPOINTS,
                every=args.checkpoint_every,
                resume=args.resume,
                watchers=watchers,
                on_progress=on_progress,
            )
            if strategy.choose(options.strategy, strategy.devices(options.tpu)).chief:
                trained.save(args.out)
                checkpoints.clear(args.out / CHECKPOINTS)
    return trained


def _write_contract(path: Path, splits: Splits) -> None:
    from edge_sdk.cloud.training.contract import Contract
    from edge_sdk.cloud.training.profiling import profile

    Contract.of(profile(splits)).write(path)


def _finished(out: Path, splits: Splits, options: Options, network: str) -> Trained | None:
    """Return the teacher that such a run has left in its folder, if it has come to its end."""
    from edge_sdk.cloud.training import load_trained
    from edge_sdk.cloud.training.trained import RECORD_FILE

    if (out / CHECKPOINTS).exists() or not (out / RECORD_FILE).exists():
        return None
    trained = load_trained(out)
    wanted = {"splits": splits.digests, "options": options.deciding, "network": network}
    if all(trained.lineage.get(name) == value for name, value in wanted.items()):
        return trained
    raise InputError(f"{out} has a teacher of other data, options or model: there is nothing to resume")


@contextmanager
def _told_how_to_go_on(folder: Path, console: rich.console.Console) -> Iterator[None]:
    """Where an interrupt has left a checkpoint, say so and what to do with it."""
    try:
        yield
    except (KeyboardInterrupt, SystemExit):
        from edge_sdk.cloud.training import checkpoints

        if (kept := checkpoints.newest(folder)) is not None:
            line = f"edge-sdk: stopped at step {kept.step}; the same command with --resume goes on"
            console.print(line, soft_wrap=True, highlight=False, markup=False)
        raise


@contextmanager
def _folder(path: Path) -> Iterator[None]:
    """Make a folder before the work, so that one that cannot be made is found first.

    It is removed again if it is new and the work leaves nothing in it.
    """
    new = not path.exists()
    files.make_folder(path)
    try:
        yield
    except BaseException:
        if new:
            with suppress(OSError):  # not empty: what is in it is whole
                path.joinpath(CHECKPOINTS).rmdir()
            with suppress(OSError):
                path.rmdir()
        raise
