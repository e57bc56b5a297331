"""Cutting a model in two: the parts compute what the whole does, and no cut is missed."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from edge_sdk.compression.graphs import Graph
from edge_sdk.compression.split import Link, Option, Plan, plan_split, sample_inputs, write_split
from edge_sdk.errors import InputError, ModelError
from edge_sdk.main import main

LTE = Link("LTE", 0.05, 1.25e6)


def model(nodes, inputs=("x",), outputs=("y",), constants=(), shape=(1, 4)) -> bytes:
    """Return an ONNX model whose named tensors are all float32 of one shape."""
    value = lambda name: helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)  # noqa: E731
    initializers = [numpy_helper.from_array(np.full(shape, 1.5, np.float32), name) for name in constants]
    graph = helper.make_graph(list(nodes), "g", [*map(value, inputs)], [*map(value, outputs)], initializers)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9).SerializeToString()


def node(op, inputs, output):
    return helper.make_node(op, inputs.split(), output.split())


def run(data: bytes, feed: dict) -> dict:
    session = ort.InferenceSession(data, providers=["CPUExecutionProvider"])
    results = session.run(None, {value.name: feed[value.name] for value in session.get_inputs()})
    return dict(zip([value.name for value in session.get_outputs()], results, strict=True))


def in_two(data: bytes, tensors, feed: dict, folder: Path) -> dict:
    """Write the parts, check them as ONNX does, and run one after the other."""
    write_split(data, tensors, folder / "head.onnx", folder / "tail.onnx")
    head, tail = ((folder / name).read_bytes() for name in ("head.onnx", "tail.onnx"))
    for part in (head, tail):
        onnx.checker.check_model(onnx.load_model_from_string(part), full_check=True)
    results = run(head, feed)
    assert set(tensors) <= set(results) | set(feed)
    crossing = {name: feed.get(name, results.get(name)) for name in tensors}
    return results | run(tail, crossing)


RESIDUAL = model([node("Relu", "x", "a"), node("Sin", "a", "b"), node("Add", "a b", "c"), node("Exp", "c", "y")])


def test_a_shortcut_crosses_with_what_it_skips():
    assert Graph.read(RESIDUAL).cuts() == [("a",), ("a", "b"), ("c",)]


def test_a_shortcut_from_the_input_takes_the_input_along(tmp_path):
    data = model([node("Sin", "x", "a"), node("Exp", "a", "b"), node("Add", "b x", "y")])
    assert Graph.read(data).cuts() == [("x", "a"), ("x", "b")]
    x = np.ones((1, 4), np.float32)
    np.testing.assert_array_equal(in_two(data, ("x", "a"), {"x": x}, tmp_path)["y"], run(data, {"x": x})["y"])


def test_what_is_made_of_constants_alone_is_on_both_sides_and_never_crosses(tmp_path):
    nodes = [node("Exp", "k", "e"), node("Add", "x e", "a"), node("Mul", "a e", "b"), node("Sub", "b k", "y")]
    data = model(nodes, constants=["k"])
    assert Graph.read(data).cuts() == [("a",), ("b",)]
    x = np.ones((1, 4), np.float32)
    np.testing.assert_allclose(in_two(data, ("a",), {"x": x}, tmp_path)["y"], run(data, {"x": x})["y"], rtol=1e-6)
    assert "k" in {tensor.name for tensor in onnx.load(tmp_path / "head.onnx").graph.initializer}
    assert "k" in {tensor.name for tensor in onnx.load(tmp_path / "tail.onnx").graph.initializer}


def test_inputs_that_nobody_gives_do_not_connect_nodes():
    data = model([helper.make_node("Clip", ["x", "", "high"], ["a"]), node("Exp", "a", "y")], shape=())
    clipped = onnx.load_model_from_string(data)
    clipped.graph.initializer.append(numpy_helper.from_array(np.float32(1), "high"))
    assert Graph.read(clipped.SerializeToString()).cuts() == [("a",)]


def test_an_output_that_the_device_has_already_does_not_travel(tmp_path):
    data = model([node("Sin", "x", "a"), node("Exp", "a", "p"), node("Relu", "a", "b"), node("Cos", "b", "q")],
                 outputs=("p", "q"))  # fmt: skip
    graph = Graph.read(data)
    assert graph.parts(("b",)).kept == ("p",)
    assert graph.parts(("b",)).sent == ("q",)
    assert graph.parts(("a",)).sent == ("p", "q")
    x = np.ones((1, 4), np.float32)
    for tensors in graph.cuts():
        got = in_two(data, tensors, {"x": x}, tmp_path)
        for name, expected in run(data, {"x": x}).items():
            np.testing.assert_allclose(got[name], expected, rtol=1e-6)


def test_several_inputs_join_before_a_single_tensor_can_cross():
    data = model([node("Sin", "x", "a"), node("Add", "a z", "b"), node("Exp", "b", "y")], inputs=("x", "z"))
    assert Graph.read(data).cuts() == [("z", "a"), ("b",)]
    assert [option.tensors for option in plan_split(data, repeats=1).options] == [(), ("x", "z"), ("z", "a"), ("b",)]


def test_dead_branches_are_left_behind():
    data = model([node("Sin", "x", "dead"), node("Exp", "x", "a"), node("Relu", "a", "y")])
    assert Graph.read(data).cuts() == [("a",)]


def test_a_model_of_one_node_has_no_cut_and_stays_whole():
    plan = plan_split(model([node("Exp", "x", "y")]), repeats=1)
    assert [option.place for option in plan.options] == ["edge", "cloud"]
    assert plan.best_cut(LTE) is None
    assert plan.best(LTE).place == "edge"


def test_a_model_with_control_flow_is_refused():
    branch = helper.make_graph([node("Exp", "x", "t")], "b", [], [helper.make_tensor_value_info("t", 1, (1, 4))])
    chosen = helper.make_node("If", ["c"], ["y"], then_branch=branch, else_branch=branch)
    with pytest.raises(ModelError, match="control flow"):
        plan_split(model([chosen]))


def test_what_is_no_model_is_refused(tmp_path):
    with pytest.raises(ModelError, match="not an ONNX model"):
        plan_split(b"nothing of the kind")
    with pytest.raises(ModelError, match=r"none\.onnx is not an ONNX model"):
        plan_split(tmp_path / "none.onnx")
    with pytest.raises(ModelError, match="no output"):
        plan_split(b"")
    with pytest.raises(ModelError, match="before it is computed"):
        plan_split(model([node("Exp", "a", "y"), node("Sin", "x", "a")]))


def test_a_tensor_that_is_no_cut_is_refused(tmp_path):
    paths = tmp_path / "head.onnx", tmp_path / "tail.onnx"
    with pytest.raises(InputError, match="computes no fish"):
        write_split(RESIDUAL, ["fish"], *paths)
    for tensors in (["b"], ["x"], ["y"], ["a", "c"], ["a", "a"]):
        with pytest.raises(InputError, match="cannot be cut at"):
            write_split(RESIDUAL, tensors, *paths)
    with pytest.raises(InputError, match="both to be written"):
        write_split(RESIDUAL, ["a"], paths[0], paths[0])
    assert list(tmp_path.iterdir()) == []


# ---- against brute force


@st.composite
def dags(draw) -> tuple[bytes, list[tuple[tuple[str, ...], str]], list[str], list[str]]:
    """Return a random model, its nodes (inputs and output), its inputs and its outputs."""
    inputs = ["x", "z"][: draw(st.integers(1, 2))]
    names, nodes = [*inputs, "k"], []
    for n in range(draw(st.integers(1, 7))):
        used = draw(st.lists(st.sampled_from(names), min_size=1, max_size=2))
        nodes.append((tuple(used), f"t{n}"))
        names.append(f"t{n}")
    made = [name for _, name in nodes]
    outputs = draw(st.lists(st.sampled_from(made), min_size=1, max_size=2, unique=True))
    protos = [node("Sin" if len(used) == 1 else "Add", " ".join(used), name) for used, name in nodes]
    return model(protos, inputs, outputs, ["k"]), nodes, inputs, outputs


def reaches(nodes, sources: set[str], target: str, without: set[str]) -> bool:
    """Return whether there is a path from any source to the target that avoids some tensors."""
    there = sources - without
    for used, name in nodes:
        if there & set(used) and name not in without:
            there.add(name)
    return target in there


@settings(max_examples=150, deadline=None)
@given(dags())
def test_every_single_tensor_that_an_output_hangs_on_is_found_and_no_other(drawn):
    data, nodes, inputs, outputs = drawn
    expected = {
        name
        for (_, name), output in itertools.product(nodes, outputs)
        if name != output
        and reaches(nodes, set(inputs), name, set())
        and reaches(nodes, {name}, output, set())
        and not reaches(nodes, set(inputs), output, {name})
    }
    assert {tensors[0] for tensors in Graph.read(data).cuts() if len(tensors) == 1} - set(inputs) == expected


@settings(max_examples=40, deadline=None)
@given(dags(), st.randoms(use_true_random=False))
def test_every_cut_of_any_graph_computes_what_the_whole_does(tmp_path_factory, drawn, random):
    data, _, inputs, _ = drawn
    folder = tmp_path_factory.mktemp("parts")
    feed = {name: np.array([[random.uniform(-2, 2) for _ in range(4)]], np.float32) for name in inputs}
    expected = run(data, feed)
    for tensors in Graph.read(data).cuts():
        got = in_two(data, tensors, feed, folder)
        for name, value in expected.items():
            np.testing.assert_allclose(got[name], value, rtol=1e-5, atol=1e-5)


# ---- plans


def option(place, tensors, size, device, cloud) -> Option:
    return Option(place, tensors, size, device, cloud)


def test_time_over_a_link_is_work_waiting_and_sending():
    assert option("cut", ("a",), 125_000, 3.0, 2.0).latency_ms(LTE) == pytest.approx(3 + 50 + 100 + 2)
    assert option("edge", (), 0, 30.0, 0.0).latency_ms(LTE) == 30


def test_the_network_decides_which_side_wins():
    whole = option("edge", (), 0, 200.0, 0.0), option("cloud", ("x",), 600_000, 0.0, 20.0)
    plan = Plan((*whole, option("cut", ("a",), 20_000, 60.0, 10.0), option("cut", ("b", "c"), 1, 1.0, 1.0)))
    assert plan.best(LTE).tensors == ("a",)
    assert plan.best(Link("fibre", 0.001, 1e9)).place == "cloud"
    assert plan.best(Link("satellite", 0.6, 2.5e5)).place == "edge"


def test_a_cut_that_is_hardly_faster_does_not_win():
    whole = option("edge", (), 0, 100.0, 0.0), option("cloud", ("x",), 10**9, 0.0, 20.0)
    for device, place in ((46.0, "edge"), (44.0, "cut")):
        assert Plan((*whole, option("cut", ("a",), 0, device, 0.0))).best(LTE).place == place


def test_a_plan_counts_what_crosses_and_what_a_picture_weighs():
    plan = plan_split(RESIDUAL, cloud_speed=1e6, input_bytes=7, repeats=2)
    assert [(one.place, one.bytes) for one in plan.options] == [
        ("edge", 0), ("cloud", 7), ("cut", 16), ("cut", 32), ("cut", 16)
    ]  # fmt: skip
    assert all(one.cloud_ms < 1e-3 for one in plan.options)
    assert plan.left_out == ()


def test_a_cut_that_computes_something_else_is_left_out():
    noise = helper.make_node("RandomNormalLike", ["a"], ["b"])  # other noise in every session
    plan = plan_split(model([node("Sin", "x", "a"), noise, node("Add", "a b", "y")]), repeats=1)
    assert ("a",) in plan.left_out


def test_a_sequence_of_tensors_does_not_cross():
    nodes = [node("SequenceConstruct", "x x", "s"), node("ConcatFromSequence", "s", "a"), node("Exp", "a", "y")]
    nodes[1].attribute.append(helper.make_attribute("axis", 0))
    data = onnx.load_model_from_string(model(nodes))
    data.graph.output[0].type.tensor_type.shape.dim[0].dim_value = 2
    plan = plan_split(data.SerializeToString(), repeats=1)
    assert plan.left_out == (("s",),)
    assert [one.tensors for one in plan.options[2:]] == [("a",)]


def test_bad_arguments_are_refused():
    for wrong in ({"cloud_speed": 0}, {"cloud_speed": float("nan")}, {"repeats": 0}, {"input_bytes": -1}):
        with pytest.raises(InputError, match="should be"):
            plan_split(RESIDUAL, **wrong)
    with pytest.raises(InputError, match="inputs are x, not z"):
        plan_split(RESIDUAL, {"z": np.zeros((1, 4), np.float32)})
    with pytest.raises(ModelError, match="cannot run"):
        plan_split(RESIDUAL, {"x": np.zeros((1, 5), np.float32)})
    for wrong in ((-1, 1), (0, 0), (float("nan"), 1)):
        with pytest.raises(InputError, match="link"):
            Link("none", *wrong)


def test_inputs_are_made_up_where_their_size_is_known():
    assert sample_inputs(model([node("Exp", "x", "y")], shape=("N", 3)))["x"].shape == (1, 3)
    with pytest.raises(InputError, match="of any size"):
        sample_inputs(model([node("Exp", "x", "y")], shape=("N", "M")))


# ---- the command


def test_the_command_plans_and_says_by_how_much(tmp_path, capsys):
    path = tmp_path / "model.onnx"
    path.write_bytes(RESIDUAL)
    assert main(["split", "plan", str(path), "--repeats", "2"]) == 0
    shown = capsys.readouterr().out
    assert "LTE (50 ms, 10 Mbit/s): whole, on the device" in shown
    assert "less than" in shown
    assert "no cut wins" in shown
    assert main(["split", "plan", str(path), "--link", "here:0:1000", "--repeats", "2", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["links"] == {"here": {"round_trip_ms": 0.0, "mbit": 1000.0}}
    assert said["recommended"]["here"]["place"] in ("edge", "cloud", "cut")
    assert [one["tensors"] for one in said["options"]] == [[], ["x"], ["a"], ["a", "b"], ["c"]]


def test_the_command_takes_inputs_from_a_file_and_writes_both_parts(tmp_path, capsys):
    path, file = tmp_path / "model.onnx", tmp_path / "inputs.npz"
    path.write_bytes(RESIDUAL)
    np.savez(file, x=np.ones((1, 4), np.float32))
    assert main(["split", "plan", str(path), "--inputs", str(file), "--repeats", "1", "--json"]) == 0
    capsys.readouterr()
    parts = [str(tmp_path / name) for name in ("head.onnx", "tail.onnx")]
    assert main(["split", "write", str(path), "--at", "a,b", "--head", parts[0], "--tail", parts[1]]) == 0
    assert "tail.onnx" in capsys.readouterr().out
    assert [value.name for value in onnx.load(parts[0]).graph.output] == ["a", "b"]
    assert [value.name for value in onnx.load(parts[1]).graph.input] == ["a", "b"]


@pytest.mark.parametrize(
    "arguments",
    [["--link", "LTE"], ["--link", "LTE:fast:10"], ["--link", "a:1:1", "--link", "a:2:2"], ["--inputs", "."]],
)
def test_the_command_says_what_is_wrong_on_one_line(tmp_path, capsys, arguments):
    path = tmp_path / "model.onnx"
    path.write_bytes(RESIDUAL)
    assert main(["split", "plan", str(path), *arguments]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("edge-sdk: error: ")
