"""The log-mel kernel, its twin in NumPy, and TensorFlow."""

from __future__ import annotations

import copy
import pickle
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_sdk.errors import InputError
from edge_sdk.ext import audio
from edge_sdk.ext.pure import audio as twin

SPEECH = {
    "sample_rate": 16000,
    "frame_length": 400,
    "frame_step": 160,
    "fft_length": 512,
    "mels": 40,
    "low_hz": 20.0,
    "high_hz": 7600.0,
}


@pytest.fixture(autouse=True)
def _same_path_afterwards():
    before = audio.path()
    yield
    audio.use_path(before)


def sound(samples=16000, seed=0):
    """A chirp over noise, fading in: float32 within ±1."""
    t = np.arange(samples) / 16000
    noise = np.random.default_rng(seed).normal(0, 0.02, samples)
    return ((0.5 * np.sin(2 * np.pi * (200 * t + 1500 * t * t)) + noise) * np.minimum(1, 4 * t)).astype(np.float32)


@st.composite
def options(draw):
    length = draw(st.integers(1, 300))
    rate = draw(st.sampled_from([8000, 16000, 22050.0, 44100]))
    mels = draw(st.integers(1, 24))
    low = draw(st.floats(0, rate / 8))
    return {
        "sample_rate": rate,
        "frame_length": length,
        "frame_step": draw(st.integers(1, 400)),
        "fft_length": max(4, 1 << (length - 1).bit_length() + draw(st.integers(0, 2))),
        "mels": mels,
        "low_hz": low,
        "high_hz": draw(st.floats(low + rate / 8, rate / 2)),
        "floor": draw(st.sampled_from([1e-6, 1e-3, 1.0])),
        "mfcc": draw(st.sampled_from([0, 1, mels])),
        "power": draw(st.sampled_from([1.0, 2.0])),
    }


@settings(derandomize=True, deadline=None)
@given(options(), st.integers(0, 1500), st.integers(0, 1000))
def test_every_path_has_the_same_bits_and_agrees_with_float64(given_options, extra, seed):
    x = sound(given_options["frame_length"] + extra, seed)
    expected = twin.LogMel(**given_options)(x)
    kernel = audio.LogMel(**given_options)
    answers = []
    for name in audio.paths():
        audio.use_path(name)
        answers.append(kernel(x))
    for answer in answers:
        np.testing.assert_array_equal(answer, answers[0])
        np.testing.assert_allclose(answer, expected, rtol=1e-5, atol=1e-4)


@settings(derandomize=True, deadline=None)
@given(options(), st.lists(st.integers(0, 500), max_size=12), st.booleans())
def test_however_a_recording_is_cut_its_stream_has_the_bits_of_the_whole(given_options, cuts, integers):
    x = sound(given_options["frame_length"] + sum(cuts))
    if integers:
        x = (x * 32767).astype(np.int16)
    kernel = audio.LogMel(**given_options)
    stream, plain = kernel.stream(), twin.LogMel(**given_options).stream()
    chunks = np.split(x, np.cumsum(cuts))
    rows = [stream.push(chunk) for chunk in chunks]
    np.testing.assert_array_equal(np.concatenate(rows), kernel(x))
    for row, chunk in zip(rows, chunks, strict=True):
        np.testing.assert_allclose(plain.push(chunk), row, rtol=1e-5, atol=1e-4)


def tensorflow_features(x, dtype, *, floor=1e-6, mfcc=0, power=2.0, **given_options):
    """What TensorFlow makes of sound, with filters computed in `dtype`."""
    import tensorflow as tf

    o = given_options
    spectrum = tf.abs(tf.signal.stft(x, o["frame_length"], o["frame_step"], o["fft_length"]))
    spectrum = spectrum**2 if power == 2.0 else spectrum
    weights = tf.signal.linear_to_mel_weight_matrix(
        o["mels"], o["fft_length"] // 2 + 1, o["sample_rate"], o["low_hz"], o["high_hz"], tf.as_dtype(dtype)
    )
    features = tf.math.log(spectrum @ tf.cast(weights, tf.float32) + floor)
    return (tf.signal.mfccs_from_log_mel_spectrograms(features)[:, :mfcc] if mfcc else features).numpy()


@pytest.mark.parametrize("power", [1.0, 2.0])
@pytest.mark.parametrize("mfcc", [0, 13])
@pytest.mark.parametrize(
    "shape",
    [
        {},
        {"frame_length": 401, "frame_step": 100},
        {"frame_length": 640, "frame_step": 320, "fft_length": 1024, "mels": 64, "low_hz": 0, "high_hz": 8000},
        {"frame_length": 256, "frame_step": 300, "fft_length": 256, "mels": 20},
    ],
    ids=["speech", "odd window", "all frequencies", "gaps"],
)
def test_features_are_those_of_tensorflow(shape, mfcc, power):
    pytest.importorskip("tensorflow")
    chosen = SPEECH | shape | {"mfcc": mfcc, "power": power}
    noise = np.random.default_rng(1).normal(0, 0.1, 16000).astype(np.float32)
    for x, dtype in ((noise, "float32"), (noise, "float64"), (sound(), "float64")):
        expected = tensorflow_features(x, dtype, **chosen)
        np.testing.assert_allclose(audio.LogMel(**chosen)(x), expected, rtol=0, atol=1e-4)
    # filters computed in float32 are off by 1e-5, which a tone at the foot of one makes much of
    expected = tensorflow_features(sound(), "float32", **chosen)
    np.testing.assert_allclose(audio.LogMel(**chosen)(sound()), expected, rtol=0, atol=1e-3)


