"""Training on the grid of int8: full integer files that say what the model said, with every zero and shared value."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
import pytest
from compressing import SHORT, accuracy, clustered, inexact, kernels, stripes_data, trained
from keras import layers

from edge_sdk.cloud.training.evaluate import logits_of, model_digest
from edge_sdk.compression.export import export, session_logits
from edge_sdk.compression.fakequant import QuantizedKernel
from edge_sdk.compression.fitting import Fitting, fit, loss_of
from edge_sdk.compression.qat import quantize_aware, sensitivities, with_levels
from edge_sdk.compression.quantize import float_tensors, to_int8_tflite
from edge_sdk.compression.rebuild import leaves
from edge_sdk.compression.weights import distinct
from edge_sdk.errors import CompressionError, StorageError
from edge_sdk.runtime import open_session

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")


def answered(tflite: bytes, inputs: np.ndarray) -> np.ndarray:
    """What the device's runtime makes of inputs, one by one, as float32."""
    session = open_session(tflite, "litert")
    try:
        return session_logits(session, inputs)
    finally:
        session.close()


def branches() -> keras.Model:
    x = keras.Input((12, 12, 3))
    y = layers.Rescaling(1 / 255, offset=-0.5)(x)
    y = layers.Conv2D(8, 3, padding="same", use_bias=False)(y)
    y = layers.ReLU()(layers.BatchNormalization()(y))
    z = layers.BatchNormalization()(layers.DepthwiseConv2D(3, padding="same")(y))
    y = layers.MaxPooling2D()(layers.Activation("relu")(layers.Add()([y, z])))
    y = layers.Concatenate()([y, layers.Conv2D(8, 1, activation="relu6")(y)])
    y = layers.AveragePooling2D(2)(layers.BatchNormalization()(y + y))
    y = layers.Dropout(0.1)(layers.GlobalAveragePooling2D()(y))
    y = layers.ReLU()(layers.BatchNormalization()(layers.Dense(12)(y)))
    return keras.Model(x, layers.Dense(5, activation="softmax")(y))


def series() -> keras.Model:
    first = [layers.Conv1D(8, 3, padding="causal"), layers.BatchNormalization(), layers.ReLU()]
    then = [layers.Conv1D(8, 3, strides=2, activation="tanh"), layers.MaxPooling1D(), layers.Flatten()]
    dense = [layers.Dense(5, activation="sigmoid"), layers.Dense(4, activation="silu"), layers.Dense(3)]
    return keras.Sequential([keras.Input((20, 4)), *first, *then, *dense])


def nested() -> keras.Model:
    inner = keras.Sequential([keras.Input((8,)), layers.Dense(8, activation="relu"), layers.Dense(8)])
    x = keras.Input((8,))
    return keras.Model(x, layers.Dense(3)(layers.LeakyReLU()(inner(x) + x)))


@pytest.mark.parametrize(
    "build", [branches, *(pytest.param(other, marks=pytest.mark.slow) for other in (series, nested))]
)
def test_every_block_becomes_integers_that_say_what_keras_said_on_the_grid(build: Callable[[], keras.Model]) -> None:
    keras.utils.set_random_seed(0)
    rng = np.random.default_rng(0)
    model = build()
    for layer in leaves(model):
        if isinstance(layer, layers.BatchNormalization):
            shape = layer.gamma.shape
            layer.set_weights([rng.normal(1, 0.5, shape), *rng.normal(0, 0.2, (2, *shape)), rng.uniform(0.5, 2, shape)])
    before = model_digest(model)
    size = 100.0 if build is branches else 1.0
    inputs = (size * rng.normal(0.5, 1, (64, *model.inputs[0].shape[1:]))).astype(np.float32)
    on_grid, left = with_levels(model, inputs)
    assert (left, model_digest(model)) == ((), before)
    expected, span = logits_of(on_grid, inputs), np.ptp(logits_of(model, inputs))
    assert np.abs(expected - logits_of(model, inputs)).max() < 0.1 * span
    tflite = to_int8_tflite(on_grid)
    assert float_tensors(tflite) == ()
    assert np.abs(answered(tflite, inputs) - expected).max() < 0.05 * span


