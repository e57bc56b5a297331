"""Messages that are read and written past paho: alike, whatever they hold."""

from __future__ import annotations

import contextlib
import queue
import socket
import struct
import threading
from collections.abc import Callable

import paho.mqtt.client as paho
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from edge_sdk.ota.link import Broker, Link
from edge_sdk.ota.packets import Message, Packed, read_message

TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0\ufeff"), max_size=40)
OTHERS = [("ResponseTopic", "elsewhere"), ("MessageExpiryInterval", 5), ("ContentType", "x"), ("TopicAlias", 3)]


def packet(topic: str, properties: bytes, payload: bytes) -> bytes:
    """Return what follows the fixed header of a message of QoS 0."""
    return struct.pack("!H", len(topic.encode())) + topic.encode() + properties + payload


@settings(max_examples=25)  # paho is slow at it
@given(st.none() | st.binary(min_size=1, max_size=300), st.dictionaries(TEXT, TEXT, max_size=4))
def test_paho_reads_the_properties_that_are_written(correlation: bytes | None, user: dict[str, str]) -> None:
    read = Properties(PacketTypes.PUBLISH)
    read.unpack(Packed(correlation, user).pack())
    assert getattr(read, "CorrelationData", None) == correlation
    assert dict(getattr(read, "UserProperty", ())) == user


@settings(max_examples=25)
@given(TEXT.filter(bool), st.binary(min_size=1, max_size=300), st.dictionaries(TEXT, TEXT, max_size=4), st.binary())
def test_what_paho_writes_is_read(topic: str, correlation: bytes, user: dict[str, str], payload: bytes) -> None:
    written = Properties(PacketTypes.PUBLISH)
    written.CorrelationData = correlation
    if user:
        written.UserProperty = list(user.items())
    message = read_message(packet(topic, written.pack(), payload))
    assert message is not None
    assert (message.topic, message.correlation, message.properties) == (topic, correlation, user)
    assert (message.payload, message.qos) == (payload, 0)


@pytest.mark.parametrize(("name", "value"), OTHERS)
def test_a_message_with_other_properties_is_left_to_paho(name: str, value: object) -> None:
    written = Properties(PacketTypes.PUBLISH)
    setattr(written, name, value)
    assert read_message(packet("topic", written.pack(), b"payload")) is None


@given(st.binary(max_size=60))
@example(b"\0\1t\xff\xff\xff\xff\xff")
@example(b"\0\1t\x05\x09\xff\xff12")
@example(b"\0\1\xff\0payload")
@example(b"\0\0\0payload")
def test_whatever_arrives_is_read_or_left_to_paho(data: bytes) -> None:
    message = read_message(data)
    assert message is None or data.endswith(message.payload)


@pytest.mark.parametrize(
    "properties", [b"\x07\x26\0\1\0\0\1x", b"\x07\x09\0\0\x09\0\1a"], ids=["a null", "two of one kind"]
)
def test_what_the_standard_forbids_is_left_to_paho(properties: bytes) -> None:
    assert read_message(packet("topic", properties, b"payload")) is None


