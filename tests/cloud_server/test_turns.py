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

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def close(self) -> None:
        self._transport.close()

    def look(self, data: bytearray, size: int) -> int:
        self.story.append(self.name)
        self.said += data[:size]
        self._loop.call_soon(self.story.append, "answers")
        return size


async def until(happened: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
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
