# ruff: noqa: INP001 - a script, not a module of a package
"""Measure what each method of compression buys on the demo's network: bytes, bytes on the way, time, accuracy.

Every method trains for the same number of epochs from the same trained network. The control is that
network trained on as it is: what it gains, no method may claim. Accuracy is of all images that nothing was
trained on. With several seeds, differences to the control are paired by seed, with the 95 % interval of their
mean (Student's t).

example:
  python benchmarks/methods.py
  python benchmarks/methods.py --seeds 5 --epochs 28 --only all-taught
  python benchmarks/methods.py --seeds 5 --epochs 18 --data cifar10:/data/cifar10 --json methods.json
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import mean, median, stdev
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))  # harness and suites are not installed, and -P leaves them out
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras  # noqa: E402 - after the path and the environment are set, as the next lines
import numpy as np  # noqa: E402
from scipy.stats import t  # noqa: E402

from edge_sdk.cloud.training import architecture, data  # noqa: E402
from edge_sdk.cloud.training.specification import processing_for  # noqa: E402
from edge_sdk.compression import distill  # noqa: E402
from edge_sdk.compression.cluster import cluster  # noqa: E402
from edge_sdk.compression.export import device_logits, zstd_bytes  # noqa: E402
from edge_sdk.compression.fitting import Fitting, FittingData, copied, fit  # noqa: E402
from edge_sdk.compression.prune import prune, shares  # noqa: E402
from edge_sdk.compression.qat import quantize_aware  # noqa: E402
from edge_sdk.compression.quantize import to_int8_tflite  # noqa: E402
from edge_sdk.compression.tflite import convert, saved  # noqa: E402
from edge_sdk.datasets import Splits, load_splits  # noqa: E402
from edge_sdk.runtime import open_session  # noqa: E402
from harness import Machine  # noqa: E402

RUNS = 200
# pattern, thrift, and whether large kernels lose more, while the network learns from itself as it was
ALL = (("all-any", "any", 8.0, False), ("all-6x1", "6x1", 8.0, False), ("all-taught", "4x1", 2.0, True))
PLANS = ((0.7, 2e-3), (0.15, 1e-3), (0.15, 5e-4))  # share of the epochs and rate: pruning, clustering, int8
METHODS = ("int8", "clusters", *(name for name, *_ in ALL))


@dataclass(frozen=True, slots=True)
class Row:
    """One file of one seed: bytes, bytes by zstd, microseconds of an inference, share of right answers."""

    method: str
    seed: int
    raw: int
    zstd: int
    microseconds: float
    accuracy: float


def latency(file: bytes) -> float:
    """Return the median microseconds of one inference, one thread."""
    session = open_session(file, "litert")
    try:
        takes = session.inputs[0]
        value = np.zeros(takes.shape, takes.dtype)
        times = []
        for _ in range(RUNS):
            start = time.perf_counter()
            session.run(value)
            times.append((time.perf_counter() - start) * 1e6)
        return median(times)
    finally:
        session.close()


def rows(splits: Splits, seed: int, epochs: int, only: Sequence[str], say: Callable[[str], None]) -> list[Row]:
    """Train a network, and compress it in every way that is wanted; always the control, too."""
    spec = processing_for(splits.train)
    change = data.augmentation_for(splits.train)
    samples = FittingData(data.frames(splits.train, spec), splits.train.labels, processing=spec)
    unseen = (splits.test, splits.calibration, splits.validation)
    done: list[Row] = []

    def fitting(share: float, rate: float) -> Fitting:
        return Fitting(max(round(share * epochs), 1), rate=rate, seed=seed, augmentation=change)

    def measure(method: str, file: bytes) -> None:
        right = [device_logits(file, "litert", spec, part).argmax(axis=1) == part.labels for part in unseen]
        share = float(np.mean(np.concatenate(right)))
        done.append(Row(method, seed, len(file), zstd_bytes(file), latency(file), share))
        say(f"{method}: {len(file):,} bytes, {done[-1].zstd:,} by zstd, {share:.2%}")

    def files(method: str, model: keras.Model, precisions: tuple[str, ...] = ("float32", "int8")) -> None:
        some = samples.taken(300)
        with saved(model, some) as folder:
            for precision in precisions:
                measure(f"{method}, {precision}", convert(folder, precision, some))

    keras.utils.set_random_seed(seed)
    _, height, width, channels = spec.output_shape
    trained = architecture.teacher((height, width, channels), len(splits.classes), "float32")
    fit(trained, samples, Fitting(14, rate=4e-3, seed=seed, augmentation=change), stage="train")
    files("as trained", trained, ("float32", "float16", "dynamic", "int8", "int4") if "int8" in only else ("float32",))
    dense = copied(trained)
    fit(dense, samples, fitting(1.0, 2e-3), stage="control")
    files("control", dense)
    if "int8" in only:
        measure("int8-trained", to_int8_tflite(quantize_aware(dense, samples, fitting=fitting(0.2, 5e-4))))
    if "clusters" in only:
        files("16 clusters", cluster(trained, samples, fitting=fitting(1.0, 1e-3)))
    taught = distill.Guidance(teachers=[copied(trained)])
    for name, pattern, thrift, learning in ALL:
        if name in only:
            plans = [replace(fitting(*plan), learning=taught if learning else None) for plan in PLANS]
            what = f"80 % zeros ({pattern}{', taught by itself' if learning else ''})"
            spread = shares(trained, 0.8) if learning else {}
            pruned = prune(trained, samples, share=0.8, layers=spread, pattern=pattern, fitting=plans[0])
            files(what, pruned)
            few = cluster(pruned, samples, start="linear", thrift=thrift, fitting=plans[1])
            integers = quantize_aware(few, samples, fitting=plans[2])
            measure(f"{what}, 16 clusters, int8-trained", to_int8_tflite(integers))
    return done


def main() -> int:
    """Measure, and print one line a method."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="mnist", help="as of edge-sdk train (default: %(default)s)")
    parser.add_argument("--limit", type=int, help="images")
    parser.add_argument("--seeds", type=int, default=1, help="of training (default: %(default)s)")
    parser.add_argument("--epochs", type=int, default=18, help="of every method (default: %(default)s)")
    parser.add_argument("--only", nargs="+", choices=METHODS, default=METHODS, help="default: all of %(choices)s")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything measured")
    args = parser.parse_args()
    found: list[Row] = []
    for seed in range(args.seeds):  # each deals the images anew
        splits = load_splits(args.data, seed=seed, limit=args.limit)
        found += rows(splits, seed, args.epochs, args.only, lambda line: print(line, file=sys.stderr, flush=True))
    machine = Machine.here(set())
    print(
        f"{machine.cpu}, {machine.cores} cores, load {machine.load}; {args.data}, "
        f"{len(splits.test) + len(splits.calibration) + len(splits.validation)} images a seed"
    )
    whole = next(row.raw for row in found if row.method == "as trained, float32")
    for method in dict.fromkeys(row.method for row in found):
        print(_line(method, found, whole))
    if args.json:
        args.json.write_text(json.dumps([asdict(row) for row in found], indent=1))
    return 0


def _line(method: str, found: list[Row], whole: int) -> str:
    def of(name: str) -> list[Any]:
        return [row for row in found if row.method == name]

    mine = of(method)
    pairs = zip(mine, of("control, float32"), strict=True)
    points = [100 * (row.accuracy - control.accuracy) for row, control in pairs]
    half = float(t.ppf(0.975, len(points) - 1)) * stdev(points) / len(points) ** 0.5 if len(points) > 1 else 0.0
    spread = f" [{mean(points) - half:+.2f}, {mean(points) + half:+.2f}]" if half else ""
    zstd = mean(row.zstd for row in mine)
    return (
        f"{method:45} {mean(row.raw for row in mine):9,.0f} B  zstd {zstd:9,.0f} B ({zstd / whole:6.2%})  "
        f"{median(row.microseconds for row in mine):7.0f} µs  {mean(row.accuracy for row in mine):.2%}  "
        f"{mean(points):+.2f}{spread} points"
    )


if __name__ == "__main__":
    sys.exit(main())
