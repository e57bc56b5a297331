"""Somebody else's model on somebody else's data: does the number come out that they state?"""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest

import edge_sdk
from outside.services import edge_sdk as run

LABELS = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
STATED, WITHIN = 74.84, 0.3  # per cent of the test images


@pytest.fixture(scope="module")
def data() -> Path:
    """The folder with ``mlperf_tiny/`` and ``cifar10/``."""
    folder = os.environ.get("EDGE_SDK_DATA")
    if not folder:
        pytest.skip("EDGE_SDK_DATA is not set; it should name a folder with mlperf_tiny/ and cifar10/")
    for part in ("mlperf_tiny/pretrainedResnet_quant.tflite", "cifar10/test.index.npy", "cifar10/test.jpegs"):
        if not (Path(folder) / part).is_file():
            pytest.skip(f"EDGE_SDK_DATA does not hold {part}")
    return Path(folder)


@pytest.fixture(scope="module")
def bundle(data, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("third-party")
    (folder / "labels.txt").write_text("\n".join(LABELS))
    steps = [
        {"op": "color", "mode": "rgb"},
        {"op": "resize", "height": 32, "width": 32},
        {"op": "normalize", "mean": [0, 0, 0], "std": [1, 1, 1]},
    ]
    (folder / "processing.json").write_text(json.dumps({"steps": steps}))
    out = folder / "cifar10-1.0.0.edge"
    model = data / "mlperf_tiny" / "pretrainedResnet_quant.tflite"
    options = ["--name", "cifar10", "--version", "1.0.0", "--task", "classification", "--output", "probabilities"]
    files = ["--labels", folder / "labels.txt", "--processing", folder / "processing.json", "-o", out]
    done = run("pack", model, *options, *files)
    assert (done.returncode, done.stderr) == (0, "")
    return out


def jpegs(data: Path) -> tuple[list[bytes], np.ndarray]:
    index = np.load(data / "cifar10" / "test.index.npy")
    blob = (data / "cifar10" / "test.jpegs").read_bytes()
    return [blob[at : at + size] for _, at, size in index.tolist()], index[:, 0].astype(np.int64)


def test_the_stated_accuracy_is_reproduced(data, bundle):
    pictures, labels = jpegs(data)
    with edge_sdk.load(bundle) as model:
        found = np.array([answer.index for answer in model.predict_many(pictures)])
    accuracy = 100 * (found == labels).mean()
    assert abs(accuracy - STATED) <= WITHIN, f"{accuracy:.2f} %"


def test_the_command_answers_as_the_library_does(data, bundle, tmp_path):
    pictures = jpegs(data)[0][:20]
    files = [tmp_path / f"{n}.jpg" for n in range(len(pictures))]
    for file, picture in zip(files, pictures, strict=True):
        file.write_bytes(picture)
    done = run("predict", bundle, *files, "--json")
    assert (done.returncode, done.stderr) == (0, "")
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    with edge_sdk.load(bundle) as model:
        assert [row["index"] for row in rows] == [answer.index for answer in model.predict_many(pictures)]