def test_window_and_filters_are_those_of_tensorflow():
    tf = pytest.importorskip("tensorflow")
    kernel = audio.LogMel(**SPEECH)
    np.testing.assert_allclose(kernel.window, tf.signal.hann_window(400), atol=1e-6)
    weights = tf.signal.linear_to_mel_weight_matrix(40, 257, 16000, 20.0, 7600.0, tf.float64)
    np.testing.assert_allclose(kernel.weights, weights, atol=1e-7)


def test_the_twin_has_the_same_window_filters_and_text():
    kernel, plain = audio.LogMel(**SPEECH), twin.LogMel(**SPEECH)
    np.testing.assert_allclose(kernel.window, plain.window, atol=1e-7)
    np.testing.assert_allclose(kernel.weights, plain.weights, atol=1e-7)
    assert repr(kernel) == repr(plain)
    assert set(audio.__all__) <= set(twin.__all__)
    assert [kernel.frames(n) for n in (0, 399, 400, 559, 560)] == [plain.frames(n) for n in (0, 399, 400, 559, 560)]


def test_integers_stand_for_fractions_of_one():
    x = np.random.default_rng(0).integers(-32768, 32768, 5000).astype(np.int16)
    kernel = audio.LogMel(**SPEECH)
    np.testing.assert_array_equal(kernel(x), kernel(x.astype(np.float32) / 32768))


def test_silence_is_the_logarithm_of_the_floor():
    for power in (1.0, 2.0):
        y = audio.LogMel(**SPEECH, power=power)(np.zeros(400, np.float32))
        np.testing.assert_allclose(y, np.log(1e-6), rtol=1e-6)


def test_the_largest_samples_stay_finite():
    x = np.where(np.arange(4096) % 2, 1e9, -1e9).astype(np.float32)
    for name in audio.paths():
        audio.use_path(name)
        kernel = audio.LogMel(**SPEECH | {"frame_length": 4096, "fft_length": 4096, "high_hz": 8000})
        assert np.isfinite(kernel(x)).all()


def test_out_is_filled_and_strided_samples_are_read():
    x = sound(4000)
    kernel = audio.LogMel(**SPEECH)
    out = np.empty((kernel.frames(2000), 40), np.float32)
    assert kernel(x[::-2], out) is out
    np.testing.assert_array_equal(out, kernel(x[::-2].copy()))
    read_only = x[:2000].copy()
    read_only.flags.writeable = False
    np.testing.assert_array_equal(kernel(read_only), kernel(x[:2000]))


def test_threads_may_share_one():
    kernel = audio.LogMel(**SPEECH)
    sounds = [sound(8000, seed) for seed in range(8)]
    expected = [kernel(x) for x in sounds]
    with ThreadPoolExecutor(4) as pool:
        for _ in range(5):
            for answer, one in zip(pool.map(kernel, sounds), expected, strict=True):
                np.testing.assert_array_equal(answer, one)


def test_copies_are_equal():
    kernel = audio.LogMel(**SPEECH, mfcc=5)
    for other in (copy.deepcopy(kernel), pickle.loads(pickle.dumps(kernel))):
        assert repr(other) == repr(kernel)
        np.testing.assert_array_equal(other(sound()), kernel(sound()))


def test_a_reset_stream_begins_anew():
    x = sound(2000)
    stream = audio.LogMel(**SPEECH).stream()
    first = stream.push(x)
    stream.push(x[:333])
    stream.reset()
    np.testing.assert_array_equal(stream.push(x), first)


@pytest.mark.parametrize("module", [audio, twin], ids=["kernel", "twin"])
def test_a_refused_chunk_leaves_the_stream_as_it_was(module):
    x = sound(2000)
    stream, other = module.LogMel(**SPEECH).stream(), module.LogMel(**SPEECH).stream()
    for one in (stream, other):
        one.push(x[:777])
    spoilt = x[777:].copy()
    spoilt[3] = np.nan
    with pytest.raises(InputError, match=r"^x: sample 3 is nan; samples are finite"):
        stream.push(spoilt)
    np.testing.assert_array_equal(stream.push(x[777:]), other.push(x[777:]))


