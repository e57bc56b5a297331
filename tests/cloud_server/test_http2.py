"""The HTTP/2 of the fast front: what it makes of any bytes, and what it says to clients that break the rules."""

from __future__ import annotations

import contextlib
import gzip
import socket
import struct
from collections.abc import Iterator

import grpc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_sdk.cloud.server.hpack import Decoder
from edge_sdk.cloud.server.http2 import Budget, Connection, Stream
from edge_sdk.errors import InputError
from outside.bundles import TinyBundle
from outside.services import Service

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(10)
END_STREAM, END_HEADERS, PADDED = 1, 4, 8
INFER, STREAM = b"/inference.GRPCInferenceService/ModelInfer", b"/inference.GRPCInferenceService/ModelStreamInfer"
LIVE = b"/inference.GRPCInferenceService/ServerLive"
MOST = 100_000
PATIENT = 20.0
check = settings(derandomize=True, deadline=None)


def frame(kind: int, flags: int, stream: int, contents: bytes = b"") -> bytes:
    return len(contents).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + contents


def literal(name: bytes, value: bytes) -> bytes:
    return b"\0" + bytes([len(name)]) + name + bytes([len(value)]) + value


def head(path: bytes = INFER, *more: tuple[bytes, bytes]) -> bytes:
    fields = [(b":path", path), (b":scheme", b"http"), (b":method", b"POST"), (b"content-type", b"application/grpc")]
    return b"".join(literal(*field) for field in (*fields, *more))


def message(contents: bytes) -> bytes:
    return b"\0" + len(contents).to_bytes(4, "big") + contents


HELLO = PREFACE + frame(SETTINGS, 0, 0)


def frames(data: bytes) -> list[tuple[int, int, int, bytes]]:
    found = []
    while data:
        size, (kind, flags), stream = int.from_bytes(data[:3], "big"), data[3:5], int.from_bytes(data[5:9], "big")
        found.append((kind, flags, stream, data[9 : 9 + size]))
        data = data[9 + size :]
    return found


def connection(**limits: object) -> tuple[Connection, Budget]:
    budget = Budget(10 * MOST)
    options = {"max_streams": 10, "max_message_bytes": MOST, "budget": budget} | limits
    return Connection(frozenset([STREAM]), **options), budget


def feed(target: Connection, data: bytes, *cuts: int) -> list[Stream]:
    """Give a connection bytes in pieces; return the streams on which something happened, each once."""
    touched: dict[int, Stream] = {}
    for start, end in zip((0, *cuts), (*cuts, len(data)), strict=True):
        piece = bytearray(data[start:end])
        touched |= {stream.id: stream for stream in target.receive(piece, len(piece))}
    return list(touched.values())


def facts(target: Connection, stream: Stream) -> tuple[object, ...]:
    messages = []
    while not stream.gone and (found := target.read(stream)) is not None:
        messages.append(found)
    return stream.id, stream.headers, stream.ended, stream.gone, stream.problem, messages


@pytest.mark.parametrize(
    ("blocks", "expected"),
    [
        (  # RFC 7541, C.4: Huffman's code, with what was remembered
            [
                "828684418cf1e3c2e5f23a6ba0ab90f4ff",
                "828684be5886a8eb10649cbf",
                "828785bf408825a849e95ba97d7f8925a849e95bb8e8b4bf",
            ],
            [
                [(":method", "GET"), (":scheme", "http"), (":path", "/"), (":authority", "www.example.com")],
                [(":method", "GET"), (":scheme", "http"), (":path", "/"), (":authority", "www.example.com"),
                 ("cache-control", "no-cache")],
                [(":method", "GET"), (":scheme", "https"), (":path", "/index.html"), (":authority", "www.example.com"),
                 ("custom-key", "custom-value")],
            ],
        ),
        (  # C.6, whose table of 256 bytes forgets the oldest; its size is said in front
            [
                "3fe101",
                "488264025885aec3771a4b6196d07abe941054d444a8200595040b8166e082a62d1bff6e919d29ad171863c78f0b97c8e9ae82ae43d3",
                "4883640effc1c0bf",
            ],
            [
                [],
                [(":status", "302"), ("cache-control", "private"), ("date", "Mon, 21 Oct 2013 20:13:21 GMT"),
                 ("location", "https://www.example.com")],
                [(":status", "307"), ("cache-control", "private"), ("date", "Mon, 21 Oct 2013 20:13:21 GMT"),
                 ("location", "https://www.example.com")],
            ],
        ),
    ],
    ids=["requests", "a small table"],
)  # fmt: skip
def test_headers_are_read_as_the_examples_of_the_standard_say(blocks: list[str], expected: list) -> None:
    decoder = Decoder()
    for block, fields in zip(blocks, expected, strict=True):
        assert decoder.decode(bytes.fromhex(block)) == [(n.encode(), v.encode()) for n, v in fields]


