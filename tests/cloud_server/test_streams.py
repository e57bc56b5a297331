"""ModelStreamInfer of a real server: many requests on one call, worked on together."""

from __future__ import annotations

import queue
from collections.abc import Iterable, Iterator

import grpc
import numpy as np
import pytest

from edge_sdk.cloud.server.room import MAX_STREAM_BYTES
from edge_sdk.protocol import add_input, messages, read_outputs, read_parameters, set_parameter
from outside.bundles import SIDE, TinyBundle

PATIENT = 20.0
GOOD = np.full((1, SIDE, SIDE, 3), 0.5, np.float32)


def request(array: np.ndarray = GOOD, *, model: str = "tiny", request_id: str = "", **parameters: object) -> object:
    message = messages.ModelInferRequest(model_name=model, id=request_id)
    add_input(message, "image", array)
    for key, value in parameters.items():
        set_parameter(message.parameters, key, value)
    return message


@pytest.fixture
def channel(server: str) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(server) as opened:
        yield opened


def stream(channel: grpc.Channel, requests: Iterable[object], timeout: float | None = PATIENT) -> grpc.Call:
    """Start a stream of messages, or of bytes that may be none."""
    call = channel.stream_stream(
        "/inference.GRPCInferenceService/ModelStreamInfer",
        lambda message: message if isinstance(message, bytes) else message.SerializeToString(),
        messages.ModelStreamInferResponse.FromString,
    )
    return call(iter(requests), timeout=timeout)


def infer(channel: grpc.Channel, message: object) -> object:
    call = channel.unary_unary(
        "/inference.GRPCInferenceService/ModelInfer",
        messages.ModelInferRequest.SerializeToString,
        messages.ModelInferResponse.FromString,
    )
    return call(message, timeout=PATIENT)


def test_every_request_of_a_stream_is_answered_by_its_id_as_if_it_were_alone(channel: grpc.Channel) -> None:
    rng = np.random.default_rng(1)
    arrays = {str(i): rng.normal(size=(1 + i % 3, SIDE, SIDE, 3)).astype(np.float32) for i in range(200)}
    responses = list(stream(channel, (request(x, request_id=name) for name, x in arrays.items())))
    assert {response.error_message for response in responses} == {""}
    answers = {response.infer_response.id: response.infer_response for response in responses}
    assert len(responses) == len(answers) == len(arrays)
    for name in ("0", "1", "199"):
        alone = infer(channel, request(arrays[name], request_id=name))
        # some kernels of the runtime add up in another order for another number of items
        assert read_outputs(answers[name])["logits"] == pytest.approx(read_outputs(alone)["logits"], abs=1e-5)
        assert answers[name].parameters["edge_model_digest"] == alone.parameters["edge_model_digest"]
        assert (answers[name].model_name, answers[name].model_version) == (alone.model_name, alone.model_version)


def test_what_is_refused_names_its_id_and_status_and_the_stream_goes_on(channel: grpc.Channel) -> None:
    cases = [
        (request(model="other", request_id="a"), "a", "NOT_FOUND", "unknown model"),
        (request(GOOD[:, :4], request_id="b"), "b", "INVALID_ARGUMENT", "shape"),
        (request(request_id="c", timeout=1), "c", "DEADLINE_EXCEEDED", "no time is left"),
        (b"\xff\xff\xff", "", "INVALID_ARGUMENT", "no ModelInferRequest message"),
        (b"", "", "NOT_FOUND", "unknown model"),
    ]
    for message, name, status, says in cases:
        bad, good = sorted(
            stream(channel, [message, request(request_id="last")]), key=lambda response: not response.error_message
        )
        assert says in bad.error_message
        assert bad.infer_response.id == name
        assert read_parameters(bad.infer_response.parameters) == {"edge_status": status}
        assert not bad.infer_response.outputs
        assert (good.error_message, good.infer_response.id) == ("", "last")


def test_answers_come_while_the_stream_is_open(channel: grpc.Channel) -> None:
    outgoing: queue.Queue[object] = queue.Queue()
    call = stream(channel, iter(outgoing.get, None))
    for name in ("first", "second"):
        outgoing.put(request(request_id=name))
        assert next(call).infer_response.id == name
    outgoing.put(None)
    assert list(call) == []
    assert call.code() is grpc.StatusCode.OK


def test_an_empty_stream_ends_well(channel: grpc.Channel) -> None:
    assert list(stream(channel, [])) == []


def test_a_client_that_does_not_read_is_not_read_from_without_end(channel: grpc.Channel) -> None:
    taken = 0

    def endless() -> Iterator[object]:
        nonlocal taken
        while True:
            taken += 1
            yield request(request_id="x" * 2**20)  # which comes back: flow control needs something to hold

    call = stream(channel, endless(), timeout=2)
    with pytest.raises(grpc.RpcError) as caught:
        while True:
            call.code()  # waits for the end without reading
            next(call)
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    # what is at work, and what waits in the windows of both directions
    assert 0 < taken < 5 * MAX_STREAM_BYTES / 2**20
    assert infer(channel, request()).outputs, "the server lives"


def test_a_stream_that_is_cancelled_leaves_the_server_well_and_silent(
    service, tiny_edge_bundle: TinyBundle, grpc_front: str
) -> None:
    process = service("serve", tiny_edge_bundle.path, "--front", grpc_front, "--grpc-port", "0")
    with grpc.insecure_channel(process.ready["grpc"]) as channel:
        for _ in range(5):
            outgoing: queue.Queue[object] = queue.Queue()
            call = stream(channel, iter(outgoing.get, None))
            for _ in range(50):
                outgoing.put(request())
            next(call)
            call.cancel()
            outgoing.put(None)
        assert infer(channel, request()).outputs
    assert process.stop() == 0
    assert process.errors == ""


def test_the_deadline_of_a_stream_ends_it(channel: grpc.Channel) -> None:
    outgoing: queue.Queue[object] = queue.Queue()
    call = stream(channel, iter(outgoing.get, None), timeout=3)  # in which a busy machine answers the first
    outgoing.put(request(request_id="in time"))
    assert next(call).infer_response.id == "in time"
    with pytest.raises(grpc.RpcError) as caught:
        next(call)
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    outgoing.put(None)


def test_the_stream_of_an_unmodified_triton_client_is_served(server: str) -> None:
    triton = pytest.importorskip("tritonclient.grpc")
    tensor = triton.InferInput("image", list(GOOD.shape), "FP32")
    tensor.set_data_from_numpy(GOOD)
    done: queue.Queue[tuple[object, object]] = queue.Queue()
    with triton.InferenceServerClient(server) as client:
        client.start_stream(callback=lambda result, error: done.put((result, error)))
        client.async_stream_infer("other", [tensor], request_id="bad")
        for name in ("1", "2"):
            client.async_stream_infer("tiny", [tensor], request_id=name)
        answers = [done.get(timeout=PATIENT) for _ in range(3)]
        client.stop_stream()
    assert ["unknown model" in str(error) for result, error in answers if result is None] == [True]
    assert {result.get_response().id for result, _ in answers if result is not None} == {"1", "2"}
    assert all(result.as_numpy("logits").shape == (1, 3) for result, _ in answers if result is not None)
