"""Sound as it is stored: .wav files, and windows of samples that follow each other."""

from __future__ import annotations

import io
import wave
from collections.abc import Iterable, Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edge_sdk.errors import InputError

__all__ = ["read_wav", "wav_chunks", "windows"]

_FRAMES = 1 << 15  # read at once


def wav_chunks(file: str | Path | bytes, *, rate: int | None = None) -> Iterator[NDArray[np.float32]]:
    """Read a .wav file piece by piece; several channels become their mean.

    Parameters
    ----------
    file
        A path, or the bytes of a file: PCM of 8, 16, 24 or 32 bits.
    rate
        What the sample rate must be, in hertz; nothing is resampled. None takes any.

    Yields
    ------
    ndarray of float32, shape (n,)
        Within ±1.

    Raises
    ------
    InputError
        It cannot be read, is no such file, or has another sample rate.
    """
    where = "the bytes given" if isinstance(file, bytes) else str(file)
    try:
        # opened by us: the standard library leaves a path's file open where its header is wrong
        with (
            io.BytesIO(file) if isinstance(file, bytes) else Path(file).open("rb") as raw,
            closing(wave.open(raw)) as source,
        ):
            channels, width, found = source.getnchannels(), source.getsampwidth(), source.getframerate()
            if rate is not None and found != rate:
                raise InputError(f"{where}: has {found} samples a second, not {rate}; resample it beforehand")
            if not 1 <= width <= 4:
                raise InputError(f"{where}: has samples of {8 * width} bits; 8, 16, 24 and 32 can be read")
            while data := source.readframes(_FRAMES):
                whole = len(data) // (width * channels) * channels
                levels = _levels(data[: whole * width], width).reshape(-1, channels)
                yield (levels[:, 0] if channels == 1 else levels.mean(axis=1)).astype(np.float32)
    except OSError as error:
        raise InputError(f"cannot read {where}: {error.strerror or error}") from error
    except (wave.Error, EOFError, ValueError, ArithmeticError, RuntimeError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{where}: not a .wav file of PCM samples ({str(error) or 'it is cut'})") from error


def read_wav(file: str | Path | bytes, *, rate: int | None = None) -> NDArray[np.float32]:
    """Read a .wav file as a whole; see `wav_chunks`.

    Returns
    -------
    ndarray of float32, shape (n,)
    """
    return np.concatenate([np.empty(0, np.float32), *wav_chunks(file, rate=rate)])


def windows(chunks: Iterable[NDArray[np.float32]], size: int, hop: int) -> Iterator[NDArray[np.float32]]:
    """Cut sound into windows of `size` samples, of which each begins `hop` after the last one.

    Every sample is in a window: the last one ends in zeros where the sound does not fill it. Each window
    is an array of its own.
    """
    held, fresh = np.empty(0, np.float32), 0  # fresh: how many at the end were in no window yet
    for chunk in chunks:
        held, fresh = np.concatenate([held, chunk]), fresh + chunk.size
        while held.size >= size:
            yield held[:size].copy()
            held = held[hop:]
            fresh = held.size - (size - hop)
    if fresh > 0:
        yield np.pad(held, (0, size - held.size))


def _levels(data: bytes, width: int) -> NDArray[np.float64]:
    """Return stored samples, little-endian and of `width` bytes, within ±1."""
    if width == 1:  # the only ones without a sign
        return (np.frombuffer(data, np.uint8).astype(np.float64) - 128.0) / 128.0
    padded = np.zeros((len(data) // width, 4), np.uint8)
    padded[:, 4 - width :] = np.frombuffer(data, np.uint8).reshape(-1, width)
    return padded.view("<i4")[:, 0] / 2147483648.0
