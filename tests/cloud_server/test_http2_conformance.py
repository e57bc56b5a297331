"""What RFC 9113 and RFC 7541 say of clients that break the rules, and of what is no breach, section by section."""

from __future__ import annotations

import pytest

from edge_sdk.cloud.server.http2 import Budget, Connection
from outside.frames import frame as make_frame

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(10)
END_STREAM, END_HEADERS, PADDED, WITH_PRIORITY = 1, 4, 8, 32
PROTOCOL, FLOW, CLOSED, SIZE, REFUSED, COMPRESSION = 1, 3, 5, 6, 7, 9
STREAM = b"/inference.GRPCInferenceService/ModelStreamInfer"


def frame(kind: int, flags: int = 0, stream: int = 0, contents: bytes = b"") -> bytes:
    return make_frame(kind, flags, stream, contents)


def literal(name: bytes, value: bytes) -> bytes:
    return b"\0" + bytes([len(name)]) + name + bytes([len(value)]) + value


FIRST = {
    b":path": STREAM, b":scheme": b"http", b":method": b"POST", b"te": b"trailers",
    b"content-type": b"application/grpc",
}  # fmt: skip


def head(*more: tuple[bytes, bytes], **other: bytes | None) -> bytes:
    """Return a block of headers: the usual ones, or others in their place (``None``: none), and more."""
    first = FIRST | {f":{name}".encode(): value for name, value in other.items()}
    return b"".join(literal(*field) for field in (*((k, v) for k, v in first.items() if v is not None), *more))


def settings(number: int, value: int) -> bytes:
    return frame(SETTINGS, 0, 0, number.to_bytes(2, "big") + value.to_bytes(4, "big"))


HELLO = PREFACE + frame(SETTINGS)
OPEN = frame(HEADERS, END_HEADERS, 1, head())
ENDED = frame(HEADERS, END_HEADERS | END_STREAM, 1, head())
BEGUN = frame(HEADERS, 0, 1, head())  # its headers go on
GROW = (1).to_bytes(4, "big")


def call(block: bytes, flags: int = END_HEADERS) -> bytes:
    return frame(HEADERS, flags, 1, block)


