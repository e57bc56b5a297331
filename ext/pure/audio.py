"""Log-mel spectra and cepstra of sound: the twin of `edge_sdk.ext.audio`.

`hann`, `mel_weights` and `cosines` are what the other executors of a processing specification are made of, too.
"""

from __future__ import annotations

import math
import sys
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from edge_sdk.errors import InputError
from edge_sdk.ext.pure.checks import kind

__all__ = ["LogMel", "LogMelStream", "cosines", "hann", "mel_weights", "path", "paths", "use_path"]

_LONGEST = 1 << 20
_MOST_MELS = 1024
_LIMIT = 1e9
_SMALLEST = float(np.finfo(np.float32).tiny)

_Samples = NDArray[np.float32] | NDArray[np.int16]


def path() -> str:
    """Return the name of the code that runs."""
    return "numpy"


def paths() -> tuple[str, ...]:
    """Return the names of all code that could run."""
    return ("numpy",)


def use_path(name: str) -> None:
    """Run another path from now on: there is but one."""
    if name not in paths():
        raise InputError(f"path: there are {', '.join(paths())} here, not {name!r}")


class LogMel:
    """Log-mel spectrum, or cepstrum, of one channel of sound."""

    def __init__(
        self,
        *,
        sample_rate: float,
        frame_length: int,
        frame_step: int,
        fft_length: int,
        mels: int,
        low_hz: float,
        high_hz: float,
        floor: float = 1e-6,
        mfcc: int = 0,
        power: float = 2.0,
    ) -> None:
        rate = _number("sample_rate", sample_rate)
        if not 0 < rate <= 1e9:
            raise InputError(f"sample_rate: need more than 0 Hz and at most 1e9, not {sample_rate}")
        self.frame_length: Final = _integer("frame_length", frame_length, 1, _LONGEST)
        self.frame_step: Final = _integer("frame_step", frame_step, 1, _LONGEST)
        self._fft_length = _integer("fft_length", fft_length, 4, _LONGEST)
        if self._fft_length & (self._fft_length - 1) or self._fft_length < self.frame_length:
            raise InputError(
                f"fft_length: need a power of two of at least frame_length, {frame_length}, not {fft_length}"
            )
        _integer("mels", mels, 1, _MOST_MELS)
        self._mfcc = _integer("mfcc", mfcc, 0, mels)
        low, high = _number("low_hz", low_hz), _number("high_hz", high_hz)
        if not 0 <= low < high <= rate / 2:
            raise InputError(
                f"low_hz, high_hz: need 0 <= low < high <= {rate / 2:g}, half the sample rate, not {low:g} and {high:g}"
            )
        self._floor = float(np.float32(min(_number("floor", floor), 2.0)))
        if not _SMALLEST <= self._floor <= 1:
            raise InputError(f"floor: need a number above 0 and at most 1, not {floor}")
        self._power = _number("power", power)
        if self._power not in {1.0, 2.0}:
            raise InputError(f"power: need 1.0 for magnitudes or 2.0 for powers, not {power}")
        self.columns: Final = mfcc or mels
        self._window = hann(self.frame_length)
        self._weights = mel_weights(rate, self._fft_length, mels, low, high)
        self._cosines = cosines(mels, mfcc)
        self._options = {
            "sample_rate": sample_rate,
            "frame_length": frame_length,
            "frame_step": frame_step,
            "fft_length": fft_length,
            "mels": mels,
            "low_hz": low_hz,
            "high_hz": high_hz,
            "floor": floor,
            "mfcc": mfcc,
            "power": power,
        }

    def __repr__(self) -> str:
        return f"LogMel({', '.join(f'{key}={value!r}' for key, value in self._options.items())})"

    @property
    def window(self) -> NDArray[np.float32]:
        """The window: shape (frame_length,)."""
        return self._window.astype(np.float32)

    @property
    def weights(self) -> NDArray[np.float32]:
        """The filters: shape (fft_length / 2 + 1, mels)."""
        return self._weights.astype(np.float32)

    def frames(self, samples: int) -> int:
        """Return how many frames a number of samples has; a last one that is not whole does not count."""
        count = _integer("samples", samples, 0, sys.maxsize)
        return 0 if count < self.frame_length else 1 + (count - self.frame_length) // self.frame_step

    def __call__(self, x: _Samples, out: NDArray[np.float32] | None = None) -> NDArray[np.float32]:
        """Return features of a recording."""
        _check_samples(x)
        frames = self.frames(x.shape[0])
        if frames == 0:
            raise InputError(f"x: need at least one frame of {self.frame_length} samples, not {x.shape[0]}")
        shape = (frames, self.columns)
        if out is None:
            out = np.empty(shape, np.float32)
        elif not isinstance(out, np.ndarray) or out.dtype != np.float32 or out.shape != shape:
            raise InputError(f"out: need float32 of shape {shape}, not {kind(out)}")
        elif not out.flags.c_contiguous or not out.flags.writeable or np.may_share_memory(out, x):
            raise InputError("out: need a writeable C-contiguous array that does not share memory with x")
        out[...] = self._features(_real(x))
        return out

    def stream(self) -> LogMelStream:
        """Begin a recording that comes in chunks."""
        return LogMelStream(self)

    def _features(self, x: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return features of at least one frame of samples."""
        framed = np.lib.stride_tricks.sliding_window_view(x, self.frame_length)[:: self.frame_step]
        spectrum = np.fft.rfft(framed * self._window, self._fft_length)
        power = spectrum.real**2 + spectrum.imag**2
        features: NDArray[np.float64] = np.log(
            (power if self._power == 2.0 else np.sqrt(power)) @ self._weights + self._floor
        )
        return features @ self._cosines if self._mfcc else features


class LogMelStream:
    """Features of a recording that comes in chunks; of the whole they differ by rounding at most."""

    def __init__(self, log_mel: LogMel) -> None:
        self._log_mel = log_mel
        self._kept = np.empty(0)
        self._skipped = 0

    def reset(self) -> None:
        """Forget what was kept: the next chunk begins a recording."""
        self._kept, self._skipped = np.empty(0), 0

    def push(self, x: _Samples) -> NDArray[np.float32]:
        """Return features of the frames that this chunk completes."""
        _check_samples(x)
        skip = min(self._skipped, x.shape[0])
        held = np.concatenate([self._kept, _real(x)[skip:]])
        self._skipped -= skip
        frames = self._log_mel.frames(held.shape[0])
        used = frames * self._log_mel.frame_step
        self._kept = held[used:]
        if frames == 0:
            return np.empty((0, self._log_mel.columns), np.float32)
        self._skipped = max(used - held.shape[0], 0)
        return self._log_mel._features(held).astype(np.float32)  # noqa: SLF001 - two halves of one thing


def hann(length: int) -> NDArray[np.float64]:
    """Return the window of ``tf.signal``: periodic where the length is even, symmetric where it is odd."""
    if length == 1:
        return np.ones(1)
    period = length if length % 2 == 0 else length - 1  # tf.signal: odd lengths are symmetric all the same
    return 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(length) / period)


def mel_weights(rate: float, fft_length: int, mels: int, low: float, high: float) -> NDArray[np.float64]:
    """Return what each frequency adds to each band, [fft_length / 2 + 1, mels]: even triangles on the HTK scale."""

    def mel(hz: Any) -> Any:
        return 1127.0 * np.log1p(hz / 700.0)

    bins = fft_length // 2
    at = mel(np.arange(bins) * rate / 2 / bins)[:, None]
    left, middle, right = (np.linspace(mel(low), mel(high), mels + 2)[i : i + mels] for i in range(3))
    weights = np.maximum(np.minimum((at - left) / (middle - left), (right - at) / (right - middle)), 0.0)
    weights[0] = 0.0
    return np.vstack([weights, np.zeros(mels)])  # no filter goes beyond half the sample rate


def cosines(mels: int, coefficients: int) -> NDArray[np.float64]:
    """Return the transform of a logarithmic spectrum to cepstral coefficients, [mels, coefficients]."""
    angles = np.pi / mels * (np.arange(mels) + 0.5)[:, None] * np.arange(coefficients)
    transform: NDArray[np.float64] = np.cos(angles) * 2 / math.sqrt(2 * mels)
    return transform


def _real(x: _Samples) -> NDArray[np.float64]:
    if x.dtype == np.int16:
        return np.divide(x, 32768.0, dtype=np.float64)
    bad = np.flatnonzero(~(np.abs(x) <= np.float32(_LIMIT)))
    if bad.size:
        raise InputError(f"x: sample {bad[0]} is {x[bad[0]]}; samples are finite and within ±1e9, usually ±1")
    return x.astype(np.float64)


def _check_samples(x: object) -> None:
    if not isinstance(x, np.ndarray) or x.dtype not in (np.float32, np.int16) or x.ndim != 1:
        raise InputError(f"x: need float32 or int16 of shape (n,), one channel, not {kind(x)}")


def _number(name: str, value: Any) -> float:
    if isinstance(value, (bool, str, bytes)):
        raise InputError(f"{name}: need a number, not {type(value).__name__}")
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        raise InputError(f"{name}: need a number, not {type(value).__name__}") from None
    if not math.isfinite(number):
        raise InputError(f"{name}: need a finite number, not {number}")
    return number


def _integer(name: str, value: Any, low: int, high: int) -> int:
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        raise InputError(f"{name}: need an integer, not {type(value).__name__}")
    if not low <= value <= high:
        raise InputError(f"{name}: need an integer in {low}..{high}, not {value}")
    return int(value)
