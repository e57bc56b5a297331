"""Requests and replies over a channel that loses, repeats and invents."""

from __future__ import annotations

import queue
import threading
import tracemalloc

import pytest

from edge_sdk.errors import TransferError
from edge_sdk.ota.channel import Channel

OK = {"status": "200", "size": "1"}


def echo(**options: object) -> tuple[Channel, list[bytes]]:
    """Return a channel whose far end answers every request at once with the request itself."""
    sent: list[bytes] = []

    def send(payload: bytes, correlation: bytes) -> None:
        sent.append(payload)
        channel.deliver(correlation, payload, OK)

    channel = Channel(send, timeout=0.05, **options)
    return channel, sent


def test_every_request_gets_its_own_reply() -> None:
    channel, sent = echo(window=3)
    replies = dict(channel.fetch([{"block": n} for n in range(20)]))
    assert {n: reply.data for n, reply in replies.items()} == {n: b'{"block":%d}' % n for n in range(20)}
    assert len(sent) == 20


def test_lost_requests_are_sent_again() -> None:
    seen: dict[bytes, int] = {}

    def send(payload: bytes, correlation: bytes) -> None:
        seen[correlation] = seen.get(correlation, 0) + 1
        if seen[correlation] == 2:
            channel.deliver(correlation, payload, OK)

    channel = Channel(send, timeout=0.02)
    assert len(list(channel.fetch([{"block": n} for n in range(5)]))) == 5
    assert set(seen.values()) == {2}


def test_on_a_link_that_is_slower_than_the_window_few_blocks_come_twice() -> None:
    came: list[bytes] = []
    line = queue.SimpleQueue[tuple[bytes, bytes] | None]()

    def carry() -> None:  # an answer each 50 ms: those to 16 requests at once would take longer than the timeout
        while (asked := line.get()) is not None:
            threading.Event().wait(0.05)
            came.append(asked[0])
            channel.deliver(asked[1], asked[0], OK)

    channel = Channel(lambda payload, correlation: line.put((payload, correlation)), timeout=0.3, attempts=8)
    carrier = threading.Thread(target=carry)
    carrier.start()
    assert len(list(channel.fetch([{"block": n} for n in range(40)]))) == 40
    line.put(None)
    carrier.join()
    assert len(came) < 70


def test_what_came_while_the_disk_was_slow_is_not_asked_for_again() -> None:
    channel, sent = echo()
    for number, _ in enumerate(channel.fetch([{"block": n} for n in range(30)])):
        if number % 8 == 7:
            threading.Event().wait(0.12)  # an fsync that takes longer than the timeout
    assert len(sent) == 30


def test_repeated_foreign_and_malformed_replies_are_dropped() -> None:
    def send(payload: bytes, correlation: bytes) -> None:
        channel.deliver(b"someone else's", b"no", OK)
        channel.deliver(correlation, b"no", {"status": "twohundred", "size": "1"})
        channel.deliver(correlation, b"no", {})
        channel.deliver(correlation, payload, OK)
        channel.deliver(correlation, payload, OK)

    channel = Channel(send, timeout=0.05)
    replies = [reply.data for _, reply in channel.fetch([{"block": n} for n in range(3)])]
    assert replies == [b'{"block":0}', b'{"block":1}', b'{"block":2}']


def test_trouble_at_the_origin_is_waited_out() -> None:
    statuses = iter(["500", "503", "200"])

    def send(payload: bytes, correlation: bytes) -> None:
        channel.deliver(correlation, payload, {"status": next(statuses), "size": "1"})

    channel = Channel(send, timeout=0.02)
    [(index, reply)] = channel.fetch([{"block": 0}])
    assert (index, reply.status) == (0, 200)


@pytest.mark.parametrize("hint", [{}, {"retry": "0.02"}, {"retry": "nan"}, {"retry": "-1"}])
def test_what_is_refused_is_asked_for_again_long_before_it_is_late(hint: dict[str, str]) -> None:
    sent: list[bytes] = []

    def send(payload: bytes, correlation: bytes) -> None:
        sent.append(correlation)
        refused = len(sent) % 8 == 1
        channel.deliver(correlation, payload, {"status": "429", "size": "0", **hint} if refused else OK)

    channel = Channel(send, timeout=60.0, attempts=1)
    replies = dict(channel.fetch([{"block": n} for n in range(14)]))
    assert {n: reply.data for n, reply in replies.items()} == {n: b'{"block":%d}' % n for n in range(14)}
    assert len(sent) == len(set(sent)) == 16


@pytest.mark.parametrize("hint", ["0", "1e-9", "0.01", "inf"])
def test_a_service_that_only_refuses_fails_the_transfer_after_few_requests(hint: str) -> None:
    sent: list[bytes] = []

    def send(payload: bytes, correlation: bytes) -> None:
        sent.append(correlation)
        channel.deliver(correlation, b"", {"status": "429", "size": "0", "retry": hint})

    channel = Channel(send, timeout=0.1, attempts=3)
    with pytest.raises(TransferError, match="only that this device asks too often"):
        list(channel.fetch([{"block": n} for n in range(3)]))
    assert len(sent) < 200


def test_refusals_of_an_earlier_transfer_do_not_fail_the_next_one() -> None:
    statuses = iter(["429"] * 100)

    def send(payload: bytes, correlation: bytes) -> None:
        channel.deliver(correlation, payload, {"status": next(statuses, "200"), "size": "0", "retry": "0.02"})

    channel = Channel(send, timeout=0.1, attempts=2)
    with pytest.raises(TransferError, match="asks too often"):
        list(channel.fetch([{"block": 0}]))
    statuses = iter(["429"])
    assert [reply.status for _, reply in channel.fetch([{"block": 0}])] == [200]


def test_a_repository_that_stays_silent_fails_the_transfer() -> None:
    channel = Channel(lambda payload, correlation: None, timeout=0.01, attempts=3)
    with pytest.raises(TransferError, match="did not answer within 3 attempts"):
        list(channel.fetch([{"block": 0}]))


def test_a_cancelled_channel_stops_at_once() -> None:
    channel = Channel(lambda payload, correlation: channel.cancel(), timeout=60)
    with pytest.raises(TransferError, match="stopped"):
        list(channel.fetch([{"block": 0}]))


def test_what_a_broker_sends_unasked_takes_a_bounded_part_of_memory() -> None:
    asked: list[bytes] = []

    def send(payload: bytes, correlation: bytes) -> None:
        asked.append(correlation)
        channel.deliver(correlation, payload, OK)

    channel = Channel(send, timeout=0.05)
    assert len(list(channel.fetch([{"block": 0}]))) == 1
    tracemalloc.start()
    for _ in range(2000):
        channel.deliver(asked[0], bytes(100_000), OK)
        channel.deliver(b"someone else's", bytes(100_000), OK)
    kept, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert kept < 20e6
    assert [reply.data for _, reply in channel.fetch([{"block": 1}])] == [b'{"block":1}']
