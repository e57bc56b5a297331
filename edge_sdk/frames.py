"""Frames: whatever an app has of a picture, as a uint8 array.

Files and compressed bytes are decoded by Pillow, which is imported only then. The header is read
first, and a picture over the pixel limit is refused before it is decoded.
"""

from __future__ import annotations

import io
import os
import threading
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edge_sdk.errors import InputError, MissingExtraError
from edge_sdk.files import open_durably

if TYPE_CHECKING:
    from edge_sdk.types import Detection

__all__ = ["MAX_PIXELS", "Frame", "as_frame", "decode_image", "draw_boxes", "draw_label"]

MAX_PIXELS = 64_000_000
_FORMATS = ("JPEG", "PNG", "BMP", "GIF", "WEBP", "TIFF", "PPM")

_ORIENTATION, _UPRIGHT = 0x0112, 1  # a tag of EXIF 2.3, and its value for pictures as they are

_filters = threading.Lock()

_DRAWN_WIDTH = 160
_COLORS = ("#ffd400", "#00e5ff", "#ff6ec7", "#7cff6b", "#ff9f40", "#b89cff", "#f4f4f4", "#ff7a7a")

Frame = Any
"""A uint8 array [height, width] or [height, width, 1 | 3 | 4], a path, an encoded picture, or a Pillow image."""


def as_frame(frame: Frame) -> NDArray[np.uint8]:
    """Return a picture as a uint8 array [height, width] or [height, width, channels].

    Arrays are returned as they are, not copied.

    Raises
    ------
    InputError
        It is not a picture, is damaged, empty, over the pixel limit, or of another dtype or rank.
    MissingExtraError
        A file or bytes are given and Pillow is not installed.
    """
    if isinstance(frame, np.ndarray):
        return _checked(frame)
    if isinstance(frame, str | os.PathLike):
        return decode_image(_read(Path(frame)), str(frame))
    if isinstance(frame, bytes | bytearray | memoryview):
        return decode_image(bytes(frame), "the bytes given")
    if hasattr(frame, "convert") and hasattr(frame, "mode"):
        return _pixels(frame, "the picture given", MAX_PIXELS)
    raise InputError(
        f"a frame should be a uint8 array, a path, JPEG or PNG bytes or a Pillow image, not {type(frame).__name__}"
    )


def decode_image(data: bytes, where: str, *, max_pixels: int = MAX_PIXELS) -> NDArray[np.uint8]:
    """Decode an untrusted picture; grey stays [height, width], all else becomes RGB.

    Parameters
    ----------
    data
        A JPEG, PNG, BMP, GIF, WebP, TIFF or PPM file.
    where
        Names the picture in errors.
    max_pixels
        Larger ones are refused before they are decoded.

    Raises
    ------
    InputError
        The bytes are not a whole picture of these kinds, or it is too large.
    """
    try:
        from PIL import Image, UnidentifiedImageError
    except ModuleNotFoundError as error:
        raise MissingExtraError("Pillow", "image") from error
    try:
        # filters of warnings belong to the whole process: changed by one thread at a time, for the header only
        with _filters, warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # our own limit is below Pillow's
            image = Image.open(io.BytesIO(data), formats=_FORMATS)
    except UnidentifiedImageError as error:
        raise InputError(f"{where}: not a picture of a kind that is known ({', '.join(_FORMATS)})") from error
    except Exception as error:  # decoders raise many types on hostile bytes
        raise InputError(f"{where}: not a picture that can be decoded ({error})") from error
    with image:
        return _pixels(image, where, max_pixels)