@check
@given(st.lists(st.binary(max_size=60), max_size=6))
def test_any_header_blocks_are_read_or_refused(blocks: list[bytes]) -> None:
    decoder, read = Decoder(), []
    with contextlib.suppress(InputError):
        read.extend(map(decoder.decode, blocks))
    for fields in read:
        assert sum(len(name) + len(value) + 32 for name, value in fields) <= 16384
        assert all(name == name.lower() and b"\n" not in value for name, value in fields)


def test_the_same_block_means_something_else_when_more_is_remembered() -> None:
    decoder = Decoder()
    decoder.decode(b"\x40\x01a\x01b")
    assert decoder.decode(b"\xbe") == decoder.decode(b"\xbe") == [(b"a", b"b")]
    decoder.decode(b"\x40\x01c\x01d")
    assert decoder.decode(b"\xbe") == [(b"c", b"d")]


any_frame = st.one_of(
    st.builds(frame, st.integers(0, 12), st.integers(0, 255), st.integers(0, 9), st.binary(max_size=20)),
    st.builds(lambda s, f: frame(HEADERS, END_HEADERS | f, s, head()), st.integers(0, 9), st.sampled_from([0, 1])),
    st.builds(lambda s: frame(HEADERS, END_HEADERS, s, head(STREAM)), st.integers(0, 9)),
    st.builds(
        lambda s, f, m, n: frame(DATA, f, s, message(m)[:n]),
        st.integers(0, 9),
        st.sampled_from([0, 1]),
        st.binary(max_size=30),
        st.integers(0, 40),
    ),
    st.binary(max_size=12),
)
calls = st.lists(
    st.builds(
        lambda path, parts: (
            [frame(HEADERS, END_HEADERS, 1, head(path))]
            + [frame(DATA, 0, 1, part) for part in parts]
            + [frame(DATA, END_STREAM, 1)]
        ),
        st.sampled_from([INFER, STREAM]),
        st.lists(st.one_of(st.builds(message, st.binary(max_size=30)), st.binary(max_size=7)), max_size=5),
    ).map(b"".join),
    max_size=1,
)


@check
@given(st.one_of(calls, st.lists(any_frame, max_size=12)), st.data())
def test_whatever_comes_in_whatever_pieces_means_the_same_and_leaves_nothing_behind(
    parts: list[bytes], data: st.DataObject
) -> None:
    sent = HELLO + b"".join(parts)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(sent)), max_size=6)))
    (whole, budget), (pieces, other) = connection(), connection()
    expected = [facts(whole, stream) for stream in feed(whole, sent)]
    found = [facts(pieces, stream) for stream in feed(pieces, sent, *cuts)]
    assert found == expected
    assert pieces.take() == whole.take()
    assert pieces.closed == whole.closed
    for one in (whole, pieces):
        one.lose()
        assert one.take() == b""
    assert (budget.held, budget.calls) == (other.held, other.calls) == (0, 0)


