"""What a session of ours costs over the runtime beneath it, on models so small that it shows.

The ONNX model is made here; the ``.tflite`` is ``ad01_int8.tflite`` of MLPerf Tiny, from the folder in
``EDGE_SDK_DATA``, and that task is left out where the folder is not.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from harness import Case, Task

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
        ours = partial(_ours_litert, model, vector)
        made.append(
            Task(
                "litert",
                "ad01_int8.tflite in LiteRT",
                (
                    Case("edge-sdk", ours, module="ai_edge_litert", pip="edge-sdk", ours=True),
                    Case(
                        "interpreter",
                        partial(_interpreter, model, vector),
                        module="ai_edge_litert",
                        pip="ai-edge-litert",
                    ),
                ),
                tolerance=0,
            )
        )
    return tuple(made)
