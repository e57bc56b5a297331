"""A server with too much to do says when to ask again, on every front, and every request can be written down."""

from __future__ import annotations

import http.client
import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import numpy as np
import pytest

from edge_sdk.cloud.server.exchange import failure_of
from edge_sdk.errors import UnknownModelError
from edge_sdk.protocol import add_input, messages, read_parameters
from outside.bundles import SIDE, TinyBundle

PATIENT = 60.0
SIZE = 500


def slow_onnx() -> bytes:
    """Return a model that takes tens of milliseconds: float32 [N, 8] → [N, 8], through wide layers."""
    from onnx import TensorProto, helper, numpy_helper

    rng = np.random.default_rng(0)
    wide = numpy_helper.from_array(rng.normal(size=(SIZE, SIZE)).astype(np.float32) / SIZE, "wide")
    first = numpy_helper.from_array(rng.normal(size=(8, SIZE * SIZE)).astype(np.float32), "first")
    shape = numpy_helper.from_array(np.array([SIZE, SIZE], np.int64), "shape")
    nodes = [helper.make_node("MatMul", ["x", "first"], ["h0"]), helper.make_node("Reshape", ["h0", "shape"], ["m0"])]
    nodes += [helper.make_node("MatMul", [f"m{i}", "wide"], [f"m{i + 1}"]) for i in range(12)]
    nodes += [helper.make_node("ReduceMean", ["m12"], ["y"], keepdims=0)]
    graph = helper.make_graph(
        nodes,
        "slow",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [])],
        [wide, first, shape],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    return model.SerializeToString()


def request(request_id: str, model: str = "slow", array: np.ndarray | None = None) -> object:
    message = messages.ModelInferRequest(model_name=model, id=request_id)
    add_input(message, "x" if array is None else "image", np.ones((1, 8), np.float32) if array is None else array)
    return message


