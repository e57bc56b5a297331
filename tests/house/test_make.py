"""The commands of the README: what they say when something is missing, and what they do again."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from outside.sources import ROOT, copy_sources

NO_HEADERS = "import os; there = os.path.exists; os.path.exists = lambda p: not p.endswith('Python.h') and there(p)"
# what a make above this run, if there is one, was told
TOLD = {"MAKEFLAGS", "MAKEOVERRIDES", "MFLAGS", "PYTHON", "VENV", "ARGS", "SUITES", "SECONDS"}
PREFLIGHT = ROOT / "tools" / "preflight.py"


def preflight(setup: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
    """Run tools/preflight.py in a process where ``setup`` ran first."""
    program = f"import runpy, sys\n{setup}\nrunpy.run_path({str(PREFLIGHT)!r}, run_name='__main__')"
    return subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False, env=os.environ | environment
    )


def test_this_machine_has_what_is_needed():
    done = preflight()
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    ("setup", "environment", "message"),
    [
        ("sys.version_info = (3, 10, 1)", {}, "is Python 3.10; edge-sdk needs 3.11 or newer"),
        ("sys.version_info = (3, 14, 0)", {}, "has wheels for Python 3.11 to 3.13 only"),
        ("sys.maxsize = 2**31 - 1", {}, "is a 32-bit system"),
        ("sys.modules['ensurepip'] = None", {}, "apt-get install python3-venv"),
        ("", {"CC": "no-such-compiler -O2"}, "no C compiler (no-such-compiler). On Debian: apt-get install gcc"),
        (NO_HEADERS, {}, "apt-get install python3-dev"),
    ],
    ids=["old", "too new", "32-bit", "venv", "compiler", "headers"],
)
def test_what_is_missing_is_said_in_one_line_with_what_to_do(setup, environment, message):
    done = preflight(setup, **environment)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert message in line


@pytest.fixture
def sources(tmp_path) -> Path:
    """A copy of the sources with an environment whose stamps are all fresh."""
    copy_sources(tmp_path)
    (tmp_path / ".venv").mkdir()
    for name in ("venv", "build", "demo", "dev"):
        (tmp_path / ".venv" / f"stamp-{name}").touch()
    return tmp_path


def planned(sources: Path, *targets: str) -> str:
    """Return what make would run."""
    command = ["make", "-n", *targets]
    environment = {name: value for name, value in os.environ.items() if name not in TOLD}
    done = subprocess.run(command, cwd=sources, capture_output=True, text=True, check=True, env=environment)
    return done.stdout


def test_an_environment_that_is_there_is_used_again(sources):
    assert "install" not in planned(sources, "demo", "test", "lint")


@pytest.mark.parametrize("changed", ["pyproject.toml", "setup.py", "constraints.txt", "ext/scores.pyx"])
def test_a_change_of_what_is_installed_installs_again(sources, changed):
    later = (sources / ".venv" / "stamp-dev").stat().st_mtime + 10
    os.utime(sources / changed, (later, later))
    assert "'.[demo,dev]'" in planned(sources, "test")
    assert "-m venv" not in planned(sources, "test")
    plan = planned(sources, "demo")
    assert "'.[demo]'" in plan
    assert "constraints.txt" in plan


def test_the_demo_passes_its_arguments_on(sources):
    assert ".venv/bin/edge-sdk demo --out demo-out --quick --seed 3" in planned(
        sources, "demo", "ARGS=--quick --seed 3"
    )


def test_help_lists_the_targets():
    done = subprocess.run(["make"], cwd=ROOT, capture_output=True, text=True, check=True)
    for target in ("demo", "test", "test-slow", "lint", "bench", "wheels", "proto", "lock", "clean"):
        assert f"make {target} " in done.stdout


def test_the_requirements_of_an_extra_are_spelled_out():
    command = [sys.executable, ROOT / "tools" / "lock.py", "requirements", "demo", "dev"]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    names = {line.partition(">")[0].partition("[")[0] for line in lines}
    assert {"numpy", "cython", "grpcio", "tensorflow", "tuf", "pytest", "matplotlib"} <= names
    assert not [line for line in lines if line.startswith("edge-sdk")]
