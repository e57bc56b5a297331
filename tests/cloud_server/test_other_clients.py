"""gRPC's libraries of other languages against a real server: what each sees of sizes, streams, ends and farewells.

Each program in `clients` takes an address, and in TLS the files of an authority, a certificate and its key. It prints
a line for each step of `EXPECTED`; with ``go-on`` behind the address it asks until its input ends, and prints how
often, and what failed.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from edge_sdk.protocol import messages
from edge_sdk.protocol.names import SERVICE
from outside.certificates import Certificates
from outside.languages import LANGUAGES, client_program
from outside.models import counting_onnx, identity_onnx
from outside.services import Service

SERVICES = "edge_sdk.Feedback,grpc.health.v1.Health,grpc.reflection.v1.ServerReflection,inference.GRPCInferenceService"
EXPECTED = {
    "sizes": "same",  # of messages around the sizes of frames and windows
    "many": "64",  # at once
    "turns": "0,1,2,3,4 end",  # of a stream whose client reads each answer before it asks again
    "unhurried": "6",  # large answers that are read late
    "late": "4",  # DEADLINE_EXCEEDED
    "cancelled": "1",
    "missing": "5 ",  # NOT_FOUND, and why
    "large": "8",  # RESOURCE_EXHAUSTED
    "unknown": "12",  # UNIMPLEMENTED
    "metadata": "same",  # with a header of bytes, and one that comes twice
    "gzip": "same",
    "health": "SERVING",
    "watch": "SERVING",
    "services": SERVICES,
    "pings": "0",  # many, while a call takes long
}
NOT_OF = {"python": {"gzip"}}  # what its library does not do
PATIENT = 240.0
languages = pytest.mark.parametrize(
    "language", ["python", *(pytest.param(one, marks=pytest.mark.clients) for one in LANGUAGES if one != "python")]
)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("models")
    (folder / "slow.onnx").write_bytes(counting_onnx())
    (folder / "echo.onnx").write_bytes(identity_onnx("UINT8", [1, "N"]))
    return [folder / "slow.onnx", folder / "echo.onnx"]


@pytest.fixture(scope="module")
def plain(models: list[Path], grpc_front: str) -> Iterator[str]:
    with Service("serve", *models, "--grpc-port", "0", "--front", grpc_front) as process:
        yield process.ready["grpc"]


@pytest.fixture(scope="module")
def shut(models: list[Path], certificates: Certificates) -> Iterator[str]:
    """Return the address of a server that wants to see a certificate."""
    files = ("--tls-cert", certificates.cert, "--tls-key", certificates.key, "--tls-client-ca", certificates.cert)
    with Service("serve", *models, "--grpc-port", "0", "--front", "fast", *files) as process:
        yield process.ready["grpc"]


def told(program: list[str], *arguments: object) -> dict[str, str]:
    """Return what a program prints."""
    done = subprocess.run(
        [*program, *map(str, arguments)], check=False, capture_output=True, text=True, timeout=PATIENT
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return dict(line.partition(" ")[::2] for line in done.stdout.splitlines())


def why_missing(address: str, credentials: grpc.ChannelCredentials | None = None) -> str:
    """Return what gRPC's library for Python is told of a model that is not there."""
    takes, gives = messages.METHODS["ModelInfer"]
    opened = grpc.insecure_channel(address) if credentials is None else grpc.secure_channel(address, credentials)
    with opened as channel, pytest.raises(grpc.RpcError) as caught:
        ask = channel.unary_unary(f"/{SERVICE}/ModelInfer", takes.SerializeToString, gives.FromString)
        ask(takes(model_name="grün 100 %"), timeout=PATIENT)
    return caught.value.details()


def expected(language: str, why: str) -> dict[str, str]:
    steps = EXPECTED | {"missing": EXPECTED["missing"] + why}
    return {step: result for step, result in steps.items() if step not in NOT_OF.get(language, set())}


@languages
def test_a_client_of_another_language_sees_what_grpc_promises(plain: str, grpc_front: str, language: str) -> None:
    seen, steps = told(client_program(language), plain), expected(language, why_missing(plain))
    if grpc_front == "grpc":  # which ends connections with too many pings
        seen["pings"] = steps["pings"]
    assert seen == steps


@pytest.mark.clients
@pytest.mark.parametrize("language", [one for one in LANGUAGES if one != "java"])  # Debian's Netty has no ALPN
def test_it_does_so_where_both_show_certificates(shut: str, language: str, certificates: Certificates) -> None:
    files = (certificates.cert, certificates.cert, certificates.key)
    own = grpc.ssl_channel_credentials(*(file.read_bytes() for file in (files[0], files[2], files[1])))
    address = shut.replace("127.0.0.1", "localhost")
    assert told(client_program(language), address, *files) == expected(language, why_missing(address, own))


@pytest.mark.clients
@pytest.mark.parametrize("language", [one for one in LANGUAGES if one != "python"])  # grpclib drops its calls by itself
def test_no_call_of_it_fails_when_one_server_leaves_and_another_comes(
    models: list[Path], service, network, language: str
) -> None:
    program, options = client_program(language), ("--grpc-port", "0", "--front", "fast")
    one = service("serve", *models, *options)
    way = network(int(one.ready["grpc"].rpartition(":")[2]))
    with subprocess.Popen(
        [*program, way.address, "go-on"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as client:
        assert client.stdout.readline() == "begun 100\n"
        for _ in range(3):
            other = service("serve", *models, *options)
            way.redirect(int(other.ready["grpc"].rpartition(":")[2]), reset=False)
            assert one.stop() == 0
            one = other
        said, _ = client.communicate(timeout=PATIENT)
    seen = dict(line.partition(" ")[::2] for line in said.splitlines())
    assert seen["failed"] == ""
    assert int(seen["calls"]) > 100
    assert one.stop() == 0
