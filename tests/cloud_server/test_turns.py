"""How much the fast front reads before it sends answers."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable

from edge_sdk.cloud.server.http2 import Budget
from edge_sdk.cloud.server.turns import Paced, Turns


class Noting(Paced):
    """Each byte is a call, which is answered when the loop turns."""

    def __init__(self, turns: Turns, name: str, story: list[str]) -> None:
        super().__init__(turns, asyncio.get_running_loop())
        self.name, self.story, self.said = name, story, b""
        self.came: list[float | None] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def close(self) -> None:
        self._transport.close()

    def look(self, data: bytearray, size: int) -> int:
        self.story.append(self.name)
        self.said += data[:size]
        self.came.append(self._came)
        self._loop.call_soon(self.story.append, "answers")
        return size


async def until(happened: Callable[[], bool]) -> None:
    async with asyncio.timeout(120):
        while not happened():  # noqa: ASYNC110 - each turn of the loop counts
            await asyncio.sleep(0)


def test_answers_are_sent_before_another_connection_is_looked_at_when_one_has_sent_much() -> None:
    async def story() -> None:
        told: list[str] = []
        turns = Turns(Budget(2**20))
        with contextlib.ExitStack() as stack:
            loop, connections, clients = asyncio.get_running_loop(), [], []
            for name in "abcd":
                ours, client = socket.socketpair()
                clients.append(stack.enter_context(client))
                _, connection = await loop.create_connection(lambda name=name: Noting(turns, name, told), sock=ours)
                connections.append(connection)
            for client in clients:
                client.sendall(bytes(range(100)))
            await until(lambda: len(told) == 8)
            assert sorted(told[::2]) == ["a", "b", "c", "d"]
            assert told[1::2] == ["answers"] * 4
            for client in clients:  # who was put off is read again
                client.sendall(b"more")
            await until(lambda: all(len(one.said) == 104 for one in connections))
            assert [one.said for one in connections] == [bytes(range(100)) + b"more"] * 4
            for connection in connections:
                connection.close()

    asyncio.run(story())


def test_what_lay_in_a_socket_while_it_was_not_read_is_as_old_as_it_may_be() -> None:
    async def story() -> None:
        turns = Turns(Budget(2**22))
        with contextlib.ExitStack() as stack:
            loop, connections, clients = asyncio.get_running_loop(), [], []
            for name in "ab":
                ours, client = socket.socketpair()
                client.setblocking(False)
                clients.append(stack.enter_context(client))
                _, connection = await loop.create_connection(lambda name=name: Noting(turns, name, []), sock=ours)
                connections.append(connection)
            much = bytes(500_000)  # more than is read at once
            await asyncio.gather(*(loop.sock_sendall(client, much) for client in clients))
            await until(lambda: all(len(one.said) == len(much) for one in connections))
            aged = [[at for at in one.came if at is not None] for one in connections]
            put_off = max(aged, key=len)
            assert len(put_off) > 1
            assert put_off == sorted(put_off)
            assert put_off[0] == put_off[1], "what came next is as old as what was put off"
            for _ in range(5):
                await asyncio.sleep(0)
            for client, one in zip(clients, connections, strict=True):
                client.sendall(b"more")
                await until(lambda one=one: len(one.said) == len(much) + 4)
                assert one.came[-1] is None, "nobody was put off"
                await asyncio.sleep(0)
            for connection in connections:
                connection.close()

    asyncio.run(story())
