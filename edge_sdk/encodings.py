"""As what a picture is sent to the cloud, and what the cloud then sees of it.

A certificate names the encodings it was made for (`Certificate.encodings`): a cloud model answers other
than it did at calibration where it gets other pixels. There are

``captured``
    Every pixel. The wire encodings ``captured`` and ``tensor``, and JPEG files that go as they came, all
    show the cloud what the edge saw.
``jpeg:QUALITY``
    Pixels compressed as JPEG on the device, at a quality from 1 to 100.
``resized``
    Pixels at the size of the cloud's model, made on the device by the first steps of the cloud's own
    processing, their levels rounded to integers. Where nothing had to be rounded, that is ``captured``.

Privacy rules take something off before. What they take follows the name: ``captured+side:640`` of a picture
whose longer side has 640 pixels at most, ``captured+region:0.0,0.25,1.0,0.75`` of the part between these
shares (top, left, bottom, right), and both in this order.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Self

import numpy as np
from numpy.typing import NDArray

from edge_sdk.errors import InputError, MissingExtraError
from edge_sdk.frames import decode_image
from edge_sdk.processing import DeviceProcessor, ProcessingSpec
from edge_sdk.processing.resizing import first_half

if TYPE_CHECKING:
    from edge_sdk.protocol import Encoding

__all__ = ["JPEG_QUALITY", "WHOLE", "Reduction", "SentAs", "encode_jpeg", "reduce_frame", "resize_frame"]

JPEG_QUALITY = 95
"""Of pictures that the hybrid client compresses."""


@dataclass(frozen=True, slots=True)
class Reduction:
    """What is taken off a picture before it is sent.

    Attributes
    ----------
    max_side
        Pixels of the longer side at most.
    region
        Top, left, bottom and right of the part that is sent, as shares of the frame.
    """

    max_side: int | None = None
    region: tuple[float, float, float, float] = (0.0, 0.0, 1.0, 1.0)

    def __post_init__(self) -> None:
        top, left, bottom, right = self.region
        if not (0 <= top < bottom <= 1 + 1e-9 and 0 <= left < right <= 1 + 1e-9):
            raise InputError(f"the region is {self.region}; it should be top, left, bottom and right in [0, 1]")
        if self.max_side is not None and self.max_side < 1:
            raise InputError(f"the longer side is {self.max_side}; it should be at least 1 pixel")

    @property
    def takes(self) -> bool:
        """True where something is to be taken off."""
        return self != WHOLE

    def __str__(self) -> str:
        side = "" if self.max_side is None else f"+side:{self.max_side}"
        region = "" if self.region == WHOLE.region else f"+region:{','.join(repr(float(x)) for x in self.region)}"
        return side + region

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read what ``str`` gives; else raise `InputError`."""
        side: int | None = None
        region = (0.0, 0.0, 1.0, 1.0)
        for part in text.split("+")[1:]:
            kind, _, value = part.partition(":")
            try:
                if kind == "side" and value.isascii() and value.isdecimal() and len(value) <= 6:
                    side = int(value)
                    continue
                if kind == "region":
                    top, left, bottom, right = map(float, value.split(","))
                    region = (top, left, bottom, right)
                    continue
            except ValueError:
                pass
            raise InputError(f"what is taken off is {part!r}; it should be side:PIXELS or region:TOP,LEFT,BOTTOM,RIGHT")
        return cls(side, region)


WHOLE = Reduction()
"""Nothing is taken off."""


