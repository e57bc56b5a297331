"""A step is Keras' own step, whatever it is shared by and in however many parts."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from learning import network, stripes_splits

from edge_sdk.cloud.training import data, precision
from edge_sdk.cloud.training.stepping import Stepper
from edge_sdk.errors import CompressionError

# Keras turns TensorFlow's tensors into arrays in a way that NumPy 2 finds old
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")

BATCH = 32


def model(policy: str = "float32", *, normalized: bool = True) -> keras.Model:
    keras.utils.set_random_seed(1)
    if normalized:
        return network((12, 12, 1), 3, policy)
    inputs = keras.Input((12, 12, 1))
    x = keras.layers.Conv2D(8, 3, strides=2, activation="relu", kernel_regularizer="l2", dtype=policy)(inputs)
    return keras.Model(inputs, keras.layers.Dense(3, dtype="float32")(keras.layers.Flatten()(x)))


def optimizer() -> Any:
    return keras.optimizers.AdamW(3e-3, weight_decay=1e-2)


def source(first: int = 0, part: tuple[int, int] = (0, 1), weights: Any = None) -> Any:
    train = stripes_splits().train
    pixels = (np.asarray(train.images, np.float32) - 110) / 60
    return data.batches(
        pixels, train.labels, batch=BATCH, seed=2, augmentation=None, start=first, part=part, weights=weights
    )


def stepped(steps: int, *, parts: int = 1, weights: Any = None, **options: Any) -> Stepper:
    trained = model(**options)
    stepper = Stepper(trained, optimizer(), tf.distribute.get_strategy(), batch=BATCH, epoch=steps, parts=parts)
    stepper.feed(lambda first, part: source(first, part, weights))
    for _ in range(steps):
        stepper.advance()
    return stepper


def close(first: keras.Model, second: keras.Model) -> None:
    for one, other in zip(first.get_weights(), second.get_weights(), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


def test_steps_are_those_of_keras_fit_with_the_same_loss_and_accuracy() -> None:
    stepper, theirs = stepped(6), model()
    theirs.compile(optimizer(), keras.losses.SparseCategoricalCrossentropy(from_logits=True), metrics=["accuracy"])
    keras.utils.set_random_seed(1)
    history = theirs.fit(source(), epochs=1, steps_per_epoch=6, verbose=0, shuffle=False).history
    close(stepper.model, theirs)
    assert stepper.loss == pytest.approx(history["loss"][0], rel=1e-5)
    assert stepper.accuracy == pytest.approx(history["accuracy"][0])


def test_a_step_in_parts_is_the_step() -> None:
    close(stepped(3, parts=2, normalized=False).model, stepped(3, normalized=False).model)


def test_a_sample_of_weight_zero_teaches_nothing() -> None:
    labels = stripes_splits().train.labels
    blind = stepped(8, weights=(labels != 0).astype(np.float32), normalized=False).model
    pixels = (np.asarray(stripes_splits().train.images, np.float32) - 110) / 60
    answers = blind.predict(pixels, verbose=0).argmax(axis=1)
    assert (answers == 0).mean() < 0.2


def test_float16_trains_with_a_scaled_loss_that_survives_overflow() -> None:
    trained = model("mixed_float16")
    scaled = precision.scaled(optimizer(), "mixed_float16")
    stepper = Stepper(trained, scaled, tf.distribute.get_strategy(), batch=BATCH, epoch=8)
    stepper.feed(source)
    before = float(scaled.dynamic_scale)
    scaled.dynamic_scale.assign(2.0**40)
    weights = trained.get_weights()[0].copy()
    stepper.advance()
    assert (trained.get_weights()[0] == weights).all()  # the gradient was infinite: halved, and left out
    assert float(scaled.dynamic_scale) == 2.0**39
    scaled.dynamic_scale.assign(before)
    for _ in range(7):
        stepper.advance()
    assert np.isfinite(stepper.loss)
    assert (trained.get_weights()[0] != weights).any()


def test_the_state_of_another_network_is_refused() -> None:
    keras.utils.set_random_seed(1)
    stepper, other = stepped(0), stepped(0, normalized=False)
    with pytest.raises(CompressionError, match="of another network"):
        stepper.restore(other.state())
    state = stepper.state()
    state["model/0000"] = state["model/0000"][..., :-1]
    with pytest.raises(CompressionError, match="'model/0000' is"):
        stepper.restore(state)
