"""An input that may be sent to the cloud, and what the cloud says of the model that takes it."""

from __future__ import annotations

import logging
import math
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_sdk import canonical
from edge_sdk.client.metadata import strip_jpeg
from edge_sdk.encodings import WHOLE, Reduction, reduce_frame
from edge_sdk.errors import InputError, ProcessingError
from edge_sdk.frames import as_frame
from edge_sdk.inputs import Input, as_input
from edge_sdk.processing import DeviceProcessor, ProcessingSpec
from edge_sdk.protocol import MAX_MESSAGE_BYTES, dtype_of
from edge_sdk.protocol.names import (
    DIGEST_PROPERTY,
    ENCODINGS_PROPERTY,
    LABELS_PROPERTY,
    OUTPUTS_PROPERTY,
    PROCESSING_PROPERTY,
    QUANTIZATION_PROPERTY,
)

__all__ = ["MARGIN_BYTES", "MOST_BYTES", "Capture", "Contract"]

_log = logging.getLogger("edge_sdk.client")

_JPEG_MAGIC = b"\xff\xd8\xff"

MARGIN_BYTES = 4096
"""Of a message beside the input: names and parameters."""

MOST_BYTES = MAX_MESSAGE_BYTES - MARGIN_BYTES
"""Of an input in a message."""


@dataclass(frozen=True, slots=True)
class Capture:
    """One input: for a picture its pixels, and its JPEG bytes where it came as such.

    Attributes
    ----------
    pixels
        Uint8 [height, width(, channels)]; of other inputs, the array that processing takes.
    jpeg
        The bytes it was decoded from, or None.
    reduction
        What has been taken off it.
    """

    pixels: NDArray[Any]
    jpeg: bytes | None
    reduction: Reduction = WHOLE

    @classmethod
    def of(cls, frame: Input, spec: ProcessingSpec) -> Capture:
        """Take an input in; raise `InputError` where it is not what the specification takes."""
        if spec.modality != "image":
            return cls(as_input(spec, frame), None)
        data: bytes | None = None
        if isinstance(frame, str | os.PathLike):
            path = Path(frame)
            try:
                data = path.read_bytes()
            except OSError as error:
                raise InputError(f"cannot read {path}: {error.strerror or error}") from error
        elif isinstance(frame, bytes | bytearray | memoryview):
            data = bytes(frame)
        if data is None or not data.startswith(_JPEG_MAGIC):
            return cls(as_frame(frame), None)
        return cls(as_frame(frame), data)

    def reduced(self, reduction: Reduction) -> Capture:
        """Return the picture with something taken off; the file that it came as is not part of that."""
        if reduction == WHOLE:
            return self
        return Capture(reduce_frame(self.pixels, reduction), None, reduction)

    def stripped(self) -> Capture:
        """Return it with a file that tells nothing but the picture, or without the file where that cannot be."""
        if self.jpeg is None:
            return self
        try:
            return replace(self, jpeg=strip_jpeg(self.jpeg))
        except InputError as error:
            _log.debug("a JPEG file is not sent as it came: %s", error)
            return replace(self, jpeg=None)


@dataclass(frozen=True, slots=True)
class Contract:
    """What the server says of the model that is asked.

    Attributes
    ----------
    model
        Its name.
    input, datatype, shape
        Its input tensor; -1 is any extent.
    encodings
        What may be sent in its place.
    labels, outputs, processing, digest
        Of the bundle; None where the server does not say (any other server of the protocol).
    quantization
        Scale and zero point of the output tensor, where that is quantized.
    most_bytes
        Of an input in a message, as far as the server has told.
    """

    model: str
    input: str
    datatype: str
    shape: tuple[int, ...]
    encodings: tuple[str, ...]
    labels: tuple[str, ...] | None
    outputs: str | None
    quantization: tuple[float, int] | None
    processing: ProcessingSpec | None
    digest: str | None
    most_bytes: int = MOST_BYTES

    @classmethod
    def read(cls, metadata: Any) -> Contract:
        """Read a ``ModelMetadataResponse``; raise `InputError` where it makes no sense."""
        if len(metadata.inputs) != 1:
            raise InputError(f"the cloud's model {metadata.name} has {len(metadata.inputs)} inputs; it should have one")
        tensor, properties = metadata.inputs[0], metadata.properties
        try:
            labels = canonical.loads(properties[LABELS_PROPERTY].encode()) if LABELS_PROPERTY in properties else None
            if labels is not None and not (isinstance(labels, list) and all(isinstance(x, str) for x in labels)):
                raise InputError(f"{LABELS_PROPERTY} of the cloud's model is not a list of strings")
            quantization = canonical.loads(properties.get(QUANTIZATION_PROPERTY, "null").encode())
            if quantization is not None:
                quantization = (float(quantization["scale"]), int(quantization["zero_point"]))
            processing = (
                ProcessingSpec.from_json(canonical.loads(properties[PROCESSING_PROPERTY].encode()))
                if PROCESSING_PROPERTY in properties
                else None
            )
        except (ValueError, TypeError, KeyError, ProcessingError) as error:
            raise InputError(f"the properties of the cloud's model cannot be read: {error}") from error
        return cls(
            model=metadata.name,
            input=tensor.name,
            datatype=tensor.datatype,
            shape=tuple(tensor.shape),
            encodings=tuple(properties.get(ENCODINGS_PROPERTY, "tensor").split(",")),
            labels=None if labels is None else tuple(labels),
            outputs=properties.get(OUTPUTS_PROPERTY),
            quantization=quantization,
            processing=processing,
            digest=properties.get(DIGEST_PROPERTY),
        )

    def check_takes(self, edge_spec: ProcessingSpec) -> None:
        """Raise `InputError` where the cloud's model takes other inputs than the edge's."""
        if self.processing is not None and self.processing.takes != edge_spec.takes:
            raise InputError(
                f"the cloud's model {self.model} takes other inputs than the edge's: its processing differs"
            )

    def tensor(self, capture: Capture, edge_spec: ProcessingSpec, most_bytes: int) -> NDArray[Any]:
        """Return an input as the cloud's model takes it, processed here.

        Parameters
        ----------
        capture
            The input.
        edge_spec
            The edge model's processing, used without its quantization where the server does not
            tell its own.
        most_bytes
            That can be sent.

        Raises
        ------
        InputError
            The processed tensor does not fit the cloud's model.
        """
        spec = self.processing or edge_spec.without_quantize()
        shape, dtype = spec.output_shape, spec.output_dtype
        fits = len(shape) == len(self.shape) and all(w in (-1, s) for s, w in zip(shape, self.shape, strict=True))
        # before it is made: the server says what it is, and no time or memory is spent on what cannot be sent
        if not fits or dtype != dtype_of(self.datatype) or math.prod(shape) * dtype.itemsize > most_bytes:
            raise InputError(
                f"the cloud's model {self.model} takes {self.datatype}{list(self.shape)} of at most {most_bytes} "
                f"bytes, but processing gives {dtype}{list(shape)}"
            )
        return np.asarray(DeviceProcessor(spec)(capture.pixels))
