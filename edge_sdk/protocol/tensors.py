"""NumPy arrays to and from the tensors of inference messages.

Arrays are written as raw contents (little-endian, row-major). Both raw and typed contents are
read. What does not add up (sizes, counts, datatypes) raises `InputError`; nothing is guessed.

NumPy has no BF16. It is read as float32, which holds every value of it, and written from float32
where a caller asks for it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from edge_sdk.errors import InputError

__all__ = [
    "add_input",
    "add_output",
    "datatype_of",
    "dtype_of",
    "from_raw",
    "read_inputs",
    "read_outputs",
    "read_parameters",
    "set_parameter",
    "to_raw",
]

_DTYPES: dict[str, np.dtype[Any]] = {
    "BOOL": np.dtype("bool"),
    "UINT8": np.dtype("uint8"),
    "UINT16": np.dtype("<u2"),
    "UINT32": np.dtype("<u4"),
    "UINT64": np.dtype("<u8"),
    "INT8": np.dtype("int8"),
    "INT16": np.dtype("<i2"),
    "INT32": np.dtype("<i4"),
    "INT64": np.dtype("<i8"),
    "FP16": np.dtype("<f2"),
    "FP32": np.dtype("<f4"),
    "FP64": np.dtype("<f8"),
    "BYTES": np.dtype("object"),
}
_BF16_BYTES = 2
_DATATYPES = {dtype: datatype for datatype, dtype in _DTYPES.items()}
_TYPED_FIELDS = {
    "BOOL": "bool_contents",
    "INT8": "int_contents",
    "INT16": "int_contents",
    "INT32": "int_contents",
    "INT64": "int64_contents",
    "UINT8": "uint_contents",
    "UINT16": "uint_contents",
    "UINT32": "uint_contents",
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    "BYTES": "bytes_contents",
}


def datatype_of(dtype: Any) -> str:
    """Return the protocol's name of a NumPy dtype, such as ``"FP32"``."""
    if isinstance(dtype, np.dtype) and (datatype := _DATATYPES.get(dtype)) is not None:
        return datatype  # little-endian already, as nearly always
    try:
        return _DATATYPES[np.dtype(dtype).newbyteorder("<")]
    except (KeyError, TypeError):
        raise InputError(f"the protocol has no datatype for {dtype!r}") from None


def dtype_of(datatype: str) -> np.dtype[Any]:
    """Return the NumPy dtype of a protocol datatype; ``object`` (of bytes) for ``"BYTES"``, float32 for ``"BF16"``."""
    if datatype == "BF16":
        return _DTYPES["FP32"]
    try:
        return _DTYPES[datatype]
    except KeyError:
        known = ", ".join((*_DTYPES, "BF16"))
        raise InputError(f"datatype {datatype[:20]!r} is not supported; known are {known}") from None


def _pack_bytes(items: Iterable[Any]) -> bytes:
    parts: list[bytes] = []
    for item in items:
        data = item.encode() if isinstance(item, str) else bytes(item)
        parts += [len(data).to_bytes(4, "little"), data]
    return b"".join(parts)


def _unpack_bytes(raw: bytes, count: int, name: str) -> np.ndarray[Any, Any]:
    items, at = np.empty(count, object), 0
    for index in range(count):
        end = at + 4 + int.from_bytes(raw[at : at + 4], "little")
        if at + 4 > len(raw) or end > len(raw):
            raise InputError(f"tensor {name!r}: its BYTES contents end inside element {index}")
        items[index], at = raw[at + 4 : end], end
    if at != len(raw):
        raise InputError(f"tensor {name!r}: {len(raw) - at} bytes left over after {count} BYTES elements")
    return items


def to_raw(array: np.ndarray[Any, Any], datatype: str | None = None) -> bytes:
    """Return an array's raw contents.

    Parameters
    ----------
    array
        Any shape; a numeric or bool dtype, or object (of bytes or str) for BYTES.
    datatype
        ``"BF16"`` to round float32 to it, the nearest and of two the even one; None for the array's own.

    Raises
    ------
    InputError
        The dtype has no place in the protocol, or is not float32 where BF16 is asked for.
    """
    own = datatype_of(array.dtype)
    if datatype is not None and datatype != own:
        if (datatype, own) != ("BF16", "FP32"):
            raise InputError(f"{own} is not written as {datatype}")
        bits = np.ascontiguousarray(array, dtype="<f4").view("<u4")
        rounded = (bits + np.uint32(0x7FFF) + ((bits >> 16) & 1)) >> 16
        quiet = (bits >> 16) | 0x40  # rounding would make an infinity, or a zero, of a NaN
        return np.where(np.isnan(array), quiet, rounded).astype("<u2").tobytes()
    if own == "BYTES":
        return _pack_bytes(array.ravel())
    dtype = _DTYPES[own]
    return (array if array.dtype == dtype else array.astype(dtype)).tobytes()


def from_raw(raw: bytes, datatype: str, shape: Sequence[int], name: str) -> np.ndarray[Any, Any]:
    """Return the array that raw contents hold; a read-only view of them, but for BYTES and BF16.

    Parameters
    ----------
    raw
        The contents.
    datatype, shape
        As the protocol says them.
    name
        Name of the tensor, for messages.

    Raises
    ------
    InputError
        They do not agree, or the shape is none.
    """
    dtype, count = dtype_of(datatype), _count(shape, name)
    itemsize = _BF16_BYTES if datatype == "BF16" else dtype.itemsize
    if datatype == "BYTES":
        # 4 length bytes an element: refuse before allocating for what cannot be there
        if count * 4 > len(raw):
            raise InputError(f"tensor {name!r}: {len(raw)} bytes cannot hold {count} BYTES elements")
        array = _unpack_bytes(raw, count, name)
    elif len(raw) != count * itemsize:
        raise InputError(
            f"tensor {name!r}: {len(raw)} bytes of raw contents, but {datatype} of shape "
            f"{list(shape)[:8]} has {count * itemsize}"
        )
    elif datatype == "BF16":
        array = (np.frombuffer(raw, "<u2").astype("<u4") << 16).view("<f4")
    else:
        array = np.frombuffer(raw, dtype)
    return _shaped(array, shape, name)


