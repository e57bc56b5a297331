"""Who may do what: callers of a real server over both fronts, and the reading of the tables that name them."""

from __future__ import annotations

import hashlib
import http.client
import json
import ssl
from pathlib import Path

import grpc
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_sdk.cloud.server.access import Access, Caller, callers_from
from edge_sdk.cloud.server.settings import Serving
from edge_sdk.errors import InputError, RateLimitError, UnknownCallerError
from edge_sdk.protocol import messages
from outside.bundles import TinyBundle, tiny_onnx
from outside.certificates import make_certificates
from outside.services import Service
from outside.services import edge_sdk as run_edge_sdk

PATIENT = 20.0
SERVICE = "inference.GRPCInferenceService"
CAMERA, BUSY, CHIEF = "camera-s3cret", "busy-s3cret", "chief-s3cret"
GOOD = np.full((1, 8, 8, 3), 0.5, np.float32)

CONFIG = f"""
[callers.cameras]
token_file = "cameras.token"
models = ["ti*"]

[callers.busy]
token_sha256 = "{hashlib.sha256(BUSY.encode()).hexdigest()}"
methods = ["infer"]
requests_per_second = 0.001
burst = 3

[callers.chief]
token_sha256 = ["{"0" * 64}", "{hashlib.sha256(CHIEF.encode()).hexdigest()}"]
methods = ["describe", "admin"]
"""


@pytest.fixture
def guarded(service, tiny_edge_bundle: TinyBundle, tmp_path: Path, grpc_front: str) -> Service:
    """Return a server of the models ``tiny`` and ``other``, with the callers above."""
    (tmp_path / "cameras.token").write_text(f"{CAMERA}\n")
    (tmp_path / "serve.toml").write_text(CONFIG)
    version = tmp_path / "models" / "other" / "1"
    version.mkdir(parents=True)
    (version / "model.onnx").write_bytes(tiny_onnx(np.zeros((192, 3), np.float32), np.zeros(3, np.float32)))
    return service(
        "serve",
        tiny_edge_bundle.path,
        tmp_path / "models",
        *("--grpc-port", "0", "--http-port", "0", "--allow-admin", "--config", tmp_path / "serve.toml"),
        *("--front", grpc_front),
    )


def tensor(triton):
    made = triton.InferInput("image", [1, 8, 8, 3], "FP32")
    made.set_data_from_numpy(GOOD)
    return [made]


def bearer(token: str | None) -> dict[str, str]:
    return {} if token is None else {"authorization": f"Bearer {token}"}


@pytest.mark.parametrize("front", ["grpc", "http"])
def test_each_caller_may_do_what_its_table_says_and_no_more(guarded: Service, front: str) -> None:
    triton = pytest.importorskip(f"tritonclient.{front}")
    known, asked = {"grpc": "StatusCode.UNAUTHENTICATED", "http": "401"}[front], tensor(triton)
    forbidden = {"grpc": "StatusCode.PERMISSION_DENIED", "http": "403"}[front]
    with triton.InferenceServerClient(guarded.ready[front]) as client:

        def refused(status: str, call, *arguments: object, token: str | None) -> None:
            with pytest.raises(triton.InferenceServerException) as caught:
                call(*arguments, headers=bearer(token))
            assert caught.value.status() == status, caught.value
            for secret in (CAMERA, BUSY, CHIEF):
                assert secret not in str(caught.value)

        for token in (None, "", "wrong", CAMERA + "x", CAMERA[:-1]):
            refused(known, client.infer, "tiny", asked, token=token)
            refused(known, client.get_server_metadata, token=token)
        assert client.infer("tiny", asked, headers=bearer(CAMERA)).as_numpy("logits").shape == (1, 3)
        assert client.get_model_metadata("tiny", headers=bearer(CAMERA))
        # what it may not use is refused in the same way, whether it is there or not
        for name in ("other", "missing"):
            refused(forbidden, client.infer, name, asked, token=CAMERA)
            refused(forbidden, client.get_model_metadata, name, token=CAMERA)
            refused(forbidden, client.get_model_config, name, token=CAMERA)
        refused(forbidden, client.unload_model, "tiny", token=CAMERA)
        refused(forbidden, client.infer, "tiny", asked, token=CHIEF)
        refused(forbidden, client.get_model_metadata, "tiny", token=BUSY)
        client.unload_model("other", headers=bearer(CHIEF))
        client.load_model("other", headers=bearer(CHIEF))

        def names(token: str) -> tuple[set[str], set[str]]:
            options = {"as_json": True} if front == "grpc" else {}
            index = client.get_model_repository_index(headers=bearer(token), **options)
            counted = client.get_inference_statistics(headers=bearer(token), **options)
            listed = index["models"] if front == "grpc" else index
            return {model["name"] for model in listed}, {model["name"] for model in counted["model_stats"]}

        assert names(CAMERA) == ({"tiny"}, {"tiny"})
        assert names(CHIEF) == ({"tiny", "other"}, {"tiny", "other"})
    assert guarded.stop() == 0
    assert "cameras asks to load or unload model 'tiny': refused" in guarded.errors
    assert guarded.errors.count("chief (") == 2
    for secret in (CAMERA, BUSY, CHIEF, "wrong"):
        assert secret not in guarded.errors


