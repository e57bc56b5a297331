"""A run that ends at any step and is resumed ends as one that never stopped: the same bits on one device."""

from __future__ import annotations

import functools
import os
import random
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import keras
import pytest
from learning import network, stripes_npz, stripes_splits, teacher

from edge_sdk.cloud.training import load_trained
from edge_sdk.cloud.training.loop import train
from edge_sdk.errors import CompressionError, StorageError
from edge_sdk.main import main

# Keras turns TensorFlow's tensors into arrays in a way that NumPy 2 finds old
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")


def lively(shape: tuple[int, int, int], classes: int, policy: str) -> keras.Model:
    """Return the shared network with dropout, whose random numbers are part of the state, too."""
    body = network(shape, classes, policy)
    x = keras.layers.Dropout(0.3, dtype=policy)(body.layers[-2].output)
    return keras.Model(body.inputs, keras.layers.Dense(classes, dtype="float32")(x), name="body")


class Stop:
    """Ends a run at a step, as Ctrl-C does."""

    def __init__(self, at: int) -> None:
        self.at = at

    def __call__(self, stage: str, done: int, total: int) -> None:
        if done == self.at:
            raise KeyboardInterrupt


def run(**options: Any) -> Any:
    return train(stripes_splits(), network=lively, epochs=3, seed=3, batch=48, precision="float32", **options)


@functools.cache
def whole() -> Any:
    """Return the run that never stopped."""
    return run(patience=2)


def test_a_run_that_was_interrupted_and_damaged_ends_with_the_same_weights_and_history(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):  # of 4 steps an epoch
        run(patience=2, checkpoints=tmp_path, every=1, resume=True, on_progress=Stop(7))
    last = max(tmp_path.iterdir())
    assert last.name == "step-000000007.ckpt"
    last.write_bytes(last.read_bytes()[:-1])
    steps: list[int] = []
    again = run(
        patience=2, checkpoints=tmp_path, resume=True, on_progress=lambda stage, done, total: steps.append(done)
    )
    assert steps[0] == 6
    assert again.history == whole().history
    assert again.digest == whole().digest
    assert again.metrics == whole().metrics


def test_a_folder_with_a_run_is_neither_overwritten_nor_resumed_with_other_options(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(checkpoints=tmp_path, on_progress=Stop(2))
    with pytest.raises(CompressionError, match="holds a run that stopped at step 2: resume it"):
        run(checkpoints=tmp_path)
    with pytest.raises(CompressionError, match=r"was begun with other rate \(0\.004, not 0\.1\)"):
        run(checkpoints=tmp_path, resume=True, rate=0.1)
    with pytest.raises(CompressionError, match="a checkpoint every 0 steps"):
        run(checkpoints=tmp_path, resume=True, every=0)


class Full:
    """Lets the disk be full from a step on: no file may grow beyond a size."""

    def __init__(self, at: int, size: int) -> None:
        self.at, self.size, self.before = at, size, resource.getrlimit(resource.RLIMIT_FSIZE)

    def __call__(self, stage: str, done: int, total: int) -> None:
        if done == self.at:
            resource.setrlimit(resource.RLIMIT_FSIZE, (self.size, self.before[1]))

    def over(self) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, self.before)


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a file that grows too large ends the process")
def test_a_disk_that_is_full_ends_the_run_with_its_last_checkpoint_whole(tmp_path: Path) -> None:
    full = Full(at=5, size=2000)
    try:
        with pytest.raises(StorageError, match="step-000000005"):
            run(patience=2, checkpoints=tmp_path, every=1, on_progress=full)
    finally:
        full.over()
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["step-000000003.ckpt", "step-000000004.ckpt"]
    assert run(patience=2, checkpoints=tmp_path, resume=True).digest == whole().digest


# ---- the command, killed


def command(spec: str, out: Path, *more: str) -> list[str]:
    options = ["--epochs", "2", "--batch", "24", "--precision", "float32", "--patience", "5", "--checkpoint-every", "1"]
    return [sys.executable, "-m", "edge_sdk", "train", "--data", spec, "-o", str(out), *options, "--json", *more]


def steps_kept(out: Path) -> int:
    found = sorted((out / "checkpoints").glob("step-*.ckpt"))
    return int(found[-1].stem[5:]) if found else 0


START = (
    "import signal, sys; from edge_sdk.main import main; "
    "signal.signal(signal.SIGINT, signal.default_int_handler); "  # which is ignored by what a shell runs beside itself
    "sys.exit(main(sys.argv[1:]))"
)
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "TF_NUM_INTRAOP_THREADS": "1", "TF_NUM_INTEROP_THREADS": "1"}


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_command_killed_at_any_step_and_resumed_gives_the_same_model(tmp_path: Path) -> None:
    spec = stripes_npz(tmp_path / "s.npz", 300)
    environment = {**os.environ, **ENVIRONMENT}
    subprocess.run(command(spec, tmp_path / "whole"), check=True, env=environment, capture_output=True)
    whole = load_trained(tmp_path / "whole")
    total = 2 * (len(load_splits_train(spec)) // 24)

    rng = random.Random(7)
    killed = 0
    for at in sorted(rng.sample(range(1, total), 4)):
        out = tmp_path / "killed"
        process = subprocess.Popen(
            command(spec, out, "--resume"), env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        while process.poll() is None and steps_kept(out) < at:
            time.sleep(0.001)
        time.sleep(rng.uniform(0.0, 0.02))  # into a step, a write or a rename
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
            killed += 1
        process.wait()
    assert killed > 0
    subprocess.run(command(spec, tmp_path / "killed", "--resume"), check=True, env=environment, capture_output=True)
    again = load_trained(tmp_path / "killed")
    assert again.digest == whole.digest
    assert again.metrics == whole.metrics
    assert again.history == whole.history
    assert not (tmp_path / "killed" / "checkpoints").exists()


def load_splits_train(spec: str) -> Any:
    from edge_sdk.datasets import load_splits

    return load_splits(spec).train


@pytest.mark.slow
def test_an_interrupted_command_says_how_to_go_on_and_does(tmp_path: Path) -> None:
    spec = stripes_npz(tmp_path / "s.npz", 300)
    out = tmp_path / "t"
    line = [sys.executable, "-c", START, *command(spec, out)[3:]]
    process = subprocess.Popen(line, env={**os.environ, **ENVIRONMENT}, stderr=subprocess.PIPE, text=True)
    while process.poll() is None and not steps_kept(out):
        time.sleep(0.001)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=500)
    assert process.returncode == 130
    assert f"stopped at step {steps_kept(out)}; the same command with --resume goes on" in said
    assert main(command(spec, out, "--resume")[3:]) == 0
    assert load_trained(out).history["validation"]


def test_a_finished_folder_has_nothing_left_to_resume(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spec = stripes_npz(tmp_path / "s.npz", 300)
    teacher().save(tmp_path / "t")
    assert main(["train", "--data", spec, "-o", str(tmp_path / "t"), "--epochs", "1", "--resume"]) == 2
    assert "there is nothing to resume" in capsys.readouterr().err
