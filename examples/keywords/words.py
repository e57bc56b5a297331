"""Clips of one second: a word somewhere in them, or none, over noise."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edge_sdk.examples.keywords.speech import ACCENTS, RATE, Clip, speak, voices

__all__ = ["HEARD_VOICES", "KEYWORDS", "LABELS", "Clips", "clips", "recording", "unheard_voices"]

KEYWORDS = ("yes", "no", "up", "down", "left", "right", "on", "off", "stop", "go")
LABELS = (*KEYWORDS, "other", "silence")
HEARD_VOICES = 64
"""How many voices are trained on; the others are kept for the test."""

_OTHERS = (
    "bed bird cat dog happy house tree visual forward backward learn follow one two three four five six seven eight "
    "nine zero water table music open close light window hello please morning summer river paper yellow system orange "
    "and the what where because number"
)
_UNHEARD_OTHERS = "marvin kitchen doctor camera purple never welcome garden engine winter coffee answer"
_NOISES = 8  # colours, a minute each


@dataclass(frozen=True)
class Clips:
    """Sound float32 [n, RATE] and the index of each label."""

    sound: NDArray[np.float32]
    labels: NDArray[np.int64]


def unheard_voices() -> list[str]:
    """Return the voices that are not trained on."""
    return voices()[HEARD_VOICES:]


def clips(count: int, *, heard: bool, seed: int) -> Clips:
    """Speak clips: seven of ten with a keyword, two with another word or a piece of one, one with noise only.

    Parameters
    ----------
    count
        How many.
    heard
        Whether the voices, and the words that are no keywords, are those of training.
    seed
        Of everything but the synthesiser's own breath.
    """
    rng = np.random.default_rng(seed)
    speakers = voices()[:HEARD_VOICES] if heard else unheard_voices()
    others = (_OTHERS if heard else _UNHEARD_OTHERS).split()
    noises = _noises(rng)
    sound = np.empty((count, RATE), np.float32)
    labels = np.empty(count, np.int64)
    before = np.zeros(0, np.float32)
    for index in range(count):
        kind = rng.random()
        word = str(rng.choice(KEYWORDS if kind < 0.75 else others))
        labels[index] = LABELS.index("silence" if kind > 0.92 else "other" if kind > 0.7 else word)
        spoken = _spoken(word, speakers, rng)
        if kind > 0.92:
            sound[index] = 0.0
        elif 0.7 < kind <= 0.75:  # a window that begins too late, or ends too early
            cut = int(rng.uniform(0.15, 0.5) * spoken.size)
            sound[index] = _placed(spoken[-cut:], 0) if rng.random() < 0.5 else _placed(spoken[:cut], RATE - cut)
        else:
            at = int(rng.integers(0, max(1, RATE - spoken.size)))
            sound[index] = _placed(spoken, at)
            if rng.random() < 0.4:
                _put_beside(sound[index], before, at, at + spoken.size, rng)
        before = spoken
        sound[index] = _noisy(sound[index], noises, rng)
    return Clips(sound, labels)


def recording(words: Sequence[str], voice: str, seed: int) -> tuple[Clip, list[float]]:
    """Say words one after the other over noise; return that, and the second at which each begins."""
    rng = np.random.default_rng(seed)
    parts, begins = [np.zeros(RATE // 2, np.float32)], []
    for word in words:
        begins.append(sum(part.size for part in parts) / RATE)
        parts += [_spoken(word, [voice], rng), np.zeros(int(rng.uniform(0.6, 1.1) * RATE), np.float32)]
    quiet = np.concatenate(parts)
    noise = np.resize(_noises(rng)[0], quiet.size)
    return np.clip(0.6 * quiet + 0.004 * noise, -1, 1).astype(np.float32), begins


def _spoken(word: str, speakers: Sequence[str], rng: np.random.Generator) -> Clip:
    return speak(
        word,
        str(rng.choice(speakers)),
        str(rng.choice(ACCENTS)),
        speed=int(rng.integers(120, 230)),
        pitch=int(rng.integers(20, 80)),
        melody=int(rng.integers(20, 80)),
    )[:RATE]


def _placed(spoken: Clip, at: int) -> Clip:
    clip = np.zeros(RATE, np.float32)
    part = spoken[: RATE - at]
    clip[at : at + part.size] = part
    return clip


def _put_beside(clip: Clip, word: Clip, begin: int, end: int, rng: np.random.Generator) -> None:
    """Put the end of a word before, or the begin of it behind, what is in a clip from `begin` to `end`."""
    gap = int(rng.uniform(0.1, 0.4) * RATE)
    if rng.random() < 0.5:
        if begin > gap:
            part = word[-(begin - gap) :]
            clip[begin - gap - part.size : begin - gap] = part
    else:
        part = word[: max(RATE - end - gap, 0)]
        clip[end + gap : end + gap + part.size] = part


def _noisy(clip: Clip, noises: NDArray[np.float32], rng: np.random.Generator) -> Clip:
    begin = int(rng.integers(0, noises.shape[1] - RATE))
    noise = noises[rng.integers(_NOISES), begin : begin + RATE]
    loudness, level = 10 ** rng.uniform(-1, 0), 10 ** rng.uniform(-3.5, -2)
    noisy: Clip = np.clip(loudness * clip + level * loudness**0.5 * noise, -1, 1).astype(np.float32)
    return noisy


def _noises(rng: np.random.Generator) -> NDArray[np.float32]:
    """Return noise from white to brown, of power 1: float32 [colours, samples]."""
    samples = 60 * RATE
    hertz = np.maximum(np.fft.rfftfreq(samples, 1 / RATE), 20.0)
    made = np.empty((_NOISES, samples), np.float32)
    for index, slope in enumerate(np.linspace(0, 1, _NOISES)):
        colour = np.fft.irfft(np.fft.rfft(rng.normal(size=samples)) * hertz**-slope)
        made[index] = colour / colour.std()
    return made
