"""What a session and a model of ours cost over the runtime beneath them, on models so small that it shows.

The ONNX model is made here; the ``.tflite`` is ``ad01_int8.tflite`` of MLPerf Tiny, from the folder in
``EDGE_SDK_DATA``, and its tasks are left out where the folder is not.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

from harness import Case, Task

if TYPE_CHECKING:
    from edge_sdk.bundle import Bundle

__all__ = ["tasks"]

Output = NDArray[Any]
Call = Callable[[], Output]

FEATURES, CLASSES = 64, 10


def _onnx_model() -> bytes:
    from onnx import TensorProto, helper, numpy_helper

    rng = np.random.default_rng(0)
    weights = rng.normal(size=(FEATURES, CLASSES)).astype(np.float32)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "weights"], ["y"])],
        "dense",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", FEATURES])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", CLASSES])],
        [numpy_helper.from_array(weights, "weights")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    return cast("bytes", model.SerializeToString())


def _onnxruntime(x: Output) -> Call:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(_onnx_model(), options, providers=["CPUExecutionProvider"])
    return lambda: cast("Output", session.run(None, {"x": x})[0])


def _ours_onnx(x: Output) -> Call:
    from edge_sdk.runtime import open_session

    session = open_session(_onnx_model(), "onnx")
    return lambda: session.run(x)[0]


def _interpreter(model: Path, x: Output) -> Call:
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_path=str(model), num_threads=1)
    interpreter.allocate_tensors()
    into, out = interpreter.get_input_details()[0]["index"], interpreter.get_output_details()[0]["index"]

    def call() -> Output:
        interpreter.set_tensor(into, x)
        interpreter.invoke()
        return cast("Output", interpreter.get_tensor(out))

    return call


def _ours_litert(model: Path, x: Output) -> Call:
    from edge_sdk.runtime import open_session

    session = open_session(model, "litert")
    return lambda: session.run(x)[0]


def _dequantized(model: Path, x: Output) -> Call:
    call, output = _interpreter(model, x), _bundle(model).manifest.artifacts[0].outputs[0]
    scale, zero_point = np.float32(output.scale or 1.0), output.zero_point or 0
    return lambda: cast("Output", (call().astype(np.float32) - zero_point) * scale)


@cache
def _bundle(model: Path) -> Bundle:
    from edge_sdk.packing import pack
    from edge_sdk.processing import Columns, ProcessingSpec

    spec = ProcessingSpec((Columns(tuple(f"bin {n}" for n in range(640))),))
    with tempfile.TemporaryDirectory() as folder:
        return pack(
            model, path=Path(folder) / "a.edge", name="ad01", version="1.0.0", task="regression", processing=spec
        )


def _ours_run(model: Path, x: Output) -> Call:
    from edge_sdk.model import EdgeModel

    loaded = EdgeModel(_bundle(model))
    return lambda: loaded.run(x)[0]


def _ours_answer(model: Path, x: Output) -> Call:
    from edge_sdk.model import EdgeModel

    loaded = EdgeModel(_bundle(model))
    return lambda: cast("Output", loaded.predict_tensor(x)[0][None])


def tasks() -> tuple[Task, ...]:
    """Return a task for each runtime whose model is at hand."""
    x = np.random.default_rng(1).normal(size=(1, FEATURES)).astype(np.float32)
    made = [
        Task(
            "onnx",
            f"one dense layer {FEATURES} → {CLASSES} in ONNX Runtime",
            (
                Case("edge-sdk", partial(_ours_onnx, x), module="onnxruntime", pip="edge-sdk", ours=True),
                Case("session.run", partial(_onnxruntime, x), module="onnxruntime", pip="onnxruntime"),
            ),
            tolerance=1e-5,
        )
    ]
    model = Path(os.environ.get("EDGE_SDK_DATA", "")) / "mlperf_tiny" / "ad01_int8.tflite"
    if model.is_file():
        vector = np.random.default_rng(2).integers(-128, 128, (1, 640)).astype(np.int8)
        peer = partial(Case, module="ai_edge_litert", pip="ai-edge-litert")
        our = partial(Case, module="ai_edge_litert", pip="edge-sdk")
        made += [
            Task(
                "litert",
                "ad01_int8.tflite in LiteRT, int8 out",
                (
                    our("EdgeModel.run", partial(_ours_run, model, vector), ours=True),
                    our("our session", partial(_ours_litert, model, vector)),
                    peer("interpreter", partial(_interpreter, model, vector)),
                ),
                tolerance=0,
            ),
            Task(
                "answer",
                "ad01_int8.tflite in LiteRT, dequantized",
                (
                    our(
                        "EdgeModel.predict_tensor",
                        partial(_ours_answer, model, vector),
                        ours=True,
                        note="with timing, digest and decision id",
                    ),
                    peer("interpreter + NumPy", partial(_dequantized, model, vector)),
                ),
                tolerance=1e-4,
            ),
        ]
    return tuple(made)
