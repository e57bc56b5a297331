"""How many calls a crowded server lets its clients have open, and for how long a connection."""

from __future__ import annotations

import asyncio
import math
import socket
from typing import Any

import grpc
import pytest

from edge_sdk.cloud.server.crowd import Crowd
from edge_sdk.cloud.server.fast_front import FastServer
from edge_sdk.cloud.server.listening import open_socket
from outside.bundles import TinyBundle

SETTINGS, STREAMS = 4, 3
HELLO = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, SETTINGS, 0, 0, 0, 0, 0])
LIMITS: dict[str, Any] = {
    "max_message_bytes": 2**20,
    "max_calls": 1000,
    "max_held_bytes": 2**20,
    "max_connections": 10,
    "age_seconds": math.inf,
}
PING = bytes([0, 0, 8, 6, 0, 0, 0, 0, 0]) + bytes(8)


def test_while_something_is_refused_all_connections_share_what_one_may_have_otherwise() -> None:
    crowd = Crowd(256)
    crowd.note(0, 16)
    assert crowd.streams == 256
    crowd.note(1, 16)
    assert crowd.streams == 16
    crowd.note(2, 10_000)
    assert crowd.streams == 4, "who has a connection has a few calls"
    crowd.note(3, 1)
    assert crowd.streams == 4, "that others go gives more only in time"


def test_more_are_allowed_step_by_step_when_nothing_is_refused_any_more() -> None:
    crowd, seen = Crowd(100), []
    crowd.note(1, 10)
    crowd.grow()
    assert crowd.streams == 10, "something was refused since the last look"
    while crowd.streams < 100:
        crowd.grow()
        seen.append(crowd.streams)
    assert seen[:4] == [12, 15, 18, 22]
    assert seen == sorted(seen)
    crowd.grow()
    assert crowd.streams == 100


@pytest.mark.parametrize(("most", "crowded"), [(256, 128), (6, 4)])
def test_clients_of_the_fast_front_are_told_how_many_calls_they_may_have_open(most: int, crowded: int) -> None:
    refused = 0

    async def story() -> None:
        nonlocal refused
        server = FastServer(
            {},
            refused=lambda: refused,
            max_streams=most,
            **LIMITS,
        )
        listening = open_socket("127.0.0.1", 0, "--grpc-port", shared=False)
        await server.start(listening, None)
        clients = [await asyncio.open_connection(*listening.getsockname()) for _ in range(2)]
        (reader, writer), _ = clients

        async def told() -> int:
            """Return what the next settings say of calls."""
            while True:
                head = await reader.readexactly(9)
                body = await reader.readexactly(int.from_bytes(head[:3], "big"))
                for at in range(0, len(body) if head[3] == SETTINGS else 0, 6):
                    if int.from_bytes(body[at : at + 2], "big") == STREAMS:
                        return int.from_bytes(body[at + 2 : at + 6], "big")

        async with asyncio.timeout(120):
            for _, other in clients:
                other.write(HELLO)
            assert await told() == most
            refused += 1
            writer.write(PING)
            now = await told()
            assert now == crowded
            while now < most:
                before, now = now, await told()
                assert now > before
            for _, other in clients:
                other.close()
            await server.stop(1)

    asyncio.run(story())


def test_grpc_goes_on_when_it_is_told_to_have_fewer_calls_open() -> None:
    refused, open_now, most_open = 0, 0, 0

    async def wait(request: bytes, context: object) -> bytes:
        nonlocal open_now, most_open
        open_now += 1
        most_open = max(most_open, open_now)
        await asyncio.sleep(0.01)
        open_now -= 1
        return request

    async def story() -> None:
        nonlocal refused, most_open
        server = FastServer(
            {b"/a/b": grpc.unary_unary_rpc_method_handler(wait)},
            refused=lambda: refused,
            max_streams=4,
            **LIMITS,
        )
        listening = open_socket("127.0.0.1", 0, "--grpc-port", shared=False)
        await server.start(listening, None)
        host, port = listening.getsockname()
        async with grpc.aio.insecure_channel(f"{host}:{port}") as channel:
            ask = channel.unary_unary("/a/b")
            for _ in range(2):
                answers = await asyncio.gather(*(ask(bytes([n]), timeout=20) for n in range(40)))
                assert list(answers) == [bytes([n]) for n in range(40)]
                refused += 1
        await server.stop(1)

    asyncio.run(story())
    assert most_open <= 4


def test_an_old_connection_is_made_anew_without_a_failure_when_its_calls_have_ended() -> None:
    peers, begun, seen_three = [], asyncio.Event(), asyncio.Event()

    async def peer(request: bytes, context: Any) -> bytes:
        peers.append(context.peer())
        begun.set()
        if len(set(peers)) > 2:
            seen_three.set()
        if request == b"wait":
            await seen_three.wait()
        return context.peer().encode()

    async def story() -> None:
        methods = {b"/a/b": grpc.unary_unary_rpc_method_handler(peer)}
        server = FastServer(methods, max_streams=4, **{**LIMITS, "age_seconds": 0.1})
        listening = open_socket("127.0.0.1", 0, "--grpc-port", shared=False)
        await server.start(listening, None)
        host, port = listening.getsockname()
        async with asyncio.timeout(60), grpc.aio.insecure_channel(f"{host}:{port}") as channel:
            ask = channel.unary_unary("/a/b")
            first = ask(b"wait")
            await begun.wait()
            while not seen_three.is_set():
                await ask(b"")
            assert (await first).decode() == peers[0]
        await server.stop(1)

    asyncio.run(story())


def test_a_connection_may_have_as_many_calls_as_is_said(service, tiny_edge_bundle: TinyBundle, grpc_front: str) -> None:
    process = service("serve", tiny_edge_bundle.path, "--grpc-port", "0", "--front", grpc_front, "--max-calls", "6")
    host, _, port = process.ready["grpc"].rpartition(":")
    with socket.create_connection((host, int(port)), 20) as connection, connection.makefile("rb") as said:
        connection.sendall(HELLO)
        told = []
        while not told:
            head = said.read(9)
            body = said.read(int.from_bytes(head[:3], "big"))
            settings = [body[at : at + 6] for at in range(0, len(body), 6)] if head[3] == SETTINGS else []
            told = [int.from_bytes(one[2:], "big") for one in settings if int.from_bytes(one[:2], "big") == STREAMS]
    assert told == [6]
