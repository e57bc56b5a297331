# ruff: noqa: INP001 - a script, not a module of a package
"""Teach a small network by a large one, and train it without: the same views, steps and seeds.

Each seed is a pair: both students start from the same weights and see the same batches in the same order. What
the teacher adds is the mean difference of accuracy on test images, with a 95 % interval of Student's t over seeds.

example:
  python benchmarks/distillation.py --data cifar10:PATH --teacher teacher.keras --cache views --seeds 3
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
    """Train all pairs, then print."""
    parser = argparse.ArgumentParser(
        description=__doc__.partition("\n")[0], formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=__doc__[__doc__.index("example:") :],
    )  # fmt: skip
    parser.add_argument("--data", required=True, metavar="SPEC", help="such as cifar10:PATH")
    parser.add_argument("--teacher", required=True, type=Path, help="a Keras 3 model of pixels from 0 to 255")
    parser.add_argument("--cache", type=Path, default=Path("views"), help="folder of views and logits (default views)")
    parser.add_argument("--views", type=int, default=2, help="of each image (default 2)")
    parser.add_argument("--limit", type=int, metavar="N", help="training images (default all)")
    parser.add_argument("--seeds", type=int, default=3, help="pairs to train (default 3)")
    parser.add_argument("--epochs", type=int, default=4, help="passes over all views (default 4)")
    parser.add_argument("--rate", type=float, default=3e-3, help="highest learning rate (default 0.003)")
    parser.add_argument("--alpha", type=float, default=0.9, help="share of the teacher (default 0.9)")
    parser.add_argument("--temperature", type=float, default=4.0, help="of distillation (default 4)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there after each pair")
    args = parser.parse_args()
    if args.seeds < 2:
        parser.error("--seeds is less than 2, of which there is no interval")
    run(args)


def run(args: argparse.Namespace) -> None:
    """Train, and print after each pair."""
    import keras

    from edge_sdk.compression.distill import distill, student
    from edge_sdk.compression.fitting import Fitting, FittingData, copied, fit

    splits = load_splits(args.data)
    teacher = keras.models.load_model(args.teacher, compile=False)
    x, logits = Views(np.asarray(splits.train.images), teacher, args.cache).get(args.views, args.limit)
    data = FittingData(x, np.tile(splits.train.labels[: args.limit], args.views))
    shape, classes = x.shape[1:], len(splits.classes)
    test, truth = np.asarray(splits.test.images, np.float32), splits.test.labels
    rows = []
    for seed in range(args.seeds):
        keras.utils.set_random_seed(seed)
        inputs = keras.Input(shape, name="pixels")
        body = student(shape, classes)
        model = keras.Model(inputs, body(keras.layers.Rescaling(1 / 63.75, offset=-2.0)(inputs)))
        fitting = Fitting(epochs=args.epochs, batch=128, rate=args.rate, seed=seed)
        started = time.process_time()
        scratch = copied(model)
        fit(scratch, data, fitting, stage="scratch")
        between = time.process_time()
        taught = distill(model, data, teacher=logits, alpha=args.alpha, temperature=args.temperature, fitting=fitting)
        row = {name: _accuracy(trained, test, truth) for name, trained in (("scratch", scratch), ("taught", taught))}
        row |= {"scratch_cpu_seconds": between - started, "taught_cpu_seconds": time.process_time() - between}
        rows.append(row)
        print(seed, row, file=sys.stderr, flush=True)
        if len(rows) > 1:
            result = {
                "arguments": {key: str(value) for key, value in vars(args).items()},
                "parameters": model.count_params(),
                "seeds": rows,
                **_gain([100 * (row["taught"] - row["scratch"]) for row in rows]),
            }
            if args.json is not None:
                args.json.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))


def _accuracy(model: Any, inputs: Any, labels: Any) -> float:
    return float(np.mean(np.argmax(model.predict(inputs, batch_size=250, verbose=0), axis=1) == labels))


def _gain(points: list[float]) -> dict[str, float]:
    """Mean and 95 % interval of paired differences (Student's t)."""
    from scipy.stats import t

    mean, error = float(np.mean(points)), float(np.std(points, ddof=1) / np.sqrt(len(points)))
    half = float(t.ppf(0.975, len(points) - 1)) * error
    return {"points_gained": mean, "low": mean - half, "high": mean + half}


if __name__ == "__main__":
    main()