BREACHES = {
    "3.4 a preface of another protocol": (b"PRI * HTTP/1.1\r\n\r\nSM\r\n\r\n", PROTOCOL),
    "3.4 no settings behind the preface": (PREFACE + OPEN, PROTOCOL),
    "3.4 an answer to settings in their place": (PREFACE + frame(SETTINGS, 1), PROTOCOL),
    "4.2 headers larger than a frame": (HELLO + frame(HEADERS, END_HEADERS, 1, bytes(40_000)), SIZE),
    "4.2 data larger than a frame": (HELLO + OPEN + frame(DATA, 0, 1, bytes(262_145)), SIZE),
    "4.2 settings larger than a frame": (HELLO + frame(SETTINGS, 0, 0, bytes(6 * 50_000)), SIZE),
    "4.3 headers that are no block": (HELLO + call(b"\x40"), COMPRESSION),
    "4.3 a priority within headers": (HELLO + BEGUN + frame(PRIORITY, 0, 1, bytes(5)), PROTOCOL),
    "4.3 headers of another call within headers": (HELLO + BEGUN + frame(HEADERS, 4, 3, head()), PROTOCOL),
    "4.3 the rest of another call's headers": (HELLO + BEGUN + frame(CONTINUATION, 4, 3), PROTOCOL),
    "5.1 data of an idle stream": (HELLO + frame(DATA, 0, 1, b"x"), PROTOCOL),
    "5.1 a reset of an idle stream": (HELLO + frame(RST_STREAM, 0, 1, bytes(4)), PROTOCOL),
    "5.1 a window of an idle stream": (HELLO + frame(WINDOW_UPDATE, 0, 1, GROW), PROTOCOL),
    "5.1 a continuation of an idle stream": (HELLO + frame(CONTINUATION, 4, 1, head()), PROTOCOL),
    "5.1 data after the end": (HELLO + ENDED + frame(DATA, 0, 1, b"x"), CLOSED),
    "5.1 headers after the end": (HELLO + ENDED + ENDED, CLOSED),
    "5.1 a continuation after the end": (HELLO + ENDED + frame(CONTINUATION, 4, 1, head()), PROTOCOL),
    "5.1 a call on a stream that is closed": (HELLO + OPEN + frame(RST_STREAM, 0, 1, bytes(4)) + OPEN, PROTOCOL),
    "5.1.1 a call of an even number": (HELLO + frame(HEADERS, 5, 2, head()), PROTOCOL),
    "5.1.1 a number below the last": (
        HELLO + frame(HEADERS, 5, 5, head()) + frame(HEADERS, 5, 3, head()), PROTOCOL
    ),
    "5.5 an unknown frame within headers": (HELLO + BEGUN + frame(0x16, 0, 0, bytes(8)), PROTOCOL),
    "6.1 data of no stream": (HELLO + OPEN + frame(DATA, 0, 0, b"x"), PROTOCOL),
    "6.1 padding as long as data": (HELLO + OPEN + frame(DATA, PADDED, 1, b"\x05abcd"), PROTOCOL),
    "6.2 headers of no stream": (HELLO + frame(HEADERS, 5, 0, head()), PROTOCOL),
    "6.2 padding as long as headers": (HELLO + call(b"\xff" + head(), END_HEADERS | PADDED), PROTOCOL),
    "6.2 headers too short for their priority": (HELLO + call(b"\0\0", END_HEADERS | WITH_PRIORITY), PROTOCOL),
    "6.3 a priority of no stream": (HELLO + frame(PRIORITY, 0, 0, bytes(5)), PROTOCOL),
    "6.3 a priority of four bytes": (HELLO + OPEN + frame(PRIORITY, 0, 1, bytes(4)), SIZE),
    "6.4 a reset of no stream": (HELLO + frame(RST_STREAM, 0, 0, bytes(4)), PROTOCOL),
    "6.4 a reset of three bytes": (HELLO + OPEN + frame(RST_STREAM, 0, 1, bytes(3)), SIZE),
    "6.5 an answer to settings with contents": (HELLO + frame(SETTINGS, 1, 0, bytes(6)), SIZE),
    "6.5 settings of a stream": (HELLO + frame(SETTINGS, 0, 1), PROTOCOL),
    "6.5 settings of seven bytes": (HELLO + frame(SETTINGS, 0, 0, bytes(7)), SIZE),
    "6.5.2 promises wanted by a two": (HELLO + settings(2, 2), PROTOCOL),
    "6.5.2 windows of 2**31": (HELLO + settings(4, 2**31), FLOW),
    "6.5.2 frames of 16,383": (HELLO + settings(5, 16_383), PROTOCOL),
    "6.5.2 frames of 2**24": (HELLO + settings(5, 2**24), PROTOCOL),
    "6.6 a promise": (HELLO + OPEN + frame(PUSH_PROMISE, 4, 1, bytes(4) + head()), PROTOCOL),
    "6.7 a ping of a stream": (HELLO + frame(PING, 0, 1, bytes(8)), PROTOCOL),
    "6.7 a ping of six bytes": (HELLO + frame(PING, 0, 0, bytes(6)), SIZE),
    "6.8 a farewell of a stream": (HELLO + frame(GOAWAY, 0, 1, bytes(8)), PROTOCOL),
    "6.8 a farewell of four bytes": (HELLO + frame(GOAWAY, 0, 0, bytes(4)), SIZE),
    "6.9 a window that grows by nothing": (HELLO + frame(WINDOW_UPDATE, 0, 0, bytes(4)), PROTOCOL),
    "6.9 a call's window that grows by nothing": (HELLO + OPEN + frame(WINDOW_UPDATE, 0, 1, bytes(4)), PROTOCOL),
    "6.9 a window of three bytes": (HELLO + frame(WINDOW_UPDATE, 0, 0, bytes(3)), SIZE),
    "6.9.1 a window beyond 2**31 - 1": (
        HELLO + 2 * frame(WINDOW_UPDATE, 0, 0, (2**31 - 1).to_bytes(4, "big")), FLOW
    ),
    "6.9.1 a call's window beyond 2**31 - 1": (
        HELLO + OPEN + frame(WINDOW_UPDATE, 0, 1, (2**31 - 1).to_bytes(4, "big")), FLOW
    ),
    "6.9.1 more data than there is room for": (
        HELLO + OPEN + frame(DATA, 0, 1, b"\0\0\1\x86\xa0" + bytes(100)) + 5 * frame(DATA, 0, 1, bytes(262_144)), FLOW
    ),
    "6.9.2 settings that widen a call's window beyond": (
        HELLO + OPEN + frame(WINDOW_UPDATE, 0, 1, (2**31 - 65_536).to_bytes(4, "big")) + settings(4, 65_537), FLOW
    ),
    "6.10 a continuation of headers that have ended": (HELLO + OPEN + frame(CONTINUATION, 4, 1), PROTOCOL),
    "6.10 a continuation of no stream": (HELLO + BEGUN + frame(CONTINUATION, 4, 0), PROTOCOL),
    "6.10 data within headers": (HELLO + BEGUN + frame(DATA, 0, 1, b"x"), PROTOCOL),
    "8.1 other headers that do not end the call": (HELLO + OPEN + call(literal(b"a", b"b")), PROTOCOL),
    "8.1 trailers with a pseudo-header": (
        HELLO + OPEN + call(literal(b":method", b"POST"), END_HEADERS | END_STREAM), PROTOCOL
    ),
    "8.1.1 a length that is no number": (HELLO + call(head((b"content-length", b"-1"))), PROTOCOL),
    "8.1.1 a length of twenty digits": (HELLO + call(head((b"content-length", 20 * b"9"))), PROTOCOL),
    "8.1.1 two lengths": (
        HELLO + call(head((b"content-length", b"1"), (b"content-length", b"2"))), PROTOCOL
    ),
    "8.2 a name in capitals": (HELLO + call(head((b"X-Test", b"ok"))), PROTOCOL),
    "8.2.1 a name with a space": (HELLO + call(head((b"x test", b"ok"))), PROTOCOL),
    "8.2.1 a value with the end of a line": (HELLO + call(head((b"x", b"a\r\nb: c"))), PROTOCOL),
    "8.2.1 a value with a zero": (HELLO + call(head((b"x", b"a\0b"))), PROTOCOL),
    "8.2.2 connection": (HELLO + call(head((b"connection", b"keep-alive"))), PROTOCOL),
    "8.2.2 transfer-encoding": (HELLO + call(head((b"transfer-encoding", b"chunked"))), PROTOCOL),
    "8.2.2 te: gzip": (HELLO + call(head((b"te", b"trailers, deflate"))), PROTOCOL),
    "8.3 a pseudo-header that there is not": (HELLO + call(literal(b":test", b"ok") + head()), PROTOCOL),
    "8.3 a pseudo-header of answers": (HELLO + call(literal(b":status", b"200") + head()), PROTOCOL),
    "8.3 a pseudo-header behind others": (HELLO + call(head((b":authority", b"here"))), PROTOCOL),
    "8.3.1 an empty path": (HELLO + call(head(path=b"")), PROTOCOL),
    "8.3.1 no path": (HELLO + call(head(path=None)), PROTOCOL),
    "8.3.1 no method": (HELLO + call(head(method=None)), PROTOCOL),
    "8.3.1 no scheme": (HELLO + call(head(scheme=None)), PROTOCOL),
    "8.3.1 two methods": (HELLO + call(literal(b":method", b"POST") + head()), PROTOCOL),
    "8.3.1 two paths": (HELLO + call(literal(b":path", b"/") + head()), PROTOCOL),
    "HPACK 2.3.3 a place beyond both tables": (HELLO + call(head() + b"\xc6"), COMPRESSION),
    "HPACK 4.2 a size of the table behind headers": (HELLO + call(head() + b"\x20"), COMPRESSION),
    "HPACK 5.1 a number that is too large": (HELLO + call(head() + b"\xff" + 9 * b"\xff"), COMPRESSION),
    "HPACK 5.2 eight bits behind Huffman's code": (HELLO + call(head() + b"\0\1a\x82\x1f\xff"), COMPRESSION),
    "HPACK 5.2 zeros behind Huffman's code": (HELLO + call(head() + b"\0\1a\x81\x18"), COMPRESSION),
    "HPACK 5.2 the end of Huffman's code": (HELLO + call(head() + b"\0\1a\x84\xff\xff\xff\xff"), COMPRESSION),
    "HPACK 6.1 the place zero": (HELLO + call(head() + b"\x80"), COMPRESSION),
    "HPACK 6.3 a table larger than agreed": (HELLO + call(b"\x3f\xe2\x1f" + head()), COMPRESSION),
}  # fmt: skip