BROKEN = {
    "no HTTP/2": (b"GET / HTTP/1.1\r\nhost: here\r\n\r\n", 1),
    "no settings": (PREFACE + frame(PING, 0, 0, bytes(8)), 1),
    "a call of an even number": (HELLO + frame(HEADERS, END_HEADERS, 2, head()), 1),
    "data of no call": (HELLO + frame(DATA, 0, 1, b"x"), 1),
    "data after the end": (HELLO + frame(HEADERS, END_HEADERS, 1, head(STREAM)) + 2 * frame(DATA, 1, 1), 5),
    "headers without a path": (HELLO + frame(HEADERS, END_HEADERS, 1, literal(b":method", b"POST")), 1),
    "headers in capitals": (HELLO + frame(HEADERS, END_HEADERS, 1, head(INFER, (b"X", b"y"))), 1),
    "headers out of order": (HELLO + frame(HEADERS, END_HEADERS, 1, head(INFER, (b"x", b"y"), (b":path", b"/"))), 1),
    "headers without an end": (HELLO + frame(HEADERS, 0, 1, head()) + 20 * frame(CONTINUATION, 0, 1), 11),
    "headers that break off": (HELLO + frame(HEADERS, 0, 1, head()) + frame(PING, 0, 0, bytes(8)), 1),
    "headers that never began": (HELLO + frame(CONTINUATION, 4, 1, head()), 1),
    "too many headers": (HELLO + frame(HEADERS, END_HEADERS, 1, head(INFER, *[(b"a", b"x" * 120)] * 200)[:30000]), 9),
    "a frame too large": (HELLO + struct.pack(">I", 40_000)[1:] + bytes([HEADERS, 4, 0, 0, 0, 1]), 6),
    "a padding longer than its frame": (HELLO + frame(HEADERS, 4, 1, head()) + frame(DATA, PADDED, 1, b"\x05abc"), 1),
    "a window too large": (HELLO + frame(WINDOW_UPDATE, 0, 0, b"\x7f\xff\xff\xff"), 3),
    "a reset of no call": (HELLO + frame(RST_STREAM, 0, 3, bytes(4)), 1),
    "a promise": (HELLO + frame(PUSH_PROMISE, 4, 1, bytes(4)), 1),
    "a flood of settings": (HELLO + 101 * frame(SETTINGS, 0, 0), 11),
    "frames of an impossible size": (HELLO + frame(SETTINGS, 0, 0, b"\0\x05\0\0\0\1"), 1),
}

FLOODS = {  # a server may forgive a part of them, if they come slowly
    "a flood of pings": (HELLO + 10_001 * frame(PING, 0, 0, bytes(8)), 11),
    "a flood of nothing": (HELLO + frame(HEADERS, END_HEADERS, 1, head(STREAM)) + 10_001 * frame(DATA, 0, 1), 11),
    "a flood of calls that end at once": (
        HELLO + b"".join(frame(HEADERS, 5, n, head()) + frame(RST_STREAM, 0, n, bytes(4)) for n in range(1, 20_003, 2)),
        11,
    ),
}

LONGER = (b"content-length", b"1")
FLOODS |= {
    "a flood of calls that the server has to reset": (
        HELLO
        + b"".join(
            frame(HEADERS, 4, n, head(STREAM, LONGER)) + frame(DATA, 0, n, message(b"")) for n in range(1, 20_007, 2)
        ),
        11,
    ),
    "a flood of calls beyond those agreed": (
        HELLO + b"".join(frame(HEADERS, END_HEADERS, n, head()) for n in range(1, 20_047, 2)),
        11,
    ),
}


@pytest.mark.parametrize("name", BROKEN | FLOODS)
def test_a_client_that_breaks_the_rules_is_told_which_and_is_read_no_more(name: str) -> None:
    sent, code = (BROKEN | FLOODS)[name]
    target, _ = connection()
    feed(target, sent)
    kind, _, _, contents = frames(target.take())[-1]
    assert target.closed
    assert (kind, int.from_bytes(contents[4:8], "big")) == (GOAWAY, code)
    assert target.receive(bytearray(HELLO), len(HELLO)) == []
    assert target.take() == b""


@pytest.mark.parametrize(
    ("path", "parts", "problem"),
    [
        (INFER, [message(bytes(MOST))[:5]], None),
        (INFER, [message(bytes(MOST + 1))[:5]], "large"),
        (INFER, [message(b"one") + message(b"two")], "more"),
        (INFER, [message(b"one")[:-1], None], "cut"),
        (INFER, [None], "cut"),
        (STREAM, [None], None),
        (STREAM, [message(b"one") + b"\0\0", None], "cut"),
        (STREAM, [message(b"one"), b"\0\xff\xff\xff\xff"], "large"),
    ],
)
def test_what_is_wrong_with_messages_is_said_of_their_call_alone(path: bytes, parts: list, problem: str | None) -> None:
    target, _ = connection()
    sent = [frame(DATA, END_STREAM if part is None else 0, 1, part or b"") for part in parts]
    streams = feed(target, HELLO + frame(HEADERS, END_HEADERS, 1, head(path)) + b"".join(sent))
    assert [stream.problem for stream in streams] == [problem]
    assert not target.closed


