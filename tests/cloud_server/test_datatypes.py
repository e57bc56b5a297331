"""Every datatype of the protocol through the runtimes that have it, to the last bit, however often it is asked."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import numpy as np
import pytest

from edge_sdk.cloud.server.core import Core, Request
from edge_sdk.cloud.server.descriptions import model_metadata
from edge_sdk.cloud.server.models import load_model
from edge_sdk.cloud.server.responder import Responder
from edge_sdk.cloud.server.settings import Serving
from edge_sdk.errors import ModelError
from edge_sdk.protocol import add_input, messages, read_outputs, to_raw
from edge_sdk.runtime import open_session
from outside.bundles import tiny_images, train_tiny
from outside.models import identity_onnx
from outside.tflite import tiny_tflite

ONNX = {
    "BOOL": "BOOL",
    "BYTES": "STRING",
    "FP16": "FLOAT16",
    "FP32": "FLOAT",
    "FP64": "DOUBLE",
    **{f"{sign}INT{bits}": f"{sign}INT{bits}" for sign in ("", "U") for bits in (8, 16, 32, 64)},
}
TAKES, GIVES = messages.METHODS["ModelInfer"]


def values(datatype: str) -> np.ndarray:
    """Return six values, [3, 2], with the extreme ones among them."""
    if datatype == "BYTES":
        return np.array([[b"", b"a"], ["é".encode(), b"x" * 300], [b"\0", b"b c"]], object)
    if datatype == "BOOL":
        return np.array([[True, False], [False, False], [True, True]])
    if datatype.startswith("FP"):
        dtype = np.dtype(f"float{datatype[2:]}")
        limits = np.finfo(dtype)
        return np.array([[limits.max, limits.min], [limits.smallest_subnormal, -0.0], [np.nan, np.inf]], dtype)
    dtype = np.dtype(datatype.lower())
    limits = np.iinfo(dtype)
    return np.array([[limits.min, limits.max], [0, 1], [2, 3]], dtype)


@pytest.fixture(scope="module")
def core(tmp_path_factory):
    root = tmp_path_factory.mktemp("datatypes")
    for datatype, kind in ONNX.items():
        (root / datatype / "1").mkdir(parents=True)
        (root / datatype / "1" / "model.onnx").write_bytes(identity_onnx(kind, ["n", 2]))
    opened = Core.load([root])
    yield opened
    opened.close()


def respond(core: Core, model: str, x: np.ndarray, datatype: str | None = None) -> np.ndarray:
    request = TAKES(model_name=model)
    add_input(request, "x", x, datatype=datatype)

    async def story() -> list[bytes]:
        responder = Responder(core, max_concurrent=4)
        data = request.SerializeToString()
        return [await responder.respond(data, arrived=time.monotonic()) for _ in range(3)]

    answers = [read_outputs(GIVES.FromString(answer))["y"] for answer in asyncio.run(story())]
    for answer in answers[1:]:
        assert to_raw(answer) == to_raw(answers[0])
    return answers[0]


@pytest.mark.parametrize("datatype", ONNX)
def test_onnx_runtime_gives_back_every_value_of_a_datatype(core, datatype):
    about = model_metadata(core, datatype, "")
    assert [tensor["datatype"] for tensor in (*about["inputs"], *about["outputs"])] == [datatype] * 2
    x = values(datatype)
    y = respond(core, datatype, x)
    assert y.dtype == x.dtype
    assert to_raw(y) == to_raw(x)
    assert to_raw(respond(core, datatype, x[:1])) == to_raw(x[:1])


def test_bf16_is_taken_by_a_model_of_fp32(core):
    x = np.array([[1.5, -2.0], [1 + 2.0**-8, 0.0]], np.float32)
    assert respond(core, "FP32", x, "BF16").tolist() == [[1.5, -2.0], [1.0, 0.0]]


def test_a_model_of_tensors_that_the_protocol_cannot_hold_is_refused_in_one_line(tmp_path):
    for kind in ("COMPLEX64", "BFLOAT16"):
        (tmp_path / "model.onnx").write_bytes(identity_onnx(kind, ["n", 2]))
        with pytest.raises(ModelError) as raised:
            load_model(tmp_path / "model.onnx")
        assert "\n" not in str(raised.value)


def test_a_tflite_file_is_served_one_item_after_the_other(tmp_path: Path):
    """Int8 in and out, and no axis that is open: LiteRT itself takes one at a time."""
    from edge_sdk.processing import ProcessingSpec

    weights, bias = train_tiny(ProcessingSpec.image(8, 8, 3))
    path = tmp_path / "tiny.tflite"
    path.write_bytes(tiny_tflite(weights, bias))
    x = (tiny_images(5, 1, 8)[0].astype(np.int16) - 128).astype(np.int8)
    session = open_session(path, "litert")
    want = np.concatenate([session.run(x[n : n + 1])[0] for n in range(5)])
    opened = Core.load([path], Serving(models={"tiny": {"instances": 2}}))
    try:
        about = model_metadata(opened, "tiny", "")
        assert (about["platform"], about["inputs"][0]["datatype"]) == ("tensorflow_lite", "INT8")
        name = about["inputs"][0]["name"]

        async def ask() -> list[np.ndarray]:
            asked = [x, x[:1], x[2:4]]
            answers = [opened.infer(Request("tiny", "", {name: one}, "tensor", None)) for one in asked]
            return [next(iter(answer.outputs.values())) for answer in await asyncio.gather(*answers)]

        every, first, some = asyncio.run(ask())
        np.testing.assert_array_equal(every, want)
        np.testing.assert_array_equal(first, want[:1])
        np.testing.assert_array_equal(some, want[2:4])
    finally:
        opened.close()
