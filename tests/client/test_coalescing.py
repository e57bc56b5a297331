"""Requests that are made at once travel together, and nobody's answer, deadline or failure is another's."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent import futures
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edge_sdk.client.coalescing import Coalescer, Item, Reply
from edge_sdk.client.outcomes import Outcome
from edge_sdk.client.payload import Contract
from edge_sdk.protocol import add_input, add_output, messages, read_inputs, set_parameter
from edge_sdk.protocol.names import DIGEST_PARAMETER, ENCODING_PARAMETER, SERVICE

LONG = 60.0  # seconds: what waits for so long fails a test
POISON = 255


class Rows:
    """A server that answers each row with its first value, when a test lets it."""

    def __init__(self) -> None:
        self.received: list[list[int]] = []
        self.bytes = 0
        self.tokens = threading.Semaphore(10**6)
        self.left = threading.Semaphore(0)
        self.most = 10**6
        self.change: Callable[[np.ndarray], np.ndarray] = lambda rows: rows
        self.arrived = threading.Condition()
        self._server = grpc.server(futures.ThreadPoolExecutor(48))
        handler = grpc.unary_unary_rpc_method_handler(
            self._infer,
            request_deserializer=messages.ModelInferRequest.FromString,
            response_serializer=messages.ModelInferResponse.SerializeToString,
        )
        self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, {"ModelInfer": handler}),))
        port = self._server.add_insecure_port("127.0.0.1:0")
        self._server.start()
        self._channel = grpc.insecure_channel(f"127.0.0.1:{port}", (("grpc.use_local_subchannel_pool", 1),))
        self.infer = self._channel.unary_unary(
            f"/{SERVICE}/ModelInfer",
            request_serializer=messages.ModelInferRequest.SerializeToString,
            response_deserializer=messages.ModelInferResponse.FromString,
        )
        grpc.channel_ready_future(self._channel).result(timeout=LONG)

    def _infer(self, request: Any, context: Any) -> Any:
        values = read_inputs(request)["x"]
        if values.dtype == object:
            values = np.array([list(item) for item in values])
        rows = np.atleast_2d(values)[:, 0]
        with self.arrived:
            self.received.append(rows.tolist())
            self.bytes += request.ByteSize()
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
        self._channel.close()
        self._server.stop(0).wait()


@pytest.fixture
def rows() -> Iterator[Rows]:
    made = Rows()
    yield made
    made.close()


def send(rows: Rows) -> Callable[[Any, float | None], Any]:
    return lambda request, deadline: rows.infer.future(
        request, timeout=None if deadline is None else max(0.0, deadline - time.perf_counter())
    )


def settle(call: Any) -> Reply | Outcome:
    try:
        return Reply.of(call.result(timeout=0))
    except (grpc.RpcError, grpc.FutureCancelledError) as error:
        late = isinstance(error, grpc.FutureCancelledError) or error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        return Outcome(None, "deadline" if late else "rejected", detail=str(error))


def contract(shape: tuple[int, ...] = (-1, 4)) -> Contract:
    return Contract("m", "x", "UINT8", shape, ("captured", "jpeg", "tensor"), None, None, None, None, None)


CONTRACT = contract()


def request(value: int, encoding: str = "captured", side: int = 4) -> Any:
    made = messages.ModelInferRequest(model_name="m")
    row = np.full(side, value, np.uint8)
    if encoding == "jpeg":
        row = np.array([bytes(row)], object)
    add_input(made, "x", row[None] if encoding == "tensor" else row)
    if encoding != "tensor":
        set_parameter(made.parameters, ENCODING_PARAMETER, encoding)
    return made


def begin(
    coalescer: Coalescer, value: int, *, seconds: float | None = LONG, of: Contract = CONTRACT, **options: Any
) -> Item:
    made = request(value, **options)
    return coalescer.begin(made, made.ByteSize(), of, None if seconds is None else time.perf_counter() + seconds)


def answer(item: Item) -> int | str:
    """Return the value that came back, or why none did."""
    result, _ = item.wait()
    if isinstance(result, Outcome):
        return result.reason
    (value,) = result.outputs["y"].ravel()
    return int(value)


def held(rows: Rows, coalescer: Coalescer) -> list[Item]:
    """Return two items that are at the server, which answers nothing for now: all further ones wait."""
    rows.hold()
    first = [begin(coalescer, 101), begin(coalescer, 102)]
    rows.wait_for(2)
    return first


def test_an_idle_link_sends_at_once_and_by_itself(rows: Rows) -> None:
    coalescer = Coalescer(send(rows), settle, linger=LONG)
    assert [answer(begin(coalescer, n)) for n in range(5)] == list(range(5))
    assert rows.received == [[n] for n in range(5)]


@pytest.mark.parametrize("encoding", ["captured", "jpeg", "tensor"])
def test_what_comes_while_calls_are_under_way_leaves_together_when_one_is_back(rows: Rows, encoding: str) -> None:
    sent: list[int] = []
    coalescer = Coalescer(send(rows), settle, on_sent=sent.append, linger=LONG)
    first = held(rows, coalescer)
    waiting = [begin(coalescer, n, seconds=None, encoding=encoding) for n in range(30)]
    assert len(rows.received) == 2
    rows.tokens.release(3)
    assert [answer(item) for item in waiting] == list(range(30))
    assert [answer(item) for item in first] == [101, 102]
    assert sorted(rows.received) == [list(range(30)), [101], [102]]
    assert sorted(sent) == [1, 1, 30]


def test_what_has_waited_for_a_moment_goes_though_nothing_is_back(rows: Rows) -> None:
    coalescer = Coalescer(send(rows), settle, linger=0.01)
    held(rows, coalescer)
    waiting = [begin(coalescer, n) for n in range(4)]
    with ThreadPoolExecutor(4) as pool:
        answers = [pool.submit(answer, item) for item in waiting]
        rows.wait_for(3)
        rows.tokens.release(10)
        assert [a.result(LONG) for a in answers] == [0, 1, 2, 3]
    assert rows.received[2:] == [[0, 1, 2, 3]]


def test_what_is_not_alike_does_not_travel_together(rows: Rows) -> None:
    coalescer = Coalescer(send(rows), settle, linger=LONG)
    held(rows, coalescer)
    other = contract()
    waiting = [
        *(begin(coalescer, n) for n in (1, 2)),
        *(begin(coalescer, n, side=8) for n in (3, 4)),
        *(begin(coalescer, n, of=other) for n in (5, 6)),
        *(begin(coalescer, n, encoding="jpeg") for n in (7, 8)),
    ]
    rows.tokens.release(10)
    assert [answer(item) for item in waiting] == [1, 2, 3, 4, 5, 6, 7, 8]
    assert sorted(rows.received[2:]) == [[1, 2], [3, 4], [5, 6], [7, 8]]


def test_a_model_that_takes_one_item_is_asked_one_by_one(rows: Rows) -> None:
    coalescer = Coalescer(send(rows), settle, linger=LONG)
    held(rows, coalescer)
    fixed = contract((1, 4))
    waiting = [begin(coalescer, n, of=fixed, encoding="tensor") for n in range(4)]
    rows.wait_for(6)
    rows.tokens.release(10)
    assert [answer(item) for item in waiting] == [0, 1, 2, 3]
    assert sorted(rows.received[2:]) == [[0], [1], [2], [3]]


def test_a_message_has_no_more_items_than_servers_take(rows: Rows) -> None:
    coalescer = Coalescer(send(rows), settle, linger=LONG, most_items=8)
    held(rows, coalescer)
    waiting = [begin(coalescer, n) for n in range(20)]
    rows.tokens.release(10)
    assert [answer(item) for item in waiting] == list(range(20))
    assert sorted(len(received) for received in rows.received[2:]) == [4, 8, 8]


def test_large_items_fill_a_message_soon_and_the_largest_do_not_wait(rows: Rows) -> None:
    coalescer = Coalescer(send(rows), settle, linger=LONG)
    held(rows, coalescer)
    waiting = [begin(coalescer, n, side=300_000) for n in range(6)]
    assert len(rows.received) == 2
    alone = begin(coalescer, 50, side=2_000_000)
    rows.wait_for(3)
    rows.tokens.release(10)
    assert [answer(item) for item in [*waiting, alone]] == [0, 1, 2, 3, 4, 5, 50]
    assert sorted(rows.received[2:]) == [[0, 1, 2], [3, 4, 5], [50]]


def test_no_caller_waits_longer_than_it_said_and_the_others_get_their_answer(rows: Rows) -> None:
    coalescer = Coalescer(send(rows), settle, linger=LONG)
    first = held(rows, coalescer)
    patient, hasty = begin(coalescer, 1), begin(coalescer, 2, seconds=1.0)
    rows.tokens.release(1)
    rows.wait_for(3)
    assert rows.received[2] == [1, 2], "together"
    assert answer(hasty) == "deadline"
    rows.tokens.release(10)
    assert answer(patient) == 1
    assert [answer(item) for item in first] == [101, 102]


def test_what_ran_out_of_time_before_it_was_sent_is_not_sent(rows: Rows) -> None:
    coalescer = Coalescer(send(rows), settle, linger=LONG)
    held(rows, coalescer)
    asked = [begin(coalescer, n, seconds=0.05) for n in range(3)]
    time.sleep(0.06)  # nobody waits for them yet, and nobody sends them
    last = begin(coalescer, 3)
    rows.tokens.release(10)
    assert answer(last) == 3
    for item in asked:
        result, size = item.wait()
        assert isinstance(result, Outcome)
        assert (result.reason, size) == ("deadline", 0)
    assert sorted(rows.received) == [[3], [101], [102]]


def test_a_call_that_nobody_waits_for_any_more_is_ended(rows: Rows) -> None:
    coalescer = Coalescer(lambda request, _: rows.infer.future(request, timeout=LONG), settle)
    rows.hold()
    items = [begin(coalescer, n, seconds=0.2) for n in range(2)]
    rows.wait_for(2)
    assert [answer(item) for item in items] == ["deadline"] * 2
    assert all(rows.left.acquire(timeout=LONG / 2) for _ in items), "the server knows that they are over"


def test_a_bad_row_takes_no_other_with_it(rows: Rows) -> None:
    coalescer = Coalescer(send(rows), settle, linger=LONG)
    held(rows, coalescer)
    items = [begin(coalescer, n) for n in (1, 2, POISON, 4)]
    rows.tokens.release(100)
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(answer, items)) == [1, 2, "rejected", 4]
    assert sorted(rows.received[2:]) == [[1], [1, 2, POISON, 4], [2], [4], [POISON]]


def test_a_server_that_takes_fewer_rows_than_it_says_is_given_fewer(rows: Rows) -> None:
    coalescer = Coalescer(send(rows), settle, linger=LONG)
    rows.most = 4
    for _ in range(4):
        rows.received.clear()
        first = held(rows, coalescer)
        items = [begin(coalescer, n) for n in range(16)]
        rows.tokens.release(100)
        with ThreadPoolExecutor(16) as pool:
            assert list(pool.map(answer, items)) == list(range(16))
        assert [answer(item) for item in first] == [101, 102]
    assert sorted(len(received) for received in rows.received[2:]) == [4, 4, 4, 4]


def test_an_answer_with_too_few_rows_is_nobodys_and_is_not_provoked_again(rows: Rows) -> None:
    coalescer = Coalescer(send(rows), settle, linger=LONG)
    first = held(rows, coalescer)
    rows.change = lambda y: y[:1]
    items = [begin(coalescer, n) for n in range(4)]
    rows.tokens.release(100)
    assert [answer(item) for item in items] == ["rejected"] * 4
    assert [answer(item) for item in first] == [101, 102]
    held(rows, coalescer)
    items = [begin(coalescer, n) for n in range(4)]
    rows.tokens.release(100)
    assert [answer(item) for item in items] == [0, 1, 2, 3]


def test_the_gate_is_asked_before_anything_is_sent_twice(rows: Rows) -> None:
    coalescer = Coalescer(send(rows), settle, linger=LONG)
    held(rows, coalescer)
    items = []
    for n, gate in ((1, lambda size, remaining: "budget"), (POISON, None), (3, lambda size, remaining: None)):
        made = request(n)
        items.append(coalescer.begin(made, made.ByteSize(), CONTRACT, time.perf_counter() + LONG, gate))
    rows.tokens.release(100)
    with ThreadPoolExecutor(3) as pool:
        assert list(pool.map(answer, items)) == ["rejected", "rejected", 3]
    assert [1] not in rows.received


def test_a_send_that_fails_fails_all_of_a_wave_and_holds_up_nothing(rows: Rows) -> None:
    broken = threading.Event()

    def fragile(request: Any, deadline: float | None) -> Any:
        return Outcome(None, "offline", detail="closed") if broken.is_set() else send(rows)(request, deadline)

    coalescer = Coalescer(fragile, settle, linger=LONG)
    held(rows, coalescer)
    items = [begin(coalescer, n % 200, side=4 + n) for n in range(500)]  # of 500 kinds
    broken.set()
    rows.tokens.release(2)
    results = [item.wait() for item in items]
    assert {(result.reason, size) for result, size in results if isinstance(result, Outcome)} == {("offline", 0)}
    assert len(results) == 500
    broken.clear()
    rows.tokens.release(10)
    assert answer(begin(coalescer, 7)) == 7


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
    rows.received.clear()
    rows.bytes = 0
    coalescer = Coalescer(send(rows), settle, at_once=at_once, linger=linger)

    def ask(step: tuple[int, str, int, float | None]) -> tuple[Any, int]:
        value, encoding, side, seconds = step
        if encoding != "captured":
            side = 4
        return begin(coalescer, value, seconds=seconds, encoding=encoding, side=side).wait()

    with ThreadPoolExecutor(threads) as pool:
        results = list(pool.map(ask, plan))
    late = False
    for (value, _, _, seconds), (result, _) in zip(plan, results, strict=True):
        if isinstance(result, Outcome):
            hurried = seconds is not None and seconds < LONG
            late |= result.reason == "deadline"
            assert (result.reason == "rejected" and value == POISON) or (result.reason == "deadline" and hurried)
        else:
            assert value != POISON
            assert result.outputs["y"].tolist() == [[value]]
            assert result.digest == "sha256:d"
    if not late:
        assert sum(size for _, size in results) == rows.bytes, "each has its share of what was sent"
