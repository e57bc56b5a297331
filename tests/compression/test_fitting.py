"""What every step shares: data that are checked, training that is reproducible, and models that stay as they are."""

from __future__ import annotations

from dataclasses import replace

import keras
import numpy as np
import pytest

from edge_sdk.cloud.training.evaluate import logits_of, model_digest
from edge_sdk.compression.distill import Guidance
from edge_sdk.compression.fitting import Fitting, FittingData, copied, fit, options_of
from edge_sdk.compression.rebuild import leaves
from edge_sdk.errors import CompressionError
from edge_sdk.processing import ProcessingSpec

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")


def blobs(count: int = 96, seed: int = 0) -> FittingData:
    """Three clouds of points in four dimensions."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 3, count)
    return FittingData((np.eye(3, 4)[labels] + rng.normal(0, 0.1, (count, 4))).astype(np.float32), labels)


def network(*, momentum: float = 0.99, last: str | None = None) -> keras.Model:
    keras.utils.set_random_seed(1)
    hidden = [keras.layers.Dense(8), keras.layers.BatchNormalization(momentum=momentum), keras.layers.Dropout(0.1)]
    return keras.Sequential([keras.Input((4,)), *hidden, keras.layers.Dense(3, activation=last)])


def test_a_copy_shares_nothing_and_says_the_same() -> None:
    inner = network()
    model = keras.Sequential([keras.Input((4,)), inner, keras.layers.Dense(3)])
    copy = copied(model)
    before = model_digest(model)
    assert model_digest(copy) == before
    assert not {id(layer) for layer in leaves(model)} & {id(layer) for layer in leaves(copy)}
    fit(copy, blobs(), Fitting(epochs=1), stage="train")
    assert model_digest(copy) != before
    assert model_digest(model) == before


def test_weights_that_share_a_value_take_one_step_of_adam_together() -> None:
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1, use_bias=False, kernel_initializer="ones")])
    data = FittingData(np.array([[3.0, -2.0]], np.float32), np.array([[0.0]], np.float32))
    once = Fitting(epochs=1, batch=1, rate=0.125, schedule="constant")
    fit(model, data, once, stage="train", loss="mse")
    # alone, one would go down and the other up by as much, and their mean would not move
    assert model.get_weights()[0].ravel().tolist() == pytest.approx([0.875, 0.875], abs=1e-5)


@pytest.mark.parametrize("taught", [False, True], ids=["labels", "teacher"])
def test_a_sample_of_weight_zero_teaches_nothing(taught: bool) -> None:
    data = blobs()
    assert data.labels is not None
    weights = 1.5 * (data.labels != 0).astype(np.float32)
    logits = 9.0 * np.eye(3, dtype=np.float32)[data.labels]
    learning = Guidance(teachers=[logits], temperature=1.0) if taught else None
    fitting = Fitting(epochs=20, batch=16, rate=0.02, learning=learning)
    model = network()
    fit(model, replace(data, weights=weights), fitting, stage="train")
    answers = logits_of(model, data.inputs).argmax(1)
    assert (answers == 0).sum() < 0.2 * (data.labels == 0).sum()
    assert (answers == data.labels)[weights > 0].mean() > 0.9


def test_a_kernel_that_starts_as_zeros_is_trained() -> None:
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, kernel_initializer="zeros")])
    history = fit(model, blobs(), Fitting(epochs=20, batch=16, rate=0.02), stage="train")
    assert history["accuracy"][-1] > 0.95


@pytest.mark.parametrize("last", [pytest.param(None, marks=pytest.mark.slow), "softmax"])
def test_training_learns_from_logits_and_from_probabilities(last: str | None) -> None:
    history = fit(network(last=last), blobs(), Fitting(epochs=20, batch=16, rate=0.02), stage="train")
    assert history["accuracy"][-1] > 0.95
    assert len(history["loss"]) == 20


@pytest.mark.slow
def test_the_same_seed_gives_the_same_weights_and_another_one_others() -> None:
    digests = []
    for seed in (3, 3, 4):
        model = copied(network())
        fit(model, blobs(), Fitting(epochs=1, batch=32, seed=seed), stage="train")
        digests.append(model_digest(model))
    assert digests[0] == digests[1] != digests[2]


def test_statistics_settle_in_a_short_training_and_momentum_is_as_before() -> None:
    data = replace(blobs(), inputs=blobs().inputs + np.float32(5.0))
    model = network(momentum=0.99)
    fit(model, data, Fitting(epochs=8, batch=16), stage="train")
    norm = model.layers[1]
    expected = keras.ops.convert_to_numpy(model.layers[0](data.inputs)).mean(axis=0)
    assert np.abs(keras.ops.convert_to_numpy(norm.moving_mean) - expected).max() < 0.1 * np.abs(expected).max()
    assert norm.momentum == 0.99


def test_progress_counts_every_step_and_an_interruption_comes_through() -> None:
    seen: list[tuple[str, int, int]] = []
    fit(network(), blobs(), Fitting(epochs=2, batch=32), stage="prune", on_progress=lambda *at: seen.append(at))
    assert seen == [("prune", at, 6) for at in range(1, 7)]
    assert Fitting(epochs=2, batch=32).steps(len(blobs())) == 6

    def stop(stage: str, done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(network(), blobs(), Fitting(), stage="prune", on_progress=stop)


def test_frames_are_processed_before_the_model_while_it_trains_and_when_they_are_taken() -> None:
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, (24, 6, 6, 1), dtype=np.uint8)
    spec = ProcessingSpec.image(6, 6, 1, mean=[127.0], std=[64.0])
    data = FittingData(frames, frames.mean(axis=(1, 2, 3)).astype(np.int64) % 2, processing=spec)
    model = keras.Sequential([keras.Input((6, 6, 1)), keras.layers.Flatten(), keras.layers.Dense(2)])
    before = model_digest(model)
    fit(model, data, Fitting(epochs=1, batch=8), stage="train")
    assert model_digest(model) != before
    np.testing.assert_allclose(data.taken(3), (frames[:3].astype(np.float32) - 127.0) / 64.0, atol=1e-5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"inputs": np.empty((0, 4), np.float32), "labels": None}, "are empty"),
        ({"inputs": np.full((96, 4), np.nan, np.float32)}, "sample 0 and 95 more have NaN"),
        ({"inputs": np.zeros(96, np.float32)}, r"not one array \[n, ...\]"),
        ({"labels": np.zeros(5, np.int64)}, "96 samples with 5 labels"),
        ({"labels": np.full(96, np.inf)}, "not finite numbers"),
        ({"validation_inputs": np.zeros((2, 5), np.float32)}, r"of shape \[n, 5\] and those to train on of \[n, 4\]"),
        ({"validation_labels": np.zeros(2, np.int64)}, "labels and no inputs"),
    ],
)
def test_data_that_cannot_be_used_are_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(CompressionError, match=message):
        replace(blobs(), **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (
            replace(blobs(), labels=np.full(96, 3)),
            "number 0 is 3, and the model 'm' has 3 classes; labels are from 0 to 2",
        ),
        (replace(blobs(), labels=np.full(96, -1)), "number 0 is -1"),
        (replace(blobs(), inputs=np.zeros((96, 5), np.float32)), r"takes \[n, 4\], and the data is \[n, 5\]"),
        (replace(blobs(), labels=None), "have no labels"),
    ],
)
def test_data_that_do_not_fit_the_model_are_refused_before_training(data: FittingData, message: str) -> None:
    model = network()
    model.name = "m"
    before = model_digest(model)
    with pytest.raises(CompressionError, match=message):
        fit(model, data, Fitting(), stage="train")
    assert model_digest(model) == before


def test_models_that_no_step_can_take_are_refused() -> None:
    open_shape = keras.Sequential([keras.Input((None, 4)), keras.layers.GlobalMaxPooling1D(), keras.layers.Dense(3)])
    with pytest.raises(CompressionError, match=r"takes \[n, \?, 4\], which leaves an extent open"):
        blobs().check(open_shape)
    bad = network()
    bad.layers[0].bias.assign(np.full(8, np.nan, np.float32))
    with pytest.raises(CompressionError, match=r"bias' of .* is not finite"):
        blobs().check(bad)
    two = keras.Input((4,))
    both = keras.Model(two, [keras.layers.Dense(3)(two), keras.layers.Dense(3)(two)])
    with pytest.raises(CompressionError, match="1 inputs and 2 outputs"):
        blobs().check(both)
    with pytest.raises(CompressionError, match="no inputs yet"):
        blobs().check(keras.Sequential([keras.layers.Dense(3)]))


@pytest.mark.parametrize(
    "options", [{"epochs": 0}, {"batch": 0}, {"rate": 0.0}, {"rate": np.nan}, {"schedule": "x"}, {"momentum": 1.0}]
)
def test_options_out_of_range_are_refused(options: dict[str, object]) -> None:
    with pytest.raises(CompressionError, match=f"{next(iter(options))} is"):
        options_of(Fitting, options)


def test_an_unknown_option_is_refused_with_those_there_are() -> None:
    with pytest.raises(CompressionError, match="unknown option 'epoch' of Fitting; there are epochs, batch"):
        options_of(Fitting, {"epoch": 3})
