"""As what a picture is sent to the cloud, and what the cloud then sees of it.

A certificate names the encoding it was made for (``validity["encoding"]``): a cloud model answers other
than it did at calibration where it gets other pixels. There are

``captured``
    Every pixel. The wire encodings ``captured`` and ``tensor``, and JPEG files that go as they came, all
    show the cloud what the edge saw.
``jpeg:QUALITY``
    Pixels compressed as JPEG on the device, at a quality from 1 to 100.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from edge_sdk.errors import InputError, MissingExtraError
from edge_sdk.frames import decode_image

__all__ = ["JPEG_QUALITY", "SentAs", "encode_jpeg"]

JPEG_QUALITY = 95
"""Of pictures that the hybrid client compresses."""


@dataclass(frozen=True, slots=True)
class SentAs:
    """An encoding by its name.

    Attributes
    ----------
    quality
        Of JPEG, 1 to 100; None for pictures as captured.
    """

    quality: int | None = None

    def __post_init__(self) -> None:
        if self.quality is not None and not 1 <= self.quality <= 100:
            raise InputError(f"the quality of jpeg is {self.quality}; it should be from 1 to 100")

    def __str__(self) -> str:
        return "captured" if self.quality is None else f"jpeg:{self.quality}"

    @classmethod
    def parse(cls, name: str) -> Self:
        """Read ``captured``, ``jpeg`` (at the quality of the client) or ``jpeg:QUALITY``; else raise `InputError`."""
        kind, colon, quality = name.partition(":")
        if name == "captured":
            return cls()
        if kind == "jpeg" and not colon:
            return cls(JPEG_QUALITY)
        if kind == "jpeg" and quality.isascii() and quality.isdecimal() and len(quality) <= 3:
            return cls(int(quality))
        raise InputError(f"encoding is {name!r}; it should be captured, jpeg or jpeg:QUALITY")

    def send(self, pixels: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], int]:
        """Return what the cloud sees of a picture, and as how many bytes it travels.

        Parameters
        ----------
        pixels
            Uint8 [height, width(, channels)].

        Raises
        ------
        MissingExtraError
            It is to be JPEG and Pillow is not installed.
        """
        if self.quality is None:
            return pixels, pixels.nbytes
        data = encode_jpeg(pixels, self.quality)
        return decode_image(data, "a picture compressed as JPEG"), len(data)


def encode_jpeg(pixels: NDArray[np.uint8], quality: int = JPEG_QUALITY) -> bytes:
    """Return a picture, uint8 [height, width(, channels)], as JPEG; a fourth channel is left out.

    Raises
    ------
    MissingExtraError
        Pillow is not installed.
    """
    try:
        from PIL import Image
    except ModuleNotFoundError as error:
        raise MissingExtraError("Pillow", "image") from error
    if pixels.ndim == 3:
        pixels = pixels[..., 0] if pixels.shape[2] == 1 else pixels[..., :3]
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "JPEG", quality=quality)
    return stream.getvalue()
