"""The REST front of a real server: the same protocol for curl, and for Triton's HTTP clients."""

from __future__ import annotations

import asyncio
import http.client
import json
import socket
import time
import zlib
from collections.abc import Callable, Iterator
from typing import NamedTuple

import grpc
import numpy as np
import pytest

import edge_sdk
from edge_sdk.cloud.server.core import Answer, Core, Request
from edge_sdk.cloud.server.http_server import start
from edge_sdk.cloud.server.rest_front import RestFront
from edge_sdk.protocol import from_raw, messages
from outside.bundles import SIDE, TinyBundle
from outside.services import Service

PATIENT = 20.0
GOOD = np.full((1, SIDE, SIDE, 3), 0.5, np.float32)


class Said(NamedTuple):
    """A response."""

    status: int
    headers: http.client.HTTPMessage
    body: bytes

    @property
    def json(self) -> dict:
        return json.loads(self.body)


@pytest.fixture(scope="module")
def rest(tiny_edge_bundle: TinyBundle) -> Iterator[Service]:
    with Service("serve", tiny_edge_bundle.path, "--grpc-port", "0", "--http-port", "0") as process:
        yield process


@pytest.fixture
def ask(rest: Service) -> Callable[..., Said]:
    """Return a function that makes one HTTP request."""

    def run(method: str, path: str, body: object = None, headers: dict[str, str] | None = None) -> Said:
        host, _, port = rest.ready["http"].rpartition(":")
        connection = http.client.HTTPConnection(host, int(port), timeout=PATIENT)
        try:
            data = body if body is None or isinstance(body, bytes) else json.dumps(body)
            connection.request(method, path, data, headers or {})
            response = connection.getresponse()
            return Said(response.status, response.headers, response.read())
        finally:
            connection.close()

    return run


def message(array: np.ndarray = GOOD, **more: object) -> dict:
    return {
        "inputs": [
            {"name": "image", "datatype": "FP32", "shape": list(array.shape), "data": array.ravel().tolist()},
        ],
        **more,
    }


def softmax(logits: np.ndarray) -> np.ndarray:
    weights = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return weights / weights.sum(axis=-1, keepdims=True)


INFER = "/v2/models/tiny/infer"


def test_health_and_descriptions_are_those_of_grpc(rest: Service, ask: Callable[..., Said]) -> None:
    assert ask("GET", "/v2/health/live").status == ask("GET", "/v2/health/ready").status == 200
    assert ask("GET", "/v2").json["name"] == "edge-sdk"
    said = ask("GET", "/v2/models/tiny").json
    assert (said["name"], said["versions"]) == ("tiny", ["1.0.0"])
    assert said["inputs"] == [{"name": "image", "datatype": "FP32", "shape": [-1, SIDE, SIDE, 3]}]
    assert ask("GET", "/v2/models/tiny/versions/1.0.0").json == said
    takes, gives = messages.METHODS["ModelMetadata"]
    with grpc.insecure_channel(rest.ready["grpc"]) as channel:
        call = channel.unary_unary(
            "/inference.GRPCInferenceService/ModelMetadata", takes.SerializeToString, gives.FromString
        )
        assert dict(call(takes(name="tiny"), timeout=PATIENT).properties) == said["properties"]
    assert ask("GET", "/v2/models/tiny/ready").status == 200
    assert ask("GET", "/v2/models/other/ready").status == 404
    assert ask("GET", "/v2/models/tiny/config").json["input"][0]["dims"] == [SIDE, SIDE, 3]
    assert ask("POST", "/v2/repository/index").json == [
        {"name": "tiny", "version": "1.0.0", "state": "READY", "reason": ""}
    ]


def test_json_is_answered_as_json(ask: Callable[..., Said], tiny_edge_bundle: TinyBundle) -> None:
    with edge_sdk.load(tiny_edge_bundle.path) as model:
        x = np.concatenate([model.processor(image) for image in tiny_edge_bundle.images[:3]])
        expected, digest = model.infer_tensor(x), model.digest
    flat, nested = message(x, id="42"), message(x, id="42")
    nested["inputs"][0]["data"] = x.tolist()
    for body in (flat, nested):
        said = ask("POST", INFER, body)
        assert said.status == 200, said.body
        assert (said.json["id"], said.json["model_version"]) == ("42", "1.0.0")
        assert said.json["parameters"] == {"edge_model_digest": digest}
        (output,) = said.json["outputs"]
        assert (output["name"], output["datatype"], output["shape"]) == ("logits", "FP32", [3, 3])
        assert softmax(np.reshape(output["data"], output["shape"])) == pytest.approx(expected, abs=1e-6)


