"""Servers that are not ours, of the same protocol: MLServer, and Triton with its Python backend.

Each needs an environment of its own, whose Python is named by ``EDGE_SDK_MLSERVER_PYTHON`` (with ``mlserver``)
and ``EDGE_SDK_TRITON_PYTHON`` (with ``nvidia-pytriton``).
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import numpy as np
import pytest

import edge_sdk
from edge_sdk.client import Cloud
from edge_sdk.processing import ProcessingSpec
from outside.bundles import SIDE, train_tiny
from outside.network import free_port
from outside.services import Service
from outside.sources import ROOT
from outside.twins import DENSE_ON_TRITON

FOREIGN = ROOT / "tests" / "fixtures" / "foreign"
PATIENT = 30.0
START = 60.0
CONFIG = """
name: "teacher"
backend: "python"
max_batch_size: 32
input [ { name: "image" data_type: TYPE_FP32 dims: [ 8, 8, 3 ] } ]
output [ { name: "logits" data_type: TYPE_FP32 dims: [ 3 ] } ]
"""


def python_of(server: str) -> str:
    python = os.environ.get(f"EDGE_SDK_{server}_PYTHON")
    if not python:
        pytest.skip(f"EDGE_SDK_{server}_PYTHON names no Python that has this server")
    return python


def save_weights(path: Path) -> Path:
    """Write the weights that the pair's cloud bundle has."""
    weights, bias = train_tiny(ProcessingSpec.image(SIDE, SIDE, 3), seed=3)
    np.savez(path, weights=weights, bias=bias)
    return path


@pytest.fixture
def mlserver(tmp_path: Path) -> Iterator[str]:
    python, port = python_of("MLSERVER"), free_port()
    shutil.copy(FOREIGN / "numpy_on_mlserver.py", tmp_path)
    save_weights(tmp_path / "weights.npz")
    ports = {"grpc_port": port, "http_port": free_port(), "metrics_port": free_port()}
    settings = {"host": "127.0.0.1", "parallel_workers": 0, "debug": False, **ports}
    (tmp_path / "settings.json").write_text(json.dumps(settings))
    model = {
        "name": "teacher",
        "implementation": "numpy_on_mlserver.Dense",
        "inputs": [{"name": "image", "datatype": "FP32", "shape": [-1, SIDE, SIDE, 3]}],
        "outputs": [{"name": "logits", "datatype": "FP32", "shape": [-1, 3]}],
    }
    (tmp_path / "model-settings.json").write_text(json.dumps(model))
    with (tmp_path / "log").open("wb") as log:
        command = [str(Path(python).with_name("mlserver")), "start", str(tmp_path)]
        # it imports the runtime by its name, from the folder
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONSAFEPATH"}
        process = subprocess.Popen(command, cwd=tmp_path, stdout=log, stderr=log, env=environment)
        try:
            address = f"127.0.0.1:{port}"
            with grpc.insecure_channel(address) as channel:
                end = time.monotonic() + START
                while not _is_ready(channel):
                    assert process.poll() is None, (tmp_path / "log").read_text()[-2000:]
                    assert time.monotonic() < end, (tmp_path / "log").read_text()[-2000:]
                    time.sleep(0.1)
            yield address
        finally:
            process.terminate()
            process.wait(30)


def _is_ready(channel: grpc.Channel) -> bool:
    from edge_sdk.protocol import messages
    from edge_sdk.protocol.names import SERVICE

    ask = channel.unary_unary(
        f"/{SERVICE}/ModelReady",
        request_serializer=messages.ModelReadyRequest.SerializeToString,
        response_deserializer=messages.ModelReadyResponse.FromString,
    )
    try:
        return bool(ask(messages.ModelReadyRequest(name="teacher"), timeout=5).ready)
    except grpc.RpcError:
        return False


@pytest.fixture
def triton(tmp_path: Path) -> Iterator[str]:
    program, ports = [python_of("TRITON"), str(FOREIGN / "triton_server.py")], [free_port() for _ in range(3)]
    version, own = tmp_path / "models" / "teacher" / "1", tmp_path / "own"
    version.mkdir(parents=True)
    own.mkdir()
    (version.parent / "config.pbtxt").write_text(CONFIG)
    (version / "model.py").write_text(DENSE_ON_TRITON)
    save_weights(version / "weights.npz")
    with Service(tmp_path / "models", own, *ports, program=program, timeout=START) as service:
        yield service.ready["grpc"]


@pytest.mark.slow
@pytest.mark.parametrize("server", ["mlserver", "triton"])
@pytest.mark.parametrize("name", [None, "teacher"], ids=["found", "named"])
def test_another_server_gives_the_answers_of_ours(pair, cloud: str, request, server: str, name: str | None) -> None:
    theirs = Cloud(request.getfixturevalue(server), model_name=name)
    with (
        edge_sdk.connect(pair.edge, cloud=theirs, deadline=PATIENT) as model,
        edge_sdk.connect(pair.edge, cloud=cloud, deadline=PATIENT) as ours,
    ):
        ask: Callable = model.predict
        with ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(ask, pair.hard))
        for frame, answer in zip(pair.hard, answers, strict=True):
            expected = ours.predict(frame)
            assert (answer.source, answer.reason) == ("cloud", "escalated")
            assert answer.label == expected.label
            assert answer.scores == pytest.approx(expected.scores, abs=1e-4)
            assert not answer.certified  # it cannot say which model that was
        counters = model.counters
    assert counters["escalated"] == len(pair.hard)
    assert counters["failed_uploads"] == 0
