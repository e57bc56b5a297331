"""Log-mel spectra and cepstra of one second of sound, and of the same as it comes in. On one thread."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness import Case, Task

__all__ = ["tasks"]

Features = NDArray[np.float32]
Samples = NDArray[Any]
Call = Callable[[], Features]
Options = dict[str, Any]

RATE = 16000
FLOOR = 1e-6
SPECTRUM: Options = {
    "sample_rate": RATE,
    "frame_length": 512,
    "frame_step": 160,
    "fft_length": 512,
    "mels": 40,
    "low_hz": 20.0,
    "high_hz": 7600.0,
}
CEPSTRUM: Options = SPECTRUM | {"frame_length": 400, "mfcc": 13}


def _ours(x: Samples, options: Options) -> Call:
    from edge_sdk.ext.audio import LogMel

    log_mel = LogMel(**options, floor=FLOOR)
    out = np.empty((log_mel.frames(x.size), log_mel.columns), np.float32)

    def call() -> Features:
        return log_mel(x, out)

    return call


def _chunks(x: Samples) -> list[Samples]:
    return np.split(x, range(RATE // 50, x.size, RATE // 50))


def _ours_streamed(x: Samples, options: Options) -> Call:
    from edge_sdk.ext.audio import LogMel

    stream = LogMel(**options, floor=FLOOR).stream()
    chunks = _chunks(x)

    def call() -> Features:
        stream.reset()
        return np.concatenate([stream.push(chunk) for chunk in chunks])

    return call


def _tables(options: Options) -> tuple[Features, Features, Features]:
    """Return window, filters [bins, mels] and cosines [mels, mfcc], made beforehand as everyone would."""
    length, bins, mels = options["frame_length"], options["fft_length"] // 2 + 1, options["mels"]
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(length) / length)
    at, low, high = (
        1127 * np.log1p(hz / 700)
        for hz in (np.linspace(0, RATE / 2, bins)[:, None], options["low_hz"], options["high_hz"])
    )
    edges = np.linspace(low, high, mels + 2)
    up = (at - edges[:-2]) / (edges[1:-1] - edges[:-2])
    down = (edges[2:] - at) / (edges[2:] - edges[1:-1])
    weights = np.maximum(np.minimum(up, down), 0)
    angles = np.pi / mels * (np.arange(mels) + 0.5)[:, None] * np.arange(options.get("mfcc", 0))
    cosines = np.cos(angles) * 2 / np.sqrt(2 * mels)
    return window.astype(np.float32), weights.astype(np.float32), cosines.astype(np.float32)


def _framed(x: Samples, options: Options) -> Features:
    if x.dtype == np.int16:
        x = x * np.float32(1 / 32768)
    return np.lib.stride_tricks.sliding_window_view(x, options["frame_length"])[:: options["frame_step"]]


def _arrays(x: Samples, options: Options, *, textbook: bool, module: str) -> Call:
    import importlib

    transform = importlib.import_module(module).rfft
    window, weights, cosines = _tables(options)

    def call() -> Features:
        spectrum = transform(_framed(x, options) * window, options["fft_length"])
        power = np.abs(spectrum) ** 2 if textbook else spectrum.real**2 + spectrum.imag**2
        features: Features = np.log(power @ weights + np.float32(FLOOR))
        return features @ cosines if options.get("mfcc") else features

    return call


def _arrays_streamed(x: Samples, options: Options) -> Call:
    from scipy.fft import rfft

    window, weights, _ = _tables(options)
    length, step = options["frame_length"], options["frame_step"]
    chunks = _chunks(x)

    def call() -> Features:
        rows, held = [], np.empty(0, np.float32)
        for chunk in chunks:
            held = np.concatenate([held, chunk])
            if held.size < length:
                continue
            framed = _framed(held, options)
            spectrum = rfft(framed * window, options["fft_length"])
            rows.append(np.log((spectrum.real**2 + spectrum.imag**2) @ weights + np.float32(FLOOR)))
            held = held[len(framed) * step :]
        return np.concatenate(rows)

    return call


def _librosa(x: Samples, options: Options) -> Call:
    import librosa

    def call() -> Features:
        power = librosa.feature.melspectrogram(
            y=x,
            sr=RATE,
            n_fft=options["fft_length"],
            hop_length=options["frame_step"],
            center=False,
            n_mels=options["mels"],
            fmin=options["low_hz"],
            fmax=options["high_hz"],
            htk=True,
            norm=None,
        )
        features: Features = np.log(power + np.float32(FLOOR)).T
        return features

    return call


def _tensorflow(x: Samples, options: Options) -> Call:
    import tensorflow as tf

    _, weights, _ = _tables(options)
    filters = tf.constant(weights)
    count = options.get("mfcc", 0)

    def traced(samples: Any) -> Any:
        if samples.dtype == tf.int16:
            samples = tf.cast(samples, tf.float32) / 32768
        spectrum = tf.abs(
            tf.signal.stft(samples, options["frame_length"], options["frame_step"], options["fft_length"])
        )
        found = tf.math.log(spectrum**2 @ filters + FLOOR)
        return tf.signal.mfccs_from_log_mel_spectrograms(found)[:, :count] if count else found

    features = tf.function(traced, input_signature=[tf.TensorSpec(x.shape, x.dtype)])

    def call() -> Features:
        answer: Features = features(x).numpy()
        return answer

    return call


def _peers(x: Samples, options: Options) -> tuple[Case, ...]:
    scipy = partial(_arrays, x, options, module="scipy.fft")
    numpy = partial(_arrays, x, options, module="numpy.fft")
    return (
        Case("scipy", partial(scipy, textbook=True), module="scipy", pip="scipy", note="abs(rfft) ** 2, as librosa"),
        Case("scipy-tuned", partial(scipy, textbook=False), module="scipy", pip="scipy", note="without square roots"),
        Case("numpy", partial(numpy, textbook=True), module="numpy", pip="numpy", note="abs(rfft) ** 2"),
        Case(
            "tf.signal",
            partial(_tensorflow, x, options),
            module="tensorflow",
            pip="tensorflow",
            note="one graph; takes as many threads as it likes",
        ),
    )


def tasks() -> tuple[Task, ...]:
    """Return the spectrum of floats, the cepstrum of 16-bit integers, and the spectrum in chunks of 20 ms."""
    t = np.arange(RATE) / RATE
    noise = np.random.default_rng(0).normal(0, 0.05, RATE)
    x = (0.5 * np.sin(2 * np.pi * (200 * t + 1500 * t * t)) + noise).astype(np.float32)
    pcm = (x * 32767).astype(np.int16)
    librosa = Case(
        "librosa",
        partial(_librosa, x, SPECTRUM),
        module="librosa",
        pip="librosa",
        tolerance=0.1,
        note="its filters are straight over hertz, not mels",
    )
    return (
        Task(
            "log-mel-float32",
            "1 s of float32 at 16 kHz → log-mel spectrum, 97×40",
            (
                Case("edge-sdk", partial(_ours, x, SPECTRUM), pip="edge-sdk", ours=True),
                *_peers(x, SPECTRUM),
                librosa,
            ),
            tolerance=1e-3,
        ),
        Task(
            "mfcc-int16",
            "1 s of int16 at 16 kHz → 13 cepstral coefficients, 98×13",
            (Case("edge-sdk", partial(_ours, pcm, CEPSTRUM), pip="edge-sdk", ours=True), *_peers(pcm, CEPSTRUM)),
            tolerance=1e-3,
        ),
        Task(
            "log-mel-streamed",
            "the same second of float32 in 50 chunks of 20 ms",
            (
                Case("edge-sdk", partial(_ours_streamed, x, SPECTRUM), pip="edge-sdk", ours=True),
                Case(
                    "scipy-tuned",
                    partial(_arrays_streamed, x, SPECTRUM),
                    module="scipy",
                    pip="scipy",
                    note="without square roots; what frames need is carried over",
                ),
            ),
            tolerance=1e-3,
        ),
    )