FINE = {
    "4.1 a frame of an unknown kind": frame(0x16, 0, 0, bytes(8)) + OPEN,
    "4.1 flags that mean nothing": frame(PING, 0x16, 0, bytes(8)) + OPEN,
    "4.1 the bit that is kept free": frame(PING, 0, 2**31, bytes(8)) + frame(HEADERS, 4, 2**31 + 1, head()),
    "4.2 data of the largest frame that anybody takes": OPEN + frame(DATA, 0, 1, b"\0\0\0\x3f\xfb" + bytes(16_379)),
    "5.1 a priority of an idle stream": frame(PRIORITY, 0, 3, bytes(5)) + OPEN,
    "5.1 a window of a stream that is closed": (
        OPEN + frame(RST_STREAM, 0, 1, bytes(4)) + frame(WINDOW_UPDATE, 0, 1, GROW) + frame(RST_STREAM, 0, 1, bytes(4))
    ),
    "5.1.1 a number that leaves some out": frame(HEADERS, 4, 7, head()),
    "6.2 headers with padding and a priority": call(
        b"\2" + bytes(5) + head() + b"\0\0", END_HEADERS | PADDED | WITH_PRIORITY
    ),
    "6.5.2 a setting that is unknown": settings(0xFF, 1) + OPEN,
    "6.5.2 the largest frames": settings(5, 2**24 - 1) + OPEN,
    "6.7 an answer to a ping that nobody asked for": frame(PING, 1, 0, bytes(8)) + OPEN,
    "6.8 a farewell": frame(GOAWAY, 0, 0, bytes(8) + b"bye") + OPEN,
    "6.10 headers in four frames": (
        frame(HEADERS, 0, 1, head()[:9]) + frame(CONTINUATION, 0, 1, head()[9:20]) + frame(CONTINUATION, 0, 1)
        + frame(CONTINUATION, END_HEADERS, 1, head()[20:])
    ),
    "8.1.1 contents as long as their headers say": (
        call(head((b"content-length", b"6"))) + frame(DATA, 0, 1, b"\0\0\0")
        + frame(DATA, PADDED | END_STREAM, 1, b"\2\0\1x\0\0")
    ),
    "8.1 trailers": OPEN + call(literal(b"checksum", b"1"), END_HEADERS | END_STREAM),
    "8.3.1 no authority": OPEN,
    "HPACK 4.2 sizes of the table before headers": call(b"\x20\x3f\xe1\x1f" + head()),
}  # fmt: skip