def test_two_threads_in_one_stream_are_refused_or_in_turn():
    stream = audio.LogMel(**SPEECH | {"frame_step": 1}).stream()
    x, refused = sound(16000), []

    def push():
        for _ in range(20):
            try:
                stream.push(x)
            except InputError as error:
                refused.append(str(error))

    threads = [threading.Thread(target=push) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all("another thread is pushing" in message for message in refused)
    stream.reset()
    assert stream.push(x).shape == (15601, 40)


@pytest.mark.parametrize("module", [audio, twin], ids=["kernel", "twin"])
@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"sample_rate": 0}, "sample_rate: need more than 0 Hz"),
        ({"sample_rate": 1e308}, "sample_rate: need more than 0 Hz and at most 1e9"),
        ({"sample_rate": "fast"}, "sample_rate: need a number"),
        ({"sample_rate": np.nan}, "sample_rate: need a finite number"),
        ({"frame_length": 0}, r"frame_length: need an integer in 1\.\."),
        ({"frame_length": 400.0}, "frame_length: need an integer, not float"),
        ({"frame_step": 0}, r"frame_step: need an integer in 1\.\."),
        ({"frame_step": True}, "frame_step: need an integer, not bool"),
        ({"fft_length": 256}, "fft_length: need a power of two of at least frame_length, 400, not 256"),
        ({"fft_length": 500}, "fft_length: need a power of two"),
        ({"fft_length": 1 << 21}, "fft_length: need an integer in 4"),
        ({"fft_length": 2, "frame_length": 2}, "fft_length: need an integer in 4"),
        ({"mels": 0}, "mels: need an integer in 1"),
        ({"mels": 10**30}, "mels: need an integer in 1"),
        ({"low_hz": -1}, "low_hz, high_hz: need 0 <= low < high <= 8000"),
        ({"low_hz": 7600}, "low_hz, high_hz: need"),
        ({"high_hz": 8001}, "low_hz, high_hz: need"),
        ({"high_hz": None}, "high_hz: need a number, not NoneType"),
        ({"floor": 0}, "floor: need a number above 0"),
        ({"floor": 1e-40}, "floor: need a number above 0"),
        ({"floor": 1e300}, "floor: need a number above 0"),
        ({"mfcc": 41}, r"mfcc: need an integer in 0\.\.40, not 41"),
        ({"mfcc": -1}, r"mfcc: need an integer in 0\.\.40"),
        ({"power": 3}, "power: need 1.0 for magnitudes or 2.0 for powers, not 3"),
    ],
)
def test_a_wrong_option_is_refused_by_name(module, wrong, message):
    with pytest.raises(InputError, match=f"^{message}"):
        module.LogMel(**SPEECH | wrong)


@pytest.mark.parametrize("module", [audio, twin], ids=["kernel", "twin"])
@pytest.mark.parametrize(
    "x",
    [
        [0.0] * 400,
        np.zeros(400),
        np.zeros(400, np.uint8),
        np.zeros((1, 400), np.float32),
        np.zeros((), np.float32),
        np.zeros(400, ">f4") if np.little_endian else np.zeros(400, "<f4"),
    ],
    ids=["list", "float64", "uint8", "rank 2", "rank 0", "byte order"],
)
def test_wrong_samples_are_refused_with_one_line(module, x):
    kernel = module.LogMel(**SPEECH)
    for call in (kernel, kernel.stream().push):
        with pytest.raises(InputError, match=r"^x: need float32 or int16 of shape \(n,\), one channel, not .*$"):
            call(x)


@pytest.mark.parametrize("module", [audio, twin], ids=["kernel", "twin"])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1.1e9])
def test_samples_that_are_no_sound_are_refused_by_number(module, bad):
    x = sound(1000)
    x[777] = bad
    with pytest.raises(InputError, match=r"^x: sample 777 is "):
        module.LogMel(**SPEECH)(x)


@pytest.mark.parametrize("module", [audio, twin], ids=["kernel", "twin"])
@pytest.mark.parametrize("samples", [0, 1, 399])
def test_less_than_a_frame_is_refused_but_a_stream_waits_for_more(module, samples):
    x = sound(samples)
    kernel = module.LogMel(**SPEECH)
    assert kernel.frames(samples) == 0
    with pytest.raises(InputError, match=f"^x: need at least one frame of 400 samples, not {samples}$"):
        kernel(x)
    assert kernel.stream().push(x).shape == (0, 40)


@pytest.mark.parametrize("module", [audio, twin], ids=["kernel", "twin"])
@pytest.mark.parametrize(
    "out",
    [
        [[0.0] * 40],
        np.zeros((1, 40)),
        np.zeros((2, 40), np.float32),
        np.zeros(40, np.float32),
        np.zeros((1, 80), np.float32)[:, ::2],
        np.broadcast_to(np.float32(0), (1, 40)),
    ],
    ids=["list", "float64", "shape", "rank", "strided", "read-only"],
)
def test_a_mismatched_out_is_refused_with_one_line(module, out):
    with pytest.raises(InputError, match=r"^out: need .*$"):
        module.LogMel(**SPEECH)(np.zeros(400, np.float32), out)


def test_an_out_that_shares_memory_is_refused():
    memory = np.zeros(400, np.float32)
    with pytest.raises(InputError, match=r"^out: need .* does not share memory with x$"):
        audio.LogMel(**SPEECH)(memory, memory[:40].reshape(1, 40))


def test_an_unknown_path_is_refused():
    with pytest.raises(InputError, match=r"^path: there are (portable|numpy)"):
        audio.use_path("gpu")
