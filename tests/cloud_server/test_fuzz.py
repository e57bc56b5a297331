"""Whatever is sent to a real server is answered with a clear status, and the server lives and stays small."""

from __future__ import annotations

import contextlib
import http.client
import json
from collections.abc import Iterator
from pathlib import Path

import grpc
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edge_sdk.protocol import add_input, messages
from outside.bundles import SIDE, TinyBundle
from outside.services import Service

PATIENT = 20.0
CLEAR = {"NOT_FOUND", "INVALID_ARGUMENT", "DEADLINE_EXCEEDED", "RESOURCE_EXHAUSTED"}
CLEAR_HTTP = {200, 400, 404, 405, 408, 411, 413, 414, 431, 501, 504}
FUZZ = settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))


def good() -> object:
    message = messages.ModelInferRequest(model_name="tiny", id="1")
    add_input(message, "image", np.full((1, SIDE, SIDE, 3), 0.5, np.float32))
    return message


def resident(pid: int) -> int:
    """Return the bytes of memory that a process holds."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096


@contextlib.contextmanager
def watched(bundle: TinyBundle, *options: str) -> Iterator[Service]:
    """Yield a server; in the end it is alive, has logged no fault, and holds little more than at first."""
    with Service("serve", bundle.path, "--grpc-port", "0", *options) as process:
        before = resident(process.process.pid)
        yield process
        with grpc.insecure_channel(process.ready["grpc"]) as channel:
            assert infer(channel, good().SerializeToString()) == "OK"
        grown = resident(process.process.pid) - before
        assert process.stop() == 0
        assert process.errors == ""
        assert grown < 128 * 2**20


@pytest.fixture(scope="module")
def target(tiny_edge_bundle: TinyBundle) -> Iterator[Service]:
    with watched(tiny_edge_bundle, "--http-port", "0") as process:
        yield process


@pytest.fixture(scope="module")
def channel(tiny_edge_bundle: TinyBundle, grpc_front: str) -> Iterator[grpc.Channel]:
    with (
        watched(tiny_edge_bundle, "--front", grpc_front) as process,
        grpc.insecure_channel(process.ready["grpc"]) as opened,
    ):
        yield opened


def infer(channel: grpc.Channel, data: bytes) -> str:
    """Return the status of a request of any bytes."""
    try:
        answer = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")(data, timeout=PATIENT)
    except grpc.RpcError as error:
        return error.code().name if "\n" not in error.details() else "several lines"
    assert messages.ModelInferResponse.FromString(answer).model_name == "tiny"
    return "OK"


EXTENTS = st.one_of(st.integers(-3, 10), st.sampled_from([2**31, 2**32, 2**62, 2**63 - 1, -(2**63), 1, SIDE, 3]))
DATATYPES = st.one_of(
    st.sampled_from(
        "BOOL UINT8 UINT16 UINT32 UINT64 INT8 INT16 INT32 INT64 FP16 FP32 FP64 BF16 BYTES TYPE_FP32".split()  # noqa: SIM905
    ),
    st.text(max_size=5),
)
NAMES = st.one_of(st.sampled_from(["image", "logits", ""]), st.text(max_size=5))
VALUES = st.one_of(
    st.booleans().map(lambda value: {"bool_param": value}),
    st.integers(-(2**63), 2**63 - 1).map(lambda value: {"int64_param": value}),
    st.integers(0, 2**64 - 1).map(lambda value: {"uint64_param": value}),
    st.floats().map(lambda value: {"double_param": value}),
    st.one_of(st.sampled_from(["captured", "jpeg", "resized", "tensor"]), st.text(max_size=5)).map(
        lambda value: {"string_param": value}
    ),
    st.just({}),
)
PARAMETERS = st.dictionaries(
    st.one_of(
        st.sampled_from(["edge_encoding", "timeout", "priority", "classification", "binary_data_size", "sequence_id"]),
        st.text(max_size=5),
    ),
    VALUES,
    max_size=3,
)
CONTENTS = st.fixed_dictionaries(
    {},
    optional={
        "bool_contents": st.lists(st.booleans(), max_size=4),
        "int_contents": st.lists(st.integers(-(2**31), 2**31 - 1), max_size=4),
        "uint64_contents": st.lists(st.integers(0, 2**64 - 1), max_size=4),
        "fp32_contents": st.lists(st.floats(width=32), max_size=4),
        "bytes_contents": st.lists(st.binary(max_size=4), max_size=4),
    },
)
TENSORS = st.fixed_dictionaries(
    {"name": NAMES, "datatype": DATATYPES, "shape": st.lists(EXTENTS, max_size=6)},
    optional={"parameters": PARAMETERS, "contents": CONTENTS},
)
REQUESTS = st.fixed_dictionaries(
    {"model_name": st.one_of(st.just("tiny"), NAMES)},
    optional={
        "model_version": st.sampled_from(["", "1.0.0", "9", "-1", "x" * 1000]),
        "id": st.text(max_size=5),
        "parameters": PARAMETERS,
        "inputs": st.lists(TENSORS, max_size=3),
        "outputs": st.lists(st.fixed_dictionaries({"name": NAMES}, optional={"parameters": PARAMETERS}), max_size=3),
        "raw_input_contents": st.lists(st.one_of(st.binary(max_size=64), st.just(bytes(768))), max_size=3),
    },
)


@FUZZ
@given(REQUESTS)
def test_messages_of_anything_are_answered_with_a_clear_status(channel: grpc.Channel, fields: dict) -> None:
    assert infer(channel, messages.ModelInferRequest(**fields).SerializeToString()) in CLEAR | {"OK"}


@FUZZ
@given(st.integers(0, 3), st.lists(EXTENTS, min_size=1, max_size=5), st.binary(max_size=8), PARAMETERS)
def test_a_good_request_with_one_thing_changed_is_answered_clearly(
    channel: grpc.Channel, what: int, shape: list[int], contents: bytes, parameters: dict
) -> None:
    message = good()
    if what == 0:
        del message.inputs[0].shape[:]
        message.inputs[0].shape.extend(shape)
    elif what == 1:
        message.raw_input_contents[0] = contents
    else:
        owner = message if what == 2 else message.outputs.add(name="logits")
        for name, value in parameters.items():
            owner.parameters[name].MergeFrom(messages.InferParameter(**value))
    assert infer(channel, message.SerializeToString()) in CLEAR | {"OK"}


CUTS = st.lists(
    st.tuples(st.integers(0, 900), st.integers(0, 4), st.binary(max_size=6)), min_size=1, max_size=4
)  # where, how many bytes go, which come


def damaged(data: bytes, cuts: list[tuple[int, int, bytes]]) -> bytes:
    for at, gone, come in cuts:
        data = data[:at] + come + data[at + gone :]
    return data


@FUZZ
@given(CUTS)
def test_damaged_bytes_of_a_message_are_answered_with_a_clear_status(channel: grpc.Channel, cuts: list) -> None:
    assert infer(channel, damaged(good().SerializeToString(), cuts)) in CLEAR | {"OK"}


@FUZZ
@given(st.lists(st.one_of(st.binary(max_size=40), CUTS), max_size=6))
def test_a_stream_of_anything_is_answered_message_by_message(channel: grpc.Channel, parts: list) -> None:
    whole = good().SerializeToString()
    sent = [part if isinstance(part, bytes) else damaged(whole, part) for part in parts]
    call = channel.stream_stream("/inference.GRPCInferenceService/ModelStreamInfer")
    answers = [messages.ModelStreamInferResponse.FromString(data) for data in call(iter(sent), timeout=PATIENT)]
    assert len(answers) == len(sent)
    for answer in answers:
        assert answer.error_message or answer.infer_response.model_name == "tiny"


def post(target: Service, path: str, body: bytes, headers: dict[str, str]) -> int:
    """Return the status of a POST; what is refused says why in JSON."""
    host, _, port = target.ready["http"].rpartition(":")
    connection = http.client.HTTPConnection(host, int(port), timeout=PATIENT)
    try:
        connection.request("POST", path, body, headers)
        response = connection.getresponse()
        data = response.read()
        assert response.status == 200 or "\n" not in json.loads(data)["error"]
        return response.status
    finally:
        connection.close()


JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5), st.just(10**400)),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=5), inner, max_size=4)),
    max_leaves=8,
)
REST_REQUESTS = st.one_of(
    JSON,
    st.fixed_dictionaries(
        {
            "inputs": st.lists(
                st.fixed_dictionaries(
                    {"name": st.one_of(st.just("image"), JSON), "datatype": DATATYPES, "shape": st.lists(EXTENTS)},
                    optional={
                        "data": JSON,
                        "parameters": st.fixed_dictionaries({}, optional={"binary_data_size": EXTENTS}),
                    },
                ),
                max_size=2,
            )
        },
        optional={
            "id": JSON,
            "parameters": st.dictionaries(st.sampled_from(["timeout", "priority", "edge_encoding"]), JSON),
            "outputs": st.one_of(
                JSON, st.lists(st.fixed_dictionaries({"name": NAMES, "parameters": JSON}), max_size=2)
            ),
        },
    ),
)


@FUZZ
@given(
    REST_REQUESTS,
    st.binary(max_size=8),
    st.one_of(st.none(), st.integers(-2, 200), st.text("0123456789 +-_", max_size=5)),
)
def test_json_of_anything_is_answered_with_a_clear_status(
    target: Service, body: object, extra: bytes, length: object
) -> None:
    data = json.dumps(body).encode() + extra
    headers = {} if length is None else {"Inference-Header-Content-Length": str(length).strip()}
    assert post(target, "/v2/models/tiny/infer", data, headers) in CLEAR_HTTP


@FUZZ
@given(st.text(max_size=20), st.sampled_from(["", "/infer", "/versions/1.0.0/infer"]), st.binary(max_size=40))
def test_paths_of_anything_are_answered_with_a_clear_status(
    target: Service, name: str, suffix: str, body: bytes
) -> None:
    from urllib.parse import quote

    assert post(target, f"/v2/models/{quote(name, safe='')}{suffix}", body, {}) in CLEAR_HTTP
