"""Requests to a real server: any client of the protocol is served, and nonsense is refused clearly."""

from __future__ import annotations

import contextlib
import io
import json
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import numpy as np
import pytest

import edge_sdk
from edge_sdk.cloud.server.core import Core
from edge_sdk.errors import InputError
from edge_sdk.processing import DeviceProcessor
from edge_sdk.processing.resizing import first_half
from edge_sdk.protocol import add_input, messages, read_outputs, read_parameters, set_parameter
from outside.bundles import SIDE, TinyBundle, tiny_onnx
from outside.frames import begun_infer, frame, frames
from outside.models import identity_onnx

Call = Callable[..., object]


@pytest.fixture
def call(server: str) -> Iterator[Call]:
    """Return a function that calls a method of the server with a message."""
    with grpc.insecure_channel(server, [("grpc.max_send_message_length", -1)]) as channel:

        def run(method: str, request: object, timeout: float = 20) -> object:
            takes, gives = messages.METHODS[method]
            stub = channel.unary_unary(
                f"/inference.GRPCInferenceService/{method}", takes.SerializeToString, gives.FromString
            )
            return stub(request, timeout=timeout)

        yield run


def request(array: np.ndarray, *, model: str = "tiny", name: str = "image", **parameters: object) -> object:
    message = messages.ModelInferRequest(model_name=model)
    add_input(message, name, array)
    for key, value in parameters.items():
        set_parameter(message.parameters, key, value)
    return message


def as_bytes(*items: bytes) -> np.ndarray:
    array = np.empty(len(items), object)
    array[:] = items
    return array


def jpeg(frame: np.ndarray) -> bytes:
    from PIL import Image

    stream = io.BytesIO()
    Image.fromarray(frame).save(stream, "JPEG")
    return stream.getvalue()


def softmax(logits: np.ndarray) -> np.ndarray:
    weights = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return weights / weights.sum(axis=-1, keepdims=True)


def test_an_unmodified_triton_client_is_served(server: str, tiny_edge_bundle: TinyBundle) -> None:
    triton = pytest.importorskip("tritonclient.grpc")
    with edge_sdk.load(tiny_edge_bundle.path) as model, triton.InferenceServerClient(server) as client:
        assert client.is_server_live()
        assert client.is_server_ready()
        assert client.is_model_ready("tiny")
        assert not client.is_model_ready("other")
        assert client.get_server_metadata().name == "edge-sdk"
        metadata = client.get_model_metadata("tiny", as_json=True)
        assert metadata["inputs"] == [{"name": "image", "datatype": "FP32", "shape": ["-1", "8", "8", "3"]}]
        assert [m.name for m in client.get_model_repository_index().models] == ["tiny"]
        x = np.concatenate([model.processor(image) for image in tiny_edge_bundle.images[:5]])
        tensor = triton.InferInput("image", list(x.shape), "FP32")
        tensor.set_data_from_numpy(x)
        result = client.infer("tiny", [tensor], request_id="42", outputs=[triton.InferRequestedOutput("logits")])
        assert softmax(result.as_numpy("logits")) == pytest.approx(model.infer_tensor(x), abs=1e-6)
        assert result.get_response().id == "42"
        with (
            pytest.raises(triton.InferenceServerException)
            if hasattr(triton, "InferenceServerException")
            else (pytest.raises(Exception, match="NOT_FOUND"))
        ):
            client.infer("other", [tensor])


def test_captured_and_jpeg_inputs_are_processed_on_the_server(call: Call, tiny_edge_bundle: TinyBundle) -> None:
    images = tiny_edge_bundle.images[:3]
    with edge_sdk.load(tiny_edge_bundle.path) as model:
        expected = np.stack([model.infer(image).probabilities for image in images])
        compressed = np.stack([model.infer(jpeg(image)).probabilities for image in images])
    for array, encoding, want in (
        (images, "captured", expected),
        (images[0], "captured", expected[:1]),
        (as_bytes(*map(jpeg, images)), "jpeg", compressed),
    ):
        response = call("ModelInfer", request(array, edge_encoding=encoding))
        assert softmax(read_outputs(response)["logits"]) == pytest.approx(want, abs=1e-6)


def test_pictures_that_were_made_small_on_the_device_are_processed_from_there(
    call: Call, tiny_edge_bundle: TinyBundle
) -> None:
    frames = np.random.default_rng(0).integers(0, 256, (3, 40, 30, 3), dtype=np.uint8)
    with edge_sdk.load(tiny_edge_bundle.path) as model:
        half = DeviceProcessor(first_half(model.processor.spec))
        small = half.batch(list(frames))
        expected = np.stack([model.infer(frame).probabilities for frame in small])
    assert small.shape == (3, SIDE, SIDE, 3)
    for array, want in ((small, expected), (small[0], expected[:1])):
        response = call("ModelInfer", request(array, edge_encoding="resized"))
        assert softmax(read_outputs(response)["logits"]) == pytest.approx(want, abs=1e-6)
    for wrong, why in ((frames, "is UINT8"), (small.astype(np.int8), "is UINT8"), (small[:, :4], "is UINT8")):
        with pytest.raises(grpc.RpcError, match=why) as refused:
            call("ModelInfer", request(wrong, edge_encoding="resized"))
        assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT


