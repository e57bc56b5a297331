"""One MQTT 5 connection: options, last will, reconnection with jitter, and messages as plain records.

Callbacks run on the network thread; they must not block and must not call `Link.close`. What the
connection does not do: keep messages across a crash (see `edge_sdk.ota.outbox`) or answer requests
(see `edge_sdk.ota.channel`).
"""

from __future__ import annotations

import logging
import random
import socket
import ssl
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode
from paho.mqtt.subscribeoptions import SubscribeOptions

from edge_sdk.errors import BrokerError, InputError
from edge_sdk.ota.packets import MAX_PACKET_BYTES, Client, Message, Packed

__all__ = ["Broker", "Link", "Message"]

log = logging.getLogger("edge_sdk.ota.link")

_RECONNECT_SECONDS = (1, 60)


@dataclass(frozen=True, slots=True)
class Broker:
    """Where a broker is and how it is spoken to.

    Attributes
    ----------
    host, port
        Address.
    tls
        Whether the connection is encrypted (``mqtts://``).
    username, password
        Credentials, or None.
    ca, certificate, key
        PEM files: authorities to trust (None: the system's), and the client's own certificate and key.
    client_id
        Name of the session, where the broker asks for one of its own; None: made of fleet and device.
    prefix
        Stands before every topic, such as ``factory/2/``.
    """

    host: str
    port: int
    tls: bool = False
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    ca: Path | None = None
    certificate: Path | None = None
    key: Path | None = None
    client_id: str | None = None
    prefix: str = ""

    @classmethod
    def parse(cls, url: str, **options: Any) -> Broker:
        """Read ``mqtt://[user:password@]host[:port]`` or ``mqtts://…``.

        Raises
        ------
        InputError
            The URL has another form.
        """
        # what stands before the host may be a password, also where the URL is not understood: it is never shown
        refusal = f"broker {url.rpartition('@')[2]!r} is not of the form mqtt://host:port or mqtts://host:port"
        try:
            parts = urlsplit(url if "//" in url else f"mqtt://{url}")
            port = parts.port
        except ValueError:
            raise InputError(refusal) from None
        if parts.scheme not in ("mqtt", "mqtts") or not parts.hostname or parts.path not in ("", "/"):
            raise InputError(refusal)
        tls = parts.scheme == "mqtts"
        credentials = {
            "username": unquote(parts.username) if parts.username else None,
            "password": unquote(parts.password) if parts.password else None,
        }
        return cls(parts.hostname, port or (8883 if tls else 1883), tls, **{**credentials, **options})

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"


