"""Inference requests and answers as JSON, with the protocol's binary tensor extension.

A body is one JSON object. Where the header ``Inference-Header-Content-Length`` is there, the object
ends after so many bytes, and the raw contents of tensors follow in their order, each of the length
that its parameter ``binary_data_size`` says.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from edge_sdk.errors import InputError, one_line
from edge_sdk.protocol import datatype_of, dtype_of, from_raw, to_raw

__all__ = ["RestRequest", "read_object", "read_request", "write_answer"]

Array = np.ndarray[Any, Any]
_RAW_ONLY = ("FP16", "BF16")


@dataclass(frozen=True, slots=True)
class RestRequest:
    """An inference request.

    Attributes
    ----------
    request_id
        Of the request; empty where there is none.
    parameters
        Of the request.
    inputs
        Tensors by name.
    outputs
        Name and parameters of each output asked for, without ``binary_data``.
    binary
        Names of those to be answered in binary; None is all.
    """

    request_id: str
    parameters: dict[str, Any]
    inputs: dict[str, Array]
    outputs: list[tuple[str, dict[str, Any]]]
    binary: frozenset[str] | None


def read_request(body: bytes, json_length: int | None) -> RestRequest:
    """Return the request that a body holds.

    Parameters
    ----------
    body
        All of it.
    json_length
        What the header ``Inference-Header-Content-Length`` says, or None.

    Raises
    ------
    InputError
        It is no request.
    """
    if json_length is not None and not 0 <= json_length <= len(body):
        raise InputError(f"Inference-Header-Content-Length is {json_length}, but the body has {len(body)} bytes")
    head = _object(_parse(body[:json_length]), "the request")
    rest = memoryview(body)[len(body) if json_length is None else json_length :]
    inputs: dict[str, Array] = {}
    for entry in _list(head.get("inputs"), "inputs"):
        name, array, rest = _input(_object(entry, "an input"), rest)
        if name in inputs:
            raise InputError(f"tensor {name[:80]!r} is there twice")
        inputs[name] = array
    if len(rest):
        raise InputError(f"{len(rest)} bytes are left over after the inputs")
    parameters = _parameters(head, "the request")
    every = parameters.pop("binary_data_output", False)
    outputs, binary = [], set()
    for entry in _list(head.get("outputs", []), "outputs"):
        output = _object(entry, "an output")
        name, of_output = _text(output.get("name"), "the name of an output"), _parameters(output, "an output")
        if of_output.pop("binary_data", every):
            binary.add(name)
        outputs.append((name, of_output))
    request_id = _text(head.get("id", ""), "id")
    return RestRequest(request_id, parameters, inputs, outputs, None if every and not outputs else frozenset(binary))


def read_object(body: bytes) -> dict[str, Any]:
    """Return the JSON object that a body holds, an empty one where there is no body; raise `InputError`."""
    return _object(_parse(body), "the request") if body.strip() else {}


def write_answer(
    head: Mapping[str, Any], outputs: Mapping[str, Array], binary: frozenset[str] | None
) -> tuple[bytes, int | None]:
    """Return the body of an answer, and the length of its JSON where raw contents follow.

    Parameters
    ----------
    head
        What the answer says beside its outputs.
    outputs
        Tensors by name.
    binary
        Names of those to be written in binary; None is all.

    Raises
    ------
    InputError
        An output cannot be said in JSON.
    """
    entries, raws = [], []
    for name, array in outputs.items():
        entry: dict[str, Any] = {"name": name, "datatype": datatype_of(array.dtype), "shape": list(array.shape)}
        if binary is None or name in binary:
            raws.append(to_raw(array))
            entry["parameters"] = {"binary_data_size": len(raws[-1])}
        else:
            entry["data"] = _values(name, array)
        entries.append(entry)
    text = json.dumps({**head, "outputs": entries}).encode()
    return b"".join([text, *raws]), len(text) if raws else None


def _values(name: str, array: Array) -> list[Any]:
    if array.dtype == object:
        return [item.decode(errors="replace") if isinstance(item, bytes) else item for item in array.ravel()]
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise InputError(f"output {name!r} holds NaN or infinity, which JSON cannot say: ask for binary_data")
    values: list[Any] = array.ravel().tolist()
    return values


def _input(entry: dict[str, Any], rest: memoryview) -> tuple[str, Array, memoryview]:
    """Return an input's name and tensor, and what is left of the raw contents."""
    name, datatype = _text(entry.get("name"), "the name of an input"), _text(entry.get("datatype"), "datatype")
    shape = _list(entry.get("shape"), "shape")
    if not all(isinstance(extent, int) and not isinstance(extent, bool) for extent in shape):
        raise InputError(f"tensor {name[:80]!r}: shape is a list of whole numbers")
    size = _parameters(entry, "an input").get("binary_data_size")
    if size is None:
        return name, _from_json(name[:80], datatype, shape, entry.get("data")), rest
    if "data" in entry:
        raise InputError(f"tensor {name[:80]!r} has both data and binary_data_size")
    if isinstance(size, bool) or not isinstance(size, int) or not 0 <= size <= len(rest):
        raise InputError(f"tensor {name[:80]!r}: binary_data_size is {size!r}, but {len(rest)} bytes are left")
    return name, from_raw(bytes(rest[:size]), datatype, shape, name[:80]), rest[size:]


