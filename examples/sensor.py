"""Watch a machine by its vibration: an autoencoder of 8 bits that has only ever seen it healthy, on a stream.

The data are simulated, here, and not measured: three axes of an accelerometer on a motor whose speed and load
wander, at 1,000 samples a second. Faults are put in at known times: imbalance, a worn bearing, looseness, a
sensor that sticks. The model learns to give healthy windows back; what it cannot give back is reported.

    pip install 'edge-sdk[compress]'
    python -m edge_sdk.examples.sensor
"""

from __future__ import annotations

import argparse
import itertools
import os
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import edge_sdk
from edge_sdk.errors import EdgeSdkError
from edge_sdk.model import EdgeModel
from edge_sdk.packing import pack
from edge_sdk.processing import DeviceProcessor, ProcessingSpec, check_skew
from edge_sdk.sources import Windows

__all__ = ["Fault", "Outcome", "main", "run", "simulate"]

RATE = 1000
AXES = ("x", "y", "z")
LENGTH, HOP = 128, 64
FAULTS = ("imbalance", "bearing", "looseness", "stuck")
FAULT_SECONDS = 3.0
FALSE_ALARMS = 0.002  # of healthy windows: what the threshold is set for

Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Fault:
    """What was put in, and when, in samples."""

    kind: str
    start: int
    stop: int


@dataclass(frozen=True, slots=True)
class Outcome:
    """What the model made of the stream.

    Attributes
    ----------
    found
        Of each fault, whether an alarm was raised while it lasted.
    delays
        Seconds from the beginning of each fault that was found to its first alarm.
    healthy, false_alarms
        Windows without a trace of a fault, and alarms among them.
    bundle_bytes
        Size of the bundle.
    """

    found: tuple[tuple[str, bool], ...]
    delays: tuple[float, ...]
    healthy: int
    false_alarms: int
    bundle_bytes: int


def simulate(seconds: float, *, seed: int, faults: int = 0) -> tuple[Floats, list[Fault]]:
    """Return vibration in m/s², float32 [samples, 3], and the faults in it, evenly spread and of every kind in turn."""
    rng = np.random.default_rng(seed)
    count = int(seconds * RATE)
    speed = 25 + 1.5 * _wander(rng, count)  # turns a second
    turn, load = 2 * np.pi * np.cumsum(speed) / RATE, 1 + 0.15 * _wander(rng, count)
    base = np.stack(
        [
            load * (1.0 * np.sin(turn) + 0.3 * np.sin(2 * turn + 1)),
            load * (0.8 * np.cos(turn) + 0.2 * np.sin(3 * turn + 2)),
            9.81 + load * (0.4 * np.sin(2 * turn) + 0.15 * np.sin(4 * turn)),
        ],
        axis=1,
    )
    signal = base + rng.normal(0, 0.08, base.shape)
    planned = []
    for number in range(faults):
        start = int((number + 0.5) / faults * count)
        fault = Fault(FAULTS[number % len(FAULTS)], start, min(count, start + int(FAULT_SECONDS * RATE)))
        _spoil(signal[fault.start : fault.stop], turn[fault.start : fault.stop], fault.kind, rng)
        planned.append(fault)
    return signal.astype(np.float32), planned


