"""Sound from files and microphones."""

from __future__ import annotations

import ctypes.util
import io
import json
import os
import subprocess
import sys
import wave

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_sdk.errors import InputError, MissingExtraError
from edge_sdk.sounds import read_wav, windows
from edge_sdk.sources import Microphone, Recording
from edge_sdk.streams import Stream

RATE = 16000


def wav(samples, width=2, channels=1, rate=RATE):
    """The bytes of a file of integer samples [n] or [n, channels]."""
    raw = io.BytesIO()
    with wave.open(raw, "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(width)
        file.setframerate(rate)
        levels = np.asarray(samples, np.int64).reshape(-1) + (128 if width == 1 else 0)
        file.writeframes(levels.astype("<i8").view(np.uint8).reshape(-1, 8)[:, :width].tobytes())
    return raw.getvalue()


@pytest.fixture
def tone(tmp_path):
    """A file of a tone of 440 Hz, 2.3 s."""
    path = tmp_path / "tone.wav"
    path.write_bytes(wav(20000 * np.sin(2 * np.pi * 440 * np.arange(36800) / RATE)))
    return path


@settings(derandomize=True, deadline=None)
@given(st.sampled_from([1, 2, 3, 4]), st.integers(1, 3), st.data())
def test_samples_of_any_width_are_read_as_fractions_and_channels_as_their_mean(width, channels, data):
    half = 1 << (8 * width - 1)
    levels = st.integers(-half, half - 1)
    rows = np.array(
        data.draw(st.lists(st.lists(levels, min_size=channels, max_size=channels), max_size=20)), np.int64
    ).reshape(-1, channels)
    got = read_wav(wav(rows, width, channels))
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, (rows / half).mean(axis=1), rtol=0, atol=1e-7)


@settings(derandomize=True, deadline=None)
@given(st.lists(st.integers(0, 40), max_size=8), st.integers(1, 30), st.data())
def test_windows_follow_each_other_and_leave_no_sample_out(cuts, size, data):
    hop = data.draw(st.integers(1, size))
    x = np.arange(1, 1 + sum(cuts), dtype=np.float32)
    found = list(windows(np.split(x, np.cumsum(cuts)), size, hop))
    padded = np.concatenate([x, np.zeros(size, np.float32)])
    for index, window in enumerate(found):
        np.testing.assert_array_equal(window, padded[index * hop : index * hop + size])
    assert set(x) <= set(np.concatenate([*found, x[:0]]))
    if len(found) > 1:  # the last one is needed
        assert (len(found) - 2) * hop + size < x.size


def test_a_recording_gives_windows_that_overlap_and_can_be_replayed(tone):
    recording = Recording(tone, window=1.0, hop=0.5)
    x = read_wav(tone)
    for _ in range(2):
        found = list(recording)
        assert [window.shape for window in found] == [(16000,)] * 4
        np.testing.assert_array_equal(found[1], x[8000:24000])
        np.testing.assert_array_equal(found[3], np.pad(x[24000:], (0, 3200)))


def test_a_stream_answers_every_window_of_a_recording(tone):
    levels = list(Stream(lambda window: float(np.abs(window).max()), Recording(tone)))
    assert len(levels) == 4
    assert min(levels) == pytest.approx(20000 / 32768, rel=1e-2)


def test_another_rate_is_refused_and_nothing_is_resampled(tone):
    with pytest.raises(InputError, match=r"tone.wav: has 16000 samples a second, not 8000; resample it beforehand$"):
        Recording(tone, rate=8000)


@pytest.mark.parametrize("end", [0, 3, 11, 20, 43])
def test_a_file_that_is_none_is_refused_in_one_line(tmp_path, end):
    path = tmp_path / "cut.wav"
    path.write_bytes(wav([1, 2, 3])[:end])
    with pytest.raises(InputError, match=r"^.*cut.wav: not a .wav file of PCM samples \(.+\)$"):
        Recording(path)


@settings(derandomize=True, deadline=None)
@given(st.binary(max_size=200) | st.tuples(st.integers(0, 43), st.integers(0, 255)))
def test_whatever_the_bytes_they_are_samples_or_an_input_error(change):
    data = change
    if isinstance(change, tuple):
        spoilt = bytearray(wav([[1, 2], [3, 4]], 2, 2))
        spoilt[change[0]] = change[1]
        data = bytes(spoilt)
    try:
        got = read_wav(data)
    except InputError:
        return
    assert np.abs(got).max(initial=0) <= 1


def test_a_file_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"^cannot read .*: No such file or directory$"):
        Recording(tmp_path / "none.wav")


@pytest.mark.parametrize(("window", "hop"), [(1, 0), (1, -1), (0.5, 1), (0, 0), (np.inf, 1), (1, np.nan)])
def test_windows_that_are_none_are_refused(tone, window, hop):
    with pytest.raises(InputError, match=r"^window, hop: need seconds above 0, the hop at most the window"):
        Recording(tone, window=window, hop=hop)


def test_without_its_package_a_microphone_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "sounddevice", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'edge-sdk\[microphone\]'$"):
        Microphone()


def test_a_microphone_that_is_not_there_is_refused_in_one_line():
    pytest.importorskip("cffi")
    with pytest.raises(
        InputError, match=r"^(cannot open a microphone at 'no such device'|PortAudio cannot be loaded).*$"
    ):
        Microphone("no such device")


# what a sound card would give: PortAudio on ALSA, whose microphone is a file
ALSA = """
pcm.!default {{ type plug slave {{ pcm "played" format S16_LE channels 1 rate 16000 }} }}
pcm.played {{ type file slave.pcm "null" file "/dev/null" infile "{file}" format "raw" }}
pcm.null {{ type null }}
"""

LISTEN = """
import itertools, json, numpy as np
from edge_sdk.sources import Microphone
from edge_sdk.streams import Stream

with Microphone(window=0.25, hop=0.125) as microphone:
    found = [w.copy() for w in itertools.islice(microphone, 3)]
    live = [len(w) for w in itertools.islice(Stream(lambda w: w, microphone), 2)]
again = list(microphone)
spectrum = np.abs(np.fft.rfft(found[0]))
print(json.dumps({
    "kinds": [[str(w.dtype), w.shape] for w in found],
    "overlap": bool((found[0][2000:] == found[1][:2000]).all()),
    "hertz": int(spectrum.argmax()) * 4, "level": float(np.abs(found[2]).max()), "live": live, "again": len(again),
}))
"""


@pytest.mark.skipif(
    not sys.platform.startswith("linux") or ctypes.util.find_library("portaudio") is None,
    reason="needs PortAudio on ALSA: apt-get install libportaudio2",
)
def test_a_microphone_gives_windows_of_what_the_device_hears(tmp_path):
    pytest.importorskip("sounddevice")
    (20000 * np.sin(2 * np.pi * 440 * np.arange(5 * RATE) / RATE)).astype("<i2").tofile(tmp_path / "heard.raw")
    (tmp_path / "asound.conf").write_text(ALSA.format(file=tmp_path / "heard.raw"))
    run = subprocess.run(
        [sys.executable, "-c", LISTEN],
        env={**os.environ, "ALSA_CONFIG_PATH": str(tmp_path / "asound.conf")},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    assert json.loads(run.stdout) == {
        "kinds": [["float32", [4000]]] * 3,
        "overlap": True,
        "hertz": 440,
        "level": pytest.approx(20000 / 32768, rel=0.01),
        "live": [4000, 4000],
        "again": 0,
    }