def test_an_answer_names_the_model_that_gave_it(call: Call, tiny_edge_bundle: TinyBundle) -> None:
    response = call("ModelInfer", request(tiny_edge_bundle.images[0], edge_encoding="captured"))
    with edge_sdk.load(tiny_edge_bundle.path) as model:
        assert read_parameters(response.parameters)["edge_model_digest"] == model.digest
        assert (response.model_name, response.model_version) == ("tiny", "1.0.0")


def test_metadata_say_what_a_client_must_know(call: Call, tiny_edge_bundle: TinyBundle) -> None:
    properties = call("ModelMetadata", messages.ModelMetadataRequest(name="tiny")).properties
    assert properties["edge_encodings"] == "captured,jpeg,resized,tensor"
    assert json.loads(properties["edge_labels"]) == list(tiny_edge_bundle.classes)
    assert properties["edge_outputs"] == "logits"
    assert properties["edge_model_digest"].startswith("sha256:")
    assert edge_sdk.ProcessingSpec.from_json(json.loads(properties["edge_processing"])).output_shape == (
        1,
        SIDE,
        SIDE,
        3,
    )


def test_typed_contents_are_as_good_as_raw_ones(call: Call) -> None:
    message = messages.ModelInferRequest(model_name="tiny")
    tensor = message.inputs.add(name="image", datatype="FP32", shape=[1, SIDE, SIDE, 3])
    tensor.contents.fp32_contents.extend([0.5] * (SIDE * SIDE * 3))
    raw = request(np.full((1, SIDE, SIDE, 3), 0.5, np.float32))
    assert call("ModelInfer", message).raw_output_contents == call("ModelInfer", raw).raw_output_contents


def jpeg_that_says_it_is(side: int) -> bytes:
    data = bytearray(jpeg(np.zeros((16, 16, 3), np.uint8)))
    at = data.index(b"\xff\xc0")
    data[at + 5 : at + 9] = side.to_bytes(2, "big") * 2
    return bytes(data)