def test_more_than_the_connections_may_hold_together_is_not_kept() -> None:
    target, _ = connection(budget=Budget(1100))
    begun = b"".join(
        frame(HEADERS, END_HEADERS, n, head()) + frame(DATA, 0, n, message(bytes(900))[:600]) for n in (1, 3)
    )
    first, second = feed(target, HELLO + begun)
    assert (first.problem, second.problem) == (None, "full")
    target.end(second, 8)
    feed(target, frame(DATA, END_STREAM, 1, message(bytes(900))[600:]))
    assert target.read(first) == (bytes(900), 0)


def test_messages_that_nobody_reads_count_though_they_are_complete() -> None:
    budget = Budget(10_000)
    target, _ = connection(budget=budget)
    (unread,) = feed(target, HELLO + frame(HEADERS, END_HEADERS, 1, head(STREAM)) + frame(DATA, 0, 1, bytes(5 * 2000)))
    assert unread.problem == "full", "a message without contents takes memory, too"
    assert budget.held < 11_000
    whole = frame(HEADERS, END_HEADERS, 3, head()) + frame(DATA, END_STREAM, 3, message(b"small"))
    (small,) = feed(target, whole)
    assert (small.problem, target.read(small)) == (None, (b"small", 0)), "it is not kept: it is read at once"
    (waiting,) = feed(target, frame(HEADERS, END_HEADERS, 5, head()) + frame(DATA, 0, 5, message(b"small")))
    assert waiting.problem == "full"


def test_what_is_read_of_a_call_that_is_over_is_not_given_back_twice() -> None:
    target, budget = connection()
    begun = b"".join(frame(HEADERS, 4, n, head(STREAM)) + frame(DATA, 0, n, message(b"abc") * 3) for n in (1, 3, 5))
    reset, ended, lost = feed(target, HELLO + begun)
    feed(target, frame(RST_STREAM, 0, 1, bytes(4)))
    target.end(ended, 0)
    target.lose()
    assert [target.read(stream) for stream in (reset, ended, lost)] == [None, None, None]
    assert (budget.held, budget.calls) == (0, 0)


def test_many_small_messages_are_read_in_their_order() -> None:
    target, _ = connection(budget=Budget(10**8))
    (stream,) = feed(target, HELLO + frame(HEADERS, END_HEADERS, 1, head(STREAM)))
    many = [n.to_bytes(4, "big") for n in range(100_000)]
    feed(
        target,
        b"".join(frame(DATA, 0, 1, b"".join(map(message, many[at : at + 20_000]))) for at in range(0, 10**5, 20_000)),
    )
    assert [target.read(stream) for _ in many] == [(contents, 0) for contents in many]
    assert target.read(stream) is None


def test_what_a_client_owes_is_told() -> None:
    target, _ = connection()
    (stream,) = feed(target, HELLO + frame(HEADERS, END_HEADERS, 1, head(STREAM)))
    assert stream.owed == (0, 0)
    feed(target, frame(DATA, 0, 1, message(b"one") + b"\0"))
    assert stream.owed == (0, 0), "there is one to be read before more is asked for"
    target.read(stream)
    assert stream.owed == (2, 0)
    feed(target, frame(SETTINGS, 0, 0, b"\0\4\0\0\0\2"))
    target.send(stream, b"answer")
    assert stream.owed == (2, 5 + 6 - 2)


def test_only_the_last_of_several_windows_in_one_frame_counts_and_may_be_less_than_none() -> None:
    target, _ = connection()
    (stream,) = feed(target, HELLO + frame(HEADERS, END_HEADERS | END_STREAM, 1, head(STREAM)))
    target.respond(stream, b"x" * 70_000)
    sizes = [len(contents) for kind, *_, contents in frames(target.take()) if kind == DATA]
    assert sum(sizes) == 65_535
    feed(target, frame(WINDOW_UPDATE, 0, 0, b"\0\1\0\0"))
    feed(target, frame(SETTINGS, 0, 0, b"\0\4\0\1\0\0" + b"\0\4\0\0\0\0"))  # now it has 65,535 too many
    feed(target, frame(WINDOW_UPDATE, 0, 1, (65_535).to_bytes(4, "big")))
    assert [contents for kind, *_, contents in frames(target.take()) if kind == DATA] == []
    feed(target, frame(WINDOW_UPDATE, 0, 1, b"\0\0\0\3"))
    assert [contents for kind, *_, contents in frames(target.take()) if kind == DATA] == [b"xxx"]


