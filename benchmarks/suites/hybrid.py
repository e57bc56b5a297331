"""What a hybrid model costs over the edge model in it, where the edge's answer stands and nobody is asked.

The model is so small that it shows. The last task gives frames of a camera to a journal, which hashes
nothing that stays on the device.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from harness import Case, Task

if TYPE_CHECKING:
    from edge_sdk.bundle import Bundle

__all__ = ["tasks"]

Output = NDArray[Any]

SIDE, CLASSES = 8, 10
NOWHERE = "127.0.0.1:1"  # nobody is asked

_folders: list[tempfile.TemporaryDirectory[str]] = []  # removed when the process ends


@cache
def _bundle() -> Bundle:
    """Pack one dense layer with a policy that keeps every answer."""
    from onnx import TensorProto, helper, numpy_helper

    from edge_sdk.cascade.policy import Policy
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
    with tempfile.TemporaryDirectory() as folder:
        return pack(
            model.SerializeToString(),
            runtime="onnx",
            path=Path(folder) / "a.edge",
            name="dense",
            version="1.0.0",
            labels=tuple(f"class {n}" for n in range(CLASSES)),
            processing=ProcessingSpec.image(SIDE, SIDE, 3),
            output="logits",
            cascade=Policy(threshold=0.0).to_json(),
        )


def _calling(predict: Callable[[Output], Any], frame: Output) -> Callable[[], Output]:
    return lambda: np.array(predict(frame).scores)


def _edge(frame: Output) -> Callable[[], Output]:
    from edge_sdk.model import EdgeModel

    return _calling(EdgeModel(_bundle()).predict, frame)


def _hybrid(frame: Output, **options: Any) -> Callable[[], Output]:
    from edge_sdk.client import HybridModel
    from edge_sdk.model import EdgeModel

    return _calling(HybridModel(EdgeModel(_bundle()), NOWHERE, **options).predict, frame)


def _journal(frame: Output, **options: Any) -> Callable[[], Output]:
    from edge_sdk.client import Journal

    folder = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
    _folders.append(folder)
    return _hybrid(frame, journal=Journal(folder.name, queue=1_000_000), **options)


def tasks() -> tuple[Task, ...]:
    """Return a task for a small picture, where all is overhead, and one for a camera's frame."""
    rng = np.random.default_rng(1)
    made = []
    for name, height, width in (("small", SIDE, SIDE), ("1080p", 1080, 1920)):
        frame = rng.integers(0, 256, (height, width, 3)).astype(np.uint8)
        our = partial(Case, module="onnxruntime", pip="edge-sdk")
        made.append(
            Task(
                name,
                f"edge-sdk through HybridModel: a local answer to {height} × {width} RGB",
                (
                    our("EdgeModel", partial(_edge, frame), ours=True),
                    our("mode edge", partial(_hybrid, frame, mode="edge")),
                    our("mode hybrid", partial(_hybrid, frame)),
                    our(
                        "with audits",
                        partial(_hybrid, frame, audit_rate=1e-12),
                        note="the coin is tossed for every answer, and never says so",
                    ),
                    our("with a journal", partial(_journal, frame)),
                    our("with both", partial(_journal, frame, audit_rate=1e-12)),
                ),
                tolerance=0,
            )
        )
    return tuple(made)
