"""Parcels: inputs that wait to be sent, as bytes for the disk and back.

A parcel is one line that says what it is, one line of canonical JSON, the input itself, and a SHA-256 of
all of these. It holds what may leave the device and no more: reduced as the privacy rules asked, and
files without their metadata. What is read back is trusted with nothing, for disks err.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from edge_sdk import canonical
from edge_sdk.client.metadata import strip_jpeg
from edge_sdk.encodings import WHOLE, Reduction, SentAs, encode_jpeg, reduce_frame
from edge_sdk.errors import InputError
from edge_sdk.frames import as_frame
from edge_sdk.processing import ProcessingSpec

__all__ = ["FORMAT", "MOST_BYTES", "Parcel", "kind_of", "plain"]

FORMAT = 1
MOST_BYTES = 80 << 20
"""Of a parcel: the largest picture that can be asked about, and some."""

_MAGIC = b"edge-sdk parcel %d\n"
_DIGEST_BYTES = 32
_MOST_HEADER, _MOST_CONTEXT, _MOST_TEXT = 64 << 10, 16 << 10, 200
_DTYPES = ("|u1", "|i1", "<i2", "<i4", "<i8", "<f2", "<f4", "<f8")
_KEYS = {"id", "time", "kind", "model", "index", "confidence", "propensity", "context", "sent_as", "dtype", "shape"}


@lru_cache(maxsize=16)
def kind_of(labels: tuple[str, ...], spec: ProcessingSpec) -> str:
    """Return a name of what answers and inputs mean: equal where labels are, and what processing takes."""
    return canonical.digest_of([list(labels), repr(spec.takes)]).rpartition(":")[2][:16]


def plain(context: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return what of a call's context can be kept: values that are text, numbers, truth values or None.

    To a privacy rule, a name that is left out is one that the call did not give, so that the rule is meant.
    """
    kept = {
        name: value
        for name, value in (context or {}).items()
        if isinstance(name, str) and (value is None or type(value) in (str, bool, int, float)) and value == value  # noqa: PLR0124 - NaN
    }
    try:
        return kept if len(canonical.dumps(kept)) <= _MOST_CONTEXT else {}
    except InputError:
        return {}