def test_a_status_message_goes_into_the_smallest_frame() -> None:
    target, _ = connection()
    (stream,) = feed(target, HELLO + frame(HEADERS, END_HEADERS, 1, head()))
    target.end(stream, 5, "🙂" * 10_000_000)
    assert all(len(contents) <= 16_384 for *_, contents in frames(target.take()))


def test_answers_wait_for_the_room_that_their_client_gives_and_others_go_on() -> None:
    target, _ = connection()
    small = frame(SETTINGS, 0, 0, b"\0\x04\0\0\0\x0a")
    first, second = feed(target, PREFACE + small + b"".join(frame(HEADERS, 5, n, head(STREAM)) for n in (1, 3)))
    target.take()
    target.respond(first, b"x" * 20)
    target.respond(second, b"abcde")
    sent = frames(target.take())
    assert [contents for kind, _, stream, contents in sent if (kind, stream) == (DATA, 1)] == [message(b"x" * 20)[:10]]
    assert [stream for kind, flags, stream, _ in sent if kind == HEADERS and flags & END_STREAM] == [3]
    assert first.unsent == 15
    feed(target, frame(WINDOW_UPDATE, 0, 1, (8).to_bytes(4, "big")))
    assert [contents for *_, contents in frames(target.take())] == [b"x" * 8]
    feed(target, frame(SETTINGS, 0, 0, b"\0\x04\0\0\0\xff"))
    rest = frames(target.take())
    assert [contents for kind, *_, contents in rest if kind == DATA] == [b"x" * 7]
    assert rest[-1][:3] == (HEADERS, END_HEADERS | END_STREAM, 1)
    assert first.unsent == 0


def test_a_large_message_is_given_room_as_soon_as_its_size_is_known() -> None:
    size = 3 * 2**20
    target, _ = connection(max_message_bytes=size)
    feed(target, HELLO + frame(HEADERS, END_HEADERS, 1, head()))
    target.take()
    feed(target, frame(DATA, 0, 1, message(bytes(size))[:1000]))
    given = [int.from_bytes(contents, "big") for kind, _, n, contents in frames(target.take()) if (kind, n) == (8, 1)]
    assert sum(given) >= size - 2**20


def test_a_client_that_leaves_nothing_unread_of_a_stream_is_given_room_again() -> None:
    target, budget = connection()
    (stream,) = feed(target, HELLO + frame(HEADERS, END_HEADERS, 1, head(STREAM)))
    room = 2**20
    for _ in range(100):
        feed(target, frame(DATA, 0, 1, message(bytes(MOST - 5))))
        room -= MOST
        assert target.read(stream) is not None
        room += sum(int.from_bytes(c, "big") for kind, _, n, c in frames(target.take()) if (kind, n) == (8, 1))
        assert room >= MOST
    assert budget.held == 0


def test_what_comes_after_a_call_is_over_is_skipped() -> None:
    target, _ = connection()
    (stream,) = feed(target, HELLO + frame(HEADERS, END_HEADERS, 1, head()))
    target.end(stream, 5, "there is no such – 100 % – model", [("grpc-retry-pushback-ms", "7")])
    sent = frames(target.take())
    assert b"there is no such %E2%80%93 100 %25 %E2%80%93 model" in sent[-2][3]
    assert sent[-1] == (RST_STREAM, 0, 1, bytes(4))
    late = frame(DATA, 0, 1, bytes(10)) + frame(RST_STREAM, 0, 1, bytes(4)) + frame(WINDOW_UPDATE, 0, 1, b"\0\0\0\1")
    assert feed(target, late) == []
    assert not target.closed


