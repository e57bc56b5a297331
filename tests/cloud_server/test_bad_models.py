"""Models that raise, hang or are none, in a real server: what is served stays served, and the server stays small."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import numpy as np
import pytest

from edge_sdk.protocol import add_input, messages, read_outputs
from outside.models import adding_onnx, endless_onnx, failing_onnx
from outside.services import Service

PATIENT = 30.0
MiB = 2**20


def place(root: Path, name: str, version: str, data: bytes) -> None:
    """Put a model's file there, complete at once."""
    folder = root / name / version
    folder.mkdir(parents=True)
    (root.parent / "new").write_bytes(data)
    (root.parent / "new").replace(folder / "model.onnx")


def resident(server: Service) -> int:
    return int(Path(f"/proc/{server.process.pid}/statm").read_text().split()[1]) * 4096


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "models").mkdir()
    place(tmp_path / "models", "add", "1", adding_onnx(1.0))
    return tmp_path / "models"


@pytest.fixture
def serve(service, root: Path, tmp_path: Path) -> Callable[..., Service]:
    def start(**settings: float) -> Service:
        lines = [f"{name} = {value}" for name, value in settings.items()]
        (tmp_path / "serve.toml").write_text("\n".join(["reload_seconds = 0.05", '[models."*"]', *lines]))
        return service("serve", root, "--grpc-port", "0", "--config", tmp_path / "serve.toml")

    return start


class Client:
    def __init__(self, channel: grpc.Channel) -> None:
        self._channel = channel

    def call(self, method: str, **fields: object) -> object:
        takes, gives = messages.METHODS[method]
        name = f"/inference.GRPCInferenceService/{method}"
        return self._channel.unary_unary(name, takes.SerializeToString, gives.FromString)(
            takes(**fields), timeout=PATIENT
        )

    def ask(self, model: str, number: float, inputs: tuple[str, ...] = ("x",)) -> tuple[str, float]:
        """Return the status, and the first number of the answer."""
        request = messages.ModelInferRequest(model_name=model)
        for name in inputs:
            add_input(request, name, np.full((1, 2), number, np.float32))
        infer = self._channel.unary_unary(
            "/inference.GRPCInferenceService/ModelInfer",
            messages.ModelInferRequest.SerializeToString,
            messages.ModelInferResponse.FromString,
        )
        try:
            (output,) = read_outputs(infer(request, timeout=PATIENT)).values()
        except grpc.RpcError as error:
            return error.code().name, np.nan
        return "OK", float(output.ravel()[0])

    def add(self) -> float:
        status, number = self.ask("add", 0, ("a", "b"))
        assert status == "OK"
        return number

    def until(self, happened: Callable[[], bool]) -> None:
        end = time.monotonic() + PATIENT
        while not happened():
            assert time.monotonic() < end
            assert self.add() >= 1
            time.sleep(0.02)


@pytest.fixture
def connected() -> Iterator[Callable[[Service], Client]]:
    channels = []

    def connect(server: Service) -> Client:
        channels.append(grpc.insecure_channel(server.ready["grpc"]))
        return Client(channels[-1])

    yield connect
    for channel in channels:
        channel.close()


def test_a_model_that_raises_fails_its_request_and_no_other(serve, connected, root: Path) -> None:
    place(root, "failing", "1", failing_onnx())
    server = serve()
    client = connected(server)
    before = resident(server)
    for _ in range(100):
        assert client.ask("failing", 1) == ("OK", 7)
        assert client.ask("failing", 9)[0] == "INTERNAL"
        assert client.add() == 1
    assert resident(server) - before < 64 * MiB
    assert server.stop() == 0


def test_a_model_that_hangs_is_given_up_and_comes_back_while_others_answer(serve, connected, root: Path) -> None:
    place(root, "endless", "1", endless_onnx(above=1))
    server = serve(hang_seconds=1.5)
    client = connected(server)
    assert client.ask("endless", 1) == ("OK", 1)
    before = resident(server)
    for times in (1, 2):
        assert client.ask("endless", 2)[0] == "INTERNAL"
        client.until(lambda: client.call("ModelReady", name="endless").ready)
        assert client.ask("endless", 1) == ("OK", 1)
        assert server.errors.count("has not returned for") == times
    assert resident(server) - before < 64 * MiB
    assert server.stop() == 0, server.errors


def test_what_is_no_model_or_hangs_in_its_warm_up_is_said_once_and_what_was_served_still_is(
    serve, connected, root: Path
) -> None:
    server = serve(warm_up_seconds=3)
    client = connected(server)
    before = resident(server)
    good = adding_onnx(5.0)
    bad = {"2": b"", "3": b"\x00" * MiB, "4": good[: len(good) // 2], "5": endless_onnx(above=-1)}
    for version, data in bad.items():
        place(root, "add", version, data)
        client.until(lambda v=version: f"model add {v} cannot be loaded" in server.errors)
        assert client.add() == 1
    assert "the warm-up of model add 5 is not through after 3 s" in server.errors
    states = {one.version: one.state for one in client.call("RepositoryIndex").models}
    assert states["1"] == "READY"
    assert states["5"] == "UNAVAILABLE"
    place(root, "add", "6", good)
    client.until(lambda: client.add() == 5)
    for version in bad:
        assert server.errors.count(f"model add {version} cannot be loaded") == 1
    assert resident(server) - before < 128 * MiB
    assert server.stop() == 0


def test_a_model_that_hangs_in_its_warm_up_keeps_a_server_from_starting_in_one_line(root: Path, tmp_path: Path) -> None:
    (tmp_path / "endless.onnx").write_bytes(endless_onnx(above=-1))
    (tmp_path / "serve.toml").write_text('[models."*"]\nwarm_up_seconds = 0.5\n')
    with pytest.raises(AssertionError, match=r"ended with code 2: .*the warm-up of model endless 1 is not through"):
        Service("serve", tmp_path / "endless.onnx", "--grpc-port", "0", "--config", tmp_path / "serve.toml")