@dataclass(frozen=True, slots=True, kw_only=True)
class Parcel:
    """One input that waits to be sent.

    Attributes
    ----------
    id
        Of the decision.
    time
        Seconds since 1970, of the decision.
    kind
        What answers and inputs mean; see `kind_of`.
    model
        Digest of the edge model.
    index, confidence
        The edge's answer.
    propensity
        Probability with which the cloud was to be asked.
    context
        What the app said of the call, as far as it is `plain`.
    reduction
        What privacy rules have taken off, or, until it is `sealed`, will have.
    quality
        At which it was compressed here; None where it was not.
    jpeg
        The file it came as, or was compressed to; or None.
    pixels
        The input as an array where there is no file.
    """

    id: str
    time: float
    kind: str
    model: str
    index: int
    confidence: float
    propensity: float
    context: Mapping[str, Any] = field(default_factory=dict)
    reduction: Reduction = WHOLE
    quality: int | None = None
    jpeg: bytes | None = None
    pixels: NDArray[Any] | None = None

    @property
    def nbytes(self) -> int:
        """Bytes of the input."""
        return len(self.jpeg or b"") + (0 if self.pixels is None else self.pixels.nbytes)

    def copied(self) -> Self:
        """Return it with memory of its own: callers may fill their arrays anew."""
        if self.jpeg is not None:
            return replace(self, pixels=None)
        return self if self.pixels is None else replace(self, pixels=self.pixels.copy())

    def sealed(self, quality: int | None = None) -> Self:
        """Return it with nothing but what may leave: what it is reduced to, or a file without metadata.

        Pixels of pictures are compressed as JPEG of a quality, if any is given.

        Raises
        ------
        InputError
            The file cannot be decoded, where it must be.
        """
        if self.jpeg is not None and not self.reduction.takes:
            with suppress(InputError):  # not to be read to its end: the pixels go in its place
                return replace(self, jpeg=strip_jpeg(self.jpeg), pixels=None)
        pixels = self.pixels if self.jpeg is None else as_frame(self.jpeg)
        if pixels is not None and self.reduction.takes:
            pixels = reduce_frame(pixels, self.reduction)
        if quality is not None and pixels is not None and pixels.dtype == np.uint8 and pixels.ndim > 1:
            return replace(self, jpeg=encode_jpeg(pixels, quality), pixels=None, quality=quality)
        return replace(self, jpeg=None, pixels=pixels)

    def parts(self) -> tuple[bytes | memoryview, ...]:
        """Return the bytes of a file, one part behind the other; it should be `sealed`. Large ones are not copied.

        Raises
        ------
        InputError
            Its array is of a type that no processing takes.
        """
        body: bytes | memoryview = self.jpeg or b""
        dtype, shape = None, None
        if self.pixels is not None:
            pixels = np.ascontiguousarray(self.pixels)
            pixels = pixels.astype(pixels.dtype.newbyteorder("<"), copy=False)
            body, dtype, shape = pixels.reshape(-1).view(np.uint8).data, pixels.dtype.str, list(self.pixels.shape)
            if dtype not in _DTYPES:
                raise InputError(f"an input of {dtype} cannot be kept")
        names = ("id", "time", "kind", "model", "index", "confidence", "propensity")
        header = {name: getattr(self, name) for name in names}
        sent_as = str(SentAs(self.quality, self.reduction))
        header |= {"context": dict(self.context), "sent_as": sent_as, "dtype": dtype, "shape": shape}
        head = _MAGIC % FORMAT + canonical.dumps(header) + b"\n"
        digest = hashlib.sha256(head)
        digest.update(body)
        return head, body, digest.digest()

    def to_bytes(self) -> bytes:
        """Return `parts` as one."""
        return b"".join(self.parts())

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Read what `to_bytes` gives, from whatever the disk gives back.

        Raises
        ------
        InputError
            It is something else, or damaged.
        """
        if len(data) > MOST_BYTES:
            raise InputError(f"a parcel of {len(data)} bytes is over the limit of {MOST_BYTES}")
        view = memoryview(data)[: max(0, len(data) - _DIGEST_BYTES)]
        if hashlib.sha256(view).digest() != data[len(view) :]:
            raise InputError("not a parcel, or a damaged one: its digest differs")
        magic = _MAGIC % FORMAT
        end = data.find(b"\n", len(magic), len(magic) + _MOST_HEADER)
        if not data.startswith(magic) or end < 0 or end > len(view):
            raise InputError(f"not a parcel of format {FORMAT}")
        try:
            return cls._read(canonical.loads(data[len(magic) : end], limit=_MOST_HEADER), bytes(view[end + 1 :]))
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise InputError(f"not a parcel: {error}") from error

    @classmethod
    def _read(cls, header: Any, body: bytes) -> Self:
        if not isinstance(header, dict) or header.keys() != _KEYS:
            raise InputError("its header has other fields")
        jpeg: bytes | None = body
        pixels: NDArray[Any] | None = None
        if header["dtype"] is not None:
            jpeg, pixels = None, _array(header["dtype"], header["shape"], body)
        elif header["shape"] is not None or not body:
            raise InputError("it holds no input")
        context = header["context"]
        if not isinstance(context, dict) or plain(context) != context:
            raise InputError("its context is none")
        confidence, propensity = _number(header["confidence"]), _number(header["propensity"])
        if not 0.0 <= propensity <= 1.0:
            raise InputError("its propensity is no probability")
        index = header["index"]
        if isinstance(index, bool) or not isinstance(index, int) or not 0 <= index < 1 << 31:
            raise InputError("its answer is no class")
        sent_as = SentAs.parse(_text(header["sent_as"]))
        compressed = sent_as.quality is not None
        if str(sent_as) != header["sent_as"] or ((compressed or sent_as.reduction.takes) and compressed != bool(jpeg)):
            raise InputError("it says of no input what has become of it")
        return cls(
            id=_text(header["id"]),
            time=_number(header["time"]),
            kind=_text(header["kind"]),
            model=_text(header["model"]),
            index=index,
            confidence=confidence,
            propensity=propensity,
            context=context,
            reduction=sent_as.reduction,
            quality=sent_as.quality,
            jpeg=jpeg,
            pixels=pixels,
        )


def _array(dtype: Any, shape: Any, body: bytes) -> NDArray[Any]:
    if dtype not in _DTYPES or not isinstance(shape, list) or not 0 < len(shape) <= 4:
        raise InputError("its array has no type or shape")
    if not all(type(extent) is int and 0 < extent <= MOST_BYTES for extent in shape):
        raise InputError("its array has an extent that cannot be")
    if math.prod(shape) * np.dtype(dtype).itemsize != len(body):
        raise InputError(f"{len(body)} bytes are no {dtype} of shape {json.dumps(shape)}")
    return np.frombuffer(body, dtype).reshape(shape)


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InputError("a field should be a number")
    return float(value)


def _text(value: Any) -> str:
    if not isinstance(value, str) or len(value) > _MOST_TEXT or not value.isprintable():
        raise InputError(f"a field should be a text of at most {_MOST_TEXT} characters")
    return value
