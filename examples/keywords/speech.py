"""Speech to train on, by eSpeak NG: a synthesiser of some megabytes that speaks with a hundred voices.

Its formant voices are understood well and are nobody's. A model that is trained on them alone shows
how everything fits together; for people, add recordings of people.
"""

from __future__ import annotations

import ctypes
from functools import lru_cache
from math import gcd
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edge_sdk.errors import InputError, MissingExtraError

__all__ = ["ACCENTS", "RATE", "Clip", "speak", "voices"]

RATE = 16000
"""Samples a second of what is spoken."""

ACCENTS = ("en-us", "en", "en-gb-scotland", "en-gb-x-rp", "en-gb-x-gbclan", "en-gb-x-gbcwmd", "en-029", "en-us-nyc")
"""Of English: names of eSpeak NG's languages."""

Clip = NDArray[np.float32]

_ODD = (
    "whisper",
    "robo",
    "Robot",
    "Demonic",
    "Ricishay",
    "Tweaky",
    "croak",
    "fast",
)  # voices nobody would take for one
_SYNCHRONOUS = 2  # AUDIO_OUTPUT_SYNCHRONOUS: sound is handed to the callback before espeak_Synth returns
_CHARACTERS = 1  # POS_CHARACTER
_UTF8 = 1
_SPEED, _PITCH, _RANGE = 1, 3, 4

_Heard = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)


class _Synthesiser:
    """The library, which is one for the whole process: not for several threads."""

    def __init__(self) -> None:
        try:
            import espeakng_loader
        except ModuleNotFoundError as error:
            raise MissingExtraError("espeakng-loader", "keywords") from error
        self.data = Path(espeakng_loader.get_data_path())
        self._library = ctypes.CDLL(espeakng_loader.get_library_path())
        self._rate = self._library.espeak_Initialize(_SYNCHRONOUS, 0, str(self.data).encode(), 0)
        if self._rate <= 0:
            raise InputError(f"eSpeak NG does not start with the data in {self.data}")
        self._parts: list[NDArray[np.int16]] = []
        self._callback = _Heard(self._heard)  # kept: the library calls it for as long as it is loaded
        self._library.espeak_SetSynthCallback(self._callback)

    def _heard(self, samples: ctypes._Pointer[ctypes.c_short], count: int, _events: int | None) -> int:
        if count > 0:
            self._parts.append(np.ctypeslib.as_array(samples, (count,)).copy())
        return 0

    def speak(self, text: str, voice: str, speed: int, pitch: int, melody: int) -> Clip:
        if self._library.espeak_SetVoiceByName(voice.encode()) != 0:
            raise InputError(f"eSpeak NG has no voice {voice!r}")
        for parameter, value in ((_SPEED, speed), (_PITCH, pitch), (_RANGE, melody)):
            self._library.espeak_SetParameter(parameter, value, 0)
        self._parts.clear()
        data = text.encode() + b"\0"
        self._library.espeak_Synth(data, len(data), 0, _CHARACTERS, 0, _UTF8, None, None)
        return _at_rate(np.concatenate([*self._parts, np.zeros(1, np.int16)]) / 32768.0, self._rate)


_synthesiser = lru_cache(maxsize=1)(_Synthesiser)


def voices() -> list[str]:
    """Return the names of the voices, in an order that has nothing to do with their names."""
    names = sorted(file.name for file in (_synthesiser().data / "voices" / "!v").iterdir())
    people = [name for name in names if not any(odd in name for odd in _ODD)]
    return [people[index] for index in np.random.default_rng(0).permutation(len(people))]


def speak(text: str, voice: str, accent: str = "en-us", *, speed: int = 170, pitch: int = 50, melody: int = 50) -> Clip:
    """Say something.

    Parameters
    ----------
    text
        In English.
    voice, accent
        One of `voices` and of `ACCENTS`.
    speed
        Words a minute, 80 to 450.
    pitch, melody
        How high, and how lively: 0 to 99.

    Returns
    -------
    ndarray of float32, shape (n,)
        Within ±1, at `RATE`, without the silence around it.
    """
    clip = _synthesiser().speak(text, f"{accent}+{voice}", speed, pitch, melody)
    loud = np.flatnonzero(np.abs(clip) > 0.02 * np.abs(clip).max(initial=0.01))
    return clip[loud[0] : loud[-1] + 1] if loud.size else clip


def _at_rate(x: NDArray[np.float64], rate: int) -> Clip:
    """Resample by leaving out of the spectrum what the new rate cannot carry."""
    common = gcd(RATE, rate)
    blocks = 1 << (x.size * common // rate).bit_length()  # a length that transforms are fast at; the end is silence
    size, count = blocks * rate // common, blocks * RATE // common
    spectrum = np.fft.rfft(x, size)[: count // 2 + 1]
    return np.clip(np.fft.irfft(spectrum, count) * (count / size), -1, 1).astype(np.float32)