def test_more_calls_than_agreed_are_refused_so_that_they_may_be_sent_again() -> None:
    target, budget = connection(max_streams=2)
    streams = feed(target, HELLO + b"".join(frame(HEADERS, END_HEADERS, n, head()) for n in (1, 3, 5)))
    assert [stream.id for stream in streams] == [1, 3]
    assert frames(target.take())[-1] == (RST_STREAM, 0, 5, (7).to_bytes(4, "big"))
    assert budget.calls == 2


def test_who_is_asked_to_have_fewer_calls_open_may_have_as_many_as_before() -> None:
    target, budget = connection(max_streams=2)
    feed(target, HELLO)
    target.take()
    target.limit(1)
    assert frames(target.take()) == [(SETTINGS, 0, 0, (3).to_bytes(2, "big") + (1).to_bytes(4, "big"))]
    feed(target, b"".join(frame(HEADERS, END_HEADERS, n, head()) for n in (1, 3)) + frame(SETTINGS, END_STREAM, 0))
    assert budget.calls == 2


def test_who_is_told_to_go_has_done_what_it_asked_before_it_heard_and_no_more() -> None:
    target, _ = connection()
    (stream,) = feed(target, HELLO + frame(HEADERS, END_HEADERS, 1, head()))
    target.take()
    target.go_away()
    farewell, (kind, flags, _, question) = frames(target.take())
    assert farewell == (GOAWAY, 0, 0, (2**31 - 1).to_bytes(4, "big") + bytes(4))
    assert (kind, flags) == (PING, 0)
    (late,) = feed(target, frame(HEADERS, END_HEADERS, 3, head()) + frame(DATA, END_STREAM, 3, message(b"late")))
    feed(target, frame(PING, 1, 0, bytes(8)))
    target.respond(late, b"answer")
    assert target.take()
    feed(target, frame(PING, 1, 0, question))
    assert frames(target.take()) == [(GOAWAY, 0, 0, (3).to_bytes(4, "big") + bytes(4))]
    new = frame(HEADERS, END_HEADERS, 5, head()) + frame(DATA, END_STREAM, 5, message(b"new"))
    assert feed(target, new + frame(DATA, END_STREAM, 1, message(b"old"))) == [stream]
    assert target.busy
    target.respond(stream, b"answer")
    assert not target.busy
    assert not target.closed


@pytest.fixture(scope="module")
def fast(tiny_edge_bundle: TinyBundle) -> Iterator[Service]:
    with Service("serve", tiny_edge_bundle.path, "--front", "fast", "--grpc-port", "0") as process:
        yield process


def talk(address: str, sent: bytes) -> bytes:
    """Return all that a server says to some bytes until it closes, or has ended stream 1."""
    host, _, port = address.rpartition(":")
    with socket.create_connection((host, int(port)), timeout=PATIENT) as client:
        client.sendall(sent)
        said = b""
        while not any(kind == HEADERS and flags & END_STREAM for kind, flags, *_ in frames(said)):
            if not (more := client.recv(65536)):
                break
            said += more
        return said


@pytest.mark.parametrize("name", BROKEN)
def test_a_server_closes_on_who_breaks_the_rules_and_serves_others(fast: Service, name: str) -> None:
    sent, code = BROKEN[name]
    assert int.from_bytes(frames(talk(fast.ready["grpc"], sent))[-1][3][4:8], "big") == code
    with grpc.insecure_channel(fast.ready["grpc"]) as channel:
        assert channel.unary_unary(LIVE.decode())(b"", timeout=PATIENT) == b"\x08\x01"


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ((LIVE, (b"grpc-timeout", b"5S")), b"grpc-status\x010"),
        ((LIVE, (b"grpc-timeout", b"5 s")), b"grpc-status\x013"),
        ((b"/inference.GRPCInferenceService/Nothing",), b"grpc-status\x0212"),
        ((LIVE, (b"grpc-encoding", b"br")), b"grpc-status\x0212"),
    ],
)
def test_calls_that_cannot_be_are_answered_as_grpc_does(fast: Service, fields: tuple, expected: bytes) -> None:
    flag = b"\1" if len(fields) > 1 and fields[1][1] == b"br" else b"\0"
    sent = HELLO + frame(HEADERS, END_HEADERS, 1, head(*fields)) + frame(DATA, END_STREAM, 1, flag + bytes(4))
    assert expected in frames(talk(fast.ready["grpc"], sent))[-1][3] + frames(talk(fast.ready["grpc"], sent))[-2][3]


