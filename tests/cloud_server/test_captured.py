"""Clips, rows and windows are taken as captured, one in a request or several."""

from __future__ import annotations

from pathlib import Path

import grpc
import numpy as np
import pytest

import edge_sdk
from edge_sdk.packing import pack
from edge_sdk.processing import ProcessingSpec, samples
from edge_sdk.protocol import add_input, messages, read_outputs, set_parameter
from outside.classifiers import linear_onnx

SPECS = {
    "row": ProcessingSpec.table(["heat", "mode"], categories={"mode": ["idle", "run"]}, impute=20, mean=20, std=5),
    "window": ProcessingSpec.sensor(["x", "y"], 16, std=2),
    "clip": ProcessingSpec.audio(1600, sample_rate=8000, frame_length=200, frame_step=80, fft_length=256, mels=8),
}


@pytest.fixture(scope="module", params=SPECS)
def bundle(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    name, spec = request.param, SPECS[request.param]
    path = tmp_path_factory.mktemp(name) / f"{name}.edge"
    model = linear_onnx(spec.output_shape, 2)
    pack(
        model,
        path=path,
        name=name,
        version="1.0.0",
        labels=("calm", "odd"),
        processing=spec,
        output="logits",
        runtime="onnx",
    )
    return path


def test_several_captured_inputs_of_a_request_are_answered_as_one_at_a_time(bundle: Path, service) -> None:
    with edge_sdk.load(bundle) as model:
        spec, name = model.processor.spec, model.name
        inputs = np.stack(samples(spec, 5))
        want = np.concatenate([model.run(model.processor(x))[0] for x in inputs])
    address = service("serve", bundle, "--grpc-port", "0").ready["grpc"]
    takes, gives = messages.METHODS["ModelInfer"]
    with grpc.insecure_channel(address) as channel:
        infer = channel.unary_unary(
            "/inference.GRPCInferenceService/ModelInfer", takes.SerializeToString, gives.FromString
        )
        described = channel.unary_unary(
            "/inference.GRPCInferenceService/ModelMetadata",
            messages.ModelMetadataRequest.SerializeToString,
            messages.ModelMetadataResponse.FromString,
        )(messages.ModelMetadataRequest(name=name), timeout=20)

        def ask(array: np.ndarray) -> np.ndarray:
            request = messages.ModelInferRequest(model_name=name)
            add_input(request, described.inputs[0].name, array)
            set_parameter(request.parameters, "edge_encoding", "captured")
            (answer,) = read_outputs(infer(request, timeout=20)).values()
            return answer

        assert ask(inputs) == pytest.approx(want, abs=1e-6)
        assert ask(inputs[:1]) == pytest.approx(want[:1], abs=1e-6)
        assert ask(inputs[2]) == pytest.approx(want[2:3], abs=1e-6)
        many = np.repeat(inputs[:1], 257, axis=0)
        for wrong, says in ((inputs[:0], "empty"), (many, "256 items"), (inputs[np.newaxis], "need|should")):
            with pytest.raises(grpc.RpcError, match=says) as caught:
                ask(wrong)
            assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
