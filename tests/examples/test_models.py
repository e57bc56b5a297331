"""The examples that train a model, pack it and ask it."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from edge_sdk.bundle import Bundle
from edge_sdk.verification import verify

pytest.importorskip("mlxtend")
pytest.importorskip("tensorflow")


def run(example: str, *arguments: object) -> str:
    """Return what an example prints; it writes nothing on standard error."""
    command = [sys.executable, "-m", f"edge_sdk.examples.{example}", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=500, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


@pytest.mark.slow
def test_digits_are_classified_by_a_bundle_that_verifies(tmp_path):
    text = run("classify", tmp_path)
    assert float(re.search(r"([\d.]+)% of 1000 digits", text)[1]) > 85
    assert verify(Bundle.open(tmp_path / "digits-1.0.0.edge"))["examples"] == 4


@pytest.mark.slow
def test_a_model_of_mixed_precision_is_taken_in_compressed_and_packed(tmp_path):
    text = run("compress", tmp_path)
    assert "float32, mixed_bfloat16" in text
    assert len(re.findall(r"^(litert|onnx):", text, re.MULTILINE)) == 6
    assert float(re.search(r"([\d.]+)% of 1000 digits", text)[1]) > 85
    assert verify(Bundle.open(tmp_path / "digits-1.0.0.edge"))["examples"] == 4


@pytest.mark.slow
def test_a_student_of_an_onnx_teacher_is_better_than_one_of_few_labels(tmp_path):
    text = run("distil", tmp_path)
    taught, alone = (float(share) for share in re.findall(r"([\d.]+)% of \d+ unseen digits", text))
    assert taught > alone
    assert taught > 90
    assert verify(Bundle.open(tmp_path / "taught-1.0.0.edge"))["examples"] == 4


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_digits_in_scenes_are_found_and_drawn_by_an_int8_bundle(tmp_path):
    text = run("detect", tmp_path)
    recall, precision = map(float, re.search(r"([\d.]+)% of \d+ digits.*, ([\d.]+)% of what", text).groups())
    assert recall > 80
    assert precision > 80
    bundle = Bundle.open(tmp_path / "scenes-1.0.0.edge")
    assert bundle.manifest.artifacts[0].outputs[0].dtype == "int8"
    assert verify(bundle)["examples"] == 4
    assert [path.name for path in sorted(tmp_path.glob("*.png"))] == [f"scene-{n}.png" for n in range(4)]


@pytest.mark.slow
def test_what_privacy_rules_keep_does_not_reach_the_server():
    text = run("privacy")
    sent, kept = map(int, re.search(r"200 pictures (\d+) went.*\n  (\d+) stayed", text).groups())
    assert sent + kept == 200
    assert 5 < kept < 60
    assert "of the clinic's 50 pictures 0 went to the cloud" in text
    assert int(re.search(r"had (\d+) bytes", text)[1]) < 784


@pytest.mark.parametrize("example", ["classify", "detect"])
def test_an_example_says_how_it_is_called(example):
    assert f"python -m edge_sdk.examples.{example} OUT" in run(example, "--help")
