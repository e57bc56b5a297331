from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from edge_sdk.bundle import Bundle
from edge_sdk.packing import pack
from edge_sdk.processing import ProcessingSpec
from outside.bundles import CLASSES, SIDE, tiny_images, tiny_onnx, train_tiny
from outside.tflite import tiny_tflite

LEVELS = ProcessingSpec.image(SIDE, SIDE, 3, std=1.0)


@dataclass(frozen=True)
class Made:
    """One trained layer as three model files."""

    onnx: bytes
    int8_logits: bytes
    int8_probabilities: bytes
    processing: ProcessingSpec = LEVELS
    labels: tuple[str, ...] = CLASSES

    def pack(self, path: Path, model: str = "int8_probabilities", **changes: object) -> Bundle:
        """Pack one of the three; ``changes`` replace arguments of `pack`."""
        arguments = {
            "runtime": "onnx" if model == "onnx" else "litert",
            "name": "colours",
            "version": "1.0.0",
            "labels": self.labels,
            "processing": self.processing,
            "output": "probabilities" if model == "int8_probabilities" else "logits",
            "path": path,
        }
        return pack(getattr(self, model), **{**arguments, **changes})


@pytest.fixture(scope="session")
def made() -> Made:
    """Small models that tell red, green and blue apart."""
    weights, bias = train_tiny(LEVELS)
    return Made(tiny_onnx(weights, bias), tiny_tflite(weights, bias), tiny_tflite(weights, bias, softmax=True))


@pytest.fixture(scope="session")
def pictures() -> tuple[np.ndarray, np.ndarray]:
    """Pictures that no model has seen, uint8 [n, 24, 24, 3], and their classes."""
    return tiny_images(200, 99)
