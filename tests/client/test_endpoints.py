"""Several replicas of the cloud's model: which is asked, what happens when one is gone, and what is sent again."""

from __future__ import annotations

import threading
import time
from collections.abc import Container, Iterator
from contextlib import ExitStack
from typing import Any

import grpc
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import edge_sdk
from edge_sdk.client import Budget, Cloud, Hedging
from edge_sdk.client.hedging import Hedger
from edge_sdk.protocol import read_parameters
from outside.network import free_port
from outside.replicas import Replica

PATIENT = 20.0
ONE, TWO = (1.0, 0.0, 0.0), (0.0, 1.0, 0.0)
PUSHBACK = "grpc-retry-pushback-ms"


@pytest.fixture
def replicas() -> Iterator[Any]:
    """Return what makes replicas that are closed after the test."""
    with ExitStack() as stack:
        yield lambda *args, **options: stack.enter_context(Replica(*args, **options))


def ask(pair, cloud: Any, **options: Any) -> Any:
    return edge_sdk.connect(pair.edge, cloud=cloud, **{"mode": "prefer_cloud", "deadline": PATIENT, **options})


def until(model, frame, is_so) -> Any:
    end = time.monotonic() + PATIENT
    while not is_so(answer := model.predict(frame)):
        assert time.monotonic() < end, answer
        time.sleep(0.02)
    return answer


def test_failover_asks_the_first_that_is_healthy_and_goes_back_to_it(pair, replicas) -> None:
    one, two = replicas(port=free_port()), replicas(lambda *_: TWO)
    frame = pair.hard[0]
    with ask(pair, [one.address, two.address]) as model:
        until(model, frame, lambda answer: answer.index == 0)
        asked = two.calls
        assert {model.predict(frame).index for _ in range(5)} == {0}
        assert two.calls == asked
        one.close()
        answers = [model.predict(frame) for _ in range(5)]
        assert [(answer.source, answer.index) for answer in answers] == [("cloud", 1)] * 5, "not one was lost"
        back = replicas(port=one.port)
        until(model, frame, lambda answer: answer.index == 0)
        assert back.calls


def test_round_robin_asks_each_in_turn_and_leaves_out_who_is_gone(pair, replicas) -> None:
    servers = [replicas() for _ in range(3)]
    frame = pair.hard[0]
    with ask(pair, Cloud([server.address for server in servers], balance="round_robin")) as model:
        until(model, frame, lambda _: all(server.calls for server in servers))
        before = [server.calls for server in servers]
        for _ in range(30):
            assert model.predict(frame).source == "cloud"
        assert [server.calls - calls for server, calls in zip(servers, before, strict=True)] == [10, 10, 10]
        servers[1].close()
        assert {model.predict(frame).source for _ in range(20)} == {"cloud"}
        assert model.counters["escalated"] == model.counters["requests"]


def test_an_endpoint_that_swallows_requests_is_left_out_after_a_few(pair, replicas) -> None:
    hang = threading.Event()

    def swallow(number: int, context: Any) -> Any:
        hang.wait(PATIENT)
        return ONE

    one, two = replicas(swallow), replicas(lambda *_: TWO)
    frame = pair.hard[0]
    with ask(pair, [one.address, two.address], deadline=0.15) as model:
        until(model, frame, lambda _: one.calls >= 5)
        model.deadline = 1.0  # in which the other answers, on a busy machine too
        until(model, frame, lambda answer: answer.source == "cloud")
        reasons = [model.predict(frame).source for _ in range(20)]
        # metadata is still given, so that now and then one request tries whether it answers again
        assert reasons.count("cloud") >= 15, reasons
        hang.set()
        until(model, frame, lambda answer: answer.source == "cloud" and answer.index == 0)


def test_no_endpoint_is_there_and_the_edge_answers(pair) -> None:
    with ask(pair, [f"127.0.0.1:{free_port()}", f"127.0.0.1:{free_port()}"]) as model:
        answer = model.predict(pair.hard[0])
    assert (answer.source, answer.reason) == ("edge", "offline")


def test_a_replica_with_another_model_is_used_and_not_certified(pair, replicas) -> None:
    one, two = replicas(digest=pair.cloud_digest), replicas(lambda *_: TWO, digest="sha256:other")
    with ask(pair, [one.address, two.address], mode="hybrid") as model:
        answer = until(model, pair.hard[0], lambda answer: answer.index == 0 and answer.source == "cloud")
        assert answer.certified
        one.close()
        answer = model.predict(pair.hard[0])
        assert (answer.source, answer.index, answer.model_digest) == ("cloud", 1, "sha256:other")
        assert not answer.certified
        assert model.counters["foreign_model"] >= 1


