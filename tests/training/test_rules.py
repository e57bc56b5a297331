"""Before a run: its rate, its batch, its data and its machines fit what it is planned for."""

from __future__ import annotations

import json
from dataclasses import replace

import keras
import numpy as np
import pytest
import tensorflow as tf
from learning import stripes, stripes_splits

from edge_sdk.cloud.training import Options, data, recency, rules, strategy
from edge_sdk.cloud.training.schedules import schedule
from edge_sdk.cloud.training.strategy import Devices, Plan
from edge_sdk.errors import CompressionError, DataError

ONE, GPUS, TPU = Plan("one", "cpu", 1), Plan("mirrored", "gpu", 4), Plan("tpu", "tpu", 0, "local")


# ---- batches


@pytest.mark.parametrize(
    ("plan", "batch", "replicas", "parts", "says"),
    [
        (ONE, 33, 1, 2, "take a multiple of 2"),
        (GPUS, 66, 4, 1, "take a multiple of 4"),
        (TPU, 8 * 12, 8, 1, "8 TPU cores 12 images at a time; take a multiple of 64, best of 1024"),
        (TPU, 8 * 16, 8, 4, "4 images at a time"),
    ],
)
def test_a_batch_that_its_devices_cannot_share_is_refused(
    plan: Plan, batch: int, replicas: int, parts: int, says: str
) -> None:
    with pytest.raises(CompressionError, match=says):
        rules.check_batch(plan, batch, replicas, parts=parts)


def test_a_tpu_that_is_half_used_is_advice_and_a_full_one_is_none() -> None:
    advice = rules.check_batch(TPU, 8 * 64, 8)
    assert advice is not None
    assert "multiples of 128" in advice
    assert rules.check_batch(TPU, 8 * 128, 8) is None
    assert rules.check_batch(ONE, 17, 1) is None


# ---- data on a TPU


def test_our_own_batches_suit_a_tpu_with_augmentation_and_without() -> None:
    dataset = stripes(40, channels=3)
    for augmentation in (None, data.augmentation_for(dataset)):
        source = data.batches(np.asarray(dataset.images), dataset.labels, batch=8, seed=0, augmentation=augmentation)
        rules.check_source(TPU, source)


def test_batches_of_changing_size_are_refused_on_a_tpu_alone() -> None:
    source = tf.data.Dataset.from_tensor_slices(np.zeros((10, 3), np.float32)).batch(4)
    with pytest.raises(CompressionError, match=r"component 0 .* drop_remainder=True"):
        rules.check_source(TPU, source)
    rules.check_source(ONE, source)


@pytest.mark.parametrize("how", ["py_function", "numpy_function", "nested", "generator"])
def test_python_in_the_data_is_found_wherever_it_is(how: str) -> None:
    rows = tf.data.Dataset.from_tensor_slices(np.zeros((8, 3), np.float32))

    def python(row: tf.Tensor) -> tf.Tensor:
        call = tf.numpy_function if how == "numpy_function" else tf.py_function
        return tf.ensure_shape(call(lambda x: x, [row], tf.float32), [3])

    if how == "generator":
        spec = tf.TensorSpec([3], tf.float32)
        source = tf.data.Dataset.from_generator(lambda: iter(np.zeros((8, 3), np.float32)), output_signature=spec)
    elif how == "nested":
        source = rows.flat_map(lambda row: tf.data.Dataset.from_tensors(row).map(python))
    else:
        source = rows.map(python)
    with pytest.raises(CompressionError, match="made by Python"):
        rules.check_source(TPU, source.batch(4, drop_remainder=True))


# ---- machines


def config(kind: str, index: int, **cluster: list[str]) -> dict[str, str]:
    return {"TF_CONFIG": json.dumps({"cluster": cluster, "task": {"type": kind, "index": index}})}


def test_machines_are_read_from_the_environment() -> None:
    two = ["a:1", "b:1"]
    assert strategy.devices(environment={}).workers == 1
    assert strategy.devices(environment=config("worker", 1, worker=two)) == Devices(workers=2, worker=1)
    assert strategy.devices(environment=config("worker", 1, worker=two, chief=["c:1"])) == Devices(workers=3, worker=2)
    assert strategy.devices(environment=config("chief", 0, worker=two, chief=["c:1"])).worker == 0


