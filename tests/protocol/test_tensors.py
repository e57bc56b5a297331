"""Tensors on the wire: what is written is read back, and what does not add up is refused."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from edge_sdk.errors import InputError
from edge_sdk.protocol import (
    add_input,
    add_output,
    datatype_of,
    dtype_of,
    from_raw,
    messages,
    read_inputs,
    read_outputs,
)

NUMERIC = ["bool", "u1", "<u2", "<u4", "<u8", "i1", "<i2", "<i4", "<i8", "<f2", "<f4", "<f8"]
SHAPES = hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=5)


@given(hnp.arrays(st.sampled_from(NUMERIC), SHAPES))
def test_numeric_arrays_survive_the_wire_bit_for_bit(array: np.ndarray) -> None:
    response = messages.ModelInferResponse()
    add_output(response, "y", array)
    back = read_outputs(messages.ModelInferResponse.FromString(response.SerializeToString()))["y"]
    assert (back.shape, back.dtype) == (array.shape, array.dtype)
    assert back.tobytes() == array.tobytes()


def test_big_endian_and_strided_arrays_arrive_with_their_values() -> None:
    request = messages.ModelInferRequest()
    add_input(request, "big", np.arange(4, dtype=">i4"))
    add_input(request, "strided", np.arange(12, dtype=np.uint8).reshape(3, 4)[:, ::2])
    back = read_inputs(request)
    assert back["big"].tolist() == [0, 1, 2, 3]
    assert back["strided"].tolist() == [[0, 2], [4, 6], [8, 10]]


@given(st.lists(st.binary(max_size=20), max_size=6))
def test_bytes_survive_the_wire(items: list[bytes]) -> None:
    array = np.empty(len(items), object)
    array[:] = items
    request = messages.ModelInferRequest()
    add_input(request, "x", array)
    assert read_inputs(request)["x"].tolist() == items


@pytest.mark.parametrize(
    ("datatype", "field", "values"),
    [
        ("BOOL", "bool_contents", [True, False]),
        ("INT8", "int_contents", [-128, 127]),
        ("UINT8", "uint_contents", [0, 255]),
        ("INT64", "int64_contents", [-(2**62), 5]),
        ("UINT64", "uint64_contents", [2**63, 5]),
        ("FP32", "fp32_contents", [0.5, -1.5]),
        ("FP64", "fp64_contents", [0.1, 1e300]),
        ("BYTES", "bytes_contents", [b"", b"abc"]),
    ],
)
def test_typed_contents_are_read(datatype: str, field: str, values: list) -> None:
    request = messages.ModelInferRequest()
    tensor = request.inputs.add(name="x", datatype=datatype, shape=[2])
    getattr(tensor.contents, field).extend(values)
    array = read_inputs(request)["x"]
    assert array.dtype == dtype_of(datatype)
    assert array.tolist() == values


def malformed(**changes: object) -> object:
    fields = {"name": "x", "datatype": "FP32", "shape": [2], "raw": [bytes(8)]} | changes
    request = messages.ModelInferRequest(raw_input_contents=fields.pop("raw"))
    contents = fields.pop("contents", {})
    tensor = request.inputs.add(**fields)
    for field, values in contents.items():
        getattr(tensor.contents, field).extend(values)
    return request


@pytest.mark.parametrize(
    ("request_", "says"),
    [
        (malformed(raw=[bytes(7)]), "7 bytes of raw contents"),
        (malformed(raw=[bytes(8), b""]), "2 raw contents for 1 tensors"),
        (malformed(shape=[-1]), "is not a shape"),
        (malformed(shape=[2**40, 2**40]), "raw contents"),
        (malformed(shape=[0, 2**62, 2**62], raw=[b""]), "more than an array can have"),
        (malformed(shape=[0, 2**62, 2**62], raw=[]), "more than an array can have"),
        (malformed(shape=[1] * 40, raw=[bytes(4)]), "is not a shape"),
        (malformed(datatype="FP8"), "not supported"),
        (malformed(datatype="BF16", raw=[bytes(3)]), "3 bytes of raw contents"),
        (malformed(contents={"fp32_contents": [1, 2]}), "both raw and typed"),
        (malformed(raw=[], contents={"fp32_contents": [1]}), "1 elements"),
        (malformed(raw=[], contents={"int_contents": [1, 2]}), "belongs into fp32_contents"),
        (malformed(raw=[], datatype="INT8", contents={"int_contents": [1, 300]}), "does not fit"),
        (malformed(raw=[], datatype="FP16"), "raw contents only"),
        (malformed(datatype="BYTES", shape=[1], raw=[b"\xff\xff\xff\xff"]), "end inside element 0"),
        (malformed(datatype="BYTES", shape=[1], raw=[b"\x01\0\0\0ab"]), "1 bytes left over"),
        (malformed(datatype="BYTES", shape=[2**40], raw=[b"\0\0\0\0"]), "cannot hold"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_contents_that_do_not_add_up_are_refused(request_: object, says: str) -> None:
    with pytest.raises(InputError, match=says):
        read_inputs(request_)


def test_contents_that_are_there_and_empty_do_not_compete_with_raw_ones() -> None:
    request = malformed()
    request.inputs[0].contents.SetInParent()  # as MLServer writes it
    assert request.inputs[0].HasField("contents")
    assert read_inputs(request)["x"].tolist() == [0.0, 0.0]


def test_a_tensor_that_is_there_twice_is_refused() -> None:
    request = messages.ModelInferRequest()
    add_input(request, "x", np.zeros(1))
    add_input(request, "x", np.zeros(1))
    with pytest.raises(InputError, match="twice"):
        read_inputs(request)


def test_a_dtype_without_a_place_in_the_protocol_is_refused() -> None:
    assert datatype_of(np.float32) == "FP32"
    with pytest.raises(InputError, match="no datatype"):
        datatype_of(np.complex64)


@given(st.binary(max_size=60))
def test_random_bytes_as_a_message_never_crash(data: bytes) -> None:
    from google.protobuf.message import DecodeError

    try:
        request = messages.ModelInferRequest.FromString(data)
        read_inputs(request)
    except (DecodeError, InputError):
        pass


@given(hnp.arrays("<f4", SHAPES, elements=st.floats(width=32)))
def test_bfloat16_is_rounded_as_everyone_rounds_it_and_read_as_float32(array: np.ndarray) -> None:
    bfloat16 = pytest.importorskip("ml_dtypes").bfloat16
    request = messages.ModelInferRequest()
    with np.errstate(over="ignore"):
        expected = array.astype(bfloat16)
    tensor = add_input(request, "x", array, datatype="BF16")
    assert (tensor.datatype, len(request.raw_input_contents[0])) == ("BF16", 2 * array.size)
    back = read_inputs(request)["x"]
    assert (back.dtype, back.shape) == (np.float32, array.shape)
    assert np.array_equal(back, expected.astype(np.float32), equal_nan=True)


def test_bfloat16_of_another_size_or_dtype_is_refused() -> None:
    request = messages.ModelInferRequest()
    with pytest.raises(InputError, match="INT32 is not written as BF16"):
        add_input(request, "x", np.zeros(2, np.int32), datatype="BF16")
    with pytest.raises(InputError, match="4 bytes of raw contents, but BF16 of shape \\[3\\] has 6"):
        from_raw(bytes(4), "BF16", [3], "x")
    request.inputs.add(name="x", datatype="BF16", shape=[1]).contents.fp32_contents.append(1)
    with pytest.raises(InputError, match="raw contents only"):
        read_inputs(request)