@dataclass(frozen=True, slots=True)
class SentAs:
    """An encoding by its name.

    Attributes
    ----------
    quality
        Of JPEG, 1 to 100; None for pixels as they are.
    reduction
        What is taken off before.
    resized
        Whether they are brought to the size of the cloud's model.
    """

    quality: int | None = None
    reduction: Reduction = WHOLE
    resized: bool = False

    def __post_init__(self) -> None:
        if self.quality is not None and not 1 <= self.quality <= 100:
            raise InputError(f"the quality of jpeg is {self.quality}; it should be from 1 to 100")
        if self.quality is not None and self.resized:
            raise InputError("resized pictures are not sent as jpeg; jpeg:QUALITY+side:PIXELS is")

    def __str__(self) -> str:
        pixels = "resized" if self.resized else "captured"
        return (pixels if self.quality is None else f"jpeg:{self.quality}") + str(self.reduction)

    @property
    def wire(self) -> Encoding:
        """What it is called in a request."""
        if self.resized:
            return "resized"
        return "captured" if self.quality is None else "jpeg"

    @classmethod
    def parse(cls, name: str) -> Self:
        """Read ``captured``, ``resized``, ``jpeg`` (at quality 95) or ``jpeg:QUALITY``, and what is taken off.

        Raises
        ------
        InputError
            It is no such name.
        """
        encoding, plus, rest = name.partition("+")
        kind, colon, quality = encoding.partition(":")
        reduction = Reduction.parse(plus + rest)
        if encoding in ("captured", "resized"):
            return cls(None, reduction, encoding == "resized")
        if kind == "jpeg" and not colon:
            return cls(JPEG_QUALITY, reduction)
        if kind == "jpeg" and quality.isascii() and quality.isdecimal() and len(quality) <= 3:
            return cls(int(quality), reduction)
        raise InputError(f"encoding is {name!r}; it should be captured, resized, jpeg or jpeg:QUALITY")

    @classmethod
    def parse_all(cls, names: str | Sequence[str]) -> tuple[Self, ...]:
        """Read several names, the best first, or a text with commas between them.

        Raises
        ------
        InputError
            One is none, comes twice, or there are none.
        """
        if isinstance(names, str):  # a region has commas, too, and no name begins with a digit
            names = re.split(r",(?=\s*[a-z])", names)
        found = tuple(cls.parse(name.strip()) for name in names)
        twice = [str(one) for n, one in enumerate(found) if one in found[:n]]
        if twice or not found:
            raise InputError(f"encodings: {twice[0]} is there twice" if twice else "encodings: there are none")
        return found

    def send(self, pixels: NDArray[np.uint8], spec: ProcessingSpec | None = None) -> tuple[NDArray[np.uint8], int]:
        """Return what the cloud sees of a picture, and as how many bytes it travels.

        Parameters
        ----------
        pixels
            Uint8 [height, width(, channels)].
        spec
            The cloud's processing; needed for ``resized``, of which only `second_half` is left to do.

        Raises
        ------
        InputError
            The cloud's processing is needed.
        MissingExtraError
            It is to be JPEG and Pillow is not installed.
        """
        if self.reduction != WHOLE:
            pixels = reduce_frame(pixels, self.reduction)
        if self.resized:
            pixels = resize_frame(pixels, spec)
        if self.quality is None:
            return pixels, pixels.nbytes
        data = encode_jpeg(pixels, self.quality)
        return decode_image(data, "a picture compressed as JPEG"), len(data)


def resize_frame(pixels: NDArray[np.uint8], spec: ProcessingSpec | None) -> NDArray[np.uint8]:
    """Return a picture at the size that the cloud's model takes, uint8 [height, width, channels].

    Raises
    ------
    InputError
        The cloud does not say how, takes no pictures, or not such.
    """
    if spec is None or spec.modality != "image":
        raise InputError("a picture is resized as the cloud's own processing does it, and that is not known")
    return np.asarray(_resizer(spec)(pixels)[0])


@lru_cache(maxsize=8)
def _resizer(spec: ProcessingSpec) -> DeviceProcessor:
    return DeviceProcessor(first_half(spec))


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


def reduce_frame(frame: NDArray[np.uint8], reduction: Reduction) -> NDArray[np.uint8]:
    """Return the part of a picture that may be sent, made smaller by averaging.

    Parameters
    ----------
    frame
        Uint8 [height, width] or [height, width, channels].
    reduction
        What is to be taken off.

    Returns
    -------
    ndarray of uint8
        A copy of its own memory: nothing else of the frame hangs on to it. The frame itself where
        nothing is to be taken off.
    """
    height, width = frame.shape[:2]
    top, left, bottom, right = reduction.region
    # inwards: a pixel that is partly outside stays here; but at least one is sent
    y, x = min(math.ceil(top * height - 1e-9), height - 1), min(math.ceil(left * width - 1e-9), width - 1)
    part = frame[y : max(y + 1, math.floor(bottom * height + 1e-9)), x : max(x + 1, math.floor(right * width + 1e-9))]
    longer = max(part.shape[:2])
    if reduction.max_side is not None and longer > reduction.max_side:
        return _shrunk(part, reduction.max_side / longer)
    return frame if part.shape == frame.shape else part.copy()


def _shrunk(part: NDArray[np.uint8], ratio: float) -> NDArray[np.uint8]:
    """Average over the pixels that fall into each, so that no pixel is sent as it was."""
    sums = part.astype(np.float64)
    for axis in (0, 1):
        size = part.shape[axis]
        edges = np.linspace(0, size, max(1, math.floor(size * ratio + 1e-9)) + 1).astype(np.int64)
        counts = np.diff(edges).reshape([-1 if n == axis else 1 for n in range(sums.ndim)])
        sums = np.add.reduceat(sums, edges[:-1], axis=axis) / counts
    return np.rint(sums).astype(np.uint8)
