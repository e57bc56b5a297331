from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edge_sdk.packing import pack
from edge_sdk.processing import ProcessingSpec
from outside.bundles import CLASSES, SIDE, tiny_images, tiny_onnx, train_tiny
from outside.tflite import tiny_tflite

SPEC = ProcessingSpec.image(SIDE, SIDE, 3, std=1.0)


@dataclass(frozen=True)
class Files:
    """Files that a person at a terminal might have."""

    folder: Path
    model: Path
    onnx: Path
    labels: Path
    processing: Path
    bundle: Path
    pictures: tuple[Path, ...]


@pytest.fixture(scope="session")
def files(tmp_path_factory) -> Files:
    """A model, what belongs to it, a bundle of it, and three pictures."""
    folder = tmp_path_factory.mktemp("files")
    weights, bias = train_tiny(SPEC)
    made = Files(
        folder,
        folder / "colours.tflite",
        folder / "colours.onnx",
        folder / "labels.txt",
        folder / "processing.json",
        folder / "colours-1.0.0.edge",
        tuple(folder / f"{n}.png" for n in range(3)),
    )
    made.model.write_bytes(tiny_tflite(weights, bias, softmax=True))
    made.onnx.write_bytes(tiny_onnx(weights, bias))
    made.labels.write_text("\ufeff" + "\n".join(CLASSES) + "\n\n", encoding="utf-8")
    made.processing.write_text(json.dumps(SPEC.to_json()))
    pack(
        made.model,
        path=made.bundle,
        name="colours",
        version="1.0.0",
        labels=CLASSES,
        processing=SPEC,
        output="probabilities",
    )
    for path, picture in zip(made.pictures, tiny_images(3, 5)[0], strict=True):
        Image.fromarray(picture).save(path)
    return made


@pytest.fixture(scope="session")
def images() -> tuple[np.ndarray, np.ndarray]:
    """A data set: pictures uint8 [n, 24, 24, 3] and their classes."""
    return tiny_images(2400, 21)
