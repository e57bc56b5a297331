"""What the second backend promises: tfmot's work on a Keras 3 model, in files that the device's runtime loads."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers

from edge_sdk.cloud.training.evaluate import model_digest
from edge_sdk.compression.backends.tfmot import PYTHON, optimize, step
from edge_sdk.compression.export import session_logits
from edge_sdk.compression.fitting import Fitting, FittingData
from edge_sdk.compression.prune import sparsity
from edge_sdk.compression.weights import distinct
from edge_sdk.errors import CompressionError, MissingExtraError
from edge_sdk.runtime import open_session

# Keras turns TensorFlow's tensors into arrays in a way that NumPy 2 finds old
pytestmark = [
    pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:The structure of `inputs`:UserWarning"),
]

SHORT = Fitting(epochs=2, batch=32, rate=0.01)


@pytest.fixture(scope="module")
def tfmot() -> None:
    find = "import importlib.util as u, sys; sys.exit(not u.find_spec('tensorflow_model_optimization'))"
    if subprocess.run([os.environ.get(PYTHON, sys.executable), "-c", find], check=False).returncode:
        pytest.skip(f"tensorflow-model-optimization is not installed; {PYTHON} may name a Python that has it")


@pytest.fixture(scope="module")
def model() -> keras.Model:
    keras.utils.set_random_seed(0)
    inputs = keras.Input((8, 8, 1))
    x = layers.ReLU()(layers.BatchNormalization()(layers.Conv2D(8, 3, padding="same", use_bias=False)(inputs)))
    x = layers.Add()([x, layers.Conv2D(8, 3, padding="same", activation="relu")(x)])
    x = layers.Flatten()(layers.MaxPooling2D()(x))
    return keras.Model(inputs, layers.Dense(2)(x), name="small")


@pytest.fixture(scope="module")
def data() -> FittingData:
    rng = np.random.default_rng(0)
    labels = np.arange(128) % 2
    x = rng.normal(0, 0.3, (128, 8, 8, 1)) + np.where(labels[:, None, None, None] == 0, 1.0, -1.0)
    return FittingData(x.astype(np.float32), labels)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["prune", "cluster", "qat", "pcqat"])
def test_each_method_gives_a_file_that_the_device_runs(
    method: Any, tfmot: None, model: keras.Model, data: FittingData
) -> None:
    before = model_digest(model)
    file = optimize(model, data, method=method, share=0.5, clusters=8, fitting=SHORT)
    assert model_digest(model) == before
    session = open_session(file, "litert")
    answers = session_logits(session, data.inputs)
    session.close()
    assert np.mean(answers.argmax(1) == data.labels) > 0.9


@pytest.mark.slow
def test_zeros_and_shared_values_go_through_all_steps_which_say_how_far_they_are(
    tfmot: None, model: keras.Model, data: FittingData
) -> None:
    told: list[tuple[str, int, int]] = []

    def tell(*progress: Any) -> None:
        told.append(progress)

    before = model_digest(model)
    pruned = step(model, data, method="prune", share=0.5, fitting=SHORT, on_progress=tell)
    assert model_digest(model) == before
    assert set(sparsity(pruned).by_layer.values()) == {0.5}
    before = model_digest(pruned)
    clustered = step(pruned, data, method="cluster", clusters=8, fitting=SHORT, on_progress=tell)
    assert model_digest(pruned) == before
    assert min(sparsity(clustered).by_layer.values()) >= 0.5
    assert max(distinct(clustered).values()) <= 8
    session = open_session(optimize(clustered, data, method="qat", fitting=SHORT, on_progress=tell), "litert")
    answers = session_logits(session, data.inputs)
    session.close()
    assert np.mean(answers.argmax(1) == data.labels) > 0.9
    assert told == [(stage, done, 8) for stage in ("prune", "cluster", "quantize") for done in range(1, 9)]


@pytest.mark.slow
def test_the_share_is_reached_however_short_the_training_is(tfmot: None, model: keras.Model, data: FittingData) -> None:
    once = Fitting(epochs=1, batch=128)
    assert sparsity(step(model, data, method="prune", share=0.5, fitting=once)).share == 0.5


@pytest.mark.slow
def test_what_tfmot_cannot_do_and_a_worker_that_takes_too_long_are_named(tfmot: None, data: FittingData) -> None:
    inputs = keras.Input((8, 8, 1))
    x = layers.Flatten()(layers.PReLU(name="odd")(layers.Conv2D(4, 3)(inputs)))
    odd = keras.Model(inputs, layers.Dense(2)(x), name="odd_model")
    with pytest.raises(CompressionError, match=r"tfmot cannot do qat with the stage qat: .*odd"):
        optimize(odd, data, method="qat", fitting=SHORT)
    with pytest.raises(CompressionError, match=r"did not finish qat within 0\.5 s"):
        optimize(odd, data, method="qat", fitting=SHORT, seconds=0.5)


def test_a_layer_without_a_legacy_counterpart_is_named(data: FittingData) -> None:
    inputs = keras.Input((8, 8, 1))
    x = layers.LayerNormalization(name="strange")(inputs)
    other = keras.Model(inputs, layers.Dense(2)(layers.Flatten()(x)))
    with pytest.raises(CompressionError, match=r"'strange' \(LayerNormalization\) cannot be brought to legacy Keras"):
        optimize(other, data)


def test_a_python_that_has_no_tfmot_or_does_not_run_is_said(
    model: keras.Model, data: FittingData, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    monkeypatch.setenv(PYTHON, str(tmp_path / "none"))
    with pytest.raises(CompressionError, match=f"{PYTHON} is .*none, which does not run"):
        optimize(model, data)
    lacking = tmp_path / "python"
    lacking.write_text(f'#!/bin/sh\nexec {sys.executable} -S -I "$2" "$3"\n')
    lacking.chmod(0o755)
    monkeypatch.setenv(PYTHON, str(lacking))
    with pytest.raises((MissingExtraError, CompressionError), match=r"tensorflow-model-optimization|numpy"):
        optimize(model, data)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "magic"}, "method is 'magic'; it must be one of prune, cluster, qat, pcqat"),
        ({"share": 1.0}, "share is 1.0"),
        ({"clusters": 1}, "clusters is 1"),
        ({"seconds": 0}, "seconds is 0"),
    ],
)
def test_options_out_of_range_are_refused(
    options: dict[str, Any], message: str, model: keras.Model, data: FittingData
) -> None:
    with pytest.raises(CompressionError, match=message):
        optimize(model, data, **options)
