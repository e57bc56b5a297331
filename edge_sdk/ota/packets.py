"""Reads and writes the properties of MQTT 5 messages, in place of paho for the messages that blocks come in.

Paho copies a message once for each of its properties and looks their names up one by one: most of the processor
time of a download. What has another form than ours is left to it.
"""

from __future__ import annotations

import contextlib
import logging
import socket
import struct
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import paho.mqtt.client as paho
from paho.mqtt.enums import MQTTErrorCode
from paho.mqtt.properties import Properties

from edge_sdk.ota.topics import MAX_MESSAGE_BYTES

__all__ = ["MAX_PACKET_BYTES", "Client", "Message", "Packed", "read_message"]

log = logging.getLogger("edge_sdk.ota.packets")

MAX_PACKET_BYTES = MAX_MESSAGE_BYTES + 4096
"""Largest packet that is taken."""

_CORRELATION_DATA, _USER_PROPERTY = 0x09, 0x26
_PUBLISH_QOS_0 = 0x30
_MAX_PROPERTIES = 4096
_SMALL = 4096
_AT_ONCE = 64  # packets that are read before what waits to be sent has its turn


@dataclass(frozen=True, slots=True)
class Message:
    """One message as it arrived."""

    topic: str
    payload: bytes
    correlation: bytes
    properties: Mapping[str, str]
    qos: int
    mid: int


class Packed(Properties):
    """The properties of one message to send: correlation data and user properties.

    Raises
    ------
    ValueError
        A value is longer than 65,535 bytes.
    """

    def __init__(self, correlation: bytes | None, properties: Mapping[str, str]) -> None:
        packed = bytearray()
        if correlation is not None:
            packed += bytes([_CORRELATION_DATA]) + _with_length(correlation)
        for pair in properties.items():
            packed.append(_USER_PROPERTY)
            for text in pair:
                packed += _with_length(text.encode())
        object.__setattr__(self, "_packed", _number(len(packed)) + packed)

    def __str__(self) -> str:
        return f"{len(self.pack())} bytes"

    def pack(self) -> bytes:
        """Return their length and themselves, as they are sent."""
        return bytes(object.__getattribute__(self, "_packed"))


