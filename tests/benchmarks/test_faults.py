"""The commands that break things and count."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from outside.sources import ROOT

FAULTS, SOAK = ROOT / "benchmarks" / "faults.py", ROOT / "benchmarks" / "soak.py"
PRIVACY = ROOT / "tools" / "fuzz_privacy.py"


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-P", *map(str, arguments)], check=False, capture_output=True, text=True, timeout=500
    )


@pytest.mark.slow
def test_every_call_under_a_fault_is_counted(tmp_path):
    # no promise of time: the machine may be busy with other things
    run(FAULTS, "--fault", "blackhole", "--calls", 200, "--json", tmp_path / "out.json")
    (row,) = json.loads((tmp_path / "out.json").read_text())["faults"]
    assert row["fault"] == "blackhole"
    assert row["calls"] == row["answered"] == sum(row["outcomes"].values()) == 200
    assert not {"answers", "growth"} & set(row["broken"])


@pytest.mark.slow
def test_a_soak_counts_what_is_left_behind(tmp_path):
    run(SOAK, "--minutes", 0.6, "--json", tmp_path / "out.json")
    row = json.loads((tmp_path / "out.json").read_text())
    assert row["calls"] == row["answered"] == 1800
    assert row["faults"]
    assert not [what for what in row["broken"] if what != "time"]


@pytest.mark.slow
def test_the_privacy_fuzzer_finds_nothing():
    done = run(PRIVACY, "--count", 3000, "--processes", 2)
    assert done.returncode == 0, done.stdout[-2000:]
    assert "0 leaks" in done.stdout.splitlines()[-1]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ((FAULTS, "--calls", 5), "--calls is 5"),
        ((FAULTS, "--fault", "flood"), "invalid choice: 'flood'"),
        ((SOAK, "--minutes", 0), "--minutes is 0"),
        ((PRIVACY, "--count", 0), "--count and --processes should be at least 1"),
    ],
)
def test_wrong_options_are_one_line(arguments, says):
    done = run(*arguments)
    assert done.returncode == 2
    assert says in done.stderr
