"""Where frames come from.

Any iterable of frames is a source. `Folder` replays files, `Camera` reads a camera or a video through OpenCV;
`Recording` and `Microphone` give sound in windows that follow each other, `Windows` rows of sensors.
A source that says ``live = True`` does not wait for answers; see `edge_sdk.streams`.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from edge_sdk.errors import InputError, MissingExtraError
from edge_sdk.sounds import wav_chunks, windows

__all__ = ["Camera", "Folder", "Microphone", "Recording", "Windows"]

_PICTURES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"})


class Folder:
    """The pictures below a folder, by name.

    Parameters
    ----------
    path
        The folder.
    loop
        Begin again at the end, for ever.

    Raises
    ------
    InputError
        There is no such folder, or no picture in it.
    """

    live = False

    def __init__(self, path: str | Path, *, loop: bool = False) -> None:
        folder = Path(path)
        if not folder.is_dir():
            raise InputError(f"there is no folder at {folder}")
        self.files = sorted(file for file in folder.rglob("*") if file.suffix.lower() in _PICTURES and file.is_file())
        self._loop = loop
        if not self.files:
            raise InputError(f"{folder} holds no picture ({', '.join(sorted(_PICTURES))})")

    def __iter__(self) -> Iterator[Path]:
        yield from self.files
        while self._loop:
            yield from self.files


class Camera:
    """A camera or a video file, through OpenCV (``pip install opencv-python-headless``).

    Parameters
    ----------
    device
        Number of a camera, such as 0 for ``/dev/video0``, or what OpenCV can open: a file, a URL, a pipeline.
    width, height
        Asked of the camera, in pixels; it may choose others.
    pixels
        What frames hold, uint8: ``rgb`` [height, width, 3]; ``bgr``, the same without the copy that turns
        it round; or ``yuyv`` [height, width, 2], as many cameras deliver it, which OpenCV then leaves as
        it is. `edge_sdk.model.EdgeModel.stream` reads each in place.

    Raises
    ------
    MissingExtraError
        OpenCV is not installed.
    InputError
        It cannot be opened, or delivers no YUYV.
    """

    def __init__(
        self,
        device: int | str,
        *,
        width: int | None = None,
        height: int | None = None,
        pixels: Literal["rgb", "bgr", "yuyv"] = "rgb",
    ) -> None:
        if pixels not in ("rgb", "bgr", "yuyv"):
            raise InputError(f"pixels is {pixels!r}; a camera gives rgb, bgr or yuyv")
        try:
            import cv2
        except ModuleNotFoundError as error:
            raise MissingExtraError("opencv-python-headless", "camera") from error
        self._cv2: Any = cv2
        self.live = isinstance(device, int)
        self._capture: Any = cv2.VideoCapture(device)
        if not self._capture.isOpened():
            self._capture.release()
            raise InputError(f"no camera or video can be opened at {device!r}")
        for key, value in ((cv2.CAP_PROP_FRAME_WIDTH, width), (cv2.CAP_PROP_FRAME_HEIGHT, height)):
            if value is not None:
                self._capture.set(key, value)
        self.pixels: Literal["rgb", "bgr", "yuyv"] = pixels
        if pixels == "yuyv":
            self._capture.set(cv2.CAP_PROP_FOURCC, cv2.VideoWriter.fourcc(*"YUYV"))
            self._capture.set(cv2.CAP_PROP_CONVERT_RGB, 0)
            if int(self._capture.get(cv2.CAP_PROP_FOURCC)) != cv2.VideoWriter.fourcc(*"YUYV"):
                self._capture.release()
                raise InputError(f"the camera at {device!r} delivers no YUYV; use pixels='bgr'")

    def __iter__(self) -> Iterator[NDArray[np.uint8]]:
        while True:
            there, frame = self._capture.read()
            if not there:
                return
            if self.pixels == "yuyv" and (frame.ndim != 3 or frame.shape[2] != 2):
                raise InputError(f"the camera delivers {list(frame.shape)} and no YUYV; use pixels='bgr'")
            yield self._cv2.cvtColor(frame, self._cv2.COLOR_BGR2RGB) if self.pixels == "rgb" else frame

    def close(self) -> None:
        """Give the camera back."""
        self._capture.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class Recording:
    """A .wav file, in windows of sound as a `Microphone` would give them, as fast as they are taken.

    Every sample is in a window: the last one ends in silence where the file does not fill it.

    Parameters
    ----------
    path
        PCM of 8, 16, 24 or 32 bits; several channels become their mean.
    rate
        Samples a second that the model was made for; a file of another rate is refused, not resampled.
    window, hop
        Seconds of a window, and from the begin of one to the next; `hop` is at most `window`.

    Raises
    ------
    InputError
        It cannot be read, is no such file, has another sample rate, or an option is out of its range.
    """

    live = False

    def __init__(self, path: str | Path, *, rate: int = 16000, window: float = 1.0, hop: float = 0.5) -> None:
        self.path = Path(path)
        self.rate = rate
        self.size, self.hop = _window_of(rate, window, hop)
        next(wav_chunks(self.path, rate=rate), None)  # a file of no use is refused here

    def __iter__(self) -> Iterator[NDArray[np.float32]]:
        """Yield windows, float32 of shape (size,) within ±1; window k begins at k * hop samples."""
        return windows(wav_chunks(self.path, rate=self.rate), self.size, self.hop)


class Microphone:
    """A microphone, through PortAudio (``pip install sounddevice``): windows of sound as they come.

    It does not wait: a `edge_sdk.streams.Stream` over it keeps only the newest windows while an answer is
    made.

    Parameters
    ----------
    device
        Number or part of the name of an input device, as ``python -m sounddevice`` lists them; by default
        the system's.
    rate
        Samples a second that the model was made for; the device must offer it.
    window, hop
        Seconds of a window, and from the begin of one to the next; `hop` is at most `window`.

    Attributes
    ----------
    lost
        How often samples were lost because nobody took them in time.

    Raises
    ------
    MissingExtraError
        The package sounddevice is not installed.
    InputError
        PortAudio is not installed, there is no such microphone, it does not offer the rate, or an option
        is out of its range.
    """

    live = True

    def __init__(
        self, device: int | str | None = None, *, rate: int = 16000, window: float = 1.0, hop: float = 0.5
    ) -> None:
        self.rate = rate
        self.size, self.hop = _window_of(rate, window, hop)
        self.lost = 0
        self._closed = False
        self._reading = threading.Lock()  # PortAudio does not bear a close while it reads
        try:
            import sounddevice
        except ModuleNotFoundError as error:
            raise MissingExtraError("sounddevice", "microphone") from error
        except OSError as error:
            raise InputError(
                f"PortAudio cannot be loaded ({error}); on Debian: apt-get install libportaudio2"
            ) from error
        self._failed: type[Exception] = sounddevice.PortAudioError
        which = "the default microphone" if device is None else f"a microphone at {device!r}"
        try:
            self._stream: Any = sounddevice.InputStream(samplerate=rate, device=device, channels=1, dtype="float32")
        except (sounddevice.PortAudioError, ValueError) as error:
            raise InputError(f"cannot open {which} with {rate} samples a second: {error}") from error

    def __iter__(self) -> Iterator[NDArray[np.float32]]:
        """Yield windows, float32 of shape (size,), until `close`."""
        return windows(self._chunks(), self.size, self.hop)

    def _chunks(self) -> Iterator[NDArray[np.float32]]:
        try:
            with self._reading:
                if not self._closed and not self._stream.active:
                    self._stream.start()
            while True:
                with self._reading:
                    if self._closed:
                        return
                    samples, lost = self._stream.read(self.hop)
                self.lost += bool(lost)
                yield samples[:, 0]
        except self._failed as error:
            raise InputError(f"the microphone does not go on: {error}") from error

    def close(self) -> None:
        """Give the microphone back; waits for at most one hop where another thread reads it."""
        self._closed = True
        with self._reading:
            self._stream.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class Windows:
    """Rows of sensors as they come, in windows that overlap: what a model of a time series takes.

    Rows at the end that do not fill a window are in none.

    Parameters
    ----------
    rows
        Rows of numbers [columns], or chunks of them [n, columns], oldest first; any iterable.
    length, hop
        Rows of a window, and from the begin of one to the next; `hop` is at most `length`.

    Attributes
    ----------
    live
        Whether `rows` do not wait for answers, as they say themselves.

    Raises
    ------
    InputError
        An option is out of its range; or, while windows are taken, what comes is no row of numbers, or
        one of other columns than the first.
    """

    def __init__(self, rows: Iterable[ArrayLike], *, length: int, hop: int) -> None:
        if not 1 <= hop <= length:
            raise InputError(f"length, hop: need rows, 1 or more, the hop at most the length, not {length} and {hop}")
        self.length, self.hop = length, hop
        self.live = bool(getattr(rows, "live", False))
        self._rows = rows

    def __iter__(self) -> Iterator[NDArray[np.floating[Any]]]:
        """Yield windows [length, columns]; float32 where all rows are, else float64. Each is an array of its own."""
        held: NDArray[np.floating[Any]] | None = None
        for chunk in self._rows:
            fresh = _rows_of(chunk)
            if held is not None and held.shape[1] != fresh.shape[1]:
                raise InputError(f"rows: need {held.shape[1]} columns as before, not {fresh.shape[1]}")
            held, start = fresh if held is None else np.concatenate([held, fresh]), 0
            while start + self.length <= len(held):
                yield held[start : start + self.length].copy()
                start += self.hop
            held = held[start:].copy()  # what is before it, and the caller's memory, is let go


def _rows_of(chunk: ArrayLike) -> NDArray[np.floating[Any]]:
    """Return a row or several as [n, columns]."""
    try:
        rows = np.asarray(chunk)
        if rows.dtype != np.float32:
            rows = rows.astype(np.float64, casting="safe" if rows.dtype.kind == "f" else "same_kind")
    except (TypeError, ValueError):
        raise InputError(f"rows: need numbers, not {type(chunk).__name__}") from None
    if rows.ndim not in (1, 2) or rows.shape[-1] == 0:
        raise InputError(f"rows: need [columns] or [n, columns], not {list(rows.shape)}")
    return np.atleast_2d(rows)


def _window_of(rate: int, window: float, hop: float) -> tuple[int, int]:
    """Return window and hop in samples."""
    if rate < 1:
        raise InputError(f"rate: need at least 1 sample a second, not {rate}")
    if not (math.isfinite(window) and math.isfinite(hop) and 1 <= round(hop * rate) <= round(window * rate)):
        raise InputError(f"window, hop: need seconds above 0, the hop at most the window, not {window} and {hop}")
    return round(window * rate), round(hop * rate)
