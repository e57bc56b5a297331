"""Clips become spectra, by all three executors alike."""

from __future__ import annotations

import io
import wave

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edge_sdk.errors import InputError, ProcessingError, SkewError
from edge_sdk.inputs import as_input
from edge_sdk.processing import (
    Cast,
    DeviceProcessor,
    Layout,
    LogMel,
    Mfcc,
    ProcessingSpec,
    Quantize,
    Standardize,
    check_skew,
    samples,
)

# TensorFlow's tensors do not know NumPy 2's copy keyword yet
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")

FIELDS = {
    "sample_rate": 8000,
    "samples": 2000,
    "frame_length": 200,
    "frame_step": 80,
    "fft_length": 256,
    "mels": 20,
    "low_hz": 60.0,
    "high_hz": 3800.0,
}
SPECTRUM = ProcessingSpec((LogMel(**FIELDS),))
CEPSTRUM = ProcessingSpec((Mfcc(**FIELDS, coefficients=10), Standardize((-3.0,), (2.0,)), Layout("NHWC")))


def wav(data, rate=8000, channels=1):
    stream = io.BytesIO()
    with wave.open(stream, "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(data.dtype.itemsize)
        file.setframerate(rate)
        file.writeframes(data.tobytes())
    return stream.getvalue()


def test_shape_type_and_json_follow_from_the_steps():
    assert (SPECTRUM.modality, SPECTRUM.output_shape, SPECTRUM.output_dtype) == ("audio", (1, 23, 20), np.float32)
    assert CEPSTRUM.output_shape == (1, 23, 10, 1)
    usual = ProcessingSpec.audio(16_000, mean=-5, std=3)
    assert [step.op for step in usual.steps] == ["log_mel", "standardize", "layout"]
    assert usual.output_shape == (1, 98, 40, 1)
    assert ProcessingSpec.audio(16_000, coefficients=13, order="NCHW").output_shape == (1, 1, 98, 13)
    assert ProcessingSpec.audio(16_000, order=None).output_shape == (1, 98, 40)
    for spec in (SPECTRUM, CEPSTRUM, usual, CEPSTRUM.with_quantize("int8", 0.1, 3)):
        assert ProcessingSpec.from_json(spec.to_json()) == spec
        assert ProcessingSpec.from_json(spec.to_json()).digest == spec.digest


def test_integers_stand_for_fractions_of_one():
    pcm = (samples(CEPSTRUM, 1)[0] * 32767).astype(np.int16)
    whole, fraction = (DeviceProcessor(CEPSTRUM)(x) for x in (pcm, (pcm / np.float32(32768)).astype(np.float32)))
    assert np.array_equal(whole, fraction)


def test_a_short_clip_is_padded_with_silence_or_refused_as_the_step_says():
    x = samples(SPECTRUM, 1)[0]
    with pytest.raises(InputError, match="audio: need 2000 samples at 8000 Hz, not 1500"):
        DeviceProcessor(SPECTRUM)(x[:1500])
    padded = ProcessingSpec((LogMel(**FIELDS, pad=True),))
    silent = np.concatenate([x[:1500], np.zeros(500, np.float32)])
    assert np.array_equal(DeviceProcessor(padded)(x[:1500]), DeviceProcessor(SPECTRUM)(silent))
    assert padded.digest != SPECTRUM.digest
    with pytest.raises(InputError, match="need 1 to 2000 samples"):
        DeviceProcessor(padded)(np.zeros(2001, np.float32))
    with pytest.raises(InputError, match="need 1 to 2000 samples"):
        DeviceProcessor(padded)(np.zeros(0, np.float32))


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (
            np.zeros((2000, 1), np.float32),
            r"need float32 or int16 of shape \(2000,\), not float32 of",
        ),
        (np.zeros(2000, np.int32), "not int32"),
        (np.full(2000, np.nan, np.float32), "a sample is not finite"),
        (np.full(2000, np.inf, np.float32), "a sample is not finite"),
        ("nowhere.wav", "cannot read nowhere.wav: No such file"),
        (b"RIFF", "not a .wav file of PCM samples"),
        (wav(np.zeros(2000, np.int16), rate=16_000), "has 16000 samples a second, not 8000"),
        ([0.0] * 2000, "audio should be an array of samples, or a .wav file, not list"),
    ],
    ids=lambda value: None,
)
def test_what_is_no_clip_is_refused(value, message):
    with pytest.raises(InputError, match=message):
        DeviceProcessor(SPECTRUM)(as_input(SPECTRUM, value))


def test_a_wav_file_is_read_from_bytes_and_from_its_path(tmp_path):
    pcm = (samples(SPECTRUM, 1)[0] * 32767).astype(np.int16)
    (tmp_path / "clip.wav").write_bytes(wav(pcm))
    for value in (wav(pcm), str(tmp_path / "clip.wav"), tmp_path / "clip.wav"):
        assert np.array_equal(as_input(SPECTRUM, value), pcm / np.float32(32768))
    assert as_input(SPECTRUM, pcm) is pcm
    assert as_input(SPECTRUM, np.zeros(2000)).dtype == np.float32