def _count(shape: Sequence[int], name: str) -> int:
    if len(shape) > 32 or any(extent < 0 for extent in shape):
        raise InputError(f"tensor {name!r}: shape {list(shape[:8])} is not a shape")
    return math.prod(shape)


def _shaped(array: np.ndarray[Any, Any], shape: Sequence[int], name: str) -> np.ndarray[Any, Any]:
    try:
        return array.reshape(tuple(shape))
    except ValueError:  # an extent of 0 makes any other agree with no contents
        raise InputError(f"tensor {name!r}: shape {list(shape[:8])} is more than an array can have") from None


def _add(tensors: Any, raw_contents: Any, name: str, array: np.ndarray[Any, Any], datatype: str | None) -> Any:
    raw = to_raw(array, datatype)
    tensor = tensors.add()
    tensor.name = name
    tensor.datatype = datatype or datatype_of(array.dtype)
    tensor.shape.extend(array.shape)
    raw_contents.append(raw)
    return tensor


def _decode(tensor: Any, raw: bytes | None) -> np.ndarray[Any, Any]:
    name, datatype, shape = tensor.name[:80], tensor.datatype, tuple(tensor.shape)
    if raw is not None:
        return from_raw(raw, datatype, shape, name)
    dtype_of(datatype)
    return _shaped(_decode_typed(tensor, name, datatype, _count(shape, name)), shape, name)


def _decode_typed(tensor: Any, name: str, datatype: str, count: int) -> np.ndarray[Any, Any]:
    field = _TYPED_FIELDS.get(datatype)
    if field is None:
        raise InputError(f"tensor {name!r}: {datatype} travels in raw contents only")
    filled = [descriptor.name for descriptor, _ in tensor.contents.ListFields()]
    if filled not in ([field], []):
        raise InputError(f"tensor {name!r}: {datatype} belongs into {field}, but {', '.join(filled)} is filled")
    values = getattr(tensor.contents, field)
    if len(values) != count:
        raise InputError(f"tensor {name!r}: {len(values)} elements of contents, but its shape has {count}")
    dtype = _DTYPES[datatype]
    if datatype == "BYTES":
        array = np.empty(count, object)
        array[:] = list(values)
        return array
    try:
        return np.array(list(values), dtype)
    except OverflowError:
        raise InputError(f"tensor {name!r}: a value does not fit into {datatype}") from None


def _read(tensors: Any, raw_contents: Any) -> dict[str, np.ndarray[Any, Any]]:
    if len(raw_contents) not in (0, len(tensors)):
        raise InputError(f"{len(raw_contents)} raw contents for {len(tensors)} tensors")
    arrays: dict[str, np.ndarray[Any, Any]] = {}
    for index, tensor in enumerate(tensors):
        if tensor.name in arrays:
            raise InputError(f"tensor {tensor.name[:80]!r} is there twice")
        raw = None
        if len(raw_contents):
            if tensor.HasField("contents") and tensor.contents.ListFields():  # MLServer leaves them there, empty
                raise InputError(f"tensor {tensor.name[:80]!r} has both raw and typed contents")
            raw = raw_contents[index]
        arrays[tensor.name] = _decode(tensor, raw)
    return arrays


def add_input(request: Any, name: str, array: np.ndarray[Any, Any], *, datatype: str | None = None) -> Any:
    """Append an array to a ``ModelInferRequest`` and return its ``InferInputTensor``.

    Parameters
    ----------
    request
        The message.
    name
        Name of the tensor.
    array, datatype
        As for `to_raw`.

    Raises
    ------
    InputError
        As `to_raw` does.
    """
    return _add(request.inputs, request.raw_input_contents, name, array, datatype)


def add_output(response: Any, name: str, array: np.ndarray[Any, Any], *, datatype: str | None = None) -> Any:
    """Append an array to a ``ModelInferResponse``; see `add_input`."""
    return _add(response.outputs, response.raw_output_contents, name, array, datatype)


def read_inputs(request: Any) -> dict[str, np.ndarray[Any, Any]]:
    """Return the tensors of a ``ModelInferRequest`` by name.

    Arrays with raw contents are read-only views of the message's bytes.

    Raises
    ------
    InputError
        Contents, shape and datatype of a tensor do not agree, or it is there twice.
    """
    return _read(request.inputs, request.raw_input_contents)


def read_outputs(response: Any) -> dict[str, np.ndarray[Any, Any]]:
    """Return the tensors of a ``ModelInferResponse`` by name; see `read_inputs`."""
    return _read(response.outputs, response.raw_output_contents)


def set_parameter(parameters: Any, name: str, value: bool | float | str) -> None:
    """Set one parameter of a message; negative and positive ints travel as int64."""
    parameter = parameters[name]
    if isinstance(value, bool):
        parameter.bool_param = value
    elif isinstance(value, int):
        parameter.int64_param = value
    elif isinstance(value, float):
        parameter.double_param = value
    else:
        parameter.string_param = value


def read_parameters(parameters: Mapping[str, Any]) -> dict[str, bool | int | float | str]:
    """Return the parameters of a message as plain values; unset ones are left out."""
    if not parameters:
        return {}
    chosen = ((name, parameter, parameter.WhichOneof("parameter_choice")) for name, parameter in parameters.items())
    return {name: getattr(parameter, field) for name, parameter, field in chosen if field is not None}
