"""The server as a process: how it starts, refuses to start, is secured, and ends."""

from __future__ import annotations

import os
import random
import signal
import socket
import urllib.request
from pathlib import Path

import grpc
import pytest

import edge_sdk
from edge_sdk.client import Cloud
from edge_sdk.protocol import messages
from outside.bundles import TinyBundle
from outside.certificates import Certificates
from outside.network import free_port
from outside.services import edge_sdk as run_edge_sdk

PATIENT = 20.0
ONLY = ("--http-port", "off", "--metrics-port", "off")
TOKEN = "s3cret-token-of-a-test"


def server_live(channel: grpc.Channel, metadata: list | None = None) -> bool:
    takes, gives = messages.METHODS["ServerLive"]
    live = channel.unary_unary("/inference.GRPCInferenceService/ServerLive", takes.SerializeToString, gives.FromString)
    return live(takes(), timeout=PATIENT, metadata=metadata, wait_for_ready=True).live


def test_one_line_says_that_it_is_ready_and_where(service, tiny_edge_bundle: TinyBundle, grpc_front: str) -> None:
    process = service("serve", tiny_edge_bundle.path, "--front", grpc_front, "--grpc-port", "0")
    assert len(process.lines) == 1
    assert process.ready["models"] == "tiny"
    with grpc.insecure_channel(process.ready["grpc"]) as channel:
        assert server_live(channel)
    assert process.stop() == 0
    assert len(process.lines) == 1
    assert process.errors == ""


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_cleanly_and_frees_the_port(
    service, tiny_edge_bundle: TinyBundle, grpc_front: str, signum: int
) -> None:
    port = free_port()
    options = ("--front", grpc_front, "--grpc-port", port, *ONLY)
    process = service("serve", tiny_edge_bundle.path, *options)
    with grpc.insecure_channel(process.ready["grpc"]) as channel:
        assert server_live(channel)  # a client that stays connected does not keep it alive
        os.kill(process.process.pid, signum)
        assert process.process.wait(PATIENT) == 0
    assert process.stop() == 0
    assert process.errors == ""
    service("serve", tiny_edge_bundle.path, *options)


@pytest.fixture
def host() -> str:
    """Return an address of this machine whose ports nobody else uses; only Linux has more than one."""
    chosen = f"127.{random.randrange(1, 255)}.{random.randrange(256)}.{random.randrange(1, 255)}"
    try:
        socket.create_server((chosen, 0)).close()
    except OSError:
        pytest.skip("this machine has one loopback address")
    return chosen


def test_rest_and_metrics_are_open_where_nobody_says_otherwise(
    service, tiny_edge_bundle: TinyBundle, host: str
) -> None:
    process = service("serve", tiny_edge_bundle.path, "--host", host)
    fronts = {"grpc": f"{host}:8001", "http": f"{host}:8000", "metrics": f"{host}:8002"}
    assert process.ready == {"": "ready", **fronts, "models": "tiny"}
    for front, path in (("http", "/v2/health/ready"), ("metrics", "/metrics")):
        with urllib.request.urlopen(f"http://{process.ready[front]}{path}", timeout=PATIENT) as response:
            assert response.status == 200
    process.stop()
    assert process.errors == ""


def test_a_default_port_that_is_taken_is_done_without_and_one_that_was_asked_for_is_not(
    service, tiny_edge_bundle: TinyBundle, host: str
) -> None:
    with socket.create_server((host, 8000)):
        process = service("serve", tiny_edge_bundle.path, "--host", host, "--metrics-port", "off")
        assert {*process.ready} == {"", "grpc", "models"}
        process.stop()
        assert process.errors.count("\n") == 1
        assert f"port 8000 on {host} is in use, so there is no http: give another with --http-port" in process.errors
        done = run_edge_sdk("serve", tiny_edge_bundle.path, "--host", host, "--http-port", "8000")
        assert (done.returncode, done.stderr.count("\n")) == (2, 1)


def refused(*arguments: object) -> str:
    """Run ``serve`` where it must not start; return its one line."""
    done = run_edge_sdk("serve", *arguments, *ONLY)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1, done.stderr
    return done.stderr


def test_a_busy_port_is_refused_in_one_line(server: str, tiny_edge_bundle: TinyBundle) -> None:
    port = server.rpartition(":")[2]
    assert f"port {port} on 127.0.0.1 is in use" in refused(tiny_edge_bundle.path, "--grpc-port", port)
    with socket.create_server(("127.0.0.1", 0)) as other:
        taken = other.getsockname()[1]
        assert "is in use" in refused(tiny_edge_bundle.path, "--grpc-port", taken)


@pytest.mark.parametrize(
    ("option", "text", "says"),
    [
        ("--http-port", "no", "no is not a port: 0 to 65535"),
        ("--http-port", "65536", "65536 is not a port: 0 to 65535"),
        ("--max-concurrent", "many", "many is not a count: 1 or more"),
        ("--max-concurrent", "9" * 5000, "is not a count: 1 or more"),
        ("--max-worker-memory", "0MiB", "0MiB is no size, such as 800MiB or 1.5GiB"),
        ("--max-message", "2GiB", "2GiB is too large: at most 1GiB"),
    ],
)
def test_what_is_no_number_is_refused_in_words(option: str, text: str, says: str) -> None:
    assert f"argument {option}: " in (said := refused("tiny.edge", option, text))
    assert says in said