@pytest.mark.parametrize(
    ("steps", "message"),
    [
        ([LogMel(**FIELDS | {"fft_length": 300})], r"step 0 \(log_mel\): fft_length must be a power of 2, not 300"),
        ([LogMel(**FIELDS | {"frame_length": 300})], "frame_length must be an integer from 1 to 256, not 300"),
        ([LogMel(**FIELDS | {"samples": 100})], "frame_length must be an integer from 1 to 100, not 200"),
        ([LogMel(**FIELDS | {"high_hz": 5000})], r"need 0 <= low_hz < high_hz <= 4000 \(half the rate\)"),
        ([LogMel(**FIELDS, floor=0)], "floor must be from 1e-30 to 1, not 0"),
        ([LogMel(**FIELDS, power=1.5)], "power must be 1 or 2, not 1.5"),
        ([LogMel(**FIELDS, pad=1)], "pad must be true or false"),
        ([Mfcc(**FIELDS, coefficients=21)], r"step 0 \(mfcc\): coefficients must be an integer from 1 to 20, not 21"),
        ([LogMel(**FIELDS), Standardize((0.0,) * 3, (1.0,) * 3)], "has 3 values for 20 bands; need one, or as many"),
        ([Standardize((0.0,), (1.0,)), LogMel(**FIELDS)], "must come before standardize: the order is log_mel or mfcc"),
        ([LogMel(**FIELDS), Mfcc(**FIELDS, coefficients=3)], "stands in place of log_mel"),
    ],
    ids=lambda value: None,
)
def test_a_bad_specification_is_refused_with_one_line(steps, message):
    with pytest.raises(ProcessingError, match=message) as caught:
        ProcessingSpec(tuple(steps))
    assert "\n" not in str(caught.value)


@st.composite
def specs(draw):
    """Any valid specification of audio."""
    fft = 2 ** draw(st.integers(2, 10))
    frame = draw(st.integers(1, fft))
    fields = {
        "sample_rate": draw(st.sampled_from([8000, 16000, 44100])),
        "samples": frame + draw(st.integers(0, 3000)),
        "frame_length": frame,
        "frame_step": draw(st.integers(1, frame)) if frame < 30 else draw(st.integers(30, frame)),
        "fft_length": fft,
        "mels": draw(st.integers(1, 64)),
        "low_hz": draw(st.floats(0, 1000)),
        "high_hz": draw(st.floats(2000, 4000)),
        "floor": draw(st.sampled_from([1e-6, 1e-3, 1e-9])),
        "power": draw(st.sampled_from([1.0, 2.0])),
        "pad": draw(st.booleans()),
    }
    if draw(st.booleans()):
        bands = draw(st.integers(1, fields["mels"]))
        steps = [Mfcc(**fields, coefficients=bands)]
    else:
        bands = fields["mels"]
        steps = [LogMel(**fields)]
    if draw(st.booleans()):
        count = draw(st.sampled_from([1, bands]))
        rng = np.random.default_rng(draw(st.integers(0, 2**32)))
        steps.append(Standardize(tuple(rng.normal(-5, 5, count).tolist()), tuple(rng.uniform(0.1, 10, count).tolist())))
    if draw(st.booleans()):
        steps.append(Layout(draw(st.sampled_from(["NHWC", "NCHW"]))))
    if draw(st.booleans()):
        dtype, low = draw(st.sampled_from([("int8", -128), ("uint8", 0)]))
        steps.append(Quantize(dtype, draw(st.floats(0.01, 1)), low + draw(st.integers(0, 255))))
    elif draw(st.booleans()):
        steps.append(Cast("float16"))
    return ProcessingSpec(tuple(steps))


@st.composite
def clips(draw, spec):
    """A clip that fits: tones over noise, noise of any loudness, silence, a click; floats or integers."""
    seed = draw(st.integers(0, 2**32))
    tone, rng = samples(spec, 1, seed)[0], np.random.default_rng(seed)
    kind = draw(st.sampled_from(["tone", "noise", "silence", "click", "constant"]))
    x = {
        "tone": lambda: tone,
        "noise": lambda: (rng.normal(size=tone.size) * 10.0 ** rng.integers(-6, 3)).astype(np.float32),
        "silence": lambda: np.zeros_like(tone),
        "click": lambda: np.eye(1, tone.size, tone.size // 2, dtype=np.float32)[0],
        "constant": lambda: np.full_like(tone, 0.5),
    }[kind]()
    if spec.steps[0].pad:
        x = x[: draw(st.integers(1, x.size))]
    if draw(st.booleans()):
        x = (np.clip(x, -1, 1) * 32767).astype(np.int16)
    return x if draw(st.booleans()) else np.repeat(x, 2)[::2]


@settings(derandomize=True, deadline=None, max_examples=200, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_device_and_reference_agree_on_any_specification_and_clip(data):
    spec = data.draw(specs())
    check_skew(spec, [data.draw(clips(spec))])
    assert ProcessingSpec.from_json(spec.to_json()) == spec


@settings(derandomize=True, deadline=None, max_examples=12, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_keras_agrees_on_any_specification_and_clip(data):
    layers = pytest.importorskip("edge_sdk.processing.keras")
    spec = data.draw(specs())
    report = check_skew(spec, [data.draw(clips(spec))], keras=layers.ProcessingLayer)
    assert report.keras_error is not None


@pytest.mark.parametrize(
    ("change", "step"),
    [
        (lambda step: Mfcc(**FIELDS | {"low_hz": 70.0}, coefficients=10), r"step 0 \(mfcc\)"),
        (lambda step: Standardize((-3.0,), (2.01,)), r"step 1 \(standardize\)"),
    ],
    ids=["mfcc", "standardize"],
)
def test_a_departure_names_the_step_and_the_worst_element(change, step):
    def device(spec):
        wrong = type(change(None))
        return DeviceProcessor(
            ProcessingSpec(tuple(change(one) if isinstance(one, wrong) else one for one in spec.steps))
        )

    with pytest.raises(SkewError, match=rf"at {step}, clip 0: worst element \[0, \d+, \d+(, 0)?\] is"):
        check_skew(CEPSTRUM, samples(CEPSTRUM, 2), device=device)