@pytest.mark.parametrize("text", ["{", "[]", '{"cluster": {"worker": ["a:1"]}}', '{"cluster": 3}'])
def test_a_configuration_that_is_none_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(CompressionError, match=r'expected \{"cluster"'):
        strategy.devices(environment={"TF_CONFIG": text})


def test_a_worker_that_is_not_in_its_cluster_is_refused() -> None:
    with pytest.raises(CompressionError, match="TF_CONFIG is not usable"):
        strategy.devices(environment=config("worker", 2, worker=["a:1", "b:1"]))


def test_several_machines_are_used_and_the_first_of_them_writes() -> None:
    assert strategy.choose("auto", Devices(workers=2)) == Plan("multiworker", "cpu", 2)
    second = strategy.choose("multiworker", Devices(gpus=4, workers=2, worker=1))
    assert second == Plan("multiworker", "gpu", 8, chief=False)
    with pytest.raises(CompressionError, match="multiworker needs machines"):
        strategy.choose("multiworker", Devices())


# ---- rates


@pytest.mark.parametrize(
    ("kind", "at", "rate"),
    [
        ("cosine", 55, 0.5),
        ("cosine", 100, 0.0),
        ("step", 50, 1.0),
        ("step", 60, 0.1),
        ("step", 99, 0.01),
        ("inverse", 55, 1 / 5.5),
        ("inverse", 100, 0.1),
        ("constant", 99, 1.0),
    ],
)
def test_a_schedule_goes_where_it_is_said_to(kind: str, at: int, rate: float) -> None:
    found = schedule(kind, 1.0, 100)  # type: ignore[arg-type]
    assert float(found(at)) == pytest.approx(rate, abs=1e-6)


@pytest.mark.parametrize("kind", ["cosine", "step", "inverse", "constant"])
def test_every_schedule_rises_in_a_line_to_its_peak_or_begins_there(kind: str) -> None:
    found = schedule(kind, 1.0, 100)  # type: ignore[arg-type]
    rates = [float(found(step)) for step in range(12)]
    assert rates[0] == pytest.approx(1 / 40)
    assert np.diff(rates[:11]) == pytest.approx(np.full(10, (1 - 1 / 40) / 10), abs=1e-6)
    assert float(schedule(kind, 1.0, 100, warmup=0.0)(0)) == pytest.approx(1.0)  # type: ignore[arg-type]


def test_a_schedule_is_what_an_optimizer_takes() -> None:
    assert float(keras.optimizers.AdamW(schedule("step", 0.5, 10)).learning_rate) == pytest.approx(0.5 / 40)


# ---- recent data


def test_old_data_weigh_less_and_older_are_left_out() -> None:
    dataset = stripes(90)
    days = np.arange(90) // 3 * 1.0
    timed = replace(dataset, times=days * recency.DAY)
    kept, weights = recency.recent(timed, window=20, half_life=10)
    assert len(kept) == 63
    assert weights is not None
    assert weights.mean() == pytest.approx(1.0)
    assert weights[-1] / weights[0] == pytest.approx(4.0)
    assert recency.recent(timed, window=20)[1] is None
    assert recency.recent(dataset) == (dataset, None)


def test_a_window_without_a_class_and_data_without_times_are_refused() -> None:
    dataset = stripes(30)
    with pytest.raises(DataError, match="do not say when"):
        recency.recent(dataset, window=1)
    times = np.where(dataset.labels == 1, 0.0, 10 * recency.DAY)
    with pytest.raises(DataError, match="no training sample of class 'down'"):
        recency.recent(replace(dataset, times=times), window=5)


# ---- options


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"batch": 0}, "batch is 0"),
        ({"rate": float("nan")}, "rate is nan"),
        ({"half_life": -1.0}, "half_life is -1.0"),
        ({"warmup": 1.0}, "warmup is 1.0"),
        ({"decay": 1.0}, "decay is 1.0"),
        ({"schedule": "random"}, "unknown schedule 'random'"),
        ({"seed": -1}, "seed is -1"),
    ],
)
def test_an_option_out_of_range_is_named(change: dict[str, object], says: str) -> None:
    with pytest.raises(CompressionError, match=says):
        replace(Options(), **change)


def test_splits_keep_the_times_of_their_data() -> None:
    assert stripes_splits().train.times is None
    timed = replace(stripes(30), times=np.arange(30.0))
    assert timed.take([3, 1]).times.tolist() == [3.0, 1.0]  # type: ignore[union-attr]
