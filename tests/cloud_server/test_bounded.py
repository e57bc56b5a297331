"""Which models may run on the event loop: those whose runs take as long as shapes say."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from edge_sdk.cloud.server.bounded import is_bounded
from outside.models import adding_onnx

X = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 4])
NUMBERS = {"two": np.array([2, 1]), "pads": np.array([0, 1, 0, 1]), "zero": np.array(0), "one": np.array(1)}
INT = TensorProto.INT64


def model(*nodes: onnx.NodeProto, opset: int = 17, **more: object) -> bytes:
    """Return a model that ends in ``y``, with a few constants."""
    graph = helper.make_graph(
        list(nodes),
        "g",
        [X],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(value.astype(np.int64), name) for name, value in NUMBERS.items()],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8, **more)
    return made.SerializeToString()


def node(operator: str, *inputs: str, output: str = "y", **attributes: object) -> onnx.NodeProto:
    return helper.make_node(operator, list(inputs), [output], **attributes)


def branch(name: str) -> onnx.GraphProto:
    return helper.make_graph(
        [node("Relu", "x", output=name)], name, [], [helper.make_tensor_value_info(name, TensorProto.FLOAT, None)]
    )


VALUES = node("Cast", "x", output="values", to=INT)
BOUNDED = {
    "layers": [node("MatMul", "x", "w", output="a"), node("Relu", "a", output="b"), node("Softmax", "b")],
    "shapes": [node("Shape", "x", output="s"), node("Reshape", "x", "s")],
    "padding": [node("Pad", "x", "pads")],
    "repeats": [node("Tile", "x", "two")],
    "a constant node": [
        node("Constant", output="k", value=numpy_helper.from_array(np.array([1]))),
        node("TopK", "x", "k"),
    ],
    "a size": [node("Resize", "x", "", "two")],
}
UNBOUNDED = {
    "repeats": [VALUES, node("Tile", "x", "values")],
    "a shape": [VALUES, node("Expand", "x", "values")],
    "padding": [VALUES, node("Pad", "x", "values")],
    "a size": [VALUES, node("Resize", "x", "", "", "values")],
    "a scale": [node("Resize", "x", "", "x")],
    "how many": [VALUES, node("TopK", "x", "values")],
    "a range": [VALUES, node("Range", "zero", "values", "one")],
    "a filled shape": [VALUES, node("ConstantOfShape", "values")],
    "what is not zero": [node("NonZero", "x")],
    "what is left over": [node("NonMaxSuppression", "x", "x")],
    "what differs": [node("Unique", "x")],
    "branches": [node("If", "x", then_branch=branch("t"), else_branch=branch("e"))],
    "loops": [node("Scan", "x", num_scan_inputs=1, body=branch("t"))],
    "sequences": [node("SequenceConstruct", "x", output="s"), node("SequenceAt", "s", "zero")],
    "operators of others": [node("Relu", "x", domain="com.example")],
}


@pytest.mark.parametrize("name", BOUNDED)
def test_a_model_is_bounded_whose_work_depends_on_shapes_and_constants(name):
    assert is_bounded(model(*BOUNDED[name]))


@pytest.mark.parametrize("name", UNBOUNDED)
def test_a_model_is_not_bounded_whose_values_decide_how_much_it_does(name):
    assert not is_bounded(model(*UNBOUNDED[name]))


def test_functions_of_the_models_own_are_not_looked_into():
    function = helper.make_function("own", "F", ["x"], ["y"], [node("Relu", "x")], [helper.make_opsetid("", 17)])
    assert is_bounded(model(node("Relu", "x")))
    assert not is_bounded(model(node("Relu", "x"), functions=[function]))


@given(st.binary(max_size=200), st.integers(0, 400))
def test_a_file_that_is_damaged_is_read_without_an_error(data, cut):
    whole = adding_onnx(1.0)
    assert is_bounded(whole)
    for damaged in (data, whole[: cut % len(whole)], whole[: cut % len(whole)] + data, b"\x3a" + data):
        assert is_bounded(damaged) in (True, False)
    assert not is_bounded(whole[: len(whole) // 2])
