"""Bundles of other tasks than classification are served: their tensors, as captured or processed."""

from __future__ import annotations

import asyncio
from pathlib import Path

import numpy as np
import pytest

import edge_sdk
from edge_sdk.bundle import Detector
from edge_sdk.cloud.server.core import Core, Request
from edge_sdk.packing import pack
from edge_sdk.processing import Color, Layout, Normalize, ProcessingSpec, Resize
from outside.detectors import SIDE, embedder_onnx, ssd_onnx, yolo_onnx

SPEC = ProcessingSpec((Color("rgb"), Resize(SIDE, SIDE), Normalize((0.0,) * 3, (255.0,) * 3), Layout("NCHW")))
SSD = Detector("ssd", normalized=True, order="yx", background=True)
MODELS = {
    "detection": (yolo_onnx(), {"task": "detection", "detection": Detector("yolo"), "labels": ("red", "green")}),
    "detection of two outputs": (
        ssd_onnx(offsets=False),
        {"task": "detection", "detection": SSD, "labels": ("red", "green")},
    ),
    "embedding": (embedder_onnx(), {"task": "embedding", "labels": ()}),
    "regression": (embedder_onnx(), {"task": "regression", "labels": ()}),
}


@pytest.mark.parametrize("name", MODELS)
def test_a_server_gives_the_tensors_that_a_device_computes(name: str, tmp_path: Path) -> None:
    model, options = MODELS[name]
    path = tmp_path / "m.edge"
    pack(model, path=path, name="m", version="1.0.0", runtime="onnx", processing=SPEC, **options)
    frames = np.random.default_rng(0).integers(0, 256, (3, 40, 50, 3), np.uint8)
    with edge_sdk.load(path) as device:
        want = [device.run(device.processor(frame)) for frame in frames]
    core = Core.load([path])
    try:
        served = core.model("m")
        assert served.properties["edge_task"] == options["task"]
        answer = asyncio.run(core.infer(Request("m", "", {served.inputs[0].name: frames}, "captured", None)))
    finally:
        core.close()
    for index, output in enumerate(answer.outputs.values()):
        np.testing.assert_allclose(output, np.concatenate([one[index] for one in want]), atol=1e-5)
