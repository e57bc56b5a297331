"""Runtimes: a model file goes in, tensors come out, and what is broken is refused."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from edge_sdk.errors import InputError, MissingExtraError, ModelError
from edge_sdk.runtime import open_session
from edge_sdk.types import TensorSpec
from outside.bundles import tiny_onnx
from outside.tflite import tiny_tflite

WEIGHTS = np.random.default_rng(0).normal(0, 0.01, (192, 3)).astype(np.float32)
BIAS = np.array([0.1, -0.2, 0.3], np.float32)
PIXELS = np.random.default_rng(1).integers(-128, 128, (1, 8, 8, 3)).astype(np.int8)


def make_onnx(nodes, inputs, outputs) -> bytes:
    graph = helper.make_graph(nodes, "made", inputs, outputs)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    return model.SerializeToString()


def floats(name, *shape):
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, list(shape))


@pytest.fixture(params=["bytes", "path"])
def given_as(request, tmp_path):
    """Return a function that hands a model over as bytes or as a path."""

    def hand_over(data: bytes, suffix: str):
        if request.param == "bytes":
            return data
        path = tmp_path / f"model{suffix}"
        path.write_bytes(data)
        return path

    return hand_over


def test_litert_computes_the_quantized_layer_that_numpy_computes(given_as):
    session = open_session(given_as(tiny_tflite(WEIGHTS, BIAS), ".tflite"), "litert")
    assert session.inputs == (TensorSpec("image", "int8", (1, 8, 8, 3), 1.0, -128),)
    assert session.outputs == (TensorSpec("logits", "int8", (1, 3), 0.125, 0),)
    (got,) = session.run(PIXELS)
    scale = np.abs(WEIGHTS).max() / 127
    want = (PIXELS.reshape(1, -1) + 128.0) @ (np.rint(WEIGHTS / scale) * scale) + BIAS
    assert got.dtype == np.int8
    np.testing.assert_allclose(got * 0.125, np.clip(want, -16, 15.875), atol=0.125)
    session.close()


def test_onnx_computes_what_numpy_computes_for_any_batch(given_as):
    session = open_session(given_as(tiny_onnx(WEIGHTS, BIAS), ".onnx"), "onnx")
    assert session.inputs == (TensorSpec("image", "float32", (-1, 8, 8, 3)),)
    assert session.outputs == (TensorSpec("logits", "float32", (-1, 3)),)
    for n in (1, 5):
        x = np.random.default_rng(n).random((n, 8, 8, 3), np.float32)
        np.testing.assert_allclose(session.run(x)[0], x.reshape(n, -1) @ WEIGHTS + BIAS, rtol=1e-4, atol=1e-5)
    session.close()


@pytest.mark.parametrize("runtime", ["litert", "onnx"])
def test_answers_are_fresh_arrays_that_the_next_call_leaves_alone(runtime):
    if runtime == "litert":
        session, x = open_session(tiny_tflite(WEIGHTS, BIAS), runtime), PIXELS
    else:
        session, x = open_session(tiny_onnx(WEIGHTS, BIAS), runtime), PIXELS.astype(np.float32)
    first = session.run(x)[0]
    kept = first.copy()
    session.run(np.zeros_like(x))
    np.testing.assert_array_equal(first, kept)


@pytest.mark.parametrize("runtime", ["litert", "onnx"])
def test_a_tensor_that_is_not_contiguous_gives_the_same_answer(runtime):
    if runtime == "litert":
        session, x = open_session(tiny_tflite(WEIGHTS, BIAS), runtime), PIXELS
    else:
        session, x = open_session(tiny_onnx(WEIGHTS, BIAS), runtime), PIXELS.astype(np.float32)
    strided = np.repeat(x, 2, axis=2)[:, :, ::2]
    assert not strided.flags.c_contiguous
    np.testing.assert_array_equal(session.run(strided)[0], session.run(x)[0])


@pytest.mark.parametrize(
    ("shape", "dtype"),
    [((1, 8, 8, 1), None), ((8, 8, 3), None), ((1, 9, 8, 3), None), ((1, 8, 8, 3), "float64"), ((1, 8, 8, 3), "uint8")],
)
@pytest.mark.parametrize("runtime", ["litert", "onnx"])
def test_a_tensor_of_another_shape_or_type_is_refused_with_both_named(runtime, shape, dtype):
    data = tiny_tflite(WEIGHTS, BIAS) if runtime == "litert" else tiny_onnx(WEIGHTS, BIAS)
    session = open_session(data, runtime)
    x = np.zeros(shape, dtype or session.inputs[0].dtype)
    with pytest.raises(ModelError, match=rf"image takes {session.inputs[0].dtype}\[.*not {x.dtype}\["):
        session.run(x)


def test_a_fixed_batch_is_not_stretched():
    session = open_session(tiny_tflite(WEIGHTS, BIAS), "litert")
    with pytest.raises(ModelError, match="takes int8"):
        session.run(np.zeros((2, 8, 8, 3), np.int8))


@pytest.mark.parametrize("data", [b"", b"garbage" * 100, b"TFL3", bytes(1000)])
@pytest.mark.parametrize("runtime", ["litert", "onnx"])
def test_what_is_no_model_is_refused_on_one_line(runtime, data, given_as):
    with pytest.raises(ModelError, match="cannot load the model") as caught:
        open_session(given_as(data, ".bin"), runtime)
    assert "\n" not in str(caught.value)


MANGLE = """
import sys
import numpy as np
from edge_sdk.errors import ModelError
from edge_sdk.runtime import open_session

