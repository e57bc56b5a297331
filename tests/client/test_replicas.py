"""Two servers of one model, one of which is killed while requests go on: nobody notices."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

import edge_sdk
from edge_sdk.client import Cloud
from outside.pairs import Pair

PATIENT = 20.0


@pytest.mark.parametrize("balance", ["failover", "round_robin"])
def test_no_request_fails_when_a_replica_is_killed_under_load(service, pair: Pair, balance: str) -> None:
    replicas = [service("serve", pair.cloud, "--grpc-port", "0") for _ in range(2)]
    cloud = Cloud([replica.ready["grpc"] for replica in replicas], balance=balance)
    killed = threading.Event()

    def ask(_: int) -> list[str]:
        """Ask until the replica is gone, and on."""
        sources, left = [], 50
        while left:
            sources.append(model.predict(pair.hard[0]).source)
            left -= killed.is_set()
        return sources

    with edge_sdk.connect(pair.edge, cloud=cloud, mode="cloud", deadline=PATIENT) as model:
        model.predict(pair.hard[0])
        with ThreadPoolExecutor(4) as threads:
            asking = [threads.submit(ask, number) for number in range(4)]
            for _ in range(20):
                model.predict(pair.hard[0])
            replicas[0].kill()
            killed.set()
            sources = [source for one in asking for source in one.result(PATIENT)]
        assert {*sources} == {"cloud"}
        assert len(sources) >= 200