def answer(sent: bytes, size: int) -> tuple[Connection, list[tuple[int, int, int, bytes]], int]:
    """Give a connection bytes, so many at a time; return it, the frames that it sends, and the calls that it saw."""
    connection = Connection(frozenset([STREAM]), max_streams=4, max_message_bytes=10**6, budget=Budget(10**7))
    seen: set[int] = set()
    for at in range(0, len(sent), size):
        piece = bytearray(sent[at : at + size])
        seen |= {stream.id for stream in connection.receive(piece, len(piece))}
    said, found = connection.take(), []
    while said:
        length = int.from_bytes(said[:3], "big")
        found.append((said[3], said[4], int.from_bytes(said[5:9], "big"), said[9 : 9 + length]))
        said = said[9 + length :]
    return connection, found, len(seen)


@pytest.mark.parametrize("size", [10**9, 7], ids=["at once", "in pieces"])
@pytest.mark.parametrize("name", BREACHES)
def test_a_breach_ends_the_connection_with_the_code_that_the_standard_names(name: str, size: int) -> None:
    sent, code = BREACHES[name]
    connection, said, _ = answer(sent, size)
    assert connection.closed
    assert (said[-1][0], said[-1][2], int.from_bytes(said[-1][3][4:8], "big")) == (GOAWAY, 0, code), said[-1]
    assert not connection.receive(bytearray(HELLO), len(HELLO))


@pytest.mark.parametrize("size", [10**9, 7], ids=["at once", "in pieces"])
@pytest.mark.parametrize("name", FINE)
def test_what_is_no_breach_is_borne(name: str, size: int) -> None:
    connection, said, calls = answer(HELLO + FINE[name], size)
    assert not connection.closed, said[-1]
    assert calls == 1
    assert not [kind for kind, *_ in said if kind in (GOAWAY, RST_STREAM)]


def test_settings_and_pings_are_answered_each_once_and_answers_are_not() -> None:
    _, said, _ = answer(HELLO + frame(SETTINGS, 1) + frame(PING, 0, 0, b"whatever") + frame(PING, 1, 0, bytes(8)), 7)
    assert said[0][0] == SETTINGS, "the server's own come first"
    assert [one for one in said if one[1] == 1] == [(SETTINGS, 1, 0, b""), (PING, 1, 0, b"whatever")]


@pytest.mark.parametrize("size", [10**9, 7], ids=["at once", "in pieces"])
@pytest.mark.parametrize("length", [b"0", b"5", b"7"])
def test_contents_of_another_length_than_their_headers_say_end_their_call_alone(length: bytes, size: int) -> None:
    sent = HELLO + OPEN + frame(HEADERS, END_HEADERS, 3, head((b"content-length", length)))
    connection, said, calls = answer(sent + frame(DATA, END_STREAM, 3, b"\0\0\0\0\1x"), size)
    assert (connection.closed, calls) == (False, 2)
    assert [one for one in said if one[0] == RST_STREAM] == [(RST_STREAM, 0, 3, PROTOCOL.to_bytes(4, "big"))]
    assert [stream.id for stream in connection.streams] == [1]


def test_a_call_beyond_those_agreed_is_refused_alone() -> None:
    connection, said, _ = answer(HELLO + b"".join(frame(HEADERS, 4, n, head()) for n in range(1, 11, 2)), 10**9)
    assert not connection.closed
    assert said[-1] == (RST_STREAM, 0, 9, REFUSED.to_bytes(4, "big"))
