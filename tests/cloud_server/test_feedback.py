"""How good answers were, told over gRPC: by those who may ask, and once for each decision."""

from __future__ import annotations

import hashlib
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import numpy as np
import pytest

import edge_sdk
from edge_sdk.client import Cloud
from edge_sdk.packing import pack
from edge_sdk.processing import ProcessingSpec
from edge_sdk.protocol import add_input, messages
from edge_sdk.protocol.feedback import FEEDBACK, RewardRequest, RewardResponse
from outside.bundles import CLASSES, SIDE, tiny_onnx, train_tiny
from outside.models import adding_onnx

TAKES, GIVES = messages.METHODS["ModelInfer"]
CALLERS = """
[models.add.routing]
bandit = ["1", "2"]
seed = 3

[callers.camera]
token_sha256 = "{camera}"

[callers.dashboard]
token_sha256 = "{dashboard}"
methods = ["describe"]

[callers.elsewhere]
token_sha256 = "{elsewhere}"
models = ["other"]
"""


@pytest.fixture
def serve(service, tmp_path) -> Iterator[Callable[[str], grpc.Channel]]:
    channels = []

    def start(config: str) -> grpc.Channel:
        for version in ("1", "2"):
            folder = tmp_path / "models" / "add" / version
            folder.mkdir(parents=True)
            (folder / "model.onnx").write_bytes(adding_onnx(float(version)))
        Path(tmp_path / "serve.toml").write_text(config)
        running = service("serve", tmp_path / "models", "--config", tmp_path / "serve.toml", "--grpc-port", "0")
        channels.append(grpc.insecure_channel(running.ready["grpc"]))
        return channels[-1]

    yield start
    for channel in channels:
        channel.close()


def reward(
    channel: grpc.Channel, version: str, value: float, decision: str = "", *, model: str = "add", token: str = ""
):
    call = channel.unary_unary(f"/{FEEDBACK}/Reward", RewardRequest.SerializeToString, RewardResponse.FromString)
    request = RewardRequest(model_name=model, model_version=version, decision_id=decision, reward=value)
    return call(request, timeout=20, metadata=[("authorization", f"Bearer {token}")] if token else [])


def ask(channel: grpc.Channel, token: str = "") -> str:
    infer = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer", TAKES.SerializeToString, GIVES.FromString)
    request = TAKES(model_name="add")
    for name in "ab":
        add_input(request, name, np.zeros((1, 2), np.float32))
    answer = infer(request, timeout=20, metadata=[("authorization", f"Bearer {token}")] if token else [])
    return answer.model_version


def test_a_bandit_learns_over_grpc_and_bad_feedback_is_refused(serve):
    channel = serve('[models.add.routing]\nbandit = ["1", "2"]\nseed = 3\n')
    seen: Counter[str] = Counter()
    for number in range(150):
        version = ask(channel)
        seen[version] += 1
        for _ in range(2):  # the second is passed over: there would be more rewards than answers
            reward(channel, version, float(version == "2"), f"decision-{number}")
    assert seen["2"] > 100
    for code, version, value, model in (
        (grpc.StatusCode.INVALID_ARGUMENT, "2", 1.0, "add"),  # no answer is left to be rewarded
        (grpc.StatusCode.INVALID_ARGUMENT, "2", 1.5, "add"),
        (grpc.StatusCode.INVALID_ARGUMENT, "2", float("nan"), "add"),
        (grpc.StatusCode.INVALID_ARGUMENT, "", 1.0, "add"),
        (grpc.StatusCode.NOT_FOUND, "7", 1.0, "add"),
        (grpc.StatusCode.NOT_FOUND, "1", 1.0, "sub"),
    ):
        with pytest.raises(grpc.RpcError) as raised:
            reward(channel, version, value, model=model)
        assert raised.value.code() == code
        assert "\n" not in raised.value.details()
    with pytest.raises(grpc.RpcError) as raised:
        channel.unary_unary(f"/{FEEDBACK}/Reward")(b"\xff", timeout=20)
    assert raised.value.code() == grpc.StatusCode.INVALID_ARGUMENT


def test_feedback_has_the_rights_of_those_who_may_ask(serve):
    tokens = {name: f"token-of-{name}" for name in ("camera", "dashboard", "elsewhere")}
    channel = serve(
        CALLERS.format(**{name: hashlib.sha256(token.encode()).hexdigest() for name, token in tokens.items()})
    )
    version = ask(channel, tokens["camera"])
    for token, code in (
        ("", grpc.StatusCode.UNAUTHENTICATED),
        ("nobody", grpc.StatusCode.UNAUTHENTICATED),
        (tokens["dashboard"], grpc.StatusCode.PERMISSION_DENIED),
        (tokens["elsewhere"], grpc.StatusCode.PERMISSION_DENIED),
    ):
        with pytest.raises(grpc.RpcError) as raised:
            reward(channel, version, 1.0, token=token)
        assert raised.value.code() == code
    reward(channel, version, 1.0, token=tokens["camera"])


def test_a_device_teaches_the_bandit_which_version_is_right(service, tiny_edge_bundle, tmp_path):
    """The whole way: the app tells the device what it saw, the device the server, the server its bandit."""
    weights, bias = train_tiny(ProcessingSpec.image(SIDE, SIDE, 3))
    wrong = tmp_path / "wrong.edge"
    pack(
        tiny_onnx(-weights, -bias),
        runtime="onnx",
        name="tiny",
        version="1.0.1",
        labels=CLASSES,
        processing=ProcessingSpec.image(SIDE, SIDE, 3),
        output="logits",
        path=wrong,
    )
    for version, path in (("1", wrong), ("2", tiny_edge_bundle.path)):
        (tmp_path / "models" / "tiny" / version).mkdir(parents=True)
        shutil.copy(path, tmp_path / "models" / "tiny" / version / "model.edge")
    (tmp_path / "serve.toml").write_text('[models.tiny.routing]\nbandit = ["1", "2"]\nseed = 3\n')
    running = service("serve", tmp_path / "models", "--config", tmp_path / "serve.toml", "--grpc-port", "0")
    cloud = Cloud(running.ready["grpc"], feedback=True)
    right = []
    with edge_sdk.connect(tiny_edge_bundle.path, cloud=cloud, mode="cloud", deadline=20.0) as model:
        for n, (frame, label) in enumerate(zip(tiny_edge_bundle.images[:80], tiny_edge_bundle.labels, strict=False)):
            said = model.predict(frame)
            right.append(said.index == label)
            model.feedback(said.decision_id, label=int(label))
            ends = time.monotonic() + 20
            while model.counters["feedback"]["sent"] <= n:
                assert time.monotonic() < ends, model.counters["feedback"]
                time.sleep(0.002)
    assert 0 < sum(right[:40]) < 40, "both versions were tried"
    assert sum(right[40:]) > 30
