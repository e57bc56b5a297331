"""The command that changes servers under load."""

from __future__ import annotations

import subprocess
import sys

import pytest

from outside.sources import ROOT

SCRIPT = ROOT / "benchmarks" / "changes.py"


@pytest.mark.slow
@pytest.mark.parametrize("change", ["swaps", "certificates", "kills", "drains"])
def test_no_request_fails_while_a_server_is_changed(change: str) -> None:
    done = subprocess.run(
        [sys.executable, SCRIPT, change, "--times", "2"], capture_output=True, text=True, check=False, timeout=300
    )
    if "left out" in done.stdout:
        pytest.skip(done.stdout.strip())
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{change}: 2 times" in done.stdout
    assert " 0 failed" in done.stdout


def test_a_change_that_is_unknown_is_refused() -> None:
    done = subprocess.run([sys.executable, SCRIPT, "storms"], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "there is no change 'storms'" in done.stderr
