"""Several devices and several machines train what one does: real processes, one network without batch normalization.

Batch normalization is left out because each replica normalizes by its own share of the batch.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from outside.network import free_port

ENVIRONMENT = {"OMP_NUM_THREADS": "1", "TF_NUM_INTRAOP_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}

PROGRAM = """
import sys
import keras, numpy as np, tensorflow as tf
from learning import stripes_splits
from edge_sdk.cloud.training import strategy
from edge_sdk.cloud.training.loop import train

how, out = sys.argv[1:]
if how == "mirrored":  # two devices of one processor in place of two GPUs
    two = [tf.config.LogicalDeviceConfiguration()] * 2
    tf.config.set_logical_device_configuration(tf.config.list_physical_devices("CPU")[0], two)
    strategy.choose = lambda wanted, found: strategy.Plan("mirrored", "cpu", 2)
    whole = tf.distribute.MirroredStrategy
    tf.distribute.MirroredStrategy = lambda: whole(["CPU:0", "CPU:1"])

def network(shape, classes, policy):
    inputs = keras.Input(shape)
    x = keras.layers.Conv2D(8, 3, strides=2, activation="relu", kernel_regularizer="l2")(inputs)
    return keras.Model(inputs, keras.layers.Dense(classes)(keras.layers.Flatten()(x)), name="body")

def stop(stage, done, total):
    if how.startswith("stopped") and done == 6:
        raise SystemExit(3)

trained = train(
    stripes_splits(), network=network, epochs=3, batch=48, parts=2, precision="float32", patience=3, seed=2,
    strategy="multiworker" if "multiworker" in how else "auto", checkpoints=out + ".checkpoints", resume=True,
    on_progress=stop,
)
np.savez(out, *trained.model.get_weights(), history=[*trained.history["loss"], *trained.history["validation"]])
"""


def start(how: str, out: Path, cluster: list[int] | None = None, index: int = 0) -> subprocess.Popen[str]:
    environment = {**os.environ, **ENVIRONMENT, "PYTHONPATH": str(Path(__file__).parents[1] / "fixtures")}
    if cluster is not None:
        workers = [f"127.0.0.1:{port}" for port in cluster]
        task = {"type": "worker", "index": index}
        environment["TF_CONFIG"] = json.dumps({"cluster": {"worker": workers}, "task": task})
    program = [sys.executable, "-c", PROGRAM, how, str(out)]
    return subprocess.Popen(program, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def ended(*processes: subprocess.Popen[str], code: int = 0) -> None:
    for process in processes:
        _, said = process.communicate(timeout=300)
        assert process.returncode == code, said[-2000:]


def arrays(path: Path) -> list[np.ndarray[Any, Any]]:
    with np.load(path) as found:
        return [found[name] for name in found.files]


def same(first: Path, second: Path) -> None:
    for one, other in zip(arrays(first), arrays(second), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_two_machines_and_two_devices_train_what_one_does_and_resume_together_or_not_at_all(tmp_path: Path) -> None:
    one, mirrored = tmp_path / "one.npz", tmp_path / "mirrored.npz"
    ended(start("one", one))
    ended(start("mirrored", mirrored))
    same(mirrored, one)

    machines = [tmp_path / "shared" / name for name in ("first.npz", "second.npz")]
    machines[0].parent.mkdir()
    checkpoints = machines[0].with_name("first.npz.checkpoints")
    machines[1].with_name("second.npz.checkpoints").symlink_to(checkpoints)  # a folder that all machines see
    checkpoints.mkdir()
    ports = [free_port(), free_port()]
    ended(*(start("stopped multiworker", out, ports, i) for i, out in enumerate(machines)), code=3)
    assert [path.name for path in checkpoints.iterdir()] == ["step-000000006.ckpt"]
    ports, alone = [free_port(), free_port()], [machines[0], tmp_path / "alone.npz"]
    strangers = [start("multiworker", out, ports, i) for i, out in enumerate(alone)]
    for process, step in zip(strangers, (6, 0), strict=True):
        _, said = process.communicate(timeout=300)
        assert f"this machine would go on from step {step}, others from elsewhere" in said
    ports = [free_port(), free_port()]
    ended(*(start("multiworker", out, ports, i) for i, out in enumerate(machines)))
    for out in machines:
        same(out, one)
