"""Privacy by label: what the device takes for a zero stays there, and of all else the cloud sees the middle.

A device's model that is trained on a few digits and one for the cloud that is trained on more stand for
yours. A server is started beside them, and what has been sent to it is counted.

    pip install 'edge-sdk[demo]'
    python -m edge_sdk.examples.privacy
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

import edge_sdk
from edge_sdk.client import PrivacyRule
from edge_sdk.cloud.training.terminal import quiet
from edge_sdk.datasets import Dataset, load_splits
from edge_sdk.errors import EdgeSdkError
from edge_sdk.processing import DeviceProcessor

__all__ = ["main"]

SPEC = edge_sdk.ProcessingSpec.image(28, 28, 1)


def main(argv: Sequence[str] | None = None) -> int:
    """Read the arguments and run; 2 where what is installed will not do."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.parse_args(argv)
    try:
        with tempfile.TemporaryDirectory() as folder, quiet():  # TensorFlow talks a lot
            run(Path(folder))
    except EdgeSdkError as error:
        print(f"privacy: error: {error}", file=sys.stderr)
        return 2
    return 0


def train(name: str, data: Dataset, count: int, folder: Path) -> Path:
    """Train a model on so many digits, and pack it."""
    import keras

    from edge_sdk.compression.quantize import to_int8_tflite

    process = DeviceProcessor(SPEC)
    x = np.concatenate([process(image) for image in data.images[:count]])
    keras.utils.set_random_seed(0)
    layers = keras.layers
    network = keras.Sequential([keras.Input((28, 28, 1)), layers.Flatten(), layers.Dense(32), layers.Dense(10)])
    network.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    network.fit(x, data.labels[:count], epochs=8, verbose=0)
    path = folder / f"{name}-1.0.0.edge"
    edge_sdk.pack(
        to_int8_tflite(network, x[:200]),
        runtime="litert",
        path=path,
        name=name,
        version="1.0.0",
        labels=data.classes,
        processing=SPEC,
        output="logits",
        golden_inputs=list(data.images[:4]),
    )
    return path


def run(folder: Path) -> None:
    """Ask about digits under three rules, and say what became of them."""
    data = load_splits("mnist")
    edge, cloud = train("device", data.train, 300, folder), train("server", data.train, len(data.train.labels), folder)

    rules = [
        PrivacyRule(labels={"0"}),  # what the device takes for a zero never leaves
        PrivacyRule(where={"tenant": {"clinic"}}),  # nor does any picture of the clinic
        PrivacyRule(region_of_interest=(0.125, 0.125, 0.75, 0.75)),  # of all else, the middle
    ]
    command = [sys.executable, "-m", "edge_sdk", "serve", str(cloud), "--grpc-port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            address = next(found[1] for line in server.stdout if (found := re.search(r"^ready .*grpc=(\S+)", line)))
            # prefer_cloud asks about every picture that the rules let go
            with edge_sdk.connect(edge, cloud=address, mode="prefer_cloud", deadline=5.0, privacy=rules) as model:
                school = [model.predict(image, {"tenant": "school"}) for image in data.test.images[:200]]
                clinic = [model.predict(image, {"tenant": "clinic"}) for image in data.test.images[:50]]
                counters = model.counters
        finally:
            server.terminate()

    seen: Counter[tuple[str, str]] = Counter((answer.source, answer.reason) for answer in school)
    print(f"of the school's 200 pictures {seen['cloud', 'forced']} went to the cloud, without their margins")
    print(f"  {seen['edge', 'privacy']} stayed on the device, which took them for a zero")
    left = sum(answer.source == "cloud" for answer in clinic)
    print(f"of the clinic's {len(clinic)} pictures {left} went to the cloud")
    size = counters["bytes_sent"] / max(1, counters["escalated"])
    print(f"a picture has 784 pixels; requests with one had {size:.0f} bytes")


if __name__ == "__main__":
    sys.exit(main())
