"""The command that exports blocks of layers and counts the answers that stay."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from outside.sources import ROOT

pytest.importorskip("tensorflow")

SCRIPT = ROOT / "benchmarks" / "blocks.py"


@pytest.mark.slow
def test_a_block_is_tried_in_every_form_and_written_down(tmp_path):
    command = [sys.executable, SCRIPT, "--block", "dense", "--policy", "float32", "--inputs", "100"]
    done = subprocess.run([*command, "--json", tmp_path / "out"], check=True, capture_output=True, text=True)
    assert "4 of 4 files count" in done.stdout
    (row,) = json.loads((tmp_path / "out").read_text())["rows"]
    assert set(row["artifacts"]) == {"litert:float32", "litert:int8", "onnx:float32", "onnx:int8"}
    assert row["artifacts"]["litert:int8"]["agreement"]["n"] == 100
