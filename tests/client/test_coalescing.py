"""Requests that are made at once travel together, and nobody's answer, deadline or failure is another's."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent import futures
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import grpc
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edge_sdk.client import Cloud
from edge_sdk.client.coalescing import Coalescer
from edge_sdk.client.drafts import Message
from edge_sdk.client.failures import Failed
from edge_sdk.client.fleet import Fleet
from edge_sdk.client.outcomes import Gate
from edge_sdk.client.payload import Contract
from edge_sdk.client.waves import Item
from edge_sdk.protocol import add_input, add_output, messages, read_inputs, read_parameters, set_parameter
from edge_sdk.protocol.names import (
    DECISION_PARAMETER,
    DIGEST_PARAMETER,
    ENCODING_PARAMETER,
    ENCODINGS_PROPERTY,
    SERVICE,
)

LONG = 60.0  # seconds: what waits for so long fails a test
POISON = 255


class Rows:
    """A server that answers each row with its first value, when a test lets it."""

    def __init__(self) -> None:
        self.received: list[list[int]] = []
        self.bytes: Counter[str] = Counter()  # by version of the model that was asked for
        self.names: set[Any] = set()
        self.tokens = threading.Semaphore(10**6)
        self.left = threading.Semaphore(0)
        self.most = 10**6
        self.change: Callable[[np.ndarray], np.ndarray] = lambda rows: rows
        self.arrived = threading.Condition()
        self._server = grpc.server(futures.ThreadPoolExecutor(48))
        handlers = {
            name: grpc.unary_unary_rpc_method_handler(
                method,
                request_deserializer=messages.METHODS[name][0].FromString,
                response_serializer=messages.METHODS[name][1].SerializeToString,
            )
            for name, method in {"ModelInfer": self._infer, "ModelMetadata": self._describe}.items()
        }
        self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
        port = self._server.add_insecure_port("127.0.0.1:0")
        self._server.start()
        self.fleet = Fleet(Cloud(f"127.0.0.1:{port}", model_name="batches"))
        self.fixed = Fleet(Cloud(f"127.0.0.1:{port}", model_name="one at a time"))
        self.there = self.fleet.choose(None)

    def coalescer(self, **options: Any) -> Coalescer:
        """Return one whose requests this gets, and which waits for others as long as it takes."""
        return Coalescer(self.fleet, **{"linger": LONG, **options})

    def _describe(self, request: Any, context: Any) -> Any:
        response = messages.ModelMetadataResponse(name=request.name, versions=["1"])
        response.inputs.add(name="x", datatype="UINT8", shape=[-1 if request.name == "batches" else 1, 4])
        response.properties[ENCODINGS_PROPERTY] = "captured,jpeg,tensor"
        return response

    def _infer(self, request: Any, context: Any) -> Any:
        values = read_inputs(request)["x"]
        if values.dtype == object:
            values = np.array([list(item) for item in values])
        rows = np.atleast_2d(values)[:, 0]
        with self.arrived:
            self.received.append(rows.tolist())
            self.bytes[request.model_version] += request.ByteSize()
            self.names.add(read_parameters(request.parameters).get(DECISION_PARAMETER, ""))
            self.arrived.notify_all()
        while not self.tokens.acquire(timeout=0.05):
            if not context.is_active():
                self.left.release()
                return messages.ModelInferResponse()
        if POISON in rows or len(rows) > self.most:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, "a row is no good, or there are too many")
        response = messages.ModelInferResponse()
        set_parameter(response.parameters, DIGEST_PARAMETER, "sha256:d")
        add_output(response, "y", self.change(rows.astype(np.float32)[:, None]))
        return response

    def hold(self) -> None:
        """Answer nothing until `release` is called."""
        self.tokens = threading.Semaphore(0)

    def wait_for(self, calls: int) -> None:
        """Wait until so many have arrived."""
        with self.arrived:
            assert self.arrived.wait_for(lambda: len(self.received) >= calls, LONG)

    def close(self) -> None:
        self.tokens.release(1000)
        self.fleet.close()
        self.fixed.close()
        self._server.stop(0).wait()


@pytest.fixture
def rows() -> Iterator[Rows]:
    made = Rows()
    yield made
    made.close()


def request(
    value: int, encoding: str = "captured", side: int = 4, decision: str | None = None, version: str = ""
) -> Any:
    made = messages.ModelInferRequest(model_name="m", model_version=version)
    row = np.full(side, value, np.uint8)
    if encoding == "jpeg":
        row = np.array([bytes(row)], object)
    add_input(made, "x", row[None] if encoding == "tensor" else row)
    if encoding != "tensor":
        set_parameter(made.parameters, ENCODING_PARAMETER, encoding)
    if decision is not None:
        set_parameter(made.parameters, DECISION_PARAMETER, decision)
    return made


def begin(
    rows: Rows,
    coalescer: Coalescer,
    value: int,
    *,
    seconds: float | None = LONG,
    gate: Gate | None = None,
    contract: Contract | None = None,
    fixed: bool = False,
    **of: Any,
) -> Item:
    ends = None if seconds is None else time.perf_counter() + seconds
    endpoint, told = rows.fixed.choose(None) if fixed else rows.there
    return coalescer.begin((endpoint, contract or told), Message(request(value, **of), "seen"), ends, gate=gate)


def answer(item: Item) -> int | str:
    """Return the value that came back, or why none did."""
    try:
        reply = item.next_reply()
    except Failed as failed:
        return failed.outcome.reason
    finally:
        item.close()
    assert reply.message.seen == "seen"
    assert reply.parameters()[DIGEST_PARAMETER] == "sha256:d"
    (value,) = reply.outputs()["y"].ravel()
    return int(value)


def held(rows: Rows, coalescer: Coalescer) -> list[Item]:
    """Return two items that are at the server, which answers nothing for now: all further ones wait."""
    rows.hold()
    first = []
    for value in (101, 102):
        arrived = len(rows.received)
        first.append(begin(rows, coalescer, value))
        rows.wait_for(arrived + 1)
    return first


def test_an_idle_link_sends_at_once_and_by_itself(rows: Rows) -> None:
    coalescer = rows.coalescer()
    assert [answer(begin(rows, coalescer, n)) for n in range(5)] == list(range(5))
    assert rows.received == [[n] for n in range(5)]


@pytest.mark.parametrize("encoding", ["captured", "jpeg", "tensor"])
def test_what_comes_while_calls_are_under_way_leaves_together_when_one_is_back(rows: Rows, encoding: str) -> None:
    sent: list[int] = []
    coalescer = rows.coalescer(
        on_sent=sent.append,
    )
    first = held(rows, coalescer)
    waiting = [begin(rows, coalescer, n, seconds=None, encoding=encoding) for n in range(30)]
    assert len(rows.received) == 2
    rows.tokens.release(3)
    assert [answer(item) for item in waiting] == list(range(30))
    assert [answer(item) for item in first] == [101, 102]
    assert sorted(rows.received) == [list(range(30)), [101], [102]]
    assert sorted(sent) == [1, 1, 30]


def test_what_has_waited_for_a_moment_goes_though_nothing_is_back(rows: Rows) -> None:
    coalescer = rows.coalescer(linger=0.01)
    held(rows, coalescer)
    waiting = [begin(rows, coalescer, n) for n in range(4)]
    with ThreadPoolExecutor(4) as pool:
        answers = [pool.submit(answer, item) for item in waiting]
        rows.wait_for(3)
        rows.tokens.release(10)
        assert [a.result(LONG) for a in answers] == [0, 1, 2, 3]
    assert rows.received[2:] == [[0, 1, 2, 3]]


def crowd(rows: Rows, coalescer: Coalescer, size: int) -> None:
    """Have so many asked about in one message, and answered."""
    first = held(rows, coalescer)
    waiting = [begin(rows, coalescer, n) for n in range(size)]
    rows.tokens.release(10**6)
    assert [answer(item) for item in [*first, *waiting]] == [101, 102, *range(size)]
    assert rows.received[2:] == [list(range(size))]
    rows.received.clear()


def test_those_who_were_answered_together_leave_together_again_one_half_while_the_other_gathers(rows: Rows) -> None:
    coalescer = rows.coalescer(gather=LONG)
    crowd(rows, coalescer, 16)
    rows.hold()
    items = [begin(rows, coalescer, n) for n in range(16)]
    rows.wait_for(2)
    assert sorted(rows.received) == [list(range(8)), list(range(8, 16))]
    rows.tokens.release(2)
    assert [answer(item) for item in items] == list(range(16))


def test_nobody_waits_long_for_those_who_do_not_ask_again(rows: Rows) -> None:
    coalescer = rows.coalescer()
    crowd(rows, coalescer, 30)
    items = [begin(rows, coalescer, n) for n in range(3)]
    rows.wait_for(1)  # though nobody waits for the answers yet, who would send them
    assert [answer(item) for item in items] == [0, 1, 2]


def test_what_is_not_alike_does_not_travel_together(rows: Rows) -> None:
    coalescer = rows.coalescer()
    held(rows, coalescer)
    other = replace(rows.there[1])
    waiting = [
        *(begin(rows, coalescer, n) for n in (1, 2)),
        *(begin(rows, coalescer, n, side=8) for n in (3, 4)),
        *(begin(rows, coalescer, n, contract=other) for n in (5, 6)),
        *(begin(rows, coalescer, n, encoding="jpeg") for n in (7, 8)),
    ]
    rows.tokens.release(10)
    assert [answer(item) for item in waiting] == [1, 2, 3, 4, 5, 6, 7, 8]
    assert sorted(rows.received[2:]) == [[1, 2], [3, 4], [5, 6], [7, 8]]


def test_names_of_inputs_go_with_their_rows(rows: Rows) -> None:
    coalescer = rows.coalescer()
    held(rows, coalescer)
    nameless = [begin(rows, coalescer, n) for n in range(2)]
    named = [begin(rows, coalescer, n, decision=f"d-{n}") for n in range(2, 5)]
    rows.tokens.release(10)
    assert [answer(item) for item in [*nameless, *named]] == [0, 1, 2, 3, 4]
    assert sorted(rows.received[2:]) == [[0, 1], [2, 3, 4]]
    assert rows.names == {"", "d-2,d-3,d-4"}


def test_a_model_that_takes_one_item_is_asked_one_by_one(rows: Rows) -> None:
    coalescer = rows.coalescer()
    held(rows, coalescer)
    waiting = [begin(rows, coalescer, n, fixed=True, encoding="tensor") for n in range(4)]
    rows.wait_for(6)
    rows.tokens.release(10)
    assert [answer(item) for item in waiting] == [0, 1, 2, 3]
    assert sorted(rows.received[2:]) == [[0], [1], [2], [3]]


def test_a_link_that_does_not_coalesce_sends_each_by_itself(rows: Rows) -> None:
    coalescer = rows.coalescer(most_items=1)
    held(rows, coalescer)
    waiting = [begin(rows, coalescer, n) for n in range(4)]
    rows.wait_for(6)
    rows.tokens.release(10)
    assert [answer(item) for item in waiting] == [0, 1, 2, 3]


def test_a_message_has_no_more_items_than_servers_take(rows: Rows) -> None:
    coalescer = rows.coalescer(most_items=8)
    held(rows, coalescer)
    waiting = [begin(rows, coalescer, n) for n in range(20)]
    rows.tokens.release(10)
    assert [answer(item) for item in waiting] == list(range(20))
    assert sorted(len(received) for received in rows.received[2:]) == [4, 8, 8]


def test_large_items_fill_a_message_soon_and_the_largest_do_not_wait(rows: Rows) -> None:
    coalescer = rows.coalescer()
    held(rows, coalescer)
    waiting = [begin(rows, coalescer, n, side=300_000) for n in range(6)]
    assert len(rows.received) == 2
    alone = begin(rows, coalescer, 50, side=2_000_000)
    rows.wait_for(3)
    rows.tokens.release(10)
    assert [answer(item) for item in [*waiting, alone]] == [0, 1, 2, 3, 4, 5, 50]
    assert sorted(rows.received[2:]) == [[0, 1, 2], [3, 4, 5], [50]]


def test_a_message_is_no_larger_than_the_server_takes(rows: Rows) -> None:
    coalescer = rows.coalescer()
    held(rows, coalescer)
    small = replace(rows.there[1], most_bytes=400)
    waiting = [begin(rows, coalescer, n, side=100, contract=small) for n in range(6)]
    alone = begin(rows, coalescer, 50, side=300, contract=small)
    rows.tokens.release(10)
    assert [answer(item) for item in [*waiting, alone]] == [0, 1, 2, 3, 4, 5, 50]
    assert sorted(rows.received[2:]) == [[0, 1], [2, 3], [4, 5], [50]]


def test_no_caller_waits_longer_than_it_said_and_the_others_get_their_answer(rows: Rows) -> None:
    coalescer = rows.coalescer()
    first = held(rows, coalescer)
    patient, hasty = begin(rows, coalescer, 1), begin(rows, coalescer, 2, seconds=1.0)
    rows.tokens.release(1)
    rows.wait_for(3)
    assert rows.received[2] == [1, 2], "together"
    assert answer(hasty) == "deadline"
    rows.tokens.release(10)
    assert answer(patient) == 1
    assert [answer(item) for item in first] == [101, 102]


def test_what_ran_out_of_time_before_it_was_sent_is_not_sent(rows: Rows) -> None:
    coalescer = rows.coalescer()
    held(rows, coalescer)
    asked = [begin(rows, coalescer, n, seconds=0.05) for n in range(3)]
    time.sleep(0.06)  # nobody waits for them yet, and nobody sends them
    last = begin(rows, coalescer, 3)
    rows.tokens.release(10)
    assert answer(last) == 3
    for item in asked:
        assert (answer(item), item.bytes, item.calls) == ("deadline", 0, 0)
    assert sorted(rows.received) == [[3], [101], [102]]


def test_a_call_that_nobody_waits_for_any_more_is_ended_and_held_against_the_server(
    rows: Rows, caplog: pytest.LogCaptureFixture
) -> None:
    coalescer = rows.coalescer()
    held(rows, coalescer)
    for at in range(5):
        late = [begin(rows, coalescer, n, seconds=0.5) for n in range(2)]
        with ThreadPoolExecutor(2) as pool:
            assert list(pool.map(answer, late)) == ["deadline"] * 2
        rows.wait_for(at + 3)
    assert all(rows.left.acquire(timeout=LONG / 2) for _ in range(5)), "the server knows that they are over"
    assert "left calls unanswered and is left alone" in caplog.text


def test_a_bad_row_takes_no_other_with_it(rows: Rows) -> None:
    coalescer = rows.coalescer()
    held(rows, coalescer)
    items = [begin(rows, coalescer, n) for n in (1, 2, POISON, 4)]
    rows.tokens.release(100)
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(answer, items)) == [1, 2, "rejected", 4]
    assert sorted(rows.received[2:]) == [[1], [1, 2, POISON, 4], [2], [4], [POISON]]


def test_who_has_no_time_left_to_ask_again_without_a_bad_row_was_too_late_and_not_refused(rows: Rows) -> None:
    coalescer = rows.coalescer()
    held(rows, coalescer)
    hasty, bad = begin(rows, coalescer, 1, seconds=0.5), begin(rows, coalescer, POISON)
    rows.tokens.release(100)
    assert answer(bad) == "rejected"
    time.sleep(0.5)
    assert answer(hasty) == "deadline"


def test_a_server_that_takes_fewer_rows_than_it_says_is_given_fewer(rows: Rows) -> None:
    coalescer = rows.coalescer()
    rows.most = 4
    for _ in range(4):
        rows.received.clear()
        first = held(rows, coalescer)
        items = [begin(rows, coalescer, n) for n in range(16)]
        rows.tokens.release(100)
        with ThreadPoolExecutor(16) as pool:
            assert list(pool.map(answer, items)) == list(range(16))
        assert [answer(item) for item in first] == [101, 102]
    assert sorted(len(received) for received in rows.received[2:]) == [4, 4, 4, 4]


def test_an_answer_with_too_few_rows_is_nobodys_and_is_not_provoked_again(rows: Rows) -> None:
    coalescer = rows.coalescer()
    first = held(rows, coalescer)
    rows.change = lambda y: y[:1]
    items = [begin(rows, coalescer, n) for n in range(4)]
    rows.tokens.release(100)
    assert [answer(item) for item in items] == ["rejected"] * 4
    assert [answer(item) for item in first] == [101, 102]
    held(rows, coalescer)
    items = [begin(rows, coalescer, n) for n in range(4)]
    rows.tokens.release(100)
    assert [answer(item) for item in items] == [0, 1, 2, 3]


def test_the_gate_is_asked_before_anything_is_sent_twice(rows: Rows) -> None:
    coalescer = rows.coalescer()
    held(rows, coalescer)
    items = [
        begin(rows, coalescer, 1, gate=lambda size, remaining: "budget"),
        begin(rows, coalescer, POISON),
        begin(rows, coalescer, 3, gate=lambda size, remaining: None),
    ]
    rows.tokens.release(100)
    with ThreadPoolExecutor(3) as pool:
        assert list(pool.map(answer, items)) == ["rejected", "rejected", 3]
    assert [1] not in rows.received


def test_a_link_that_is_closed_ends_what_waits_of_every_kind(rows: Rows) -> None:
    coalescer = rows.coalescer()
    first = held(rows, coalescer)
    items = [begin(rows, coalescer, n % 200, side=4 + n) for n in range(300)]  # of 300 kinds
    rows.fleet.close()
    assert {answer(item) for item in items} == {"offline"}
    assert {item.bytes for item in items} == {0}
    assert {answer(item) for item in first} == {"deadline"}


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    plan=st.lists(
        st.tuples(
            st.one_of(st.integers(0, 200), st.just(POISON)),
            st.sampled_from(["captured", "jpeg", "tensor"]),
            st.sampled_from([4, 8]),
            st.sampled_from([LONG, LONG, None, 0.0, 0.002]),
        ),
        max_size=60,
    ),
    threads=st.integers(1, 24),
    at_once=st.integers(1, 3),
    linger=st.sampled_from([0.0, 0.002]),
)
def test_whatever_is_asked_at_once_everyone_gets_the_answer_to_their_own_question(
    rows: Rows, plan: list[tuple[int, str, int, float | None]], threads: int, at_once: int, linger: float
) -> None:
    version = str(len(rows.bytes))
    rows.bytes[version] = 0
    coalescer = rows.coalescer(at_once=at_once, linger=linger)

    def ask(step: tuple[int, str, int, float | None]) -> tuple[int | str, int]:
        value, encoding, side, seconds = step
        if encoding != "captured":
            side = 4
        try:
            item = begin(rows, coalescer, value, seconds=seconds, encoding=encoding, side=side, version=version)
        except Failed as failed:
            return failed.outcome.reason, 0
        return answer(item), item.bytes

    with ThreadPoolExecutor(threads) as pool:
        results = list(pool.map(ask, plan))
    for (value, _, _, seconds), (said, _) in zip(plan, results, strict=True):
        if isinstance(said, int):
            assert said == value != POISON
        else:
            assert (said == "rejected" and value == POISON) or (said == "deadline" and seconds in (0.0, 0.002))
    if all(said != "deadline" for said, _ in results):
        assert sum(size for _, size in results) == rows.bytes[version], "each has its share of what was sent"