def test_a_replica_with_other_labels_is_passed_over(pair, replicas) -> None:
    wrong, right = replicas(labels=("x", "y", "z")), replicas(lambda *_: TWO)
    with ask(pair, [wrong.address, right.address]) as model:
        until(model, pair.hard[0], lambda answer: answer.source == "cloud")
        assert {model.predict(pair.hard[0]).index for _ in range(10)} == {1}
    assert not wrong.calls


def busy(times: int, code: Any, pushback: str | None) -> Any:
    """Return what refuses the first requests, and then answers."""

    def answer(number: int, context: Any) -> Any:
        if number < times:
            if pushback is not None:
                context.set_trailing_metadata(((PUSHBACK, pushback),))
            context.abort(code, "come back later")
        return ONE

    return answer


def test_a_server_that_says_it_is_not_ready_is_not_said_to_be_out_of_reach(pair, replicas, caplog) -> None:
    server = replicas(busy(1, grpc.StatusCode.UNAVAILABLE, None))
    with ask(pair, server.address) as model:
        assert model.predict(pair.hard[0]).reason == "offline"
        until(model, pair.hard[0], lambda answer: answer.source == "cloud")
    assert caplog.messages[0] == f"{server.address} is there, and cannot answer now: come back later"


def test_a_call_that_a_server_cancels_as_it_ends_is_answered_by_another(pair, replicas, caplog) -> None:
    first, second = replicas(busy(1000, grpc.StatusCode.CANCELLED, None)), replicas(busy(0, None, None))
    with ask(pair, [first.address, second.address]) as model:
        for _ in range(500):  # what one of them serves may be known sooner
            answer = model.predict(pair.hard[0])
            if model.counters["extra_calls"]:
                break
            time.sleep(0.01)
        assert answer.source == "cloud"
    assert first.calls >= 1
    assert "cancelled the call" in caplog.text


@pytest.mark.parametrize("code", [grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.UNAVAILABLE])
def test_a_request_is_sent_again_where_the_server_asks_for_it_and_after_the_time_it_says(pair, replicas, code) -> None:
    server = replicas(busy(2, code, "30"))
    with ask(pair, server.address) as model:
        started = time.perf_counter()
        assert model.predict(pair.hard[0]).source == "cloud"
        assert time.perf_counter() - started >= 0.06
        counters = model.counters
    assert server.calls == 3
    assert (counters["escalated"], counters["failed_uploads"], counters["extra_calls"]) == (1, 0, 2)
    assert counters["bytes_extra"] > counters["bytes_sent"]


@pytest.mark.parametrize(
    ("times", "code", "pushback", "calls"),
    [
        (9, grpc.StatusCode.RESOURCE_EXHAUSTED, "1", 3),
        (1, grpc.StatusCode.RESOURCE_EXHAUSTED, None, 1),
        (1, grpc.StatusCode.RESOURCE_EXHAUSTED, "-1", 1),
        (1, grpc.StatusCode.RESOURCE_EXHAUSTED, "soon", 1),
        (1, grpc.StatusCode.RESOURCE_EXHAUSTED, "99999", 1),
        (1, grpc.StatusCode.INTERNAL, "1", 1),
        (1, grpc.StatusCode.UNAVAILABLE, None, 1),
    ],
)
def test_nothing_else_is_sent_again(pair, replicas, times, code, pushback, calls) -> None:
    server = replicas(busy(times, code, pushback))
    with ask(pair, server.address) as model:
        answer = model.predict(pair.hard[0])
    assert answer.source == "edge"
    assert answer.reason == ("offline" if code is grpc.StatusCode.UNAVAILABLE else "rejected")
    assert server.calls == calls


def test_what_is_sent_again_is_paid_for(pair, replicas) -> None:
    server = replicas(busy(2, grpc.StatusCode.RESOURCE_EXHAUSTED, "1"))
    with ask(pair, server.address, budget=Budget(calls=8)) as model:
        assert model.predict(pair.hard[0]).reason == "rejected"
    assert server.calls == 2


def test_a_message_that_the_server_finds_too_large_is_not_sent_again(pair, replicas) -> None:
    server = replicas(most_bytes=100_000)
    with ask(pair, server.address) as model:
        assert model.predict(pair.hard[0]).source == "cloud"
        assert model.predict(np.zeros((400, 400, 3), np.uint8)).reason == "rejected"
        assert model.counters["extra_calls"] == 0


def test_requests_tell_how_long_they_have_and_how_urgent_they_are(pair, replicas) -> None:
    server = replicas(digest=pair.cloud_digest)
    with ask(pair, Cloud(server.address, priority=2), mode="hybrid", audit_rate=1.0) as model:
        until(model, pair.hard[0], lambda answer: answer.reason == "escalated")
        assert model.predict(pair.easy[0]).reason == "audit"
    for request, priority in zip(server.requests[-2:], (2, 3), strict=True):
        parameters = read_parameters(request.parameters)
        assert parameters["priority"] == priority, "audits can wait"
        assert 0 < parameters["timeout"] <= PATIENT * 1e6
    with ask(pair, server.address, deadline=None) as model:
        model.predict(pair.hard[0])
    assert not {"priority", "timeout"} & set(read_parameters(server.requests[-1].parameters))