def _from_json(name: str, datatype: str, shape: Sequence[int], data: Any) -> Array:
    dtype = dtype_of(datatype)
    if datatype in _RAW_ONLY:
        raise InputError(f"tensor {name!r}: {datatype} travels in binary only")
    if len(shape) > 32 or any(extent < 0 for extent in shape):
        raise InputError(f"tensor {name!r}: shape {list(shape[:8])} is not a shape")
    values = _flat(name, _list(data, f"data of {name!r}"))
    if len(values) != math.prod(shape):
        raise InputError(f"tensor {name!r}: {len(values)} elements of data, but its shape has {math.prod(shape)}")
    array: Array
    if datatype == "BYTES":
        if not all(isinstance(value, str) for value in values):
            raise InputError(f"tensor {name!r}: BYTES are strings in JSON")
        array = np.empty(len(values), object)
        try:
            array[:] = [value.encode() for value in values]
        except UnicodeEncodeError:
            raise InputError(f"tensor {name!r}: its data holds half of a character") from None
    else:
        allowed: tuple[type, ...] = (bool,) if datatype == "BOOL" else (int, float) if dtype.kind == "f" else (int,)
        # by type, not isinstance: True is an int to Python
        if not {type(value) for value in values} <= set(allowed):
            raise InputError(f"tensor {name!r}: its data holds what is no {datatype}")
        try:
            array = np.array(values, dtype)
        except OverflowError:
            raise InputError(f"tensor {name!r}: a value does not fit into {datatype}") from None
    try:
        return array.reshape(tuple(shape))
    except ValueError:
        raise InputError(f"tensor {name!r}: shape {list(shape[:8])} is more than an array can have") from None


def _flat(name: str, values: list[Any]) -> list[Any]:
    """Return values that may be nested, axis by axis, as one list."""
    for _ in range(33):
        if not any(type(value) is list for value in values):
            return values
        if not all(type(value) is list for value in values):
            break
        values = [value for part in values for value in part]
    raise InputError(f"tensor {name!r}: its data is nested unevenly")


def _parse(text: bytes) -> Any:
    try:
        return json.loads(text, parse_constant=_no_constant)
    except RecursionError:
        raise InputError("the request's JSON is nested too deeply") from None
    except (ValueError, UnicodeDecodeError) as error:
        raise InputError(f"the request is no JSON: {one_line(error, 200)}") from None


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no number in JSON")


def _object(value: Any, what: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise InputError(f"{what} is a JSON object")
    return value


def _list(value: Any, what: str) -> list[Any]:
    if not isinstance(value, list):
        raise InputError(f"{what} is a list")
    return value


def _text(value: Any, what: str) -> str:
    if not isinstance(value, str):
        raise InputError(f"{what} is a string")
    return value


def _parameters(owner: dict[str, Any], what: str) -> dict[str, Any]:
    parameters = _object(owner.get("parameters", {}), f"parameters of {what}")
    for name, value in parameters.items():
        if not isinstance(value, bool | int | float | str):
            raise InputError(f"parameter {name[:80]!r} is a string, a number or a boolean")
    return dict(parameters)