def test_an_address_that_is_not_of_this_machine_is_refused(tiny_edge_bundle: TinyBundle) -> None:
    assert "cannot listen on" in refused(tiny_edge_bundle.path, "--host", "192.0.2.1", "--grpc-port", "0")
    assert "cannot listen on" in refused(tiny_edge_bundle.path, "--host", "no.such.host.invalid", "--grpc-port", "0")


def test_what_is_no_model_is_refused(tiny_edge_bundle: TinyBundle, tmp_path: Path) -> None:
    assert "there is no bundle" in refused(tmp_path / "missing.edge")
    assert "there is no model" in refused(tmp_path / "missing.onnx")
    (tmp_path / "notes.txt").write_text("hello")
    assert "is not a bundle" in refused(tmp_path / "notes.txt")
    (tmp_path / "short.edge").write_bytes(tiny_edge_bundle.path.read_bytes()[:-50])
    assert "short.edge" in refused(tmp_path / "short.edge")
    (tmp_path / "broken.onnx").write_bytes(b"not onnx")
    assert "cannot load" in refused(tmp_path / "broken.onnx")
    assert "two models are called tiny" in refused(tiny_edge_bundle.path, tiny_edge_bundle.path, "--grpc-port", "0")


def test_half_of_the_tls_options_and_unusable_tokens_are_refused(tiny_edge_bundle: TinyBundle, tmp_path: Path) -> None:
    assert "give both" in refused(tiny_edge_bundle.path, "--tls-cert", tmp_path / "cert.pem")
    assert "there is no file" in refused(tiny_edge_bundle.path, "--token-file", tmp_path / "missing")
    (tmp_path / "empty").write_text("\n")
    assert "one token" in refused(tiny_edge_bundle.path, "--token-file", tmp_path / "empty")
    for name in ("cert.pem", "key.pem"):
        (tmp_path / name).write_text("not PEM")
    assert "are not a certificate and its key" in refused(
        tiny_edge_bundle.path,
        "--grpc-port",
        "0",
        "--tls-cert",
        tmp_path / "cert.pem",
        "--tls-key",
        tmp_path / "key.pem",
    )


def test_a_token_is_asked_for_and_never_logged(
    service, tiny_edge_bundle: TinyBundle, tmp_path: Path, grpc_front: str, monkeypatch: pytest.MonkeyPatch, caplog
) -> None:
    monkeypatch.setenv("EDGE_SDK_LOG", "DEBUG")
    caplog.set_level("DEBUG")
    (tmp_path / "token").write_text(TOKEN + "\n")
    options = ("--front", grpc_front, "--token-file", tmp_path / "token")
    process = service("serve", tiny_edge_bundle.path, "--grpc-port", "0", *options)
    address, frame = process.ready["grpc"], tiny_edge_bundle.images[0]
    with grpc.insecure_channel(address) as channel:
        for metadata in (None, [("authorization", "Bearer wrong")], [("authorization", TOKEN)]):
            with pytest.raises(grpc.RpcError) as caught:
                server_live(channel, metadata)
            assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED
        assert server_live(channel, [("authorization", f"Bearer {TOKEN}")])
    options = {"mode": "prefer_cloud", "deadline": PATIENT}
    with edge_sdk.connect(tiny_edge_bundle.path, cloud=Cloud(address, token=TOKEN), **options) as model:
        assert model.predict(frame).source == "cloud"
    for token in ("wrong", None):
        with edge_sdk.connect(tiny_edge_bundle.path, cloud=Cloud(address, token=token), **options) as model:
            answer = model.predict(frame)
            assert (answer.source, answer.reason) == ("edge", "rejected")
    process.stop()
    assert TOKEN not in process.errors + caplog.text + "".join(process.lines)


def test_tls_is_one_option_away(
    service, tiny_edge_bundle: TinyBundle, tmp_path: Path, certificates: Certificates, grpc_front: str
) -> None:
    (tmp_path / "token").write_text(TOKEN)
    process = service(
        "serve", tiny_edge_bundle.path, "--grpc-port", "0", "--token-file", tmp_path / "token",
        "--tls-cert", certificates.cert, "--tls-key", certificates.key, "--front", grpc_front,
    )  # fmt: skip
    address, frame = process.ready["grpc"], tiny_edge_bundle.images[0]
    cloud = Cloud(address, tls_ca=certificates.cert, token=TOKEN)
    with edge_sdk.connect(tiny_edge_bundle.path, cloud=cloud, mode="prefer_cloud", deadline=PATIENT) as model:
        assert model.predict(frame).source == "cloud"
    with edge_sdk.connect(tiny_edge_bundle.path, cloud=address, mode="prefer_cloud", deadline=0.5) as model:
        assert model.predict(frame).source == "edge"  # no TLS here, TLS there
    process.stop()
    assert TOKEN not in process.errors


def test_a_server_with_another_certificate_is_not_believed(
    service, tiny_edge_bundle: TinyBundle, tmp_path: Path, certificates: Certificates
) -> None:
    process = service("serve", tiny_edge_bundle.path, "--grpc-port", "0")
    cloud = Cloud(process.ready["grpc"], tls_ca=certificates.cert)
    with edge_sdk.connect(tiny_edge_bundle.path, cloud=cloud, mode="prefer_cloud", deadline=0.5) as model:
        answer = model.predict(tiny_edge_bundle.images[0])
    assert answer.source == "edge"
    assert answer.reason in {"offline", "deadline"}