class Slow:
    """Answers at once but for requests of some numbers, which hang until the test is over."""

    def __init__(self, *numbers: int) -> None:
        self.numbers: Container[int] = numbers
        self.over = threading.Event()

    def __call__(self, number: int, context: Any) -> Any:
        if number in self.numbers:
            self.over.wait(PATIENT)
        return ONE


ALL = range(10**9)


WARM = 30  # answers after which the time of most is known


def test_the_second_copy_wins_where_the_first_hangs_over_another_connection(pair, replicas) -> None:
    slow, peers = Slow(WARM), set()

    def answer(number: int, context: Any) -> Any:
        peers.add(context.peer())
        return slow(number, context)

    server = replicas(answer)
    with ask(pair, Cloud(server.address, hedging=Hedging(share=0.5))) as model:
        answers = [model.predict(pair.hard[0]) for _ in range(WARM + 1)]
        counters = model.counters
    slow.over.set()
    assert {answer.source for answer in answers} == {"cloud"}
    assert len(peers) == 2
    # a copy that a busy machine sends before the answer is there may be cancelled on its way
    assert WARM + 1 <= server.calls <= WARM + 1 + counters["extra_calls"]
    assert 1 <= counters["extra_calls"] <= 0.5 * (WARM + 1)
    assert counters["bytes_extra"] > 0
    assert counters["failed_uploads"] == 0


def test_the_second_copy_goes_to_another_endpoint(pair, replicas) -> None:
    slow = Slow()
    one, two = replicas(slow), replicas(lambda *_: TWO)
    with ask(pair, Cloud([one.address, two.address], hedging=Hedging(share=0.5))) as model:
        until(model, pair.hard[0], lambda _: one.calls >= WARM)
        slow.numbers = ALL
        assert model.predict(pair.hard[0]).index == 1
    slow.over.set()


def test_an_unusable_second_copy_does_not_win(pair, replicas) -> None:
    slow = Slow()

    def unusable(number: int, context: Any) -> Any:
        if slow.numbers:
            threading.Timer(0.3, slow.over.set).start()
        return float("nan"), 0.0, 0.0

    one, two = replicas(slow), replicas(unusable)
    with ask(pair, Cloud([one.address, two.address], hedging=Hedging(share=0.5))) as model:
        until(model, pair.hard[0], lambda _: one.calls >= WARM)
        slow.numbers = ALL
        answer = model.predict(pair.hard[0])
        assert two.calls
    assert (answer.source, answer.index) == ("cloud", 0)


def test_hedges_keep_to_their_share_and_to_the_budget(pair, replicas) -> None:
    server = replicas(lambda number, _: time.sleep(0.06 * (number >= WARM)) or ONE)  # all at once, it is slow
    with ask(pair, Cloud(server.address, hedging=Hedging(share=0.05))) as model:
        for _ in range(WARM + 30):
            model.predict(pair.hard[0])
        extra = model.counters["extra_calls"]
    assert extra <= 0.05 * (WARM + 30)
    slow = Slow(WARM)
    server = replicas(slow)
    budget = Budget(calls=4 * (WARM + 1))  # a quarter of them at once
    with ask(pair, Cloud(server.address, hedging=Hedging(share=0.5)), budget=budget, deadline=1.0) as model:
        answers = [model.predict(pair.hard[0]) for _ in range(WARM + 1)]
    slow.over.set()
    assert server.calls <= WARM + 1
    assert answers[-1].source == "edge"


def test_without_hedging_no_copy_is_sent(pair, replicas) -> None:
    server = replicas(lambda number, _: time.sleep(0.05 * (number % 20 == 19)) or ONE)
    with ask(pair, server.address) as model:
        for _ in range(60):
            model.predict(pair.hard[0])
        assert model.counters["extra_calls"] == 0
    assert server.calls == 60


@given(
    share=st.floats(0.01, 0.5),
    quantile=st.floats(0.5, 0.999),
    times=st.lists(st.floats(0.0, 10.0), max_size=400),
)
def test_whatever_answers_take_no_more_than_the_share_is_hedged(share, quantile, times) -> None:
    hedger, hedged = Hedger(Hedging(share=share, quantile=quantile)), 0
    for number, seconds in enumerate(times, 1):
        after = hedger.begin()
        if after is not None and seconds > after and hedger.allows():
            hedged += 1
        assert hedged <= share * number + 1e-6
        assert after is None or min(times) <= after <= max(times)
        hedger.took(seconds)
