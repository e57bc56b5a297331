"""Checkpoints are whole or passed over: damage anywhere costs the one file, never the run."""

from __future__ import annotations

from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edge_sdk.cloud.training import checkpoints
from edge_sdk.cloud.training.checkpoints import Checkpoint
from edge_sdk.errors import CompressionError, StorageError


def checkpoint(step: int) -> Checkpoint:
    rng = np.random.default_rng(step)
    arrays = {
        "model/0000/kernel": rng.normal(size=(3, 4)).astype(np.float32),
        "model/0001/half": rng.normal(size=5).astype(ml_dtypes.bfloat16),
        "optimizer/0000/iteration": np.asarray(step, np.int64),
        "seed": rng.integers(0, 1 << 32, 2, dtype=np.uint32),
        "empty": np.zeros((0, 2), np.float32),
    }
    return Checkpoint(step, arrays, {"run": {"seed": 0, "name": "Ümlaut"}, "history": [[0.5, 0.25]]})


def same(found: Checkpoint | None, wanted: Checkpoint) -> bool:
    assert found is not None
    assert found.arrays.keys() == wanted.arrays.keys()
    for name, array in wanted.arrays.items():
        assert found.arrays[name].dtype == array.dtype
        assert found.arrays[name].shape == array.shape
        assert found.arrays[name].tobytes() == array.tobytes()
    return found.step == wanted.step and found.facts == wanted.facts


def test_a_checkpoint_comes_back_bit_by_bit(tmp_path: Path) -> None:
    checkpoints.save(tmp_path, checkpoint(7))
    assert same(checkpoints.newest(tmp_path), checkpoint(7))


def test_the_last_two_are_kept(tmp_path: Path) -> None:
    for step in (2, 9, 10, 100):
        checkpoints.save(tmp_path, checkpoint(step))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-000000010.ckpt", "step-000000100.ckpt"]
    assert same(checkpoints.newest(tmp_path), checkpoint(100))


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damage_of_the_last_file_heals_to_the_one_before(data: st.DataObject, tmp_path: Path) -> None:
    checkpoints.save(tmp_path, checkpoint(1))
    last = checkpoints.save(tmp_path, checkpoint(2))
    whole = last.read_bytes()
    at = data.draw(st.integers(0, len(whole) - 1))
    if data.draw(st.booleans()):
        last.write_bytes(whole[:at])
    else:
        last.write_bytes(whole[:at] + bytes([whole[at] ^ data.draw(st.integers(1, 255))]) + whole[at + 1 :])
    assert same(checkpoints.newest(tmp_path), checkpoint(1))


def test_a_run_that_begins_anew_after_damage_keeps_its_own_checkpoints(tmp_path: Path) -> None:
    for step in (90, 100):
        checkpoints.save(tmp_path, checkpoint(step)).write_bytes(b"damaged")
    for step in (10, 20):
        checkpoints.save(tmp_path, checkpoint(step))
    assert same(checkpoints.newest(tmp_path), checkpoint(20))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-000000010.ckpt", "step-000000020.ckpt"]


def test_two_runs_cannot_write_into_one_folder(tmp_path: Path) -> None:
    with (
        checkpoints.held(tmp_path),
        pytest.raises(CompressionError, match="another process trains in"),
        checkpoints.held(tmp_path),
    ):
        pass
    with checkpoints.held(tmp_path):
        checkpoints.save(tmp_path, checkpoint(1))


def test_where_all_are_damaged_there_is_none(tmp_path: Path) -> None:
    checkpoints.save(tmp_path, checkpoint(1)).write_bytes(b"")
    assert checkpoints.newest(tmp_path) is None
    assert checkpoints.newest(tmp_path / "nowhere") is None


def test_what_a_kill_left_half_written_is_removed(tmp_path: Path) -> None:
    checkpoints.save(tmp_path, checkpoint(1))
    (tmp_path / ".step-000000002.ckpt.abc").write_bytes(b"half")
    assert same(checkpoints.newest(tmp_path), checkpoint(1))
    assert [path.name for path in tmp_path.iterdir()] == ["step-000000001.ckpt"]


def test_clearing_leaves_what_is_not_ours(tmp_path: Path) -> None:
    own, shared = tmp_path / "own", tmp_path / "shared"
    for folder in (own, shared):
        folder.mkdir()
        checkpoints.save(folder, checkpoint(1))
    (shared / "notes.txt").write_text("mine")
    for folder in (own, shared, tmp_path / "nowhere"):
        checkpoints.clear(folder)
    assert not own.exists()
    assert [path.name for path in shared.iterdir()] == ["notes.txt"]


def test_a_folder_that_is_not_there_is_an_error_of_storage(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="step-000000001"):
        checkpoints.save(tmp_path / "nowhere", checkpoint(1))
