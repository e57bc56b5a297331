"""Packs models with golden answers, and holds another machine to them.

``make`` packs on this machine: a dense layer in int8 and a convolution in floating point, both made here, and, where
``EDGE_SDK_DATA`` names the folder of third-party data, networks of MLPerf Tiny. ``check`` verifies what is in a folder.
"""

import os
import sys
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
THIRD_PARTY = {"resnet-int8": "pretrainedResnet_quant.tflite", "resnet-float": "pretrainedResnet.tflite"}
LABELS = ("red", "green", "blue")


def convolution(rng):
    """Return an ONNX model: two convolutions, the second by channel, a pooling and a dense layer."""
    from onnx import TensorProto, helper, numpy_helper

    shapes = {"a": (16, 3, 3, 3), "b": (16, 1, 3, 3), "c": (16, 3)}
    values = {name: rng.normal(0, 0.4, shape).astype(np.float32) for name, shape in shapes.items()}
    nodes = [
        helper.make_node("Transpose", ["image"], ["first"], perm=[0, 3, 1, 2]),
        helper.make_node("Conv", ["first", "a"], ["wide"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["wide"], ["rectified"]),
        helper.make_node("Conv", ["rectified", "b"], ["each"], group=16, strides=[2, 2]),
        helper.make_node("GlobalAveragePool", ["each"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["flat"]),
        helper.make_node("MatMul", ["flat", "c"], ["logits"]),
    ]
    graph = helper.make_graph(
        nodes,
        "convolution",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", 48, 48, 3])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", 3])],
        [numpy_helper.from_array(value, name) for name, value in values.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9).SerializeToString()


def make(folder):
    """Pack the bundles into a folder."""
    from edge_sdk import ProcessingSpec, pack

    sys.path.insert(0, str(ROOT / "tests/fixtures"))
    from outside.tflite import tiny_tflite

    rng = np.random.default_rng(0)
    frames = [rng.integers(0, 256, (60, 80, 3), np.uint8) for _ in range(4)]
    dense = tiny_tflite(rng.normal(0, 0.01, (192, 3)), np.zeros(3))
    made = {
        "dense": (dense, "litert", LABELS, ProcessingSpec.image(8, 8, 3, std=1.0), "logits"),
        "convolution": (convolution(rng), "onnx", LABELS, ProcessingSpec.image(48, 48, 3), "logits"),
    }
    data = Path(os.environ.get("EDGE_SDK_DATA", "")) / "mlperf_tiny"
    for name, file in THIRD_PARTY.items():
        if (data / file).is_file():
            spec = ProcessingSpec.image(32, 32, 3, std=1.0)
            made[name] = (data / file, "litert", tuple(map(str, range(10))), spec, "probabilities")
    for name, (model, runtime, labels, processing, output) in made.items():
        pack(
            model,
            runtime=runtime,
            name=name,
            version="1.0.0",
            labels=labels,
            processing=processing,
            output=output,
            golden_inputs=frames,
            path=folder / f"{name}.edge",
        )


def check(folder):
    """Verify the bundles of a folder, and say how far off they are; the first that does not hold raises its error."""
    from edge_sdk.bundle import Bundle
    from edge_sdk.verification import verify

    for path in sorted(folder.glob("*.edge")):
        bundle = Bundle.open(path)
        found, runtime = verify(bundle), bundle.manifest.artifacts[0].runtime
        off = f"inputs by {found['processed_error']:.2g}, answers by {found['output_error']:.2g}"
        allowed = bundle.manifest.golden.output_atol
        print(f"golden answers of {path.stem} hold on {runtime}: off, {off} of {allowed:.2g}", flush=True)


if __name__ == "__main__":
    {"make": make, "check": check}[sys.argv[1]](Path(sys.argv[2]))
