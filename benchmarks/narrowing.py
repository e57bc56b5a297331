# ruff: noqa: INP001 - a script, not a module of a package
"""Remove channels of a trained network, let it recover, and time both in the device's runtime.

The network teaches its narrow copy: logits of random views are computed once. Accuracy is of the TFLite files
behind the runtime; time is processor time of one thread, both files in turn, medians.

example:
  python benchmarks/narrowing.py --data cifar10:PATH --teacher teacher.keras --cache views --json narrowing.json
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))  # harness is not installed, and -P leaves it out

import numpy as np  # noqa: E402 - after the path is set, as the next lines

from edge_sdk.datasets import load_splits  # noqa: E402
from harness.views import Views  # noqa: E402


def main() -> None:
    """Narrow, fit, measure, print."""
    parser = argparse.ArgumentParser(
        description=__doc__.partition("\n")[0], formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=__doc__[__doc__.index("example:") :],
    )  # fmt: skip
    parser.add_argument("--data", required=True, metavar="SPEC", help="such as cifar10:PATH")
    parser.add_argument("--teacher", required=True, type=Path, help="a Keras 3 model of pixels from 0 to 255")
    parser.add_argument("--cache", type=Path, default=Path("views"), help="folder of views and logits (default views)")
    parser.add_argument("--views", type=int, default=2, help="of each image (default 2)")
    parser.add_argument("--limit", type=int, metavar="N", help="training images (default all)")
    parser.add_argument("--ratio", type=float, default=0.5, help="share of channels to remove (default 0.5)")
    parser.add_argument("--tied", action="store_true", help="also channels of residual sums")
    parser.add_argument("--importance", default="l2", help="l1, l2 or gamma (default l2)")
    parser.add_argument("--epochs", type=int, default=1, help="passes over all views (default 1)")
    parser.add_argument("--rate", type=float, default=1e-3, help="highest learning rate (default 0.001)")
    parser.add_argument("--alpha", type=float, default=0.9, help="share of the teacher (default 0.9)")
    parser.add_argument("--temperature", type=float, default=2.0, help="of distillation (default 2)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--save", type=Path, metavar="FILE.keras", help="write the narrow model there")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there as well")
    args = parser.parse_args()
    result = run(args)
    text = json.dumps(result, indent=2)
    print(text)
    if args.json is not None:
        args.json.write_text(text + "\n")


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Do it, and return the figures."""
    import keras

    from edge_sdk.compression.channels import Narrowing, narrowed, plan
    from edge_sdk.compression.distill import distill
    from edge_sdk.compression.fitting import Fitting, FittingData
    from edge_sdk.compression.ingest import to_float32

    splits = load_splits(args.data)
    images = np.asarray(splits.train.images)
    teacher = keras.models.load_model(args.teacher, compile=False)
    x, logits = Views(images, teacher, args.cache).get(args.views, args.limit)
    labels = np.tile(splits.train.labels[: args.limit], args.views)
    chosen = plan(teacher, Narrowing(ratio=args.ratio, tied=args.tied, importance=args.importance))
    cut = narrowed(teacher, chosen)
    started = time.process_time()
    recovered = distill(
        cut,
        FittingData(x, labels),
        teacher=logits,
        alpha=args.alpha,
        temperature=args.temperature,
        fitting=Fitting(epochs=args.epochs, batch=128, rate=args.rate, seed=args.seed),
        on_progress=_print_progress,
    )
    seconds = time.process_time() - started
    if args.save is not None:
        recovered.save(args.save)
    sample = images[:200].astype(np.float32)
    models = {"teacher": teacher, "narrow": recovered}
    files = {name: _tflite(to_float32(model, sample)[0], sample) for name, model in models.items()}
    return {
        "arguments": {key: str(value) for key, value in vars(args).items()},
        "removed": chosen.removed,
        "parameters": {"teacher": teacher.count_params(), "narrow": recovered.count_params()},
        "fitting_cpu_seconds": round(seconds, 1),
        **_measured(files, splits.test.images, splits.test.labels),
    }


def _measured(files: dict[str, bytes], images: Any, labels: Any) -> dict[str, Any]:
    from edge_sdk.cloud.training.evaluate import accuracy
    from edge_sdk.runtime import open_session

    sessions = {name: open_session(data, "litert") for name, data in files.items()}
    times: dict[str, list[float]] = {name: [] for name in files}
    answers: dict[str, list[Any]] = {name: [] for name in files}
    for image in images:
        frame = image[None].astype(np.float32)
        for name, session in sessions.items():
            started = time.thread_time()
            answer = session.run(frame)[0]
            times[name].append(time.thread_time() - started)
            answers[name].append(answer[0])
    median = {name: float(np.median(values)) for name, values in times.items()}
    right = {name: np.argmax(values, axis=1) == labels for name, values in answers.items()}
    lost = right["teacher"].astype(float) - right["narrow"]
    return {
        "accuracy": {name: accuracy(np.array(values), np.asarray(labels)) for name, values in answers.items()},
        "points_lost": 100 * float(lost.mean()),
        "points_lost_error": 100 * float(lost.std() / np.sqrt(len(lost))),
        "median_ms": {name: 1e3 * value for name, value in median.items()},
        "minimum_ms": {name: 1e3 * min(values) for name, values in times.items()},
        "times_faster": median["teacher"] / median["narrow"],
        "bytes": {name: len(data) for name, data in files.items()},
    }


def _tflite(model: Any, sample: Any) -> bytes:
    from edge_sdk.compression.tflite import convert, saved

    with saved(model, sample) as folder:
        return convert(folder, "float32")


def _print_progress(stage: str, done: int, total: int) -> None:
    if done % 50 == 0 or done == total:
        print(f"{stage} {done}/{total}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
