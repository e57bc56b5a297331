"""What is imported when, in a process of its own each time."""

from __future__ import annotations

import subprocess
import sys

import pytest

import edge_sdk

HEAVY = {
    "PIL", "ai_edge_litert", "google", "grpc", "iotcore", "keras", "matplotlib", "mlxtend", "numpy", "onnx",
    "onnxruntime", "paho", "rich", "scipy", "tensorflow", "tuf",
}  # fmt: skip

DEVICE_NEVER = {"fastapi", "flask", "keras", "matplotlib", "mlxtend", "scipy", "tensorflow"}


def modules_after(program: str) -> set[str]:
    """Return the top-level packages that a program has imported at its end."""
    program += "\nimport sys; print(' '.join(sys.modules))"
    command = [sys.executable, "-P", "-W", "error", "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    return {name.partition(".")[0] for name in done.stdout.splitlines()[-1].split()}


def test_importing_the_package_imports_nothing_heavy():
    assert modules_after("import edge_sdk") & HEAVY == set()


def test_the_command_line_without_a_command_imports_nothing_heavy():
    assert modules_after("from edge_sdk.main import main; main([])") & HEAVY == set()


def test_the_device_imports_neither_tensorflow_nor_scipy_nor_a_web_framework():
    names = [name for name in edge_sdk.__all__ if name != "__version__"]
    assert modules_after(f"from edge_sdk import {', '.join(names)}") & DEVICE_NEVER == set()


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