def test_who_asks_too_often_is_told_when_to_come_back_over_whichever_front(guarded: Service) -> None:
    takes, gives = messages.METHODS["ModelInfer"]
    request = takes(model_name="tiny", raw_input_contents=[GOOD.tobytes()])
    request.inputs.add(name="image", datatype="FP32", shape=GOOD.shape)
    metadata = (("authorization", f"Bearer {BUSY}"),)
    body = {"inputs": [{"name": "image", "datatype": "FP32", "shape": GOOD.shape, "data": GOOD.ravel().tolist()}]}
    with grpc.insecure_channel(guarded.ready["grpc"]) as channel:
        call = channel.unary_unary(f"/{SERVICE}/ModelInfer", takes.SerializeToString, gives.FromString)
        for _ in range(2):
            assert call(request, timeout=PATIENT, metadata=metadata).model_name == "tiny"
        assert post(guarded, BUSY, body)[0] == 200
        with pytest.raises(grpc.RpcError) as caught:
            call(request, timeout=PATIENT, metadata=metadata)
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        pushback = dict(caught.value.trailing_metadata())["grpc-retry-pushback-ms"]
        assert 900_000 < int(pushback) <= 1_000_000, "one more after a thousand seconds"
        status, headers = post(guarded, BUSY, body)
        assert (status, 900 < int(headers["Retry-After"]) <= 1000) == (429, True)
        # each request of a stream counts
        stream = channel.stream_stream(
            f"/{SERVICE}/ModelStreamInfer", takes.SerializeToString, messages.ModelStreamInferResponse.FromString
        )
        assert "times a second" in next(stream(iter([request]), timeout=PATIENT, metadata=metadata)).error_message
        camera = (("authorization", f"Bearer {CAMERA}"),)
        assert call(request, timeout=PATIENT, metadata=camera).model_name == "tiny", "others are not held back"


def post(guarded: Service, token: str, body: object) -> tuple[int, http.client.HTTPMessage]:
    connection = http.client.HTTPConnection(guarded.ready["http"], timeout=PATIENT)
    try:
        connection.request("POST", "/v2/models/tiny/infer", json.dumps(body), bearer(token))
        response = connection.getresponse()
        return response.status, response.headers
    finally:
        connection.close()