GOOD = np.zeros((1, SIDE, SIDE, 3), np.float32)
FRAME = np.zeros((24, 24, 3), np.uint8)
# in Triton's words, which its users look for
OTHER_DATATYPE = "inference input 'image' data-type is 'FP64', but model 'tiny' expects 'FP32'"
OTHER_SHAPE = r"unexpected shape for input 'image' for model 'tiny'. Expected \[-1,8,8,3\]"
REFUSED = {
    "an unknown model": (
        request(GOOD, model="other"),
        "NOT_FOUND",
        "Request for unknown model: 'other' is not found",
    ),
    "no model name": (request(GOOD, model=""), "NOT_FOUND", "unknown model"),
    "another dtype": (
        request(GOOD.astype(np.float64)),
        "INVALID_ARGUMENT",
        OTHER_DATATYPE,
    ),
    "another shape": (request(np.zeros((1, 4, 4, 3), np.float32)), "INVALID_ARGUMENT", "got \\[1,4,4,3\\]"),
    "another rank": (
        request(np.zeros(192, np.float32)),
        "INVALID_ARGUMENT",
        OTHER_SHAPE,
    ),
    "a scalar": (
        request(np.float32(1) * np.ones((), np.float32)),
        "INVALID_ARGUMENT",
        OTHER_SHAPE,
    ),
    "no items": (request(GOOD[:0]), "INVALID_ARGUMENT", "empty"),
    "too many items": (request(np.zeros((257, SIDE, SIDE, 3), np.float32)), "INVALID_ARGUMENT", "batch-size must be"),
    "another input name": (
        request(GOOD, name="x"),
        "INVALID_ARGUMENT",
        "unexpected inference input 'x' for",
    ),
    "an unknown encoding": (request(GOOD, edge_encoding="png"), "INVALID_ARGUMENT", "not offered"),
    "an encoding that is a number": (request(GOOD, edge_encoding=7), "INVALID_ARGUMENT", "is a string"),
    "a float picture": (request(GOOD, edge_encoding="captured"), "INVALID_ARGUMENT", "UINT8"),
    "a flat picture": (request(np.zeros(9, np.uint8), edge_encoding="captured"), "INVALID_ARGUMENT", "UINT8"),
    "an empty picture": (request(FRAME[:0], edge_encoding="captured"), "INVALID_ARGUMENT", "empty"),
    "five channels": (
        request(np.zeros((8, 8, 5), np.uint8), edge_encoding="captured"),
        "INVALID_ARGUMENT",
        "\\[8, 8, 5\\]",
    ),
    "a JPEG that is none": (request(as_bytes(b"GIF89a"), edge_encoding="jpeg"), "INVALID_ARGUMENT", "not JPEG"),
    "a JPEG cut short": (
        request(as_bytes(jpeg(FRAME)[:60]), edge_encoding="jpeg"),
        "INVALID_ARGUMENT",
        "cannot|not a picture",
    ),
    "a JPEG of 25 megapixels": (
        request(as_bytes(jpeg_that_says_it_is(5000)), edge_encoding="jpeg"),
        "INVALID_ARGUMENT",
        "over the limit",
    ),
    "a JPEG of 3.6 gigapixels": (
        request(as_bytes(jpeg_that_says_it_is(60000)), edge_encoding="jpeg"),
        "INVALID_ARGUMENT",
        "limit",
    ),
    "pixels said to be JPEG": (request(FRAME, edge_encoding="jpeg"), "INVALID_ARGUMENT", "BYTES"),
    "a negative timeout": (request(GOOD, timeout=-1), "INVALID_ARGUMENT", "microseconds"),
    "a timeout that is over": (request(GOOD, timeout=1), "DEADLINE_EXCEEDED", "no time is left"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_with_a_clear_status(call: Call, case: str) -> None:
    message, status, says = REFUSED[case]
    with pytest.raises(grpc.RpcError, match=says) as caught:
        call("ModelInfer", message)
    assert caught.value.code().name == status
    assert "\n" not in caught.value.details()
    assert call("ModelInfer", request(GOOD)).outputs, "the server lives"


def test_other_versions_outputs_and_contents_are_refused(call: Call) -> None:
    version = request(GOOD)
    version.model_version = "9"
    output = request(GOOD)
    output.outputs.add(name="other")
    classes = request(GOOD)
    set_parameter(classes.outputs.add(name="logits").parameters, "classification", -1)
    shared = request(GOOD)
    set_parameter(shared.outputs.add(name="logits").parameters, "shared_memory_region", "r")
    twice = request(GOOD)
    add_input(twice, "second", GOOD)
    short = request(GOOD)
    short.raw_input_contents[0] = b"abc"
    for message, status in (
        (version, "NOT_FOUND"),
        (output, "INVALID_ARGUMENT"),
        (classes, "INVALID_ARGUMENT"),
        (shared, "INVALID_ARGUMENT"),
        (twice, "INVALID_ARGUMENT"),
        (short, "INVALID_ARGUMENT"),
        (messages.ModelInferRequest(model_name="tiny"), "INVALID_ARGUMENT"),
    ):
        with pytest.raises(grpc.RpcError) as caught:
            call("ModelInfer", message)
        assert caught.value.code().name == status
    with pytest.raises(grpc.RpcError) as caught:
        call("ModelMetadata", messages.ModelMetadataRequest(name="other"))
    assert caught.value.code().name == "NOT_FOUND"
    assert not call("ModelReady", messages.ModelReadyRequest(name="tiny", version="9")).ready


def test_a_message_over_the_limit_is_refused(call: Call) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        call("ModelInfer", request(np.zeros(17 * 2**20, np.uint8)))
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


def test_larger_messages_are_taken_and_given_where_that_is_said(service, tmp_path: Path, grpc_front: str) -> None:
    (tmp_path / "same.onnx").write_bytes(identity_onnx("FLOAT", [-1, 2**20]))
    options = ("--grpc-port", "0", "--http-port", "0", "--max-message", "24MiB", "--front", grpc_front)
    ready = service("serve", tmp_path / "same.onnx", *options).ready
    x = np.random.default_rng(0).normal(size=(5, 2**20)).astype(np.float32)  # 20 MiB
    triton, web = pytest.importorskip("tritonclient.grpc"), pytest.importorskip("tritonclient.http")
    for client, address in ((triton, ready["grpc"]), (web, ready["http"])):
        tensor = client.InferInput("x", list(x.shape), "FP32")
        tensor.set_data_from_numpy(x)
        with contextlib.closing(client.InferenceServerClient(address)) as asking:
            np.testing.assert_array_equal(asking.infer("same", [tensor]).as_numpy("y"), x)
    large = [("grpc.max_send_message_length", -1)]
    with grpc.insecure_channel(ready["grpc"], large) as channel, pytest.raises(grpc.RpcError) as caught:
        channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")(bytes(25 * 2**20), timeout=20)
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


def test_bytes_that_are_no_grpc_leave_the_server_alive(server: str, call: Call) -> None:
    host, _, port = server.rpartition(":")
    for noise in (b"GET / HTTP/1.1\r\n\r\n", bytes(1000), b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\xff" * 100):
        with socket.create_connection((host, int(port)), timeout=5) as connection:
            connection.sendall(noise)
    assert call("ServerLive", messages.ServerLiveRequest()).live


def test_a_message_that_claims_2_gb_is_refused_before_it_comes(server: str, call: Call) -> None:
    host, _, port = server.rpartition(":")
    with socket.create_connection((host, int(port)), timeout=20) as connection:
        connection.sendall(begun_infer(host) + frame(0, 0, 1, b"\0" + (2**31 - 1).to_bytes(4, "big") + b"x"))
        received = b""
        while not (on_stream := any(kind in {1, 3} for kind, number in frames(received) if number == 1)):
            received += connection.recv(65_536)
    assert on_stream, "headers that end it, or a reset"
    assert call("ServerLive", messages.ServerLiveRequest()).live


def test_connections_that_are_silent_half_closed_or_stuck_keep_nobody_waiting(server: str, call: Call) -> None:
    host, _, port = server.rpartition(":")
    begun = begun_infer(host)
    slow = [socket.create_connection((host, int(port)), timeout=20) for _ in range(60)]
    try:
        for number, connection in enumerate(slow):
            if number % 3:
                connection.sendall(begun[: 9 * number] if number % 3 == 1 else begun + frame(0, 0, 1, b"\0\0\0"))
            if number % 2:
                connection.shutdown(socket.SHUT_WR)
        assert call("ModelInfer", request(GOOD)).outputs
    finally:
        for connection in slow:
            connection.close()
    assert call("ModelInfer", request(GOOD)).outputs


def test_calls_whose_message_never_comes_take_nobodys_place(server: str, grpc_front: str, call: Call) -> None:
    def answered() -> object:
        """Return the answer to a good request, which comes again while gRPC turns it away: too many are new to it."""
        until = time.monotonic() + 20
        while True:
            try:
                return call("ModelInfer", request(GOOD))
            except grpc.RpcError as error:
                if grpc_front == "fast" or error.code() is not grpc.StatusCode.CANCELLED or time.monotonic() > until:
                    raise
            time.sleep(0.05)

    host, _, port = server.rpartition(":")
    slow = [socket.create_connection((host, int(port)), timeout=20) for _ in range(3)]
    try:
        for connection in slow:
            connection.sendall(begun_infer(host, calls=200))
            connection.sendall(frame(6, 0, 0, b"are they"))
            received = b""
            while not any(kind == 6 for kind, _ in frames(received)):  # the pong: all of them are there
                received += connection.recv(65_536)
        assert answered().outputs
    finally:
        for connection in slow:
            connection.close()
    assert answered().outputs


def test_bytes_that_are_no_message_are_refused(server: str, call: Call) -> None:
    with grpc.insecure_channel(server) as channel:
        stub = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
        with pytest.raises(grpc.RpcError) as caught:
            stub(b"\xff\xff\xff", timeout=20)
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        with pytest.raises(grpc.RpcError) as caught:
            channel.unary_unary("/inference.GRPCInferenceService/CudaSharedMemoryStatus")(b"", timeout=20)
        assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
    assert call("ServerReady", messages.ServerReadyRequest()).ready


def test_a_plain_model_file_is_served_under_its_name(service, tmp_path) -> None:
    weights = np.random.default_rng(0).normal(size=(192, 3)).astype(np.float32)
    (tmp_path / "plain.onnx").write_bytes(tiny_onnx(weights, np.zeros(3, np.float32)))
    address = service("serve", tmp_path / "plain.onnx", "--grpc-port", "0").ready["grpc"]
    takes, gives = messages.METHODS["ModelInfer"]
    x = np.random.default_rng(1).normal(size=(2, SIDE, SIDE, 3)).astype(np.float32)
    with grpc.insecure_channel(address) as channel:
        infer = channel.unary_unary(
            "/inference.GRPCInferenceService/ModelInfer", takes.SerializeToString, gives.FromString
        )
        response = infer(request(x, model="plain"), timeout=20)
        assert read_outputs(response)["logits"] == pytest.approx(x.reshape(2, -1) @ weights, abs=1e-4)
        with pytest.raises(grpc.RpcError, match="tensor only"):
            infer(request(FRAME, model="plain", edge_encoding="captured"), timeout=20)


def test_two_models_of_one_name_are_refused(tiny_edge_bundle: TinyBundle) -> None:
    with pytest.raises(InputError, match="two models are called tiny"):
        Core.load([tiny_edge_bundle.path, tiny_edge_bundle.path])
