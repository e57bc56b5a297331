"""What is imported when, in a process of its own each time."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

import edge_sdk
from edge_sdk.packing import pack
from edge_sdk.processing import ProcessingSpec
from outside.tflite import tiny_tflite

HEAVY = {
    "PIL", "ai_edge_litert", "google", "grpc", "iotcore", "keras", "matplotlib", "mlxtend", "numpy", "onnx",
    "onnxruntime", "paho", "rich", "scipy", "tensorflow", "tuf",
}  # fmt: skip

DEVICE_NEVER = {"fastapi", "flask", "keras", "matplotlib", "mlxtend", "scipy", "tensorflow"}


# what loading a classifier of pictures does without: each takes milliseconds, or megabytes
LEFT = {
    "edge_sdk.answers.boxes", "edge_sdk.answers.values", "edge_sdk.bundle.arrays", "edge_sdk.bundle.card",
    "edge_sdk.bundle.detector", "edge_sdk.bundle.golden", "edge_sdk.cascade", "edge_sdk.ext.audio",
    "edge_sdk.ext.detection", "edge_sdk.ext.signals", "edge_sdk.ext.tables", "edge_sdk.packing",
    "edge_sdk.processing.audio", "edge_sdk.processing.audio_steps", "edge_sdk.processing.geometry",
    "edge_sdk.processing.oracle", "edge_sdk.processing.sampling", "edge_sdk.processing.skew",
    "edge_sdk.processing.table_steps", "edge_sdk.processing.tables", "edge_sdk.processing.usual", "edge_sdk.protocol",
    "edge_sdk.runtime.tuning", "edge_sdk.sounds", "edge_sdk.streams", "edge_sdk.types.detections",
    "edge_sdk.types.outputs", "edge_sdk.verification",
    "PIL", "_hashlib", "asyncio", "concurrent", "cv2", "email", "importlib.metadata", "logging", "shutil", "socket",
    "ssl", "tempfile", "tensorflow", "zipfile",
}  # fmt: skip


def all_modules_after(program: str) -> set[str]:
    """Return the modules that a program has imported at its end."""
    program += "\nimport sys; print(' '.join(sys.modules))"
    command = [sys.executable, "-P", "-W", "error", "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, timeout=500, check=True)
    return set(done.stdout.splitlines()[-1].split())


def modules_after(program: str) -> set[str]:
    """Return the top-level packages that a program has imported at its end."""
    return {name.partition(".")[0] for name in all_modules_after(program)}


def test_importing_the_package_imports_nothing_heavy():
    assert modules_after("import edge_sdk") & HEAVY == set()


def test_the_command_line_without_a_command_imports_nothing_heavy():
    assert modules_after("from edge_sdk.main import main; main([])") & HEAVY == set()


def test_the_device_imports_neither_tensorflow_nor_scipy_nor_a_web_framework():
    names = [name for name in edge_sdk.__all__ if name != "__version__"]
    assert modules_after(f"from edge_sdk import {', '.join(names)}") & DEVICE_NEVER == set()


def test_loading_a_classifier_of_pictures_loads_only_what_it_needs(tmp_path):
    (tmp_path / "tiny.tflite").write_bytes(tiny_tflite(np.full((192, 3), 0.001), np.zeros(3)))
    bundle = pack(
        tmp_path / "tiny.tflite",
        path=tmp_path / "tiny.edge",
        name="tiny",
        version="1.0.0",
        task="classification",
        labels=("red", "green", "blue"),
        processing=ProcessingSpec.image(8, 8, 3),
        output="logits",
    )
    alone = all_modules_after("import numpy; from ai_edge_litert.interpreter import Interpreter; Interpreter")
    loaded = all_modules_after(f"import edge_sdk; model = edge_sdk.load({str(bundle.path)!r})")
    assert "edge_sdk.answers.classes" in loaded
    assert (loaded - alone) & LEFT == set()


def test_datasets_can_be_read_without_tensorflow():
    assert modules_after("import edge_sdk.datasets") & DEVICE_NEVER == set()


@pytest.mark.parametrize("name", edge_sdk.__all__)
def test_every_public_name_can_be_used(name):
    assert getattr(edge_sdk, name) is not None
    assert name in dir(edge_sdk)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = edge_sdk.nothing


def test_our_protocol_and_another_library_that_registers_the_same_package_live_together():
    names = modules_after("import tritonclient.grpc, edge_sdk.client, edge_sdk.protocol")
    assert {"tritonclient", "edge_sdk"} <= names
    names = modules_after("import edge_sdk.client, edge_sdk.protocol, tritonclient.grpc")
    assert {"tritonclient", "edge_sdk"} <= names
