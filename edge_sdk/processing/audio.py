"""Audio: a clip of samples to the spectrum that a model takes."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_sdk.errors import InputError
from edge_sdk.ext.pure.audio import cosines, hann, mel_weights
from edge_sdk.ext.quantization import quantize
from edge_sdk.processing.arrays import describe
from edge_sdk.processing.audio_shapes import spectral_of
from edge_sdk.processing.audio_steps import LogMel, Mfcc, Spectral
from edge_sdk.processing.spec import ProcessingSpec
from edge_sdk.processing.steps import Layout, Quantize, Standardize

__all__ = ["PCM", "AudioProcessor", "audio_reference", "audio_sample", "audio_slack", "weights_of"]

PCM = 1 / 32768
"""What an int16 sample stands for."""

_LOUDEST = 1e9

_Floats = NDArray[np.float64]


class AudioProcessor:
    """The device executor: the kernel of `edge_sdk.ext.audio`, then what little is left.

    Holds no state but constants, so threads may share one.

    Parameters
    ----------
    spec
        What to do.
    """

    def __init__(self, spec: ProcessingSpec) -> None:
        from edge_sdk.ext.audio import LogMel as Kernel

        self._step = step = spectral_of(spec)
        self._kernel = Kernel(
            sample_rate=step.sample_rate,
            frame_length=step.frame_length,
            frame_step=step.frame_step,
            fft_length=step.fft_length,
            mels=step.mels,
            low_hz=step.low_hz,
            high_hz=step.high_hz,
            floor=step.floor,
            mfcc=step.coefficients if isinstance(step, Mfcc) else 0,
            power=step.power,
        )
        standardize = spec.find(Standardize)
        self._mean = None if standardize is None else np.array(standardize.mean, np.float32)
        self._gain = None if standardize is None else (1.0 / np.array(standardize.std)).astype(np.float32)
        self._quantize = spec.find(Quantize)

    def __call__(self, x: object, tensor: NDArray[Any]) -> None:
        """Process one clip into a tensor without its batch axis.

        Parameters
        ----------
        x : ndarray of float32 or int16, shape (samples,)
            Floats are usually within ±1; integers stand for 1/32768 each.
        tensor
            Filled.

        Raises
        ------
        InputError
            Wrong dtype, rank or number of samples, or a sample that is not finite.
        """
        step = self._step
        clip = _checked(step, x)
        direct = tensor.dtype == np.float32 and tensor.flags.c_contiguous
        bands = tensor.reshape(step.frames, step.bands) if direct else np.empty((step.frames, step.bands), np.float32)
        self._kernel(clip, bands)
        if self._mean is not None and self._gain is not None:
            np.subtract(bands, self._mean, out=bands)
            np.multiply(bands, self._gain, out=bands)
        if self._quantize is not None:
            kind = np.int8 if self._quantize.dtype == "int8" else np.uint8
            tensor[...] = quantize(bands, self._quantize.scale, self._quantize.zero_point, dtype=kind).reshape(
                tensor.shape
            )
        elif not direct:
            with np.errstate(over="ignore"):  # a float16 may become infinite
                tensor[...] = bands.reshape(tensor.shape)


def audio_reference(spec: ProcessingSpec, x: object) -> _Floats:
    """Return the exact result of a specification on one clip; see `edge_sdk.processing.reference`."""
    step = spectral_of(spec)
    y = _mel(step, _framed(step, _scaled(_checked(step, x))))
    for one in spec.steps:
        match one:
            case LogMel():
                y = np.log(y + one.floor)
            case Mfcc():
                y = np.log(y + one.floor) @ cosines(one.mels, one.coefficients)
            case Standardize():
                y = (y - np.array(one.mean)) / np.array(one.std)
            case Layout():
                y = y[None] if one.order == "NCHW" else y[:, :, None]
            case Quantize():
                y = y / one.scale + one.zero_point
            case _:
                pass  # rounds only
    return y[None]


@lru_cache(maxsize=8)
def weights_of(step: Spectral) -> _Floats:
    """Return what each frequency adds to each band, [fft_length / 2 + 1, mels]."""
    return mel_weights(step.sample_rate, step.fft_length, step.mels, step.low_hz, step.high_hz)


def _checked(step: Spectral, x: object) -> NDArray[Any]:
    """Return a clip with silence behind it where the step says so."""
    if not isinstance(x, np.ndarray) or x.ndim != 1 or x.dtype not in (np.float32, np.int16):
        raise InputError(f"audio: need float32 or int16 of shape ({step.samples},), not {describe(x)}")
    if x.size != step.samples:
        if not step.pad or not 0 < x.size < step.samples:
            wanted = f"{'1 to ' if step.pad else ''}{step.samples} samples"
            raise InputError(f"audio: need {wanted} at {step.sample_rate} Hz, not {x.size}")
        x = np.concatenate([x, np.zeros(step.samples - x.size, x.dtype)])
    if x.dtype == np.float32 and not np.abs(x).max() <= _LOUDEST:
        raise InputError(f"audio: a sample is not finite, or beyond ±{_LOUDEST:g}")
    return x


def _scaled(x: NDArray[Any]) -> _Floats:
    return x.astype(np.float64) * (PCM if x.dtype == np.int16 else 1.0)


def _framed(step: Spectral, x: _Floats) -> _Floats:
    frames = np.lib.stride_tricks.sliding_window_view(x, step.frame_length)[:: step.frame_step]
    windowed: _Floats = frames * hann(step.frame_length)
    return windowed


def _mel(step: Spectral, frames: _Floats) -> _Floats:
    bands: _Floats = np.abs(np.fft.rfft(frames, step.fft_length)) ** step.power @ weights_of(step)
    return bands


def audio_slack(spec: ProcessingSpec, x: object, expected: _Floats) -> _Floats:
    """Return what an executor in float32 may differ from the reference by, in units of the output before rounding.

    A Fourier transform in float32 is off by a share of what the whole frame holds, in every frequency; a band that
    holds less than that, beside a loud one, has few true digits, and its logarithm differs accordingly.
    """
    step = spectral_of(spec)
    frames = _framed(step, _scaled(_checked(step, x)))
    off = _FFT_ERROR * np.log2(step.fft_length) * np.linalg.norm(frames, axis=1, keepdims=True)
    spectrum, weights = np.abs(np.fft.rfft(frames, step.fft_length)), weights_of(step)
    off = (2 * spectrum * off + off**2 if step.power == 2.0 else np.broadcast_to(off, spectrum.shape)) @ weights
    value = spectrum**step.power @ weights
    off += value * 2.0**-20
    value, least = value + step.floor, step.floor
    slack = np.maximum(np.log1p(off / value), np.log(value / np.maximum(value - off, least)))
    slack += 2.0**-21 * (1 + np.abs(np.log(value)))
    if isinstance(step, Mfcc):
        slack = slack @ np.abs(cosines(step.mels, step.coefficients)) + 2.0**-21 * np.abs(np.log(value)).sum(
            axis=1, keepdims=True
        )
    standardize, quantize = spec.find(Standardize), spec.find(Quantize)
    if standardize is not None:
        mean, std = np.array(standardize.mean), np.array(standardize.std)
        slack = slack / std + 2.0**-21 * np.abs(mean) / std
    if quantize is not None:
        slack = slack / quantize.scale
    shaped: _Floats = slack.reshape(expected.shape)
    return shaped


_FFT_ERROR = 2.0**-22


def audio_sample(spec: ProcessingSpec, rng: np.random.Generator) -> NDArray[np.float32]:
    """Return a clip: a tone that rises through the bands, over noise."""
    step = spectral_of(spec)
    time = np.arange(step.samples) / step.sample_rate
    start, stop = rng.uniform(step.low_hz, step.high_hz, 2)
    phase = 2 * np.pi * (start + (stop - start) * time / (2 * time[-1] or 1.0)) * time
    clip: NDArray[np.float32] = (0.3 * np.sin(phase) + 0.03 * rng.normal(size=step.samples)).astype(np.float32)
    return clip
