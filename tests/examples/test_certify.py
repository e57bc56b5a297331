"""The example that certifies a pair of models of one's own."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

pytest.importorskip("mlxtend")
pytest.importorskip("sklearn")


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "edge_sdk.examples.certify", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=500, check=False)


@pytest.mark.slow
def test_a_pair_of_scikit_learns_models_is_certified_and_the_promise_is_held_against_test_data():
    done = run()
    assert (done.returncode, done.stderr) == (0, "")
    assert "certified: harm ≤ 0.02 at confidence 0.95" in done.stdout
    assert "from 1000 calibration samples" in done.stdout
    kept = float(re.search(r"([\d.]+)% answered on the device", done.stdout)[1])
    alone, cloud, both = map(float, re.search(r"alone ([\d.]+)%.* alone ([\d.]+)%.* ([\d.]+)%", done.stdout).groups())
    assert 40 < kept < 100
    assert alone < both
    assert cloud - both <= 2.5, "2 points were promised, and the test set is small"


@pytest.mark.slow
def test_what_cannot_be_promised_is_said_in_one_line():
    done = run("--max-accuracy-loss", "0.0001")
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith("certify: error: 1000 calibration samples cannot certify")
