"""Devices and pipes where files are meant, and outputs that take nothing: one line, and nothing is spoilt."""

from __future__ import annotations

import os
import stat
import subprocess
from pathlib import Path

import numpy as np
import pytest

from edge_sdk import datasets, files
from edge_sdk.cloud.ota.repository import Repository
from edge_sdk.errors import DataError, InputError, StorageError
from outside.services import COMMAND, edge_sdk


@pytest.fixture
def pipe(tmp_path: Path) -> Path:
    """Return a named pipe: reading it would wait for ever, and a file must not take its place."""
    os.mkfifo(tmp_path / "pipe")
    return tmp_path / "pipe"


def test_a_pipe_is_never_replaced_by_a_file(pipe: Path) -> None:
    with pytest.raises(StorageError, match="device or a pipe"):
        files.write_durably(pipe, b"data")
    assert stat.S_ISFIFO(pipe.stat().st_mode)
    assert list(pipe.parent.iterdir()) == [pipe]


def test_a_pipe_is_no_data_set(pipe: Path) -> None:
    with pytest.raises(DataError, match="not a file"):
        datasets.load(f"npz:{pipe}")


@pytest.mark.parametrize("seed", [-1, 1 << 32])
def test_a_seed_that_no_generator_takes_is_refused(tmp_path: Path, seed: int) -> None:
    np.savez(tmp_path / "data.npz", x=np.zeros((100, 4, 4), np.uint8), y=np.arange(100) % 2)
    with pytest.raises(DataError, match="seed is"):
        datasets.load_splits(f"npz:{tmp_path / 'data.npz'}", seed=seed)


def test_a_pipe_is_no_bundle_to_sign(tmp_path: Path, pipe: Path) -> None:
    repository = Repository.init(tmp_path / "repository", bins=2)
    with pytest.raises(InputError, match="not a file"):
        repository.add(pipe)


@pytest.mark.parametrize("days", ["nan", "inf", "1e12", "-1", "0"])
def test_an_assignment_holds_for_a_number_of_days(tmp_path: Path, days: str) -> None:
    done = edge_sdk("ota", "assign", tmp_path, "--device", "cam-1", "--target", "a-1.0.0", f"--days={days}")
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
    assert "number of days" in done.stderr


@pytest.mark.skipif(not Path("/dev/full").is_char_device(), reason="this machine has no /dev/full")
def test_an_output_without_room_is_one_line(tiny_edge_bundle) -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [*COMMAND, "inspect", str(tiny_edge_bundle.path), "--json"],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
    assert "No space left" in done.stderr