def test_zeros_and_shared_values_are_exact_in_the_file() -> None:
    data = stripes_data()
    small = clustered()
    before = model_digest(small)
    quantized = quantize_aware(small, data, fitting=SHORT)
    assert model_digest(small) == before
    assert max(distinct(quantized).values()) <= 6
    tflite = to_int8_tflite(quantized)
    assert inexact(tflite, small, values=6) == []
    assert inexact(tflite, quantized, values=6) == []
    assert float_tensors(tflite) == ()
    assert accuracy(quantized) >= accuracy(small) - 0.05


@pytest.mark.parametrize(
    ("last", "logits"),
    [
        ([layers.Dense(3, activation="softmax")], False),
        ([layers.Dense(3), layers.Softmax()], False),
        ([layers.Dense(3), layers.Activation("softmax")], False),
        ([layers.Dense(3)], True),
    ],
    ids=["activation", "layer", "activation layer", "logits"],
)
def test_a_softmax_is_known_behind_the_ranges_of_int8(last: list[layers.Layer], logits: bool) -> None:
    model = keras.Sequential([keras.Input((4,)), *last])
    on_grid, _ = with_levels(model, np.random.default_rng(0).normal(size=(8, 4)).astype(np.float32))
    assert loss_of(on_grid).get_config()["from_logits"] is logits


@pytest.mark.slow
def test_probabilities_are_trained_on_the_grid_and_stay_such() -> None:
    data = stripes_data()
    soft = keras.Sequential([*trained().layers, layers.Softmax()])
    quantized = quantize_aware(soft, data, fitting=SHORT)
    answers = logits_of(quantized, data.taken(validation=True))
    assert np.abs(answers.sum(axis=1) - 1.0).max() < 0.02
    assert np.mean(answers.argmax(axis=1) == data.validation_labels) >= accuracy(trained()) - 0.1


def test_weights_change_their_value_while_they_train_for_int8_but_zeros_stay() -> None:
    x = keras.Input((12, 12, 1))
    model = keras.Model(x, layers.Dense(3)(layers.Flatten()(x)))
    before = np.random.default_rng(0).choice([-0.2, 0.0, 0.1, 0.2], model.layers[-1].kernel.shape).astype(np.float32)
    model.layers[-1].kernel.assign(before)
    quantized = quantize_aware(model, stripes_data(), fitting=Fitting(epochs=2, batch=8, rate=1e-2))
    after = kernels(quantized)[model.layers[-1].name]
    np.testing.assert_array_equal(after == 0.0, before == 0.0)
    assert len(np.unique(after)) <= 4
    assert len(np.unique([before.ravel(), after.ravel()], axis=1).T) > 4  # of one value, some went to another


def test_a_negative_factor_mirrors_shared_values_and_nothing_else() -> None:
    rng = np.random.default_rng(0)
    x = keras.Input((6, 6, 2))
    conv, norm = layers.Conv2D(4, 3, use_bias=False), layers.BatchNormalization()
    model = keras.Model(x, layers.ReLU()(norm(conv(x))))
    conv.kernel.assign(rng.choice([-0.3, 0.1, 0.2], conv.kernel.shape))
    norm.gamma.assign([1.0, -1.0, 0.5, -2.0])
    inputs = rng.normal(size=(32, 6, 6, 2)).astype(np.float32)
    on_grid, _ = with_levels(model, inputs)
    expected = logits_of(model, inputs)
    assert np.abs(logits_of(on_grid, inputs) - expected).max() < 0.05 * np.ptp(expected)
    assert distinct(on_grid)[conv.name] == 6


@pytest.mark.slow
def test_training_on_the_grid_repairs_what_rounding_breaks() -> None:
    data = stripes_data(300)
    quantized = quantize_aware(trained(), data, fitting=Fitting(epochs=2, batch=32, rate=1e-3))
    assert accuracy(quantized) >= accuracy(trained()) - 0.03
    again = quantize_aware(trained(), data, fitting=Fitting(epochs=2, batch=32, rate=1e-3))
    assert model_digest(again) == model_digest(quantized)


