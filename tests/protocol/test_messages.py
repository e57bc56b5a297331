"""The messages: the protocol's own numbers, in a pool that collides with nobody."""

from __future__ import annotations

import subprocess
import sys
from importlib import resources
from pathlib import Path

import numpy as np
import pytest

from edge_sdk.protocol import add_input, messages, read_inputs, set_parameter

HOME = Path(str(resources.files("edge_sdk.protocol")))


@pytest.mark.parametrize("name", ["feedback", "inference", "health", "reflection"])
def test_the_compiled_descriptor_is_that_of_the_proto_file(tmp_path: Path, name: str) -> None:
    pytest.importorskip("grpc_tools")
    from google.protobuf import descriptor_pb2

    out = tmp_path / f"{name}.desc"
    subprocess.run(
        [sys.executable, "-m", "grpc_tools.protoc", f"-I{HOME}", f"--descriptor_set_out={out}", f"{name}.proto"],
        check=True,
    )
    fresh = descriptor_pb2.FileDescriptorSet.FromString(out.read_bytes())
    committed = descriptor_pb2.FileDescriptorSet.FromString((HOME / f"{name}.desc").read_bytes())
    assert fresh == committed, "run `make proto`"


def test_names_numbers_and_types_are_those_of_triton() -> None:
    triton = pytest.importorskip("tritonclient.grpc")
    theirs = {
        **triton.service_pb2.DESCRIPTOR.message_types_by_name,
        **triton.model_config_pb2.DESCRIPTOR.message_types_by_name,
    }
    ours = messages.ModelInferRequest.DESCRIPTOR.file.message_types_by_name

    def compare(mine, other) -> None:
        for field in mine.fields:
            if field.full_name == "inference.ModelMetadataResponse.properties":
                assert field.number == 6  # of the Open Inference Protocol; Triton has no such field
                continue
            match = other.fields_by_name[field.name]
            assert (field.number, field.type) == (match.number, match.type), field.full_name
        for nested in mine.nested_types:
            if nested.name != "PropertiesEntry":
                compare(nested, other.nested_types_by_name[nested.name])
        for enum in mine.enum_types:
            assert numbers(enum) == numbers(other.enum_types_by_name[enum.name])

    def numbers(enum) -> dict[str, int]:
        return {value.name: value.number for value in enum.values}

    for name, message in ours.items():
        compare(message, theirs[name])
    data_types = messages.ModelInferRequest.DESCRIPTOR.file.enum_types_by_name["DataType"]
    assert numbers(data_types) == numbers(triton.model_config_pb2.DESCRIPTOR.enum_types_by_name["DataType"])


@pytest.mark.parametrize("order", ["edge_sdk.protocol, tritonclient.grpc", "tritonclient.grpc, edge_sdk.protocol"])
def test_ours_and_tritonclient_work_in_one_process(order: str) -> None:
    pytest.importorskip("tritonclient.grpc")
    program = f"""
import {order}
import numpy as np
from edge_sdk.protocol import add_input, messages, read_inputs
from tritonclient.grpc import InferInput, service_pb2
request = messages.ModelInferRequest(model_name="m", id="7")
add_input(request, "x", np.arange(6, dtype=np.float32).reshape(2, 3))
theirs = service_pb2.ModelInferRequest.FromString(request.SerializeToString())
assert (theirs.model_name, theirs.id, list(theirs.inputs[0].shape)) == ("m", "7", [2, 3])
back = messages.ModelInferRequest.FromString(theirs.SerializeToString())
assert back == request
assert (read_inputs(back)["x"] == np.arange(6).reshape(2, 3)).all()
"""
    done = subprocess.run([sys.executable, "-P", "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_parameters_keep_their_kind() -> None:
    from edge_sdk.protocol import read_parameters

    request = messages.ModelInferRequest()
    values = {"text": "jpeg", "count": -3, "share": 0.5, "flag": True}
    for name, value in values.items():
        set_parameter(request.parameters, name, value)
    _ = request.parameters["unset"]
    assert read_parameters(messages.ModelInferRequest.FromString(request.SerializeToString()).parameters) == values


def test_arrays_of_a_message_are_views_that_cannot_be_written() -> None:
    request = messages.ModelInferRequest()
    add_input(request, "x", np.zeros((2, 2), np.uint8))
    assert not read_inputs(request)["x"].flags.writeable


def test_rewards_are_told_in_a_service_of_their_own() -> None:
    from edge_sdk.protocol import feedback

    (method,) = messages.POOL.FindServiceByName(feedback.FEEDBACK).methods
    assert (method.name, method.input_type.full_name) == ("Reward", "edge_sdk.RewardRequest")
    told = feedback.RewardRequest(model_name="m", model_version="3", decision_id="d", reward=0.25)
    assert feedback.RewardRequest.FromString(told.SerializeToString()) == told
