"""Where frames come from, and how a stream of them is answered.

Any iterable of frames is a source. `Folder` replays files, `Camera` reads a camera or a video through OpenCV.
A source that says ``live = True`` does not wait: while an answer is made, only its newest frame is kept.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from edge_sdk.errors import InputError, MissingExtraError
from edge_sdk.frames import Frame

__all__ = ["Camera", "Folder", "Stream"]

Answer = TypeVar("Answer")

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

    Raises
    ------
    MissingExtraError
        OpenCV is not installed.
    InputError
        It cannot be opened.
    """

    def __init__(self, device: int | str, *, width: int | None = None, height: int | None = None) -> None:
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

    def __iter__(self) -> Iterator[NDArray[np.uint8]]:
        while True:
            there, frame = self._capture.read()
            if not there:
                return
            yield self._cv2.cvtColor(frame, self._cv2.COLOR_BGR2RGB)

    def close(self) -> None:
        """Give the camera back."""
        self._capture.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class Stream(Generic[Answer]):
    """Answers to the frames of a source, in their order. Iterate over it; leaving the loop ends it.

    Parameters
    ----------
    answer
        Called with each frame, on the iterating thread.
    source
        Any iterable of frames. It is read on a thread of its own if it is live.
    live
        Whether to keep only the newest frame while an answer is made; by default what the source says.

    Attributes
    ----------
    dropped
        Frames that were replaced by a newer one before they were answered.
    """

    def __init__(self, answer: Callable[[Frame], Answer], source: Iterable[Frame], *, live: bool | None = None) -> None:
        self._answer = answer
        self._source = source
        self._live = bool(getattr(source, "live", False)) if live is None else live
        self.dropped = 0

    def __iter__(self) -> Iterator[Answer]:
        if not self._live:
            yield from map(self._answer, self._source)
            return
        slot = _Newest()
        reader = threading.Thread(target=slot.fill, args=(self._source,), name="edge-sdk-source", daemon=True)
        reader.start()
        try:
            while True:
                there, frame = slot.take()
                self.dropped = slot.dropped
                if not there:
                    return
                yield self._answer(frame)
        finally:
            slot.stop()


class _Newest:
    """A place for one frame, between the thread that reads a source and the one that answers."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._frame: Frame = None
        self._there = self._ended = self._stopped = False
        self._error: Exception | None = None
        self.dropped = 0

    def fill(self, source: Iterable[Frame]) -> None:
        """Read a source to its end, or until `stop`; what it raises is raised where frames are taken."""
        try:
            for frame in source:
                with self._changed:
                    if self._stopped:
                        return
                    self.dropped += self._there
                    self._frame, self._there = frame, True
                    self._changed.notify()
        except Exception as error:  # noqa: BLE001 - raised again where frames are taken
            self._error = error
        finally:
            with self._changed:
                self._ended = True
                self._changed.notify()

    def take(self) -> tuple[bool, Frame]:
        """Wait for a frame; (False, None) says that the source has ended."""
        with self._changed:
            self._changed.wait_for(lambda: self._there or self._ended)
            if self._there:
                frame, self._frame, self._there = self._frame, None, False
                return True, frame
            if self._error is not None:
                raise self._error
            return False, None

    def stop(self) -> None:
        """Let the reader end at its next frame."""
        with self._changed:
            self._stopped = True