@pytest.mark.slow
def test_layers_stay_in_float_where_one_says_so_or_where_rounding_hurts_most() -> None:
    data = stripes_data()
    found = sensitivities(trained(), data, count=64)
    assert [one.noise for one in found] == sorted((one.noise for one in found), reverse=True)
    assert {one.layer for one in found} == set(kernels(trained()))
    for options in ({"float_layers": (found[0].layer,)}, {"fallback": 1}):
        quantized = quantize_aware(trained(), data, fitting=SHORT, **options)
        on_grid = {layer.name for layer in quantized.layers if isinstance(layer, QuantizedKernel) and layer.rounded}
        assert on_grid == set(kernels(trained())) - {found[0].layer}
        tflite = to_int8_tflite(quantized)
        assert float_tensors(tflite)
        inputs = data.taken(8)
        expected = logits_of(quantized, inputs)
        assert np.abs(answered(tflite, inputs) - expected).max() < 0.05 * np.ptp(expected)


def test_a_layer_without_an_int8_form_is_named_and_may_stay_in_float() -> None:
    x = keras.Input((12, 12, 1))
    y = layers.LayerNormalization(name="norm")(layers.Dense(6)(layers.Flatten()(x)))
    model = keras.Model(x, layers.Dense(3)(y))
    with pytest.raises(CompressionError, match=r"^norm: no int8 form .* full=False"):
        quantize_aware(model, stripes_data(), fitting=SHORT)
    quantized = quantize_aware(model, stripes_data(), full=False, fitting=SHORT)
    inputs = stripes_data().taken(4)
    expected = logits_of(quantized, inputs)
    tflite = to_int8_tflite(quantized)
    assert np.abs(answered(tflite, inputs) - expected).max() < 0.1 * np.ptp(expected)


def test_a_model_on_the_grid_is_saved_and_trains_on() -> None:
    on_grid, _ = with_levels(trained(), stripes_data().taken(32))
    ranges = [keras.ops.convert_to_numpy(layer.low) for layer in on_grid.layers if hasattr(layer, "observe")]
    fit(on_grid, stripes_data(), SHORT, stage="train")
    after = [keras.ops.convert_to_numpy(layer.low) for layer in on_grid.layers if hasattr(layer, "observe")]
    assert ranges != after  # ranges are weights


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        (None, "needs representative inputs and got none"),
        (np.zeros((4, 8, 8, 1), np.float32), r"float32\[8, 8, 1\]; the model takes float32\[12, 12, 1\]"),
        (np.full((4, 12, 12, 1), np.nan, np.float32), "hold NaN or infinity"),
    ],
)
def test_conversions_that_cannot_be_are_refused(inputs: np.ndarray | None, message: str) -> None:
    with pytest.raises(CompressionError, match=message):
        to_int8_tflite(trained(), inputs)


def test_no_place_for_the_converters_files_is_one_clear_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "gone"))
    with pytest.raises(StorageError, match="let TMPDIR name a folder with room"):
        to_int8_tflite(trained(), stripes_data().taken(4))


def test_ranges_of_no_inputs_and_of_a_reduced_model_are_refused() -> None:
    with pytest.raises(CompressionError, match="needs inputs to find ranges"):
        with_levels(trained(), np.empty((0, 12, 12, 1), np.float32))
    low = keras.Sequential([keras.Input((4,)), layers.Dense(3, dtype="mixed_bfloat16", name="low")])
    with pytest.raises(CompressionError, match=r"'low' computes in bfloat16; ingest.to_float32 goes before"):
        with_levels(low, np.zeros((2, 4), np.float32))
    on_grid, _ = with_levels(trained(), stripes_data().taken(8))
    with pytest.raises(CompressionError, match="was trained for int8"):
        export(on_grid, stripes_data().taken(8), forms=["litert:float16"])["litert:float16"]