def test_callers_are_known_by_their_certificates(service, tiny_edge_bundle: TinyBundle, tmp_path: Path) -> None:
    server = make_certificates(tmp_path)
    camera = make_certificates(tmp_path, names=("camera.example",), stem="camera-")
    other = make_certificates(tmp_path, names=("other.example",), stem="other-")
    (tmp_path / "authorities.pem").write_bytes(camera.cert.read_bytes() + other.cert.read_bytes())
    (tmp_path / "serve.toml").write_text('[callers.cameras]\ncertificates = "camera.example"\n')
    options = ("--tls-cert", server.cert, "--tls-key", server.key, "--config", tmp_path / "serve.toml")
    done = run_edge_sdk("serve", tiny_edge_bundle.path, "--grpc-port", "0", *options)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "--tls-client-ca" in done.stderr
    process = service(
        "serve",
        tiny_edge_bundle.path,
        *("--grpc-port", "0", "--http-port", "0", *options, "--tls-client-ca", tmp_path / "authorities.pem"),
    )
    takes, gives = messages.METHODS["ModelMetadata"]
    for client, code, status in ((camera, grpc.StatusCode.OK, 200), (other, grpc.StatusCode.UNAUTHENTICATED, 401)):
        credentials = grpc.ssl_channel_credentials(
            server.cert.read_bytes(), client.key.read_bytes(), client.cert.read_bytes()
        )
        own = [("grpc.use_local_subchannel_pool", 1)]
        with grpc.secure_channel(process.ready["grpc"], credentials, own) as channel:
            ask = channel.unary_unary(f"/{SERVICE}/ModelMetadata", takes.SerializeToString, gives.FromString)
            told = ask.future(takes(name="tiny"), timeout=PATIENT)
            assert told.code() is code
            wrong = ask.future(takes(name="tiny"), timeout=PATIENT, metadata=(("authorization", "Bearer wrong"),))
            assert wrong.code() is grpc.StatusCode.UNAUTHENTICATED
        context = ssl.create_default_context(cafile=str(server.cert))
        context.load_cert_chain(client.cert, client.key)
        connection = http.client.HTTPSConnection(process.ready["http"], timeout=PATIENT, context=context)
        connection.request("GET", "/v2/models/tiny")
        assert connection.getresponse().status == status
        connection.close()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("callers = 1", "tables"),
        ("[callers]\ncamera = 1", "tables"),
        ("[callers.camera]", "to be known by"),
        ("[callers.camera]\ntoken_sha256 = 's3cret-token'", "64 hexadecimal digits"),
        ("[callers.camera]\ntoken_file = 'missing'", "there is no file"),
        ("[callers.camera]\ntoken_file = 'empty'", "one token"),
        ("[callers.camera]\ncertificates = []", "certificates"),
        ("[callers.camera]\ncertificates = 'a'\nmethods = ['fly']", "no method 'fly'"),
        ("[callers.camera]\ncertificates = 'a'\nspeed = 1", "no setting 'speed'"),
        ("[callers.camera]\ncertificates = 'a'\nrequests_per_second = 0", "more than 0"),
        ("[callers.camera]\ncertificates = 'a'\nrequests_per_second = inf", "more than 0"),
        ("[callers.camera]\ncertificates = 'a'\nrequests_per_second = true", "more than 0"),
        ("[callers.camera]\ncertificates = 'a'\nburst = 2", "needs requests_per_second"),
        ("[callers.camera]\ncertificates = 'a'\nrequests_per_second = 1\nburst = 0", "at least 1"),
        ("[callers.a]\ncertificates = 'x'\n[callers.b]\ncertificates = 'x'", "same certificate"),
    ],
)
def test_a_configuration_that_is_wrong_is_refused_with_one_line_and_no_secret(
    tiny_edge_bundle: TinyBundle, tmp_path: Path, text: str, says: str
) -> None:
    (tmp_path / "serve.toml").write_text(text)
    (tmp_path / "empty").write_text("")
    with pytest.raises(InputError, match=says) as caught:
        Access(Serving.read(tmp_path / "serve.toml").callers)
    assert "\n" not in str(caught.value)
    assert "s3cret" not in str(caught.value)


def test_no_token_is_shown(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("s3cret")
    callers = callers_from({"camera": {"token_file": "token"}}, tmp_path)
    shown = repr(callers) + repr(Access(callers)) + repr(Serving(callers=callers))
    assert "s3cret" not in shown
    assert repr(hashlib.sha256(b"s3cret").digest()) not in shown


PLAIN = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
ANYTHING = st.recursive(
    PLAIN, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
)
KEYS = st.sampled_from(
    ["token_file", "token_sha256", "certificates", "models", "methods", "requests_per_second", "burst", "other"]
)


@settings(max_examples=50)
@given(st.dictionaries(st.text(max_size=5), st.dictionaries(KEYS, ANYTHING, max_size=6), max_size=3) | ANYTHING)
def test_any_tables_are_read_or_refused_by_name(tmp_path_factory: pytest.TempPathFactory, tables: object) -> None:
    folder = tmp_path_factory.getbasetemp()
    try:
        callers = callers_from(tables, folder)
        access = Access(callers)
    except (InputError, OSError):
        return
    for caller in callers:
        assert {*caller.methods} <= {"describe", "infer", "admin", "metrics"}
        for name in caller.certificates:
            assert access.identify(None, [name]) is caller


@given(
    rate=st.floats(0.1, 50),
    burst=st.none() | st.integers(1, 20),
    waits=st.lists(st.floats(0, 3), min_size=1, max_size=60),
)
def test_nobody_is_let_in_more_often_than_its_rate_and_what_it_is_told_to_wait_is_enough(
    rate: float, burst: int | None, waits: list[float]
) -> None:
    now = 0.0
    caller = Caller(name="camera", certificates=("camera",), requests_per_second=rate, burst=burst)
    access = Access([caller], clock=lambda: now)
    most = max(1, int(rate)) if burst is None else burst
    for admitted, wait in enumerate(waits, 1):
        now += wait
        try:
            access.admit(caller, "infer", "any")
        except RateLimitError as error:
            now += error.retry_after + 1e-9
            access.admit(caller, "infer", "any")
        assert admitted <= most + rate * now + 1e-6


@given(st.text(max_size=20), st.booleans())
def test_only_the_whole_token_is_known(token: str, as_bytes: bool) -> None:
    access = Access([Caller(name="camera", tokens=(hashlib.sha256(b"s3cret").digest(),))])
    given_text = f"Bearer {token}"
    assert access.identify("Bearer s3cret").name == "camera"
    assert access.identify(b"bearer s3cret").name == "camera"
    if token != "s3cret":
        with pytest.raises(UnknownCallerError):
            access.identify(given_text.encode() if as_bytes else given_text, ["camera"])