data = open(sys.argv[1], "rb").read()
rng = np.random.default_rng(0)
refused = 0
for n in range(400):
    mangled = bytearray(data)
    if n % 2:
        mangled = mangled[: rng.integers(0, len(data))]
    else:
        for _ in range(int(rng.integers(1, 30))):
            mangled[rng.integers(0, len(data))] = rng.integers(0, 256)
    try:
        session = open_session(bytes(mangled), sys.argv[2])
        session.close()
    except ModelError:
        refused += 1
print(refused)
"""


@pytest.mark.parametrize("runtime", ["litert", "onnx"])
def test_a_damaged_model_is_refused_and_never_ends_the_process(tmp_path, runtime):
    data = tiny_tflite(WEIGHTS, BIAS, softmax=True) if runtime == "litert" else tiny_onnx(WEIGHTS, BIAS)
    (tmp_path / "model").write_bytes(data)
    command = [sys.executable, "-P", "-c", MANGLE, str(tmp_path / "model"), runtime]
    done = subprocess.run(command, capture_output=True, text=True, timeout=500, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert int(done.stdout) > 100


def test_a_model_with_two_inputs_is_refused():
    add = helper.make_node("Add", ["a", "b"], ["y"])
    data = make_onnx([add], [floats("a", 1, 3), floats("b", 1, 3)], [floats("y", 1, 3)])
    with pytest.raises(ModelError, match="2 inputs; only models with one"):
        open_session(data, "onnx")


def test_a_model_with_text_for_input_is_refused():
    text = helper.make_tensor_value_info("x", TensorProto.STRING, [1])
    data = make_onnx(
        [helper.make_node("Identity", ["x"], ["y"])], [text], [onnx.ValueInfoProto(name="y", type=text.type)]
    )
    with pytest.raises(ModelError, match=r"tensor\(string\)"):
        open_session(data, "onnx")


def test_a_failure_while_running_is_a_model_error_and_leaves_the_session_usable(capfd):
    reshape = helper.make_node("Reshape", ["x", "to"], ["y"])
    graph = helper.make_graph(
        [reshape],
        "made",
        [floats("x", "n")],
        [floats("y", "m", 2)],
        [helper.make_tensor("to", TensorProto.INT64, [2], [-1, 2])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    session = open_session(model.SerializeToString(), "onnx")
    with pytest.raises(ModelError, match="ONNX Runtime failed") as caught:
        session.run(np.zeros(3, np.float32))
    assert "\n" not in str(caught.value)
    assert session.run(np.zeros(4, np.float32))[0].shape == (2, 2)
    assert capfd.readouterr().err == "", "the terminal is not ours to write to"


def test_a_runtime_that_is_not_there_is_named_with_those_that_are():
    with pytest.raises(ModelError, match="no runtime 'magic'; there are litert, onnx"):
        open_session(b"", "magic")


@pytest.mark.parametrize(
    ("runtime", "package", "extra"), [("litert", "ai_edge_litert", "litert"), ("onnx", "onnxruntime", "onnx")]
)
def test_a_runtime_that_is_not_installed_says_what_to_install(monkeypatch, runtime, package, extra):
    monkeypatch.delitem(sys.modules, f"edge_sdk.runtime.{runtime}", raising=False)
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.setitem(sys.modules, f"{package}.interpreter", None)
    with pytest.raises(MissingExtraError, match=rf"pip install 'edge-sdk\[{extra}\]'"):
        open_session(b"", runtime)


def test_an_execution_provider_that_is_not_there_is_refused(monkeypatch):
    monkeypatch.setenv("EDGE_SDK_ORT_PROVIDERS", "MoonExecutionProvider")
    with pytest.raises(ModelError, match="names MoonExecutionProvider; this onnxruntime has"):
        open_session(tiny_onnx(WEIGHTS, BIAS), "onnx")
    monkeypatch.setenv("EDGE_SDK_ORT_PROVIDERS", " CPUExecutionProvider ,")
    open_session(tiny_onnx(WEIGHTS, BIAS), "onnx").close()


FIRST = """
import os, sys
{before}
from edge_sdk.runtime import open_session
session = open_session(open(sys.argv[1], "rb").read(), "litert")
print(len(session.outputs))
"""


@pytest.mark.parametrize(
    "before",
    ["", "os.close(2)", "import tempfile; tempfile.tempdir = '/nowhere/at/all'"],
    ids=["usual", "daemon", "no-tmp"],
)
def test_the_first_model_loads_quietly_also_without_standard_error_or_temporary_folder(tmp_path, before):
    (tmp_path / "model").write_bytes(tiny_tflite(WEIGHTS, BIAS))
    command = [sys.executable, "-P", "-c", FIRST.format(before=before), str(tmp_path / "model")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=500, check=False, env=os.environ)
    assert (done.returncode, done.stdout) == (0, "1\n"), done.stderr
    if not before:
        assert done.stderr == ""


@pytest.fixture
def models():
    """A model of each runtime, and an input for it."""
    return {
        "litert": (tiny_tflite(WEIGHTS, BIAS), PIXELS),
        "onnx": (tiny_onnx(WEIGHTS, BIAS), PIXELS.astype(np.float32)),
    }


@pytest.mark.parametrize("runtime", ["litert", "onnx"])
def test_threads_auto_gives_a_session_that_answers_the_same(models, runtime):
    data, x = models[runtime]
    alone, tuned = open_session(data, runtime), open_session(data, runtime, threads="auto")
    for have, want in zip(tuned.run(x), alone.run(x), strict=True):
        np.testing.assert_allclose(have, want, atol=1e-5)


@pytest.mark.parametrize("threads", [0, -1, "many", 1.5])
def test_impossible_threads_are_refused(models, threads):
    with pytest.raises(InputError, match="threads is"):
        open_session(models["onnx"][0], "onnx", threads=threads)


def test_litert_runs_without_its_default_delegate(models):
    data, x = models["litert"]
    plain, default = open_session(data, "litert", delegate="none"), open_session(data, "litert")
    for have, want in zip(plain.run(x), default.run(x), strict=True):
        np.testing.assert_allclose(have.astype(float), want.astype(float), atol=1)


@pytest.mark.parametrize(("runtime", "delegate"), [("litert", "/nowhere/edgetpu.so"), ("onnx", "NoSuchProvider")])
def test_a_delegate_that_is_not_there_is_refused_by_name(models, runtime, delegate):
    with pytest.raises(ModelError, match=delegate.rpartition("/")[2]):
        open_session(models[runtime][0], runtime, delegate=delegate)
    with pytest.raises(InputError, match="delegate should be a name or a path as text, not int"):
        open_session(models[runtime][0], runtime, delegate=3)


def test_onnx_answers_the_same_in_every_turn_and_for_every_batch():
    session = open_session(tiny_onnx(WEIGHTS, BIAS), "onnx")
    rng = np.random.default_rng(2)
    kept = []
    for n in (1, 1, 2, 1, 2, 3, 4, 5, 5, 1):
        x = rng.normal(size=(n, 8, 8, 3)).astype(np.float32)
        (got,) = session.run(x)
        kept.append((got, x.reshape(n, -1) @ WEIGHTS + BIAS))
    for got, want in kept:  # an answer is the caller's: later runs do not change it
        np.testing.assert_allclose(got, want, atol=1e-5)


def test_onnx_still_refuses_another_dtype_after_a_shape_was_used():
    session = open_session(tiny_onnx(WEIGHTS, BIAS), "onnx")
    x = np.zeros((1, 8, 8, 3), np.float32)
    session.run(x)
    with pytest.raises(ModelError, match="float64"):
        session.run(x.astype(np.float64))
    column_major = np.asfortranarray(np.random.default_rng(3).normal(size=x.shape).astype(np.float32))
    np.testing.assert_allclose(session.run(column_major)[0], column_major.reshape(1, -1) @ WEIGHTS + BIAS, atol=1e-5)