class Link:
    """A connection that stays: it reconnects by itself and subscribes again.

    Parameters
    ----------
    broker
        Where to connect.
    client_id
        Name of the session at the broker; two links of one name push each other out.
    subscriptions
        Topic filters with their QoS.
    on_message
        Called with each message, on the network thread.
    on_connected
        Called after each connection, the first included, on the network thread.
    on_acknowledged
        Called with the id of each message whose delivery the broker acknowledged.
    will
        Topic and payload that the broker publishes, retained, when we vanish.
    session_expiry
        Seconds that the broker keeps subscriptions and waiting QoS 1 messages for us.
    manual_ack
        Acknowledge received QoS 1 messages only by `acknowledge`, after they are safe.
    """

    def __init__(
        self,
        broker: Broker,
        client_id: str,
        *,
        subscriptions: Sequence[tuple[str, int]] = (),
        on_message: Callable[[Message], None] | None = None,
        on_connected: Callable[[], None] | None = None,
        on_acknowledged: Callable[[int], None] | None = None,
        will: tuple[str, bytes] | None = None,
        session_expiry: int = 7 * 86_400,
        manual_ack: bool = False,
        keepalive: int = 30,
    ) -> None:
        self.broker = broker
        self._subscriptions = list(subscriptions)
        self._on_message = on_message
        self._on_connected = on_connected
        self._on_acknowledged = on_acknowledged
        self._session_expiry = session_expiry
        self._keepalive = keepalive
        self._answered = threading.Event()
        self._refusal: str | None = None
        client = Client(CallbackAPIVersion.VERSION2, client_id=client_id, protocol=paho.MQTTv5, manual_ack=manual_ack)
        client.on_connect = self._connected
        client.on_disconnect = self._disconnected
        client.on_message = self._received
        client.take = self._taken
        client.on_publish = self._published
        client.on_socket_open = _no_delay
        self._jitter(client)
        if will is not None:
            client.will_set(will[0], will[1], qos=1, retain=True)
        if broker.username is not None:
            client.username_pw_set(broker.username, broker.password)
        if broker.tls:
            client.tls_set_context(_tls_context(broker))
        self._client = client

    def connect(self, timeout: float = 10.0) -> None:
        """Connect and wait until the broker has accepted us.

        Raises
        ------
        BrokerError
            Nobody listens there, the broker refuses us, or it does not speak MQTT 5.
        """
        properties = Properties(PacketTypes.CONNECT)
        properties.SessionExpiryInterval = self._session_expiry
        properties.MaximumPacketSize = MAX_PACKET_BYTES
        self._client.connect_timeout = timeout
        try:
            self._client.connect(
                self.broker.host,
                self.broker.port,
                keepalive=self._keepalive,
                clean_start=False,
                properties=properties,
            )
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            raise BrokerError(f"no MQTT broker at {self.broker}: {reason}; is it running?") from error
        self._client.loop_start()
        if self._answered.wait(timeout) and self._refusal is None:
            return
        refusal = self._refusal or f"it did not answer within {timeout:g} s"
        self.close()
        raise BrokerError(f"the broker at {self.broker} does not accept an MQTT 5 connection: {refusal}")

    @property
    def connected(self) -> bool:
        """Whether the broker is connected at this moment."""
        return self._client.is_connected()

    def publish(
        self,
        topic: str,
        payload: bytes,
        *,
        qos: int = 1,
        retain: bool = False,
        correlation: bytes | None = None,
        properties: Mapping[str, str] | None = None,
    ) -> int:
        """Hand one message to the network thread and return its id."""
        packed = Packed(correlation, properties or {})
        return self._client.publish(topic, payload, qos=qos, retain=retain, properties=packed).mid

    def send(
        self, topic: str, payload: bytes, correlation: bytes, properties: Mapping[str, str] | None = None
    ) -> int | None:
        """Send one message of QoS 0 at once; return its id if the network thread has to send a part of it, or None."""
        return self._client.send(topic, payload, Packed(correlation, properties or {}))

    def acknowledge(self, message: Message) -> None:
        """Tell the broker that a received message is safe (with ``manual_ack``)."""
        self._client.ack(message.mid, message.qos)

    def unsubscribe(self, topic: str) -> None:
        """Give up one of the topics; its messages of QoS 0 then go to others who share it."""
        self._subscriptions = [(name, qos) for name, qos in self._subscriptions if name != topic]
        self._client.unsubscribe(topic)

    def close(self, farewell: tuple[str, bytes] | None = None) -> None:
        """Disconnect; ``farewell`` is a last retained message (the will is not published then)."""
        if farewell is not None and self.connected:
            info = self._client.publish(farewell[0], farewell[1], qos=1, retain=True)
            try:
                info.wait_for_publish(2.0)
            except (RuntimeError, ValueError):
                log.debug("the farewell was not delivered")
        self._client.disconnect()
        self._client.loop_stop()

    @staticmethod
    def _jitter(client: paho.Client) -> None:
        low, high = _RECONNECT_SECONDS
        client.reconnect_delay_set(random.randint(low, low + 2), random.randint(high // 2, high))

    def _connected(
        self, client: paho.Client, userdata: Any, flags: paho.ConnectFlags, reason: ReasonCode, properties: Any
    ) -> None:
        if reason.is_failure:
            if self._answered.is_set():  # not the first connection, which `connect` waits for
                log.warning("the broker at %s does not take us back: %s", self.broker, reason)
            self._refusal = str(reason)
            self._answered.set()
            return
        self._refusal = None
        if self._subscriptions:
            # also when the session is still there: a broker then sends retained messages again
            client.subscribe([(topic, SubscribeOptions(qos=qos)) for topic, qos in self._subscriptions])
        self._answered.set()
        if self._on_connected is not None:
            self._on_connected()

    def _disconnected(
        self, client: paho.Client, userdata: Any, flags: paho.DisconnectFlags, reason: ReasonCode, properties: Any
    ) -> None:
        if not self._answered.is_set():
            self._refusal = f"it closed the connection ({reason})"
            self._answered.set()
        self._jitter(client)

    def _received(self, client: paho.Client, userdata: Any, message: paho.MQTTMessage) -> None:
        properties = message.properties
        user = dict(getattr(properties, "UserProperty", ()))
        correlation = bytes(getattr(properties, "CorrelationData", b""))
        try:
            topic = message.topic
        except UnicodeDecodeError:  # raised here it would end the network thread
            log.warning("a message whose topic is no text is dropped")
            return
        self._taken(Message(topic, bytes(message.payload), correlation, user, message.qos, message.mid))

    def _taken(self, message: Message) -> None:
        if self._on_message is None:
            return
        try:
            self._on_message(message)
        except Exception:  # it would end the network thread, and the connection with it, without a word
            log.exception("a message cannot be handled and is dropped")

    def _published(
        self, client: paho.Client, userdata: Any, mid: int, reason: ReasonCode, properties: Properties
    ) -> None:
        if reason.is_failure:
            log.warning("the broker refused message %d: %s", mid, reason)
        elif self._on_acknowledged is not None:
            self._on_acknowledged(mid)


def _no_delay(client: paho.Client, userdata: Any, sock: Any) -> None:
    # without it each small packet may wait 40 ms for the acknowledgement of the one before
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def _tls_context(broker: Broker) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=str(broker.ca) if broker.ca else None)
        if broker.certificate is not None:
            context.load_cert_chain(broker.certificate, broker.key)
    except (OSError, ssl.SSLError) as error:
        raise InputError(f"the TLS files for {broker} cannot be used: {error}") from error
    return context
