"""The emulated Raspberry Pi: what it says where it is not to be had, and what it is where it is."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from outside.sources import ROOT


def pi(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-P", "tools/pi", *map(str, arguments)]
    return subprocess.run(
        command, cwd=ROOT, env={**os.environ, **environment}, capture_output=True, text=True, check=False
    )


def test_a_test_without_the_tools_is_skipped_in_one_line_that_says_what_to_install(tmp_path: Path) -> None:
    done = pi("--cache", tmp_path / "cache", "test", PATH=str(tmp_path))
    said = "skipped: there is no qemu-aarch64-static; on Debian: apt-get install qemu-user-static\n"
    assert (done.returncode, done.stdout, done.stderr) == (0, said, "")
    assert not (tmp_path / "cache").exists()


def test_a_command_cannot_be_run_without_the_tools(tmp_path: Path) -> None:
    done = pi("--cache", tmp_path / "cache", "run", "true", PATH=str(tmp_path))
    assert done.returncode == 1
    assert done.stdout.startswith("skipped: ")


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_command_runs_on_an_emulated_processor_and_leaves_this_machine_alone() -> None:
    formats = Path("/proc/sys/fs/binfmt_misc")
    before = sorted(path.name for path in formats.iterdir()) if formats.is_dir() else None
    mounts = Path("/proc/self/mounts").read_text()
    program = "import os, platform, socket; print(platform.machine(), os.listdir('/sys/class/net'), os.getuid())"
    done = pi("run", "--processor", "cortex-a53", "python3", "-c", program)
    if "skipped: " in done.stdout:
        pytest.skip(done.stdout)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1].startswith("aarch64 ")
    assert (sorted(path.name for path in formats.iterdir()) if formats.is_dir() else None) == before
    assert Path("/proc/self/mounts").read_text() == mounts
    assert pi("run", "sh", "-c", "exit 7").returncode == 7