class Hostile:
    """A broker that accepts, and sends these bytes on its first connection."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._connections: list[socket.socket] = []
        self.url = f"mqtt://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        good = packet("topic", b"\0", b"well again")
        for data in (self._data, bytes([0x30, len(good)]) + good):
            connection, _ = self._listener.accept()
            self._connections.append(connection)
            connection.recv(4096)
            connection.sendall(b"\x20\x03\0\0\0" + data)

    def close(self) -> None:
        for connection in (self._listener, *self._connections):
            connection.close()


@pytest.mark.parametrize(
    "data",
    [b"\x30\x05\0\1\xff\0x\xff\0", b"\x30\xff\xff\xff\x7f" + bytes(1000)],
    ids=["a topic that is no text, and no packet", "a packet of 256 MB"],
)
def test_a_broker_that_sends_what_it_must_not_is_left_and_joined_again(data: bytes) -> None:
    arrived = queue.SimpleQueue[Message]()
    broker = Hostile(data)
    link = Link(Broker.parse(broker.url), "edge", on_message=arrived.put)
    try:
        link.connect()
        assert arrived.get(timeout=20).payload == b"well again"
    finally:
        link.close()
        broker.close()


def arrived_at(connection: socket.socket, count: int) -> list[tuple[str, bytes]]:
    """Return topic and payload of so many messages, without acknowledging any."""
    stream, found = connection.makefile("rb"), []
    while len(found) < count:
        kind, length, shift = stream.read(1)[0], 0, 0
        while True:
            byte = stream.read(1)[0]
            length, shift = length | (byte & 127) << shift, shift + 7
            if byte < 128:
                break
        body = stream.read(length)
        assert len(body) == length
        if kind & 0xF0 == 0x30:
            at = 2 + int.from_bytes(body[:2])
            topic, at = body[2:at].decode(), at + (2 if kind & 6 else 0)
            found.append((topic, body[at + 1 + body[at] :]))
    return found


def test_messages_of_several_threads_arrive_whole_at_a_broker_that_is_slow() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 20_000)
        link = Link(Broker.parse(f"mqtt://127.0.0.1:{listener.getsockname()[1]}"), "edge")
        connecting = threading.Thread(target=link.connect)
        connecting.start()
        connection, _ = listener.accept()
        connection.settimeout(20)
        connection.recv(4096)
        connection.sendall(b"\x20\x03\0\0\0")
        connecting.join()

        def send(thread: int) -> None:
            for number in range(100):
                data = bytes([thread, number]) * (50_000 if number % 2 else 50)
                if number % 5 == 4:
                    link.publish(f"thread/{thread}", data, qos=0)
                else:
                    waiting.append(link.send(f"thread/{thread}", data, b"key"))

        waiting: list[int | None] = []
        threads = [threading.Thread(target=send, args=(number,)) for number in range(3)]
        for thread in threads:
            thread.start()
        arrived = arrived_at(connection, 300)
        for thread in threads:
            thread.join()
        assert None in waiting
        assert any(waiting)
        link.close()
        connection.close()
    for number in range(3):
        expected = [bytes([number, n]) * (50_000 if n % 2 else 50) for n in range(100)]
        assert sorted(payload for topic, payload in arrived if topic == f"thread/{number}") == sorted(expected)


def test_messages_in_one_piece_and_in_many_pieces_are_all_read() -> None:
    bodies = [packet("topic", b"\0", b"%d" % number * 30) for number in range(200)]
    data = b"".join(bytes([0x30, len(body)]) + body for body in bodies)
    arrived = queue.SimpleQueue[Message]()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        link = Link(Broker.parse(f"mqtt://127.0.0.1:{listener.getsockname()[1]}"), "edge", on_message=arrived.put)
        connecting = threading.Thread(target=link.connect)
        connecting.start()
        connection, _ = listener.accept()
        connection.recv(4096)
        connection.sendall(b"\x20\x03\0\0\0" + data[:9000])
        connecting.join()
        for at in range(9000, len(data), 7):
            connection.sendall(data[at : at + 7])
        assert [arrived.get(timeout=20).payload for _ in bodies] == [b"%d" % number * 30 for number in range(200)]
        link.close()
        connection.close()


def test_a_broker_that_never_stops_sending_holds_up_neither_reports_nor_the_end() -> None:
    body = packet("topic", b"\0", bytes(54))
    whole, stop, came = bytes([0x30, len(body)]) + body, threading.Event(), threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def flood() -> None:
            connection.sendall(b"\x20\x03\0\0\0" + whole[:13])
            while not stop.is_set():  # in pieces that never end with a message
                connection.sendall(whole[13:] + whole * 2000 + whole[:13])

        def ignore_errors(work: Callable[[], object]) -> Callable[[], None]:
            def run() -> None:
                with contextlib.suppress(OSError, IndexError):
                    work()

            return run

        def read() -> None:
            assert arrived_at(connection, 1)[0] == ("report", b"x")
            came.set()

        # it takes messages more slowly than they come
        link = Link(
            Broker.parse(f"mqtt://127.0.0.1:{listener.getsockname()[1]}"), "edge", on_message=lambda _: stop.wait(5e-4)
        )
        connecting = threading.Thread(target=link.connect)
        connecting.start()
        connection, _ = listener.accept()
        connection.recv(4096)
        threads = [threading.Thread(target=ignore_errors(work), daemon=True) for work in (flood, read)]
        for thread in threads:
            thread.start()
        connecting.join()
        link.publish("report", b"x")
        reported = came.wait(45)
        closing = threading.Thread(target=link.close, daemon=True)
        closing.start()
        closing.join(45)
        ended = not closing.is_alive()
        stop.set()
        connection.close()
        for thread in threads:
            thread.join()
    assert (reported, ended) == (True, True)


@given(st.integers(0, 60))
def test_a_message_that_is_cut_within_its_properties_is_not_read(length: int) -> None:
    whole = packet("topic", Packed(b"correlation", {"status": "200", "size": "1"}).pack(), b"")
    assert (read_message(whole[:length]) is None) == (length < len(whole))


def test_a_property_that_is_too_long_is_refused() -> None:
    with pytest.raises(ValueError, match="65,535"):
        Packed(b"x" * 65_536, {})


def test_paho_still_calls_what_is_put_in_its_place() -> None:
    assert {"_handle_publish", "_packet_read", "_packet_write", "_sock_recv", "_mid_generate"} <= set(vars(paho.Client))
    client = paho.Client(paho.CallbackAPIVersion.VERSION2)
    assert {"_sock", "_sockpairW", "_out_packet"} <= set(vars(client))
    assert {"command", "packet", "remaining_length"} <= set(client._in_packet)
