"""The device part alone, on every Python it promises: what an app developer installs on a Raspberry Pi."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from outside.bundles import CLASSES, tiny_images
from outside.sources import ROOT, copy_sources
from outside.tflite import tiny_tflite

PROMISED = ("3.11", "3.12", "3.13", "3.14")
HEAVY = ("tensorflow", "keras", "scipy", "opencv-python", "pandas", "matplotlib", "rich", "onnx")


def find_python(version: str) -> str | None:
    """Return an interpreter of that version that runs, on the path or among pyenv's."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    candidates = [shutil.which(f"python{version}"), *map(str, sorted(pyenv.glob(f"{version}.*/bin/python")))]
    for candidate in filter(None, candidates):
        told = subprocess.run([candidate, "-c", "import ensurepip"], capture_output=True, check=False)
        if told.returncode == 0:
            return candidate
    return None


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
    subprocess.run([interpreter, "-m", "venv", environment], check=True, timeout=120)
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

    weights = np.full((192, 3), -0.002)
    for colour in range(3):
        weights[colour::3, colour] = 0.004
    images, labels = tiny_images(20, seed=3)
    (tmp_path / "model.tflite").write_bytes(tiny_tflite(weights, np.zeros(3)))
    (tmp_path / "labels.txt").write_text("\n".join(CLASSES))
    steps = [{"op": "color", "mode": "rgb"}, {"op": "resize", "height": 8, "width": 8}]
    (tmp_path / "processing.json").write_text(json.dumps({"steps": steps}))
    for n, image in enumerate(images):
        Image.fromarray(image).save(tmp_path / f"{n:02d}.png")

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [device_python, "-m", "edge_sdk", *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, cwd=tmp_path)

    packed = run(
        *("pack", "model.tflite", "--name", "tiny", "--version", "1.0.0", "--task", "classification"),
        *("--labels", "labels.txt", "--processing", "processing.json", "--output", "logits", "-o", "tiny.edge"),
    )
    assert packed.returncode == 0, packed.stderr
    assert run("verify", "tiny.edge").returncode == 0
    predicted = run("predict", "tiny.edge", *(f"{n:02d}.png" for n in range(20)), "--json")
    assert predicted.returncode == 0, predicted.stderr
    answers = [json.loads(line)["index"] for line in predicted.stdout.splitlines()]
    assert np.mean(np.array(answers) == labels) >= 0.8

    refused = run("demo")
    assert (refused.returncode, len(refused.stderr.splitlines())) == (2, 1)
    assert "pip install 'edge-sdk[demo]'" in refused.stderr
