# ruff: noqa: INP001 - a script, not a module of a package
"""Train a small classifier around each of many blocks of layers, and export it to TFLite and ONNX, float32 and int8.

Each block is trained in float32, mixed bfloat16 and mixed float16 on a task of its own, ingested, converted, and
run on the device's runtimes over inputs it has not seen. What counts is the share of answers that are those
of the float32 model: 99.5 % are asked for in float32, 97 % in int8. About 20 minutes on two idle cores.

example:
  python benchmarks/blocks.py --block LSTM --block GELU --policy mixed_bfloat16 --json blocks.json
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
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras  # noqa: E402 - after the path is set, as the next lines
import numpy as np  # noqa: E402
from rich import box  # noqa: E402
from rich.console import Console  # noqa: E402
from rich.progress import track  # noqa: E402
from rich.table import Table  # noqa: E402

from edge_sdk.compression.export import export  # noqa: E402
from edge_sdk.compression.ingest import ingest  # noqa: E402
from edge_sdk.errors import EdgeSdkError  # noqa: E402
from harness.blocks import BLOCKS, POLICIES, task, trained  # noqa: E402

FORMS = ("litert:float32", "litert:int8", "onnx:float32", "onnx:int8")
REPRESENTATIVE = 200

Row = dict[str, Any]


def tried(block: str, policy: str, count: int) -> Row:
    """Train, ingest and export one block; what is missing says why."""
    keras.backend.clear_session()
    kind = BLOCKS[block][0]
    inputs, labels = task(kind, count, seed=1)
    row: Row = {"block": block, "policy": policy, "artifacts": {}, "refused": {}}
    try:
        taken = ingest(trained(block, policy), inputs)
        answers = taken.model.predict(inputs, batch_size=256, verbose=0).argmax(axis=1)
        row |= {"accuracy": float(np.mean(answers == labels)), "ingest": taken.agreement.to_dict()}
        representative = task(kind, REPRESENTATIVE, seed=0)[0]
        exports = export(taken.model, inputs, forms=FORMS, representative=representative, isolated=False)
    except EdgeSdkError as error:
        return row | {"refused": dict.fromkeys(FORMS, str(error))}
    found = {artifact.form: artifact.to_dict() for artifact in exports.artifacts}
    return row | {"artifacts": found, "refused": exports.refused}


def main() -> int:
    """Try all, then print."""
    parser = argparse.ArgumentParser(
        description=__doc__.partition("\n")[0], formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=__doc__[__doc__.index("example:") :],
    )  # fmt: skip
    parser.add_argument("--block", action="append", choices=list(BLOCKS), metavar="NAME", help="only this one; again")
    parser.add_argument("--policy", action="append", choices=POLICIES, metavar="NAME", help="only this one; again")
    parser.add_argument("--inputs", type=int, default=1000, metavar="N", help="to compare on (default 1000)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there as well, after each block")
    args = parser.parse_args()
    if args.inputs < 1:
        parser.error(f"--inputs is {args.inputs}; it should be at least 1")
    wanted = [(block, policy) for block in args.block or BLOCKS for policy in args.policy or POLICIES]
    rows = []
    for block, policy in track(wanted, "blocks", console=Console(stderr=True)):
        rows.append(tried(block, policy, args.inputs))
        if args.json is not None:
            args.json.write_text(json.dumps({"inputs": args.inputs, "rows": rows}, indent=2) + "\n")
    show(rows)
    missing = sum(form not in row["artifacts"] for row in rows for form in FORMS)
    print(f"{len(rows) * len(FORMS) - missing} of {len(rows) * len(FORMS)} files count")
    return 1 if missing else 0


def show(rows: list[Row]) -> None:
    """Print one line a block and policy, and why what is missing is."""
    table = Table(box=box.SIMPLE_HEAD)
    for heading in ("block", "policy", "accuracy", *FORMS):
        table.add_column(heading, no_wrap=True, justify="left" if heading in ("block", "policy") else "right")
    for row in rows:
        accuracy = f"{row['accuracy']:.1%}" if "accuracy" in row else "–"
        cells = [row["artifacts"].get(form) for form in FORMS]
        shares = [f"{cell['agreement']['argmax']:.1%}" if cell else "none" for cell in cells]
        table.add_row(row["block"], row["policy"], accuracy, *shares)
    console = Console()
    if not console.is_terminal:
        console.width = 120  # a file or pipe has no width of its own
    console.print(table)
    for row in rows:
        for form, why in row["refused"].items():
            print(f"{row['block']}, {row['policy']}, {form}: {why}")


if __name__ == "__main__":
    sys.exit(main())
