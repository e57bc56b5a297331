"""Many threads ask the cloud at once: in few messages of many rows, or in one call an item.

Every case asks the same `edge-sdk serve`, in a process of its own, about the same pictures; a sample is the
time of all callers together. The model is so small that it shows what asking costs. The last peer is gRPC alone:
a request that was made once, and an answer that nobody reads.
"""

from __future__ import annotations

import atexit
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness import Case, Task

__all__ = ["ITEMS", "server_pid", "tasks"]

SIDE, CLASSES, ITEMS = 32, 10, 48
FRONT = ["--front", "fast"]  # who speaks gRPC there

Answers = NDArray[np.float32]


@cache
def _bundle() -> Path:
    """Pack one dense layer for pictures of 32 × 32 pixels; return the file, which stays until this process ends."""
    from onnx import TensorProto, helper, numpy_helper

    from edge_sdk.packing import pack
    from edge_sdk.processing import ProcessingSpec

    weights = np.random.default_rng(0).normal(size=(SIDE * SIDE * 3, CLASSES)).astype(np.float32)
    graph = helper.make_graph(
        [helper.make_node("Flatten", ["x"], ["flat"]), helper.make_node("MatMul", ["flat", "weights"], ["y"])],
        "dense",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", SIDE, SIDE, 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", CLASSES])],
        [numpy_helper.from_array(weights, "weights")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    folder = tempfile.TemporaryDirectory(prefix="coalescing-")
    atexit.register(folder.cleanup)
    path = Path(folder.name) / "dense.edge"
    pack(
        model.SerializeToString(),
        runtime="onnx",
        path=path,
        name="dense",
        version="1.0.0",
        labels=tuple(f"class {n}" for n in range(CLASSES)),
        processing=ProcessingSpec.image(SIDE, SIDE, 3),
        output="logits",
    )
    return path


@cache
def _started() -> tuple[str, int]:
    """Start a server that ends with this process; return its address and process number."""
    command = [sys.executable, "-P", "-m", "edge_sdk", "serve", str(_bundle()), *FRONT, "--grpc-port", "0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    atexit.register(process.wait)
    atexit.register(process.terminate)
    assert process.stdout is not None
    found = re.search(r"grpc=(\S+)", process.stdout.readline())
    assert found is not None, "the server does not start"
    return found[1], process.pid


def _server() -> str:
    return _started()[0]


def server_pid() -> int:
    """Return the process number of the server that all cases ask."""
    return _started()[1]


@cache
def _frames(callers: int) -> list[NDArray[np.uint8]]:
    return list(np.random.default_rng(1).integers(0, 256, (callers * ITEMS, SIDE, SIDE, 3), dtype=np.uint8))


def _crowd(callers: int, ask: Callable[[NDArray[np.uint8]], Answers]) -> Callable[[], Answers]:
    """Return what has threads ask, each about its pictures in turn, and returns all answers."""
    pool = ThreadPoolExecutor(callers)
    frames = _frames(callers)

    def one(at: int) -> list[Answers]:
        return [ask(frame) for frame in frames[at : at + ITEMS]]

    def call() -> Answers:
        return np.concatenate(list(pool.map(one, range(0, len(frames), ITEMS))))

    return call


def _model(callers: int, *, coalesce: bool) -> Callable[[], Answers]:
    import edge_sdk
    from edge_sdk.client import Cloud

    cloud = Cloud(_server(), coalesce=coalesce)
    model = edge_sdk.connect(_bundle(), cloud=cloud, mode="cloud", deadline=None)
    return _crowd(callers, lambda frame: np.array([model.predict(frame).scores], np.float32))


def _grpc(callers: int) -> Callable[[], Answers]:
    import grpc

    from edge_sdk.protocol import ENCODING_PARAMETER, add_input, messages, set_parameter
    from edge_sdk.protocol.names import SERVICE

    ask = grpc.insecure_channel(_server()).unary_unary(f"/{SERVICE}/ModelInfer")
    requests: dict[int, bytes] = {}
    for frame in _frames(callers):
        request = messages.ModelInferRequest(model_name="dense")
        add_input(request, "x", frame)
        set_parameter(request.parameters, ENCODING_PARAMETER, "captured")
        requests[id(frame)] = request.SerializeToString()
    nothing = np.zeros((1, CLASSES), np.float32)

    def one(frame: NDArray[np.uint8]) -> Answers:
        ask(requests[id(frame)])
        return nothing

    return _crowd(callers, one)


def tasks() -> tuple[Task, ...]:
    """Return one task per number of callers."""
    made = []
    for callers in (1, 8, 32):
        cases: list[Any] = [
            Case("edge-sdk", partial(_model, callers, coalesce=True), pip="edge-sdk", ours=True),
            Case("edge-sdk, a call an item", partial(_model, callers, coalesce=False), pip="edge-sdk"),
            Case(
                "grpcio, a call an item",
                partial(_grpc, callers),
                module="grpc",
                pip="grpcio",
                tolerance=float("inf"),
                note="request made before, answer not read",
            ),
        ]
        what = f"{callers} threads ask about {ITEMS} pictures each, {callers * ITEMS} together"
        made.append(Task(f"{callers} callers", what, tuple(cases), tolerance=1e-5))
    return tuple(made)
