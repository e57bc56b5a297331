"""Answers as the bytes of their messages, put together from parts that are the same every time.

To fill a message and serialize it costs several times as much as a small model. A serialized message may be
cut between any two fields: protobuf parsers merge what follows.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import numpy as np

from edge_sdk.cloud.server.models import ServedModel
from edge_sdk.protocol import datatype_of, messages, set_parameter, to_raw
from edge_sdk.protocol.names import CACHED_PARAMETER, DIGEST_PARAMETER

__all__ = ["before_contents", "head_of", "id_field", "serialize", "within_stream"]

Array = np.ndarray[Any, Any]
Outputs = tuple[tuple[str, np.dtype[Any], tuple[int, ...]], ...]


def _tag(message: Any, field: str) -> bytes:
    """Return what goes before the length of a field of bytes."""
    return bytes([message.DESCRIPTOR.fields_by_name[field].number << 3 | 2])  # numbers below 16 take one byte


_ID = _tag(messages.ModelInferResponse, "id")
_RAW = _tag(messages.ModelInferResponse, "raw_output_contents")
_ANSWER = _tag(messages.ModelStreamInferResponse, "infer_response")


def serialize(model: ServedModel, request_id: str, outputs: Mapping[str, Array], *, cached: bool) -> bytes:
    """Return a ``ModelInferResponse``, serialized.

    Parameters
    ----------
    model
        Who answers.
    request_id
        As the request says it; may be empty.
    outputs
        The tensors by name.
    cached
        Whether the model did not run for it.

    Raises
    ------
    InputError
        The protocol has no datatype for one.
    """
    parts = [head_of(model, outputs, cached=cached)]
    if request_id:
        parts.append(id_field(request_id))
    for array in outputs.values():
        raw = to_raw(array)
        parts += [_RAW, _length(len(raw)), raw]
    return b"".join(parts)


def head_of(model: ServedModel, outputs: Mapping[str, Array], *, cached: bool) -> bytes:
    """Return a response but for its id and contents; see `serialize`."""
    described = tuple([(name, array.dtype, array.shape) for name, array in outputs.items()])
    return _head(model.name, model.version, model.digest, described, cached)


def id_field(request_id: str) -> bytes:
    """Return what a response says of an id."""
    name = request_id.encode()
    return b"".join([_ID, _length(len(name)), name])


def before_contents(size: int) -> bytes:
    """Return what goes before contents of so many bytes."""
    return _RAW + _length(size)


def within_stream(answer: bytes) -> bytes:
    """Return a ``ModelStreamInferResponse`` of a ``ModelInferResponse``, both serialized."""
    return b"".join([_ANSWER, _length(len(answer)), answer])


@functools.lru_cache(maxsize=512)
def _head(name: str, version: str, digest: str, outputs: Outputs, cached: bool) -> bytes:
    """Return all but the id and the contents."""
    head = messages.ModelInferResponse(model_name=name, model_version=version)
    set_parameter(head.parameters, DIGEST_PARAMETER, digest)
    if cached:
        set_parameter(head.parameters, CACHED_PARAMETER, value=True)
    for output, dtype, shape in outputs:
        head.outputs.add(name=output, datatype=datatype_of(dtype), shape=shape)
    data: bytes = head.SerializeToString()
    return data


@functools.lru_cache(maxsize=512)
def _length(number: int) -> bytes:
    """Return a length as protobuf writes it: seven bits a byte, the lowest first."""
    digits = bytearray()
    while number > 0x7F:
        digits.append(number & 0x7F | 0x80)
        number >>= 7
    digits.append(number)
    return bytes(digits)
