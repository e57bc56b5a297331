"""Which messages are read at a time, and whose place is taken when they do not come."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine

import grpc
import pytest

from edge_sdk.cloud.server import readings
from edge_sdk.cloud.server.door import Door
from edge_sdk.cloud.server.readings import Readings

PATIENT = 20.0


class Client:
    """A connection and its calls to an echo; each sends its message when it is told to."""

    def __init__(self, address: str) -> None:
        self._channel = grpc.aio.insecure_channel(address, [("grpc.use_local_subchannel_pool", 1)])
        self.asking: list[asyncio.Task[str]] = []
        self.calls: list[grpc.aio.StreamUnaryCall] = []

    def ask(self) -> asyncio.Event:
        """Begin a call; its message is sent when the event is set."""
        send = asyncio.Event()
        self.asking.append(asyncio.create_task(self._status(send)))
        return send

    async def _status(self, send: asyncio.Event) -> str:
        call = self._channel.stream_unary("/a/b")(timeout=PATIENT)
        self.calls.append(call)
        try:
            await call.wait_for_connection()
            await send.wait()
            await call.write(b"said")
            await call.done_writing()
            assert await call == b"said"
        except asyncio.CancelledError:
            return "cancelled"
        except grpc.RpcError as error:
            return error.code().name
        except asyncio.InvalidStateError:  # it had ended before its message was written
            return (await call.code()).name
        return "OK"

    async def close(self) -> None:
        await self._channel.close()


def serve(story: Callable[[str], Coroutine[None, None, None]]) -> None:
    """Let a story happen to a server that reads 8 messages without a place, and 4 with one."""

    async def echo(request: bytes, context: object) -> bytes:
        return request

    async def told() -> None:
        server = grpc.aio.server()
        handler = grpc.method_handlers_generic_handler("a", {"b": grpc.unary_unary_rpc_method_handler(echo)})
        server.add_generic_rpc_handlers((Door((handler,), None, Readings(8)),))
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        try:
            async with asyncio.timeout(PATIENT):
                await story(f"127.0.0.1:{port}")
        finally:
            await server.stop(0)

    asyncio.run(told())


def test_who_has_a_single_call_does_not_wait_for_those_of_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readings, "_STALLED_SECONDS", 600.0)  # nobody loses a place, however slow the machine is

    async def story(address: str) -> None:
        many, one = Client(address), Client(address)
        sends = [many.ask() for _ in range(16)]
        await asyncio.sleep(0.5)
        one.ask().set()
        assert await one.asking[0] == "OK"
        assert not any(call.done() for call in many.calls)
        for send in sends:
            send.set()
        assert set(await asyncio.gather(*many.asking)) == {"OK"}
        for client in (many, one):
            await client.close()

    serve(story)


def test_a_message_that_does_not_come_loses_its_place_while_others_wait() -> None:
    async def story(address: str) -> None:
        many = Client(address)
        sends = [many.ask() for _ in range(16)]
        while not any(call.done() for call in many.calls):  # noqa: ASYNC110 - a call has no asyncio.Event
            await asyncio.sleep(0.05)
        for send in sends:
            send.set()
        ended = await asyncio.gather(*many.asking)
        assert ended.count("OK") >= 8, "those that are read without a place keep it"
        assert set(ended) == {"OK", "DEADLINE_EXCEEDED"}
        await many.close()

    serve(story)


def test_nobody_loses_a_place_for_which_nobody_waits() -> None:
    async def story(address: str) -> None:
        few = Client(address)
        sends = [few.ask() for _ in range(10)]
        await asyncio.sleep(2.5)
        assert not any(call.done() for call in few.calls)
        for send in sends:
            send.set()
        assert set(await asyncio.gather(*few.asking)) == {"OK"}
        await few.close()

    serve(story)


def test_clients_that_go_leave_their_places_to_others() -> None:
    async def story(address: str) -> None:
        for _ in range(3):
            gone = Client(address)
            for _ in range(20):
                gone.ask()
            await asyncio.sleep(0.2)
            for asking in gone.asking:
                asking.cancel()
            await asyncio.gather(*gone.asking)
            await gone.close()
        there = Client(address)
        for _ in range(30):
            there.ask().set()
        assert set(await asyncio.gather(*there.asking)) == {"OK"}
        await there.close()

    serve(story)