def test_pictures_are_sent_in_binary_behind_the_json(ask: Callable[..., Said], tiny_edge_bundle: TinyBundle) -> None:
    frame = tiny_edge_bundle.images[0]
    head = {
        "parameters": {"edge_encoding": "captured"},
        "inputs": [
            {
                "name": "image",
                "datatype": "UINT8",
                "shape": list(frame.shape),
                "parameters": {"binary_data_size": frame.nbytes},
            }
        ],
        "outputs": [{"name": "logits", "parameters": {"binary_data": True}}],
    }
    text = json.dumps(head).encode()
    said = ask("POST", INFER, text + frame.tobytes(), {"Inference-Header-Content-Length": str(len(text))})
    assert said.status == 200, said.body
    length = int(said.headers["Inference-Header-Content-Length"])
    (output,) = json.loads(said.body[:length])["outputs"]
    assert output["parameters"] == {"binary_data_size": 12}
    logits = from_raw(said.body[length:], output["datatype"], output["shape"], "logits")
    with edge_sdk.load(tiny_edge_bundle.path) as model:
        assert softmax(logits)[0] == pytest.approx(model.infer(frame).probabilities, abs=1e-6)


def test_an_unmodified_triton_client_is_served(rest: Service, tiny_edge_bundle: TinyBundle) -> None:
    triton = pytest.importorskip("tritonclient.http")
    with edge_sdk.load(tiny_edge_bundle.path) as model:
        x = np.concatenate([model.processor(image) for image in tiny_edge_bundle.images[:5]])
        expected = model.infer_tensor(x)
    with triton.InferenceServerClient(rest.ready["http"]) as client:
        assert client.is_server_live()
        assert client.is_server_ready()
        assert client.is_model_ready("tiny", "1.0.0")
        assert not client.is_model_ready("other")
        assert client.get_model_metadata("tiny")["platform"]
        assert client.get_model_config("tiny")["name"] == "tiny"
        assert [model["name"] for model in client.get_model_repository_index()] == ["tiny"]
        for binary in (True, False):
            tensor = triton.InferInput("image", list(x.shape), "FP32")
            tensor.set_data_from_numpy(x, binary_data=binary)
            asked = [triton.InferRequestedOutput("logits", binary_data=binary)]
            for compression in (None, "gzip", "deflate"):
                result = client.infer("tiny", [tensor], outputs=asked, request_compression_algorithm=compression)
                assert softmax(result.as_numpy("logits")) == pytest.approx(expected, abs=1e-6)
            assert client.infer("tiny", [tensor]).as_numpy("logits").shape == (5, 3)
        best = client.infer("tiny", [tensor], outputs=[triton.InferRequestedOutput("logits", class_count=1)])
        labels = [entry[0].decode().split(":")[2] for entry in best.as_numpy("logits")]
        assert labels == [tiny_edge_bundle.classes[index] for index in expected.argmax(axis=1)]
        with pytest.raises(triton.InferenceServerException, match="unknown model"):
            client.infer("other", [tensor])
        statistics = client.get_inference_statistics("tiny")["model_stats"][0]
        assert statistics["inference_stats"]["success"]["count"] >= 9
        assert statistics["inference_count"] >= 9 * 5


def test_the_asynchronous_triton_client_is_served(rest: Service) -> None:
    triton = pytest.importorskip("tritonclient.http.aio")

    async def story() -> None:
        async with triton.InferenceServerClient(rest.ready["http"]) as client:
            assert await client.is_model_ready("tiny")
            tensor = triton.InferInput("image", list(GOOD.shape), "FP32")
            tensor.set_data_from_numpy(GOOD)
            results = await asyncio.gather(*(client.infer("tiny", [tensor]) for _ in range(20)))
            assert {result.as_numpy("logits").shape for result in results} == {(1, 3)}

    asyncio.run(story())