def test_what_is_no_grpc_gets_a_status_of_http(fast: Service) -> None:
    plain = b"".join(literal(*field) for field in ((b":path", b"/"), (b":scheme", b"http"), (b":method", b"GET")))
    said = frames(talk(fast.ready["grpc"], HELLO + frame(HEADERS, END_HEADERS | END_STREAM, 1, plain)))
    assert literal(b":status", b"415") in [contents for *_, contents in said]


def test_a_message_that_is_too_large_only_when_unpacked_is_refused_as_too_large(fast: Service) -> None:
    packed = gzip.compress(bytes(17 * 2**20))
    sent = HELLO + frame(HEADERS, END_HEADERS, 1, head(LIVE, (b"grpc-encoding", b"gzip")))
    packed = b"\1" + len(packed).to_bytes(4, "big") + packed
    parts = [packed[at : at + 16_384] for at in range(0, len(packed), 16_384)]
    said = talk(fast.ready["grpc"], sent + b"".join(frame(DATA, 0, 1, part) for part in parts) + frame(DATA, 1, 1))
    assert b"grpc-status\x018" in said


def test_grpc_web_is_another_protocol(fast: Service) -> None:
    sent = head(LIVE).replace(literal(b"content-type", b"application/grpc"), b"") + literal(
        b"content-type", b"application/grpc-web"
    )
    said = talk(fast.ready["grpc"], HELLO + frame(HEADERS, END_HEADERS, 1, sent) + frame(DATA, 1, 1, message(b"")))
    assert literal(b":status", b"415") in said


def test_many_calls_of_one_connection_and_large_messages_are_answered(fast: Service) -> None:
    options = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
    with grpc.insecure_channel(fast.ready["grpc"], options) as channel:
        live = channel.unary_unary(LIVE.decode())
        assert {call.result() for call in [live.future(b"", timeout=PATIENT) for _ in range(500)]} == {b"\x08\x01"}
        infer = channel.unary_unary(INFER.decode())
        # unknown fields, 12 MiB of them, are no error of protobuf's; the model without a name is
        large = b"\xfa\x07" + b"\x80\x80\x80\x06" + bytes(12 * 2**20)
        with pytest.raises(grpc.RpcError) as caught:
            infer(large, timeout=PATIENT)
        assert caught.value.code() is grpc.StatusCode.NOT_FOUND
        with pytest.raises(grpc.RpcError) as caught:
            infer(bytes(17 * 2**20), timeout=PATIENT)
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert dict(caught.value.trailing_metadata()) == {}


def test_calls_that_are_answered_before_they_have_come_count_as_resets() -> None:
    target, _ = connection()
    feed(target, HELLO)
    for n in range(1, 20_005, 2):
        for stream in feed(target, frame(HEADERS, END_HEADERS, n, head())):
            target.end(stream, 5)
    assert target.closed
    assert int.from_bytes(frames(target.take())[-1][3][4:8], "big") == 11


def test_what_waits_for_a_client_is_told() -> None:
    target, _ = connection()
    small = frame(SETTINGS, 0, 0, b"\0\x04\0\0\0\x0a")
    first, second = feed(target, PREFACE + small + b"".join(frame(HEADERS, 5, n, head(STREAM)) for n in (1, 3)))
    target.respond(first, bytes(20))
    target.respond(second, bytes(100))
    assert target.unsent == 25 - 10 + 105 - 10
    target.reset(second, 8)
    assert target.unsent == 15
    target.lose()
    assert target.unsent == 0


def test_a_call_that_is_over_is_forgotten_with_what_its_owner_kept_of_it() -> None:
    target, _ = connection()
    answered, gone = feed(target, HELLO + b"".join(frame(HEADERS, END_HEADERS, n, head()) for n in (1, 3)))
    answered.call = gone.call = "kept"
    target.respond(answered, b"answer")
    feed(target, frame(RST_STREAM, 0, 3, bytes(4)))
    assert (answered.over, answered.call) == (True, None), "a ring of calls and streams costs a garbage collection"
    assert (gone.over, gone.gone, gone.call) == (True, True, "kept"), "its work is still to be cancelled"