class Client(paho.Client):
    """Paho's client, which hands messages of QoS 0 to ``take``, those of our form without its own way to read them.

    It reads small packets together, and has a way of its own to send messages of QoS 0. What is
    overridden here is not public; were it named otherwise one day, ours would only be slower.
    """

    take: Callable[[Message], None] | None = None

    def __init__(self, *arguments: Any, **options: Any) -> None:
        self._ahead = b""
        self._ahead_of: object = None
        self._writing = threading.RLock()
        super().__init__(*arguments, **options)

    def send(self, topic: str, payload: bytes, properties: Packed) -> int | None:
        """Send a message of QoS 0 from this thread; return its id if a part of it is left to the network thread.

        It is lost where the connection is.
        """
        name, packed = _with_length(topic.encode()), properties.pack()
        head = bytes([_PUBLISH_QOS_0]) + _number(len(name) + len(packed) + len(payload)) + name + packed
        with self._writing:
            sock = self._sock
            if not self._out_packet and type(sock) is socket.socket and self.is_connected():
                try:
                    sent = sock.send(head + payload) if len(payload) < _SMALL else sock.sendmsg([head, payload])
                except BlockingIOError:
                    sent = 0
                except OSError:  # the network thread meets it, too, and connects anew
                    return None
                whole = sent == len(head) + len(payload)
                return None if whole else self._leave((head + payload)[sent:])
        return self.publish(topic, payload, properties=properties).mid

    def _leave(self, rest: bytes) -> int:
        mid = self._mid_generate()
        # before what other threads may have left meanwhile, which is not being sent yet
        self._out_packet.appendleft(
            {
                "command": _PUBLISH_QOS_0,
                "mid": mid,
                "qos": 0,
                "pos": 0,
                "to_process": len(rest),
                "packet": rest,
                "info": paho.MQTTMessageInfo(mid),
            }
        )
        if self._sockpairW is not None:
            with contextlib.suppress(BlockingIOError):
                self._sockpairW.send(b"0")
        return mid

    def _packet_write(self) -> MQTTErrorCode:
        with self._writing:
            return super()._packet_write()

    def _sock_recv(self, bufsize: int) -> bytes:
        # paho asks for a byte at a time: give them out of what is read at once
        if self._ahead_of is not self._sock:
            self._ahead, self._ahead_of = b"", self._sock
        if not self._ahead:
            data: bytes = super()._sock_recv(min(max(bufsize, _SMALL), MAX_PACKET_BYTES))
            if len(data) <= bufsize:
                return data
            self._ahead = data
        data, self._ahead = self._ahead[:bufsize], self._ahead[bufsize:]
        return data

    def _packet_read(self) -> MQTTErrorCode:
        number = 0
        while True:
            result = super()._packet_read()
            # a broker is told the largest packet that is taken; one that sends larger ones would fill the memory
            if self._in_packet["remaining_length"] > MAX_PACKET_BYTES:
                log.warning("the broker sends a packet of %d bytes", self._in_packet["remaining_length"])
                return MQTTErrorCode.MQTT_ERR_PROTOCOL
            if result or not self._ahead or self._ahead_of is not self._sock:
                return result
            number += 1
            if number % _AT_ONCE == 0:
                # where packets come without an end, paho does not get to it, nor to a farewell
                self.loop_write()
                self.loop_misc()
                if self._ahead_of is not self._sock:
                    return MQTTErrorCode.MQTT_ERR_SUCCESS

    def _handle_publish(self) -> MQTTErrorCode:
        # what paho calls for a message that is complete
        if self.take is not None and self._in_packet["command"] & ~1 == _PUBLISH_QOS_0:
            message = read_message(self._in_packet["packet"])
            if message is not None:
                self.take(message)
                return MQTTErrorCode.MQTT_ERR_SUCCESS
        return super()._handle_publish()


def read_message(packet: bytes | bytearray) -> Message | None:
    """Read what follows the fixed header of a QoS 0 message; return None if it is broken or holds more than ours."""
    try:
        topic, at = _text(packet, 0)
        length, at = _read_number(packet, at)
        end, correlation, user = at + length, None, dict[str, str]()
        if end > len(packet) or length > _MAX_PROPERTIES:
            return None
        while at < end:
            kind, at = packet[at], at + 1
            if kind == _CORRELATION_DATA and correlation is None:
                data, at = _data(packet, at)
                correlation = bytes(data)
            elif kind == _USER_PROPERTY:
                name, at = _text(packet, at)
                user[name], at = _text(packet, at)
            else:
                return None
    except (IndexError, ValueError, struct.error):  # a Unicode error is a ValueError
        return None
    if at != end or not topic:
        return None
    return Message(topic, bytes(memoryview(packet)[end:]), correlation or b"", user, 0, 0)


def _data(packet: bytes | bytearray, at: int) -> tuple[Any, int]:
    (length,) = struct.unpack_from("!H", packet, at)
    end = at + 2 + length
    if end > len(packet):
        raise IndexError
    return packet[at + 2 : end], end


def _text(packet: bytes | bytearray, at: int) -> tuple[str, int]:
    data, end = _data(packet, at)
    if 0 in data:
        raise ValueError
    return data.decode(), end


def _read_number(packet: bytes | bytearray, at: int) -> tuple[int, int]:
    number = 0
    for shift in (0, 7, 14, 21):
        byte = packet[at]
        at += 1
        number |= (byte & 127) << shift
        if byte < 128:
            return number, at
    raise ValueError


def _number(number: int) -> bytes:
    encoded = bytearray()
    while True:
        number, low = divmod(number, 128)
        encoded.append(low | (128 if number else 0))
        if not number:
            return bytes(encoded)


def _with_length(data: bytes) -> bytes:
    if len(data) > 0xFFFF:
        raise ValueError("a property of a message has at most 65,535 bytes")
    return struct.pack("!H", len(data)) + data
