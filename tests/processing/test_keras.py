"""The Keras layer trains what devices run."""

from __future__ import annotations

import functools
import subprocess
import sys

import numpy as np
import pytest

from edge_sdk.errors import ProcessingError, SkewError
from edge_sdk.processing import (
    Cast,
    Color,
    Crop,
    DeviceProcessor,
    Layout,
    Letterbox,
    Normalize,
    ProcessingSpec,
    Resize,
    check_skew,
    reference,
    samples,
)

keras = pytest.importorskip("keras")

from edge_sdk.processing.keras import ProcessingLayer  # noqa: E402

# TensorFlow's tensors do not know NumPy 2's copy keyword yet
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")

RNG = np.random.default_rng(9)
NORMALIZED = ProcessingSpec.image(9, 7, 3, mean=(120, 115, 100), std=(58, 57, 56))


def frames(channels, height=20, width=31):
    return [RNG.integers(0, 256, (height + i, width, channels), dtype=np.uint8) for i in range(2)]


@pytest.mark.parametrize(
    ("spec", "channels"),
    [
        (NORMALIZED, 1),
        (NORMALIZED, 3),
        (NORMALIZED, 4),
        (ProcessingSpec.image(40, 50, 3, order="NCHW"), 3),
        (ProcessingSpec.image(20, 31, 1), 4),
        (ProcessingSpec((Color("grey"), Resize(3, 4))), 3),
        (ProcessingSpec((Resize(5, 6), Normalize((3.0,), (0.5,)))), 1),
        (NORMALIZED.with_quantize("int8", 0.02, 3), 3),
        (ProcessingSpec((Color("rgb"), Resize(13, 7, "nearest"))), 3),
        (ProcessingSpec((Color("rgb"), Crop(0.875), Resize(9, 7), Normalize((3.0,) * 3, (2.0,) * 3))), 4),
        (ProcessingSpec((Color("grey"), Letterbox(24, 24, 114), Layout("NCHW"), Cast("float16"))), 3),
        (ProcessingSpec((Color("rgb"), Crop(), Letterbox(16, 24))), 1),
        (ProcessingSpec((Color("rgb"), Resize(5, 7, antialias=True))), 3),
        (ProcessingSpec((Color("rgb"), Crop(0.7), Resize(30, 9, antialias=True))), 3),
    ],
    ids=lambda value: None,
)
def test_keras_device_and_reference_agree(spec, channels):
    report = check_skew(spec, frames(channels), keras=ProcessingLayer)
    assert report.keras_error is not None
    assert report.keras_error < 1 / 64


def test_a_grey_frame_without_a_channel_axis_is_compared_too():
    check_skew(NORMALIZED, [frames(1)[0][:, :, 0]], keras=ProcessingLayer)


def test_a_layer_that_departs_is_refused():
    def halved(spec):
        layer = ProcessingLayer(spec)
        return lambda batch: np.asarray(layer(batch // 2 * 2))

    with pytest.raises(SkewError, match=r"keras layer departs from the reference at step 0 \(color\)"):
        check_skew(NORMALIZED, frames(3), keras=halved)


def test_the_layer_survives_saving_and_stays_float32_under_mixed_precision(tmp_path):
    policy = keras.mixed_precision.dtype_policy()
    keras.mixed_precision.set_dtype_policy("mixed_bfloat16")
    try:
        model = keras.Sequential([keras.Input((20, 31, 3), dtype="uint8"), ProcessingLayer(NORMALIZED)])
        model.save(tmp_path / "model.keras")
        loaded = keras.models.load_model(tmp_path / "model.keras")
    finally:
        keras.mixed_precision.set_dtype_policy(policy)
    assert loaded.layers[0].spec == NORMALIZED
    assert loaded.layers[0].compute_dtype == "float32"
    assert not loaded.trainable_variables
    x = np.stack([frames(3)[0]] * 2)
    np.testing.assert_array_equal(np.asarray(loaded(x)), np.asarray(ProcessingLayer(NORMALIZED)(x)))


def test_the_shape_of_the_output_is_known_without_running_it():
    model = keras.Sequential([keras.Input((None, None, 1), dtype="uint8"), ProcessingLayer(NORMALIZED.to_json())])
    assert model.output_shape == (None, 9, 7, 3)


def test_cropping_frames_of_unknown_size_is_refused():
    spec = ProcessingSpec((Color("rgb"), Crop(), Resize(4, 4)))
    with pytest.raises(ProcessingError, match="processing step crop: a Keras layer needs frames of a known height"):
        ProcessingLayer(spec)(keras.Input((None, None, 3)))


def test_json_that_is_no_specification_is_refused():
    with pytest.raises(ProcessingError, match="processing: need a JSON object"):
        ProcessingLayer({"spec": []})


@pytest.mark.parametrize("power", [1.0, 2.0])
def test_spectra_and_cepstra_are_what_tensorflow_defines(power):
    tf = pytest.importorskip("tensorflow")
    options = {"sample_rate": 8000, "frame_length": 201, "frame_step": 80, "fft_length": 256, "mels": 20}
    usual = functools.partial(ProcessingSpec.audio, 2000, **options, low_hz=60, high_hz=3800, power=power, order=None)
    x = samples(usual(), 1)[0]
    weights = tf.signal.linear_to_mel_weight_matrix(20, 129, 8000, 60.0, 3800.0)
    log_mel = tf.math.log(tf.matmul(tf.abs(tf.signal.stft(x, 201, 80, 256)) ** power, weights) + 1e-6)
    cepstrum = tf.signal.mfccs_from_log_mel_spectrograms(log_mel)[..., :10]
    for spec, wanted in ((usual(), log_mel), (usual(coefficients=10), cepstrum)):
        np.testing.assert_allclose(reference(spec, x)[0], wanted.numpy(), atol=1e-3)
        np.testing.assert_allclose(np.asarray(ProcessingLayer(spec)(x[None]))[0], wanted.numpy(), atol=1e-3)
        np.testing.assert_allclose(DeviceProcessor(spec)(x)[0], wanted.numpy(), atol=1e-3)


def test_a_layer_of_any_modality_is_traced_without_knowing_the_batch():
    for spec, shape, kind in (
        (ProcessingSpec.audio(2000, sample_rate=8000, pad=True), (None,), "int16"),
        (ProcessingSpec.sensor(["x", "y"], 5, impute=0), (5, 2), "float32"),
        (ProcessingSpec.table(["x", "y"], categories={"y": [1, 2]}), (2,), "float32"),
    ):
        model = keras.Sequential([keras.Input(shape, dtype=kind), ProcessingLayer(spec)])
        assert model.output_shape == (None, *spec.output_shape[1:])
        x = np.stack([one.astype(kind) for one in samples(spec, 3)])
        np.testing.assert_allclose(model.predict(x, verbose=0)[1], DeviceProcessor(spec)(x[1])[0], atol=1e-3)


def test_a_device_never_imports_keras():
    code = "import sys, edge_sdk.processing; assert not {'keras', 'tensorflow', 'scipy'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
