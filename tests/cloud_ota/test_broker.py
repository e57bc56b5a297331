"""The embedded broker as a command: where it listens, and how it ends."""

from __future__ import annotations

import shutil
import socket
from collections.abc import Callable

import pytest

from edge_sdk.cloud.ota.broker import EmbeddedBroker
from edge_sdk.errors import BrokerError, InputError, PortInUseError
from edge_sdk.ota.link import Broker, Link, Message
from outside.brokers import ENGINES
from outside.services import Service, edge_sdk
from outside.updates import wait_for


@pytest.mark.parametrize("engine", ENGINES)
def test_a_broker_is_ready_when_it_says_so_and_ends_on_sigterm(service: Callable[..., Service], engine: str) -> None:
    process = service("broker", "--port", "0", "--engine", engine)
    host, port = process.ready["mqtt"].split(":")
    assert host == "127.0.0.1"
    link = Link(Broker(host, int(port)), "someone", session_expiry=0)
    link.connect()
    link.close()
    assert process.stop() == 143
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((host, int(port)), timeout=1)


@pytest.mark.parametrize("engine", ENGINES)
def test_a_broker_listens_on_the_one_address_only(engine: str) -> None:
    with EmbeddedBroker("127.0.0.1", 0, engine=engine) as broker:
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.2", broker.port), timeout=1)
        socket.create_connection(("127.0.0.1", broker.port), timeout=1).close()


@pytest.mark.parametrize("engine", ENGINES)
def test_messages_that_are_as_large_as_allowed_pass_and_the_last_will_is_kept(engine: str) -> None:
    with EmbeddedBroker(port=0, engine=engine) as broker:
        heard: dict[str, bytes] = {}
        address = Broker.parse(broker.url)

        def hear(message: object) -> None:
            heard[message.topic] = message.payload

        listener = Link(address, "listener", subscriptions=[("a/#", 1)], on_message=hear, session_expiry=0)
        listener.connect()
        speaker = Link(address, "speaker", will=("a/status", b"gone"))
        speaker.connect()
        block = b"x" * 122_880
        speaker.publish("a/block", block, correlation=b"c", properties={"status": "200"})
        wait_for(lambda: "a/block" in heard)
        assert heard["a/block"] == block
        speaker._client._sock_close()
        wait_for(lambda: heard.get("a/status") == b"gone")
        listener.close()
        speaker._client.loop_stop()


def test_a_busy_port_is_one_line_and_exit_code_2() -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        port = holder.getsockname()[1]
        done = edge_sdk("broker", "--port", port)
        assert done.returncode == 2
        assert done.stderr.count("\n") == 1
        assert "is in use" in done.stderr
        with pytest.raises(PortInUseError):
            EmbeddedBroker(port=port)


def test_a_host_or_engine_that_does_not_exist_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="not within"):
        EmbeddedBroker(port=70_000)
    with pytest.raises(InputError, match="not one of"):
        EmbeddedBroker(engine="carrier-pigeon")  # type: ignore[arg-type]
    monkeypatch.setattr(shutil, "which", lambda *_, **__: None)
    with pytest.raises(BrokerError, match="mosquitto not found"):
        EmbeddedBroker(engine="mosquitto")


@pytest.mark.parametrize("url", ["", "http://x", "mqtt://", "mqtt://h:port", "mqtt://h:70000", "mqtt://h/path"])
def test_a_broker_url_of_another_form_is_refused(url: str) -> None:
    with pytest.raises(InputError):
        Broker.parse(url)


def test_a_broker_url_holds_credentials_that_are_never_shown() -> None:
    broker = Broker.parse("mqtts://cam:s%20cret@broker.example")
    assert (broker.port, broker.tls, broker.username, broker.password) == (8883, True, "cam", "s cret")
    assert "cret" not in f"{broker} {broker!r}"


@pytest.mark.parametrize(
    "url",
    [
        "mqtt://cam:s3cret@host:port",
        "http://cam:s3cret@host",
        "mqtt://cam:s3cret@host/path",
        "mqtt://cam:s3#cret@host:1883",
        "mqtt://cam:s3/cret@host:1883",
    ],
)
def test_a_broker_url_that_is_refused_keeps_its_password_to_itself(url: str) -> None:
    with pytest.raises(InputError, match="host") as caught:
        Broker.parse(url)
    assert "s3" not in f"{caught.value} {caught.value.__cause__!r}"
    assert "cret" not in str(caught.value)


def test_a_callback_that_raises_costs_its_message_and_not_the_connection(broker: str) -> None:
    heard: list[bytes] = []

    def hear(message: Message) -> None:
        if message.payload == b"bad":
            raise RuntimeError
        heard.append(message.payload)

    link = Link(Broker.parse(broker), "raises", subscriptions=[("raises/#", 0)], on_message=hear, session_expiry=0)
    link.connect()
    for payload in (b"bad", b"good"):
        link.publish("raises/here", payload)
    wait_for(lambda: heard == [b"good"])
    link.close()


def test_a_listener_that_is_no_broker_is_refused_in_one_line() -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        link = Link(Broker("127.0.0.1", holder.getsockname()[1]), "someone")
        with pytest.raises(BrokerError, match="does not accept an MQTT 5 connection"):
            link.connect(timeout=0.3)
