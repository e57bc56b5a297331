"""Where frames come from.

Any iterable of frames is a source. `Folder` replays files, `Camera` reads a camera or a video through OpenCV.
A source that says ``live = True`` does not wait for answers; see `edge_sdk.streams`.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from edge_sdk.errors import InputError, MissingExtraError

__all__ = ["Camera", "Folder"]

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