def draw_label(frame: Frame, text: str, path: Path) -> None:
    """Write a copy of a picture, upright and at least 160 pixels wide, with a line of text above it.

    Raises
    ------
    InputError
        It is not a picture.
    StorageError
        The file cannot be written.
    MissingExtraError
        Pillow is not installed.
    """
    picture, _ = _canvas(frame)
    from PIL import Image, ImageDraw, ImageFont

    size = max(12, picture.width // 20)
    canvas = Image.new("RGB", (picture.width, picture.height + 2 * size), "black")
    canvas.paste(picture, (0, 2 * size))
    ImageDraw.Draw(canvas).text((size // 2, size // 3), text, "white", ImageFont.load_default(size))
    with open_durably(path) as stream:
        canvas.save(stream, "PNG")


def draw_boxes(frame: Frame, found: Iterable[Detection], path: Path) -> None:
    """Write a copy of a picture, upright and at least 320 pixels wide, with a labelled box around what was found.

    Errors are those of `draw_label`.
    """
    picture, scale = _canvas(frame, 2 * _DRAWN_WIDTH)
    from PIL import ImageDraw, ImageFont

    size = max(12, picture.width // 40)
    draw, font, line = ImageDraw.Draw(picture), ImageFont.load_default(size), max(2, size // 6)
    for one in sorted(found, key=lambda one: one.score):  # the surest on top
        color = _COLORS[one.index % len(_COLORS)]
        left, top, right, bottom = (round(side * scale) for side in one.box)
        draw.rectangle((left, top, max(left, right - 1), max(top, bottom - 1)), outline=color, width=line)
        text = f"{one.label} {one.score:.0%}"
        above = top - size - line if top > size + line else top + line
        draw.rectangle(draw.textbbox((left + line, above), text, font), fill=color)
        draw.text((left + line, above), text, "black", font)
    with open_durably(path) as stream:
        picture.save(stream, "PNG")


def _canvas(frame: Frame, width: int = _DRAWN_WIDTH) -> tuple[Any, float]:
    """Return a copy of a picture to draw on, and how much larger it is."""
    pixels = as_frame(frame)
    try:
        from PIL import Image
    except ModuleNotFoundError as error:
        raise MissingExtraError("Pillow", "image") from error
    picture = Image.fromarray(pixels if pixels.ndim == 2 or pixels.shape[2] > 1 else pixels[..., 0]).convert("RGB")
    if picture.width >= width:
        return picture, 1.0
    scale = width / picture.width
    size = (width, max(1, round(picture.height * scale)))
    return picture.resize(size, Image.Resampling.NEAREST), scale


def _read(path: Path) -> bytes:
    try:
        if path.exists() and not path.is_file():
            raise InputError(f"cannot read {path}: it is not a file")
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from error


def _pixels(image: Any, where: str, max_pixels: int) -> NDArray[np.uint8]:
    """Return a Pillow image upright as uint8; its pixels may not be decoded yet."""
    from PIL import ImageOps

    if image.width * image.height > max_pixels:
        raise InputError(f"{where}: {image.width} x {image.height} pixels are over the limit of {max_pixels}")
    if image.mode in ("I", "F") or image.mode.startswith("I;"):  # Pillow would clip these to white
        raise InputError(f"{where}: its pixels have more than 8 bits (mode {image.mode}); scale them to 0–255 first")
    try:
        turned = image.getexif().get(_ORIENTATION, _UPRIGHT) != _UPRIGHT
        upright = ImageOps.exif_transpose(image) if turned else image  # which would copy it in any case
        return _checked(np.asarray(upright if upright.mode in ("L", "RGB") else upright.convert("RGB")))
    except InputError:
        raise
    except Exception as error:  # as above
        raise InputError(f"{where}: not a picture that can be decoded ({error})") from error


def _checked(array: NDArray[Any]) -> NDArray[np.uint8]:
    if array.dtype != np.uint8:
        raise InputError(f"a frame should be uint8, not {array.dtype}; scale it to 0–255 first")
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (1, 3, 4)):
        raise InputError(f"a frame should be [height, width] or [height, width, 1 | 3 | 4], not {list(array.shape)}")
    if array.size == 0:
        raise InputError(f"a frame of shape {list(array.shape)} is empty")
    if array.shape[0] * array.shape[1] > MAX_PIXELS:
        raise InputError(f"{array.shape[1]} x {array.shape[0]} pixels are over the limit of {MAX_PIXELS}")
    return array
