"""The steps of audio: one frozen record a kind, checked strictly."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

from edge_sdk.processing.fields import integer, number, step_error

__all__ = ["CHECKS", "MAX_SAMPLES", "LogMel", "Mfcc", "Spectral"]

MAX_SAMPLES = 10_000_000
_MAX_FFT = 1 << 20
_MAX_MELS = 1024
_MAX_RATE = 1_000_000
_LEAST_FLOOR = 1e-30


@dataclass(frozen=True, slots=True)
class LogMel:
    """Logarithms of the energy in bands of the mel scale, frame by frame, as ``tf.signal`` defines them.

    Frames are windowed by a periodic Hann window; ``log(mel + floor)`` is taken of magnitudes
    (`power` 1) or of their squares (2). `pad` puts silence behind a clip of fewer than `samples`.
    """

    op: ClassVar[str] = "log_mel"
    sample_rate: int
    samples: int
    frame_length: int
    frame_step: int
    fft_length: int
    mels: int
    low_hz: float
    high_hz: float
    floor: float = 1e-6
    power: float = 2.0
    pad: bool = False

    @property
    def frames(self) -> int:
        """Number of frames of a clip."""
        return 1 + (self.samples - self.frame_length) // self.frame_step

    @property
    def bands(self) -> int:
        """Numbers a frame."""
        return self.mels


@dataclass(frozen=True, slots=True)
class Mfcc:
    """The first `coefficients` of the cosine transform of what `LogMel` makes, orthogonal but for the first."""

    op: ClassVar[str] = "mfcc"
    sample_rate: int
    samples: int
    frame_length: int
    frame_step: int
    fft_length: int
    mels: int
    coefficients: int
    low_hz: float
    high_hz: float
    floor: float = 1e-6
    power: float = 2.0
    pad: bool = False

    @property
    def frames(self) -> int:
        """Number of frames of a clip."""
        return 1 + (self.samples - self.frame_length) // self.frame_step

    @property
    def bands(self) -> int:
        """Numbers a frame."""
        return self.coefficients


Spectral = LogMel | Mfcc


def _checked_log_mel(index: int, step: LogMel) -> LogMel:
    return LogMel(**_spectral(index, step))


def _checked_mfcc(index: int, step: Mfcc) -> Mfcc:
    fields = _spectral(index, step)
    return Mfcc(**fields, coefficients=integer(index, step, "coefficients", 1, fields["mels"]))


def _spectral(index: int, step: Spectral) -> dict[str, Any]:
    rate = integer(index, step, "sample_rate", 1, _MAX_RATE)
    samples = integer(index, step, "samples", 1, MAX_SAMPLES)
    fft = integer(index, step, "fft_length", 4, _MAX_FFT)
    low, high, floor, power = (
        number(index, step, name, getattr(step, name)) for name in ("low_hz", "high_hz", "floor", "power")
    )
    if fft & (fft - 1):
        raise step_error(index, step.op, f"fft_length must be a power of 2, not {fft}")
    if not 0.0 <= low < high <= rate / 2:
        raise step_error(index, step.op, f"need 0 <= low_hz < high_hz <= {rate / 2:g} (half the rate)")
    if not _LEAST_FLOOR <= floor <= 1.0:
        raise step_error(index, step.op, f"floor must be from {_LEAST_FLOOR:g} to 1, not {floor:g}")
    if power not in (1.0, 2.0):
        raise step_error(index, step.op, f"power must be 1 or 2, not {power:g}")
    if not isinstance(step.pad, bool):
        raise step_error(index, step.op, "pad must be true or false")
    return {
        "sample_rate": rate,
        "samples": samples,
        "frame_length": integer(index, step, "frame_length", 1, min(fft, samples)),
        "frame_step": integer(index, step, "frame_step", 1, samples),
        "fft_length": fft,
        "mels": integer(index, step, "mels", 1, _MAX_MELS),
        "low_hz": low,
        "high_hz": high,
        "floor": floor,
        "power": power,
        "pad": step.pad,
    }


CHECKS: dict[type[Any], Callable[[int, Any], Any]] = {LogMel: _checked_log_mel, Mfcc: _checked_mfcc}
"""Kind of step to what checks its values and brings them to one form."""
