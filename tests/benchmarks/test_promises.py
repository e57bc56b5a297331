"""The command that counts how well promises are kept."""

from __future__ import annotations

import json
import subprocess
import sys

from outside.sources import ROOT

SCRIPT = ROOT / "benchmarks" / "promises.py"


def test_promises_are_counted_the_same_each_time(tmp_path):
    for name in ("one", "two"):
        subprocess.run([sys.executable, SCRIPT, "--draws", "5", "--json", tmp_path / name], check=True)
    counted = json.loads((tmp_path / "one").read_text())
    assert counted == json.loads((tmp_path / "two").read_text())
    assert len(counted["rows"]) == 20
    assert counted["draws"] == 5


def test_no_draws_is_one_line():
    done = subprocess.run([sys.executable, SCRIPT, "--draws", "0"], check=False, capture_output=True, text=True)
    assert done.returncode == 2
    assert "--draws is 0" in done.stderr