def changed(**of_input: object) -> dict:
    body = message()
    body["inputs"][0].update(of_input)
    return body


REFUSED = {
    "no JSON": (b"{", 400, "no JSON"),
    "no UTF-8": (b'{"id": "\xff"}', 400, "no JSON"),
    "a number": (b"7", 400, "the request is a JSON object"),
    "NaN": (b'{"inputs": [NaN]}', 400, "no number in JSON"),
    "nested a million times": (b"[" * 1_000_000, 400, "JSON"),
    "no inputs": ({}, 400, "inputs is a list"),
    "an input that is none": ({"inputs": [7]}, 400, "an input is a JSON object"),
    "an id that is a number": (message(id=7), 400, "id is a string"),
    "parameters that are nested": (message(parameters={"a": {}}), 400, "a string, a number or a boolean"),
    "a timeout that is text": (message(parameters={"timeout": "soon"}), 400, "microseconds"),
    "a timeout that is over": (message(parameters={"timeout": 1}), 504, "no time"),
    "a shape of text": (changed(shape=["1"]), 400, "whole numbers"),
    "a shape of booleans": (changed(shape=[True]), 400, "whole numbers"),
    "a negative shape": (changed(shape=[-1]), 400, "not a shape"),
    "a shape that is too large": (changed(shape=[2**62, 2**62]), 400, "elements of data"),
    "a shape that is too large of nothing": (changed(shape=[0, 2**62, 2**62], data=[]), 400, "more than an array"),
    "another datatype": (
        changed(datatype="INT32", data=[0] * 192),
        400,
        "data-type is 'INT32', but",
    ),
    "an unknown datatype": (changed(datatype="FP8"), 400, "not supported"),
    "FP16 as JSON": (changed(datatype="FP16"), 400, "binary only"),
    "text for numbers": (changed(data=["a"] * 192), 400, "holds what is no FP32"),
    "booleans for numbers": (changed(data=[True] * 192), 400, "holds what is no FP32"),
    "numbers that do not fit": (changed(datatype="INT8", data=[300] * 192), 400, "does not fit"),
    "a number beyond all": (changed(datatype="FP32", data=[10**400] * 192), 400, "does not fit"),
    "numbers nested unevenly": (changed(data=[[0.5], 0.5]), 400, "unevenly"),
    "half of a character": (changed(datatype="BYTES", shape=[1], data=["\ud800"]), 400, "half of a character"),
    "an unknown output": (message(outputs=[{"name": "x"}]), 400, "unexpected inference output"),
    "an output asked for twice": (message(outputs=[{"name": "logits"}] * 2), 400, "twice"),
    "an answer in shared memory": (
        message(outputs=[{"name": "logits", "parameters": {"shared_memory_region": "a"}}]),
        400,
        "not supported",
    ),
    "a tensor twice": ({"inputs": message()["inputs"] * 2}, 400, "there twice"),
    "binary that is not there": (changed(parameters={"binary_data_size": 768}, data=None), 400, "both data and"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_with_a_clear_status(ask: Callable[..., Said], case: str) -> None:
    body, status, says = REFUSED[case]
    said = ask("POST", INFER, body)
    assert said.status == status, said.body
    assert set(said.json) == {"error"}
    assert says in said.json["error"]
    assert ask("POST", INFER, message()).status == 200, "the server lives"


def test_an_id_of_any_text_comes_back_as_it_was(ask: Callable[..., Said]) -> None:
    for text in ("größer", "a\nb", "\ud800", "x" * 100_000):
        said = ask("POST", INFER, message(id=text))
        assert (said.status, said.json["id"]) == (200, text)


def test_binary_that_does_not_add_up_is_refused(ask: Callable[..., Said]) -> None:
    entry = {"name": "image", "datatype": "FP32", "shape": list(GOOD.shape)}
    for size, extra, header, says in (
        (768, b"", None, "bytes are left"),
        (768, bytes(767), None, "767 bytes are left"),
        (767, bytes(767), None, "767 bytes of raw contents"),
        (768, bytes(769), None, "1 bytes are left over"),
        (-1, b"", None, "binary_data_size is -1"),
        (2**40, b"", None, "binary_data_size"),
        (768, bytes(768), "100000", "but the body has"),
        (768, bytes(768), "-5", "is a number of bytes"),
        (768, bytes(768), "seven", "is a number of bytes"),
    ):
        text = json.dumps({"inputs": [{**entry, "parameters": {"binary_data_size": size}}]}).encode()
        said = ask("POST", INFER, text + extra, {"Inference-Header-Content-Length": header or str(len(text))})
        assert said.status == 400
        assert says in said.json["error"]


def test_unknown_paths_methods_models_and_versions_are_refused_in_json(ask: Callable[..., Said]) -> None:
    for method, path, status in (
        ("GET", "/", 404),
        ("GET", "/v2/nothing", 404),
        ("POST", "/v2/models/tiny", 405),
        ("GET", INFER, 405),
        ("GET", "/v2/models/other", 404),
        ("GET", "/v2/models/tiny/versions/9", 404),
        ("GET", "/v2/models/other/stats", 404),
        ("POST", "/v2/models/other/infer", 404),
        ("POST", "/v2/models/tiny/versions/9/infer", 404),
    ):
        said = ask(method, path, b"{}" if method == "POST" else None)
        assert (said.status, set(said.json)) == (status, {"error"}), path


def raw(rest: Service, *parts: bytes, wait: float = PATIENT) -> bytes:
    """Send bytes; return what comes back until the server closes or a response is there."""
    host, _, port = rest.ready["http"].rpartition(":")
    with socket.create_connection((host, int(port)), timeout=wait) as connection:
        for part in parts:
            connection.sendall(part)
        return connection.recv(65_536)


def test_a_body_over_the_limit_is_refused_before_it_is_read(rest: Service) -> None:
    # 2 GB are claimed, none of them sent
    said = raw(rest, f"POST {INFER} HTTP/1.1\r\nHost: x\r\nContent-Length: {2**31}\r\n\r\n".encode())
    assert said.startswith(b"HTTP/1.1 413")
    claimed = f"POST {INFER} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
    chunk = b"100000\r\n" + bytes(2**20) + b"\r\n"
    assert raw(rest, claimed, *[chunk] * 17).startswith(b"HTTP/1.1 413")


def test_a_small_body_that_unpacks_to_a_large_one_is_refused(ask: Callable[..., Said]) -> None:
    bomb = zlib.compress(bytes(256 * 2**20), 9)
    assert len(bomb) < 2**20
    said = ask("POST", INFER, bomb, {"Content-Encoding": "deflate"})
    assert said.status in {400, 413}
    said = ask("POST", INFER, b"no gzip at all", {"Content-Encoding": "gzip"})
    assert said.status == 400
    assert ask("POST", INFER, message()).status == 200


@pytest.mark.parametrize(
    "noise", [bytes(1000), b"PRI * HTTP/2.0\r\n\r\n", b"\x16\x03\x01\x02\x00", b"GET / HTTP/9\r\n\r\n"]
)
def test_bytes_that_are_no_http_leave_the_server_alive(rest: Service, ask: Callable[..., Said], noise: bytes) -> None:
    host, _, port = rest.ready["http"].rpartition(":")
    with socket.create_connection((host, int(port)), timeout=PATIENT) as connection:
        connection.sendall(noise)
    assert ask("POST", INFER, message()).status == 200


def test_connections_that_are_silent_or_half_closed_keep_nobody_waiting(
    rest: Service, ask: Callable[..., Said]
) -> None:
    host, _, port = rest.ready["http"].rpartition(":")
    slow = [socket.create_connection((host, int(port)), timeout=PATIENT) for _ in range(50)]
    try:
        for connection in slow[:25]:
            connection.sendall(f"POST {INFER} HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{{".encode())
        for connection in slow[25:]:
            connection.sendall(b"GET /v2 HTTP/1.1\r\nHo")
            connection.shutdown(socket.SHUT_WR)
        assert ask("POST", INFER, message()).status == 200
    finally:
        for connection in slow:
            connection.close()


def test_the_description_names_every_path_that_is_there(ask: Callable[..., Said]) -> None:
    document = ask("GET", "/openapi.json").json
    assert document["openapi"] == "3.1.0"
    for path, entry in document["paths"].items():
        for method in entry.keys() & {"get", "post"}:
            filled = path.replace("{model}", "tiny").replace("{version}", "1.0.0")
            said = ask(method.upper(), filled, message() if path.endswith("/infer") else None)
            expected = {"load": 403, "unload": 403, "feedback": 400}  # of no administrator, and without a bandit
            assert said.status == expected.get(path.rpartition("/")[2], 200), filled
            asked = [said]
            if method == "post":
                asked += [ask("POST", filled, body) for body in (b"{", b'{"version": "", "reward": 1}')]
            for one in asked:
                assert str(one.status) in entry[method]["responses"], (filled, one.json)


def test_a_token_is_asked_for_but_by_health_checks(service, tiny_edge_bundle: TinyBundle, tmp_path) -> None:
    (tmp_path / "token").write_text("s3cret\n")
    process = service(
        "serve", tiny_edge_bundle.path, "--grpc-port", "0", "--http-port", "0", "--token-file", tmp_path / "token"
    )
    host, _, port = process.ready["http"].rpartition(":")
    for path, token, status in (
        ("/v2/health/ready", None, 200),
        ("/v2", None, 401),
        ("/v2", "Bearer wrong", 401),
        ("/v2", "Bearer ä", 401),
        ("/v2/nothing", None, 401),
        ("/v2", "Bearer s3cret", 200),
    ):
        connection = http.client.HTTPConnection(host, int(port), timeout=PATIENT)
        headers = {} if token is None else {"Authorization": token.encode()}
        connection.request("GET", path, headers=headers)
        response = connection.getresponse()
        assert response.status == status, (path, token)
        assert ("error" in json.loads(response.read() or b"{}")) == (status == 401)
        connection.close()
    assert process.stop() == 0
    assert process.errors == ""


@pytest.mark.slow
def test_connections_that_are_silent_or_too_slow_are_closed(rest: Service) -> None:
    from edge_sdk.cloud.server.http_server import IDLE_SECONDS
    from edge_sdk.cloud.server.rest_front import BODY_SECONDS

    host, _, port = rest.ready["http"].rpartition(":")
    body = f"POST {INFER} HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{{".encode()
    began = [b"", b"GET /v2 HTTP/1.1\r\nHo", body]
    slow = [socket.create_connection((host, int(port)), timeout=BODY_SECONDS + IDLE_SECONDS) for _ in began]
    for connection, data in zip(slow, began, strict=True):
        connection.sendall(data)
    for drop in range(3):  # which buys no time
        time.sleep(IDLE_SECONDS / 4)
        slow[1].sendall(b"sts"[drop : drop + 1])
    said = [connection.recv(65_536) for connection in slow]
    assert said[:2] == [b"", b""]
    assert said[2].startswith(b"HTTP/1.1 408")
    for connection in slow:
        connection.close()


class Faulty(Core):
    """Models that are there, and a server with a fault."""

    async def infer(self, request: Request) -> Answer:
        raise RuntimeError("secret")


def test_a_fault_within_the_server_is_said_as_other_errors_are_and_logged(tiny_edge_bundle, caplog) -> None:
    core = Faulty.load([tiny_edge_bundle.path])
    front = RestFront(core, access=None, max_bytes=10**6, max_concurrent=4)

    def ask(port: int) -> tuple[int, str | None, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENT)
        connection.request("POST", "/v2/models/tiny/infer", json.dumps(message()))
        response = connection.getresponse()
        try:
            return response.status, response.headers["Content-Type"], response.read()
        finally:
            connection.close()

    async def story() -> tuple[int, str | None, bytes]:
        listening = socket.create_server(("127.0.0.1", 0))
        server = await start(front.application(), listening, None, 1.0, name="http", max_connections=8)
        try:
            return await asyncio.to_thread(ask, listening.getsockname()[1])
        finally:
            await server.end()

    try:
        status, kind, body = asyncio.run(story())
    finally:
        core.close()
    assert (status, kind) == (500, "application/json; charset=utf-8")
    assert json.loads(body) == {"error": "the server failed at this request; its log says more"}
    (line,) = [record for record in caplog.records if record.name == "edge_sdk.cloud.server"]
    assert line.exc_info is not None
    assert "secret" in str(line.exc_info[1])