def _wander(rng: np.random.Generator, count: int) -> NDArray[np.float64]:
    """Return a slow random walk within about ±1."""
    knots = rng.uniform(-1, 1, count // (2 * RATE) + 2)
    return np.interp(np.arange(count) / (2 * RATE), np.arange(knots.size), knots)


def _spoil(part: NDArray[np.float64], turn: NDArray[np.float64], kind: str, rng: np.random.Generator) -> None:
    if kind == "imbalance":
        part[:, :2] += 0.9 * np.stack([np.sin(turn), np.cos(turn)], axis=1)
    elif kind == "bearing":  # the balls strike 3.6 times a turn, and what they strike rings
        since = (3.6 * turn / (2 * np.pi)) % 1 / (3.6 * 25)
        part += 1.2 * (np.exp(-since * 250) * np.sin(2 * np.pi * 310 * since))[:, None] * rng.uniform(0.7, 1.3, 3)
    elif kind == "looseness":
        part[:, 2] += 0.8 * np.sin(turn / 2) + 0.4 * np.sin(1.5 * turn)
    else:
        axis = rng.integers(3)
        part[:, axis] = part[0, axis]


def windows(signal: Floats) -> Windows:
    """Give the last `LENGTH` rows whenever `HOP` more have come; rows come in chunks, as from a driver."""
    return Windows((signal[at : at + 50] for at in range(0, len(signal), 50)), length=LENGTH, hop=HOP)


def build(path: Path, healthy: Floats, *, epochs: int, seed: int) -> ProcessingSpec:
    """Train an autoencoder on a healthy machine, make its weights and sums 8 bits wide, and pack it."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    import keras

    from edge_sdk.compression.quantize import to_int8_tflite
    from edge_sdk.processing.keras import ProcessingLayer

    keras.utils.set_random_seed(seed)
    mean, std = healthy.mean(axis=0), healthy.std(axis=0)
    # what is far out of the usual stays within what 8 bits can tell apart, and remains far out
    low, high = float((mean - 6 * std).min()), float((mean + 6 * std).max())
    spec = ProcessingSpec.sensor(AXES, LENGTH, clip=(low, high), mean=mean.tolist(), std=std.tolist())
    raw = np.stack(list(windows(healthy)))
    check_skew(spec, list(raw[:4]), keras=ProcessingLayer)
    x = keras.ops.convert_to_numpy(ProcessingLayer(spec)(raw))
    model = keras.Sequential(
        [
            keras.Input(x.shape[1:]),
            keras.layers.Flatten(),
            keras.layers.Dense(96, activation="relu"),
            keras.layers.Dense(10),
            keras.layers.Dense(96, activation="relu"),
            keras.layers.Dense(x[0].size),
            keras.layers.Reshape(x.shape[1:]),
        ],
        name="vibration",
    )
    model.compile(keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(3e-3, epochs * len(x) // 64)), "mse")
    model.fit(x, x, batch_size=64, epochs=epochs, verbose=0)
    pack(
        to_int8_tflite(model, x[:: max(1, len(x) // 300)]),
        path=path,
        name="vibration",
        version="1.0.0",
        task="regression",
        processing=spec,
        runtime="litert",
        golden_inputs=list(raw[:4]),
        lineage={"data": "simulated", "seed": seed},
    )
    return spec


def scores(model: EdgeModel, spec: ProcessingSpec, source: Iterable[Floats]) -> Iterator[float]:
    """Give for each window of a stream how much of it the model could not give back: the mean squared difference."""
    processor = DeviceProcessor(spec)
    kept, streamed = itertools.tee(source)
    for window, answer in zip(kept, model.stream(streamed), strict=True):
        yield float(np.mean((answer[0] - processor(window)[0]) ** 2))


def run(*, minutes: float = 10.0, faults: int = 24, epochs: int = 30, seed: int = 0) -> Outcome:
    """Train, pack, set the threshold on healthy minutes that training has not seen, and watch a stream with faults.

    Raises
    ------
    EdgeSdkError
        What goes wrong, in one line.
    """
    train, _ = simulate(600, seed=seed)
    held_out, _ = simulate(600, seed=seed + 1)
    stream, planned = simulate(60 * minutes, seed=seed + 2, faults=faults)
    with tempfile.TemporaryDirectory(prefix="edge-sdk-") as folder:
        path = Path(folder) / "vibration.edge"
        spec = build(path, train, epochs=epochs, seed=seed)
        with edge_sdk.load(path) as model:
            usual = np.array(list(scores(model, spec, windows(held_out))))
            threshold = float(np.quantile(usual, 1 - FALSE_ALARMS, method="higher"))
            alarms = np.array([score > threshold for score in scores(model, spec, windows(stream))])
        size = path.stat().st_size
    starts = HOP * np.arange(len(alarms))
    tainted = np.zeros(len(alarms), bool)
    found, delays = [], []
    for fault in planned:
        during = (starts < fault.stop) & (starts + LENGTH > fault.start)
        tainted |= during
        first = np.flatnonzero(alarms & during)
        found.append((fault.kind, first.size > 0))
        if first.size:
            delays.append((int(starts[first[0]]) + LENGTH - fault.start) / RATE)
    return Outcome(tuple(found), tuple(delays), int((~tainted).sum()), int((alarms & ~tainted).sum()), size)


def main(argv: Sequence[str] | None = None) -> int:
    """Read the arguments and run; 2 where something is wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10.0, help="of the stream (default %(default)g)")
    parser.add_argument("--faults", type=int, default=24, help="put into it (default %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the simulation and of training (default 0)")
    options = parser.parse_args(argv)
    if not options.faults >= 1 or not options.minutes * 60 >= 2 * FAULT_SECONDS * options.faults:
        print("sensor: error: need at least 1 fault, and 6 seconds of stream for each", file=sys.stderr)
        return 2
    try:
        outcome = run(minutes=options.minutes, faults=options.faults, seed=options.seed)
    except EdgeSdkError as error:
        print(f"sensor: error: {error}", file=sys.stderr)
        return 2
    for kind in FAULTS:
        of_kind = [there for name, there in outcome.found if name == kind]
        if of_kind:
            print(f"{kind:<10} {sum(of_kind)} of {len(of_kind)} found")
    share = outcome.false_alarms / max(1, outcome.healthy)
    print(f"false alarms: {outcome.false_alarms} of {outcome.healthy} healthy windows ({share:.2%})")
    if outcome.delays:
        print(f"median delay: {np.median(outcome.delays):.2f} s")
    print(f"the bundle has {outcome.bundle_bytes / 1024:.0f} KiB; the data are simulated")
    return 0


if __name__ == "__main__":
    sys.exit(main())
