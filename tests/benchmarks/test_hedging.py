"""The command that measures what hedging does to a tail."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from outside.sources import ROOT

SCRIPT = ROOT / "benchmarks" / "hedging.py"


def test_a_tail_is_hedged_within_its_share(tmp_path: Path) -> None:
    path = tmp_path / "hedging.json"
    options = {"--calls": 100, "--tail": 0.05, "--tail-share": 0.03, "--share": 0.2, "--json": path}
    command = [sys.executable, SCRIPT, *(str(word) for option in options.items() for word in option)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "times better" in done.stdout
    written = json.loads(path.read_text())["hedging"]
    assert written["without"]["extra_calls"] == 0
    assert written["without"]["extra_share"] == 0
    assert 0 < written["with"]["extra_share"] <= 0.2
    assert written["with"]["calls"] == 100
