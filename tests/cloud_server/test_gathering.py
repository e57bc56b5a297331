"""Calls that come one a turn of the loop: who goes on with whom, and who waits for nobody."""

from __future__ import annotations

import asyncio
import time

from edge_sdk.cloud.server import gathering
from edge_sdk.cloud.server.company import Coming
from edge_sdk.cloud.server.gathering import Gathering

FEW = 100  # turns of a loop: more than a lone call waits


class Calls:
    """Calls that gather, and how many turns of the loop there have been when each goes on."""

    def __init__(self, monkeypatch) -> None:
        monkeypatch.setattr(gathering, "_MOST_SECONDS", 600.0)  # a busy machine stops between two turns
        self.coming, self.turn = Coming(), 0
        self.gathering, self.went = Gathering(self.coming), dict[str, int]()

    async def come(self, name: str, remaining: float | None = None) -> None:
        self.coming.begun()
        await self.gathering.join(time.monotonic(), remaining)
        self.coming.came()
        self.went[name] = self.turn

    async def turns(self, count: int) -> None:
        for _ in range(count):
            await asyncio.sleep(0)
            self.turn += 1


async def lone(calls: Calls, count: int) -> None:
    for number in range(count):
        task = asyncio.create_task(calls.come(f"lone {number}"))
        await calls.turns(FEW)
        assert task.done()


def test_calls_that_come_one_a_turn_go_on_together(monkeypatch) -> None:
    calls = Calls(monkeypatch)

    async def run() -> None:
        async with asyncio.TaskGroup() as tasks:
            for name in "abcd":
                tasks.create_task(calls.come(name))
                await calls.turns(3)
            assert not calls.went
            await calls.turns(FEW)

    asyncio.run(run())
    assert set(calls.went) == set("abcd")
    assert len(set(calls.went.values())) == 1


def test_many_do_not_wait_for_more(monkeypatch) -> None:
    calls = Calls(monkeypatch)

    async def run() -> None:
        async with asyncio.TaskGroup() as tasks:
            for number in range(100):
                tasks.create_task(calls.come(f"{number}"))
                await calls.turns(1)
            assert calls.went["0"] < 40
            await calls.turns(FEW)

    asyncio.run(run())
    assert len(calls.went) == 100


def test_a_call_that_comes_alone_again_and_again_waits_no_more(monkeypatch) -> None:
    calls = Calls(monkeypatch)

    async def run() -> None:
        assert not calls.gathering.is_alone(time.monotonic())
        await lone(calls, 8)
        now = time.monotonic()
        assert calls.gathering.is_alone(now + 1.0)
        assert not calls.gathering.is_alone(now + 1.00001)  # who comes so soon came with it

    asyncio.run(run())


def test_a_lone_call_waits_for_one_whose_message_is_on_its_way(monkeypatch) -> None:
    calls = Calls(monkeypatch)

    async def run() -> None:
        await lone(calls, 8)
        calls.coming.begun()  # its own
        assert calls.gathering.is_alone(time.monotonic() + 1.0)
        calls.coming.begun()
        assert not calls.gathering.is_alone(time.monotonic() + 2.0)

    asyncio.run(run())


def test_a_client_that_does_not_send_what_it_began_is_not_waited_for_again(monkeypatch) -> None:
    calls = Calls(monkeypatch)

    async def run() -> None:
        calls.coming.begun()
        await lone(calls, 8)
        assert calls.coming.expected == 0
        assert calls.gathering.is_alone(time.monotonic() + 1.0)

    asyncio.run(run())


def test_a_caller_that_goes_keeps_nobody_waiting_and_takes_nobody_along(monkeypatch) -> None:
    calls = Calls(monkeypatch)

    async def run() -> None:
        tasks = [asyncio.create_task(calls.come(name)) for name in "abc"]
        await calls.turns(3)
        tasks[0].cancel()
        tasks[1].cancel()
        await calls.turns(FEW)
        assert tasks[0].cancelled()
        assert tasks[2].done()

    asyncio.run(run())
    assert set(calls.went) == {"c"}


def test_a_call_that_has_little_time_left_waits_for_nobody(monkeypatch) -> None:
    calls = Calls(monkeypatch)

    async def run() -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(calls.come("patient", 10.0))
            tasks.create_task(calls.come("urgent", 0.01))
            await calls.turns(1)
            assert set(calls.went) == {"urgent"}
            await calls.turns(FEW)

    asyncio.run(run())


def test_nobody_waits_longer_than_a_moment_however_many_turns_that_is(monkeypatch) -> None:
    calls = Calls(monkeypatch)
    monkeypatch.setattr(gathering, "_MOST_SECONDS", 0.0)

    async def run() -> None:
        task = asyncio.create_task(calls.come("a"))
        await calls.turns(3)
        assert task.done()

    asyncio.run(run())