def test_what_is_refused_for_want_of_room_may_come_again_in_a_time_that_is_said(
    service, tmp_path: Path, grpc_front: str
) -> None:
    (tmp_path / "slow.onnx").write_bytes(slow_onnx())
    (tmp_path / "serve.toml").write_text('[models."*"]\nmax_queue = 1\n')
    options = ("--front", grpc_front, "--config", tmp_path / "serve.toml")
    process = service("serve", tmp_path / "slow.onnx", "--grpc-port", "0", "--http-port", "0", *options)
    host, _, port = process.ready["http"].rpartition(":")
    body = json.dumps({"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 8], "data": [1] * 8}]})

    def by_http() -> tuple[int, str | None]:
        connection = http.client.HTTPConnection(host, int(port), timeout=PATIENT)
        connection.request("POST", "/v2/models/slow/infer", body)
        response = connection.getresponse()
        response.read()
        connection.close()
        return response.status, response.headers["Retry-After"]

    with grpc.insecure_channel(process.ready["grpc"]) as channel, ThreadPoolExecutor(8) as threads:
        takes, gives = messages.METHODS["ModelInfer"]
        infer = channel.unary_unary(
            "/inference.GRPCInferenceService/ModelInfer", takes.SerializeToString, gives.FromString
        )
        calls = [infer.future(request(str(number)), timeout=PATIENT) for number in range(12)]
        errors = [call.exception() for call in calls]
        refused = [error for error in errors if error is not None]
        assert 0 < len(refused) < 12, "some are answered, and some find no room"
        for error in refused:
            assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
            assert int(dict(error.trailing_metadata())["grpc-retry-pushback-ms"]) > 0
        stream = channel.stream_stream(
            "/inference.GRPCInferenceService/ModelStreamInfer",
            messages.ModelInferRequest.SerializeToString,
            messages.ModelStreamInferResponse.FromString,
        )
        answers = list(stream((request(str(number)) for number in range(12)), timeout=PATIENT))
        late = [answer for answer in answers if answer.error_message]
        assert 0 < len(late) < 12
        for answer in late:
            said = read_parameters(answer.infer_response.parameters)
            assert said["edge_status"] == "RESOURCE_EXHAUSTED"
            assert said["edge_retry_pushback_ms"] > 0
        statuses = [done.result() for done in [threads.submit(by_http) for _ in range(12)]]
        assert {status for status, _ in statuses} == {200, 503}
        assert all((after is None) == (status == 200) and int(after or 1) >= 1 for status, after in statuses)


def test_under_pressure_a_request_is_refused_before_its_message_has_come(
    service, tmp_path: Path, grpc_front: str
) -> None:
    (tmp_path / "slow.onnx").write_bytes(slow_onnx())
    (tmp_path / "serve.toml").write_text('[models."*"]\nmax_queue = 8\n')
    log = tmp_path / "log"
    options = ("--front", grpc_front, "--config", tmp_path / "serve.toml", "--log-requests", log)
    process = service("serve", tmp_path / "slow.onnx", "--grpc-port", "0", *options)
    method, sent = "/inference.GRPCInferenceService/ModelInfer", threading.Event()

    def nothing() -> Iterator[bytes]:
        sent.wait(PATIENT)
        yield from ()

    with grpc.insecure_channel(process.ready["grpc"]) as channel:
        takes, gives = messages.METHODS["ModelInfer"]
        infer = channel.unary_unary(method, takes.SerializeToString, gives.FromString)
        calls = [infer.future(request(str(number)), timeout=PATIENT) for number in range(40)]
        assert any(call.exception() for call in calls[9:])  # the line is full now
        for _ in range(4):  # a slow machine may have worked off what pressed before the silent one comes
            calls += [infer.future(request(str(number)), timeout=PATIENT) for number in range(40, 60)]
            silent = channel.stream_unary(method, None, gives.FromString).future(nothing(), timeout=PATIENT / 4)
            if silent.code() is not grpc.StatusCode.DEADLINE_EXCEEDED:
                break
        assert silent.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert int(dict(silent.trailing_metadata())["grpc-retry-pushback-ms"]) > 0
        sent.set()
        ended = [call.code() for call in calls]
        assert set(ended) == {grpc.StatusCode.OK, grpc.StatusCode.RESOURCE_EXHAUSTED}
        assert infer(request("last"), timeout=PATIENT).id == "last"
    assert process.stop() == 0
    statuses = [json.loads(line)["status"] for line in log.read_text().splitlines()]
    assert len(statuses) >= len(ended) + 2, "those that were not read are noted, too"
    assert statuses.count("OK") == ended.count(grpc.StatusCode.OK) + 1


def test_every_request_is_written_down_where_that_is_asked_for(
    service, tiny_edge_bundle: TinyBundle, tmp_path: Path
) -> None:
    log = tmp_path / "requests.log"
    process = service("serve", tiny_edge_bundle.path, "--grpc-port", "0", "--http-port", "0", "--log-requests", log)
    good = np.zeros((1, SIDE, SIDE, 3), np.float32)
    with grpc.insecure_channel(process.ready["grpc"]) as channel:
        takes, gives = messages.METHODS["ModelInfer"]
        infer = channel.unary_unary(
            "/inference.GRPCInferenceService/ModelInfer", takes.SerializeToString, gives.FromString
        )
        infer(request("a\nb", "tiny", good), timeout=PATIENT)
        with pytest.raises(grpc.RpcError):
            infer(request("x" * 1000, "other", good), timeout=PATIENT)
        stream = channel.stream_stream(
            "/inference.GRPCInferenceService/ModelStreamInfer", takes.SerializeToString, lambda data: data
        )
        assert len(list(stream(iter([request("c", "tiny", good[:, :4])]), timeout=PATIENT))) == 1
    host, _, port = process.ready["http"].rpartition(":")
    connection = http.client.HTTPConnection(host, int(port), timeout=PATIENT)
    entry = {"name": "image", "datatype": "FP32", "shape": list(good.shape), "data": [0] * good.size}
    for body in ({"id": "d", "inputs": [entry]}, {"id": "e", "inputs": []}):
        connection.request("POST", "/v2/models/tiny/versions/1.0.0/infer", json.dumps(body))
        connection.getresponse().read()
    connection.close()
    assert process.stop() == 0
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert [(line["front"], line["id"][:3], line["model"], line["version"], line["status"]) for line in lines] == [
        ("grpc", "a\nb", "tiny", "", "OK"),
        ("grpc", "xxx", "other", "", "NOT_FOUND"),
        ("stream", "c", "tiny", "", "INVALID_ARGUMENT"),
        ("http", "d", "tiny", "1.0.0", "OK"),
        ("http", "e", "tiny", "1.0.0", "INVALID_ARGUMENT"),
    ]
    assert all(0 <= line["ms"] < 60_000 for line in lines)
    assert len(lines[1]["id"]) == 200


def test_a_full_disk_stops_the_log_and_not_the_server(service, tiny_edge_bundle: TinyBundle, tmp_path: Path) -> None:
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("needs a device that is always full")
    process = service("serve", tiny_edge_bundle.path, "--grpc-port", "0", "--log-requests", full)
    with grpc.insecure_channel(process.ready["grpc"]) as channel:
        takes, gives = messages.METHODS["ModelInfer"]
        infer = channel.unary_unary(
            "/inference.GRPCInferenceService/ModelInfer", takes.SerializeToString, gives.FromString
        )
        for number in range(3):
            message = request(str(number), "tiny", np.zeros((1, SIDE, SIDE, 3), np.float32))
            assert infer(message, timeout=PATIENT).outputs
    assert process.stop() == 0
    assert process.errors.count("\n") == 1
    assert "requests are not logged any more" in process.errors


def test_a_fault_within_the_server_is_not_taken_for_a_model_that_is_not_there() -> None:
    assert failure_of(UnknownModelError("no model"), "m").status is grpc.StatusCode.NOT_FOUND
    for fault in (KeyError("secret"), IndexError("secret"), RuntimeError("secret")):
        failure = failure_of(fault, "m")
        assert (failure.status, failure.http) == (grpc.StatusCode.INTERNAL, 500)
        assert "secret" not in failure.message
