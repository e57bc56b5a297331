"""The device part alone, on every Python it promises: what an app developer installs on a Raspberry Pi."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from outside.installed import find_python, pack_and_predict, run_installed
from outside.sources import ROOT, copy_sources

PROMISED = ("3.11", "3.12", "3.13", "3.14")
HEAVY = ("tensorflow", "keras", "scipy", "opencv-python", "pandas", "matplotlib", "rich", "onnx")


# the legacy runtime stands still: Python 3.11 at most, numpy below 2, and so none of our pins
INSTALLS = [
    *((version, "device", ["-c", ROOT / "constraints.txt"]) for version in PROMISED),
    ("3.11", "tflite,image", []),
]


@pytest.fixture(params=INSTALLS, ids=lambda install: f"{install[0]}-{install[1]}")
def device_python(request, tmp_path) -> Path:
    """Return the interpreter of an environment that holds the device's extras and nothing else."""
    version, extras, pins = request.param
    interpreter = find_python(version)
    if interpreter is None:
        pytest.skip(f"Python {version} is not installed")
    environment = tmp_path / "environment"
    subprocess.run([interpreter, "-m", "venv", environment], check=True, timeout=500)
    python = environment / "bin" / "python"
    sources = copy_sources(tmp_path / "sources")
    pip = [python, "-m", "pip", "install", "-q", *pins, f"{sources}[{extras}]"]
    subprocess.run(pip, check=True, timeout=600, cwd=tmp_path)
    return python


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_model_is_packed_and_predicts_with_a_device_extra_alone(device_python, tmp_path):
    listed = subprocess.run([device_python, "-m", "pip", "list", "--format=json"], capture_output=True, check=True)
    assert {row["name"].lower() for row in json.loads(listed.stdout)}.isdisjoint(HEAVY)

    assert pack_and_predict([device_python], tmp_path) >= 0.8

    refused = run_installed([device_python], "demo", folder=tmp_path)
    assert (refused.returncode, len(refused.stderr.splitlines())) == (2, 1)
    assert "pip install 'edge-sdk[demo]'" in refused.stderr
