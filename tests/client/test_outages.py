"""The cloud goes away in every way it can: each call is answered by the edge, and in time.

Deadlines are generous and a call that hangs would hang for good, so nothing here depends on how
fast the machine is.
"""

from __future__ import annotations

import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, suppress

import pytest

import edge_sdk
from edge_sdk.client.breaker import Breaker
from outside.network import MisbehavingNetwork, free_port

DEADLINE = 0.4
LATE = 30.0  # seconds: far beyond the deadline, far below for ever
RETURN = 60.0  # seconds within which a busy machine sees the cloud again
PATIENT = 2.0  # seconds: a deadline that a busy machine meets, of which it takes a few where connections are dead


def answers(model, frames, n: int) -> Counter:
    """Predict ``n`` times and return how often each (source, reason) was given."""
    seen: Counter = Counter()
    for i in range(n):
        answer = model.predict(frames[i % len(frames)])
        assert answer.timing.total_ms < LATE * 1000
        assert answer.source == "cloud" or not answer.certified
        seen[answer.source, answer.reason] += 1
    return seen


def wait_for_cloud(model, frame, deadline: float = PATIENT) -> None:
    end, before = time.monotonic() + RETURN, model.deadline
    model.deadline = deadline
    while model.predict(frame).source != "cloud":
        assert time.monotonic() < end, "escalation did not resume"
        time.sleep(0.02)
    model.deadline = before


def test_a_server_killed_mid_stream_is_survived_and_found_again(pair, service) -> None:
    port = free_port()
    first = service("serve", pair.cloud, "--grpc-port", port, "--http-port", "off", "--metrics-port", "off")
    with edge_sdk.connect(pair.edge, cloud=f"127.0.0.1:{port}", deadline=DEADLINE) as model:
        wait_for_cloud(model, pair.hard[0])
        killer = threading.Timer(0.2, first.kill)
        killer.start()
        seen: Counter = Counter()
        while first.process.poll() is None or sum(seen.values()) < 50:
            seen += answers(model, pair.hard, 10)
        killer.join()
        after = answers(model, pair.hard, 100)
        assert {reason for _, reason in seen} <= {"escalated", "offline", "deadline", "breaker"}
        assert {source for source, _ in after} == {"edge"}
        assert after["edge", "offline"] > 0
        service("serve", pair.cloud, "--grpc-port", port, "--http-port", "off", "--metrics-port", "off")
        wait_for_cloud(model, pair.hard[0])
        model.deadline = RETURN
        assert model.predict(pair.hard[1]).certified


def test_a_black_hole_costs_a_few_deadlines_and_then_nothing(pair, cloud) -> None:
    with (
        MisbehavingNetwork(int(cloud.rpartition(":")[2])) as network,
        edge_sdk.connect(pair.edge, cloud=network.address, deadline=DEADLINE) as model,
    ):
        wait_for_cloud(model, pair.hard[0])
        network.set("blackhole")
        seen = answers(model, pair.hard, 200)
        assert {reason for _, reason in seen} <= {"deadline", "breaker", "offline"}
        assert seen["edge", "deadline"] >= 1
        assert seen["edge", "breaker"] + seen["edge", "offline"] > 100
        network.set("pass")
        wait_for_cloud(model, pair.hard[0])


@pytest.mark.parametrize("mode", ["reset", "refuse", "drop"])
def test_a_broken_link_is_survived_and_healed(pair, cloud, mode: str) -> None:
    with (
        MisbehavingNetwork(int(cloud.rpartition(":")[2])) as network,
        edge_sdk.connect(pair.edge, cloud=network.address, deadline=DEADLINE) as model,
    ):
        wait_for_cloud(model, pair.hard[0])
        network.set(mode, limit=40)
        seen = answers(model, pair.hard, 30)
        assert seen["edge", "offline"] + seen["edge", "deadline"] + seen["edge", "breaker"] >= 29
        network.set("pass")
        wait_for_cloud(model, pair.hard[0])


def test_a_connection_that_died_while_nobody_called_costs_one_call(pair, cloud) -> None:
    with (
        MisbehavingNetwork(int(cloud.rpartition(":")[2])) as network,
        edge_sdk.connect(pair.edge, cloud=network.address, deadline=DEADLINE) as model,
    ):
        wait_for_cloud(model, pair.hard[0])
        network.set("halfopen")
        network.set("pass")  # for new connections: the old one hangs for good
        time.sleep(2.2)  # longer than a connection may say nothing and be believed
        assert model.predict(pair.hard[0]).reason == "deadline"
        before = network.connections
        wait_for_cloud(model, pair.hard[0])
        assert network.connections <= before + 1
        assert model.counters["reasons"].get("breaker", 0) == 0, "it was not left alone first"


def test_a_connection_that_is_given_up_is_replaced_before_anybody_calls_again(pair, cloud) -> None:
    with (
        MisbehavingNetwork(int(cloud.rpartition(":")[2])) as network,
        edge_sdk.connect(pair.edge, cloud=network.address, deadline=DEADLINE) as model,
    ):
        wait_for_cloud(model, pair.hard[0])
        network.set("halfopen")
        network.set("pass")
        time.sleep(2.2)  # longer than a connection may say nothing and be believed
        before = network.connections
        assert model.predict(pair.hard[0]).reason == "deadline"
        end = time.monotonic() + RETURN
        while network.connections == before:
            assert time.monotonic() < end, "nobody asks what is served on a new connection"
            time.sleep(0.02)


def test_a_connection_that_is_cut_again_and_again_is_not_made_anew_for_every_call(pair, cloud) -> None:
    with (
        MisbehavingNetwork(int(cloud.rpartition(":")[2])) as network,
        edge_sdk.connect(pair.edge, cloud=network.address, deadline=DEADLINE) as model,
    ):
        wait_for_cloud(model, pair.hard[0])
        network.set("drop", limit=200)
        model.deadline = PATIENT  # it is not needed: who is cut off knows at once
        before = network.connections
        seen = answers(model, pair.hard, 300)
        assert seen["edge", "offline"] > 200
        assert network.connections - before < 100
        network.set("pass")
        wait_for_cloud(model, pair.hard[0])


def test_a_slow_link_ends_in_the_edge_answer(pair, cloud) -> None:
    with (
        MisbehavingNetwork(int(cloud.rpartition(":")[2])) as network,
        edge_sdk.connect(pair.edge, cloud=network.address, deadline=0.2) as model,
    ):
        wait_for_cloud(model, pair.hard[0])
        network.set("delay", seconds=3)
        assert model.predict(pair.hard[0]).reason == "deadline"


def test_a_link_too_slow_to_learn_about_the_server_within_one_deadline_still_gets_there(pair, cloud) -> None:
    with MisbehavingNetwork(int(cloud.rpartition(":")[2])) as network:
        network.set("delay", seconds=0.15)
        # index, metadata and inference take a round trip of 0.3 s each: more than one deadline
        with edge_sdk.connect(pair.edge, cloud=network.address, deadline=0.6) as model:
            assert model.predict(pair.hard[0]).reason == "deadline"
            wait_for_cloud(model, pair.hard[0], deadline=0.6)


@pytest.fixture
def garbage() -> Iterator[str]:
    """Return HOST:PORT of a server that answers everything with a web page."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection:
                connection.settimeout(5)
                try:
                    connection.recv(4096)
                    connection.sendall(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 5\r\n\r\nhello")
                except OSError:
                    pass

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    yield f"127.0.0.1:{listener.getsockname()[1]}"
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()
    thread.join(60)


@pytest.mark.parametrize("mode", ["hybrid", "prefer_cloud"])
def test_a_server_that_speaks_something_else_is_survived(pair, garbage: str, mode: str) -> None:
    with edge_sdk.connect(pair.edge, cloud=garbage, mode=mode, deadline=DEADLINE) as model:
        seen = answers(model, pair.hard, 50)
    assert {source for source, _ in seen} == {"edge"}
    assert {reason for _, reason in seen} <= {"offline", "deadline", "breaker", "rejected"}


def test_many_threads_share_one_outage(pair) -> None:
    from concurrent.futures import ThreadPoolExecutor

    with edge_sdk.connect(pair.edge, cloud=f"127.0.0.1:{free_port()}", deadline=DEADLINE) as model:
        with ThreadPoolExecutor(6) as pool:
            for seen in pool.map(lambda _: answers(model, pair.hard, 50), range(6)):
                assert {source for source, _ in seen} == {"edge"}
        counters = model.counters
    assert counters["requests"] == 300 == sum(counters["reasons"].values())


def test_a_connection_that_died_before_it_ever_answered_is_given_up(pair, cloud) -> None:
    host, port = cloud.rsplit(":", 1)
    with ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        address = f"127.0.0.1:{listener.getsockname()[1]}"
        model = stack.enter_context(edge_sdk.connect(pair.edge, cloud=address, deadline=DEADLINE))
        dead = stack.enter_context(listener.accept()[0])
        dead.sendall(bytes([0, 0, 0, 4, 0, 0, 0, 0, 0]))  # SETTINGS of HTTP/2, and then nothing for good
        listener.settimeout(RETURN)

        def forward() -> None:
            connection = stack.enter_context(listener.accept()[0])
            server = stack.enter_context(socket.create_connection((host, int(port))))
            for source, sink in ((connection, server), (server, connection)):
                threading.Thread(target=pump, args=(source, sink), daemon=True).start()

        forwarder = threading.Thread(target=forward, daemon=True)
        forwarder.start()
        wait_for_cloud(model, pair.hard[0])
        forwarder.join()


def pump(source: socket.socket, sink: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(65536):
            sink.sendall(data)
    with suppress(OSError):
        sink.shutdown(socket.SHUT_WR)


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_the_breaker_opens_after_misses_in_a_row_only() -> None:
    breaker = Breaker(misses=3, pause=1.0, clock=Clock())
    for _ in range(5):
        breaker.missed()
        breaker.missed()
        breaker.answered()
    assert breaker.allows()
    for _ in range(3):
        breaker.missed()
    assert not breaker.allows()


def test_calls_that_were_missed_together_are_one_miss_and_none_where_another_was_answered_meanwhile() -> None:
    clock = Clock()
    breaker = Breaker(misses=2, pause=1.0, clock=clock)
    clock.now = 0.5
    for begun_at in (0.0, 0.1, 0.2, 0.4):
        assert not breaker.missed(begun_at)
    assert breaker.allows(), "all were under way at once"
    clock.now = 0.6
    breaker.answered()
    clock.now = 1.0
    assert not breaker.missed(0.55)
    assert not breaker.missed(0.7)
    assert breaker.allows()
    clock.now = 1.5
    assert breaker.missed(1.0)
    assert not breaker.allows()


def test_an_open_breaker_lets_one_probe_a_pause_through_and_closes_on_an_answer() -> None:
    clock = Clock()
    breaker = Breaker(misses=1, pause=1.0, clock=clock)
    breaker.missed()
    assert not breaker.allows()
    clock.now = 1.0
    assert breaker.allows()
    assert not breaker.allows(), "only one probe"
    breaker.missed()
    clock.now = 1.5
    assert not breaker.allows()
    clock.now = 2.0
    assert breaker.allows()
    breaker.answered()
    assert breaker.allows()
    assert breaker.allows()
