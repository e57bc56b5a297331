"""Many calls at once from one event loop, with a cloud that does not answer: nobody waits for anybody else."""

from __future__ import annotations

import asyncio
import threading

import pytest

import edge_sdk
from edge_sdk.client import HybridModel
from edge_sdk.errors import InputError, ModelClosedError
from outside.network import MisbehavingNetwork
from outside.odd import OddCloud

CALLS = 64
DEADLINE = 0.8  # in which a busy machine has begun all of them, and no connection is given up
PATIENT = 20.0
LATE = 30.0  # seconds: far beyond the deadline, far below for ever


def test_calls_that_wait_leave_the_loop_and_its_threads_to_others(pair) -> None:
    async def run() -> list[object]:
        with OddCloud("busy") as odd, edge_sdk.connect(pair.edge, cloud=odd.address, deadline=None) as model:
            calls = [asyncio.ensure_future(model.apredict(pair.hard[n % 9])) for n in range(CALLS)]
            await asyncio.sleep(0.3)  # the loop goes on
            loop = asyncio.get_running_loop()
            others = await asyncio.gather(*(loop.run_in_executor(None, threading.get_ident) for _ in range(CALLS)))
            assert len(others) == CALLS
            assert model.predict(pair.easy[0]).reason == "confident"
            assert not any(call.done() for call in calls)
            await loop.run_in_executor(None, odd.close)
            return await asyncio.gather(*calls)

    answers = asyncio.run(asyncio.wait_for(run(), 60))
    assert len(answers) == CALLS
    assert not any(answer.certified for answer in answers)


@pytest.mark.parametrize("described", [True, False], ids=["known", "unknown"])
def test_a_black_hole_costs_all_of_them_one_deadline_together(pair, cloud, described: bool) -> None:
    async def run(model: HybridModel) -> list:
        return await asyncio.gather(*(model.apredict(pair.hard[n % 9]) for n in range(CALLS)))

    with MisbehavingNetwork(int(cloud.rpartition(":")[2])) as network:
        if not described:
            network.set("blackhole")
        with edge_sdk.connect(pair.edge, cloud=network.address, deadline=PATIENT) as model:
            if described:
                assert model.predict(pair.hard[0]).source == "cloud"
            network.set("blackhole")
            model.deadline = DEADLINE
            answers = asyncio.run(run(model))
            counters = model.counters
    assert {answer.reason for answer in answers} <= {"deadline", "breaker", "offline"}
    assert max(answer.timing.total_ms for answer in answers) < LATE * 1e3
    assert counters["requests"] == CALLS + described
    asked = [answer for answer in answers if answer.reason in ("deadline", "offline")]
    assert len(asked) > CALLS / 2, "they asked while the first ones waited"


def test_more_calls_than_threads_are_all_answered(pair, cloud) -> None:
    async def run() -> list:
        with edge_sdk.connect(pair.edge, cloud=cloud, deadline=PATIENT) as model:
            return await asyncio.gather(*(model.apredict(pair.hard[n % 9]) for n in range(3 * CALLS)))

    answers = asyncio.run(run())
    assert [answer.source for answer in answers] == ["cloud"] * 3 * CALLS


def test_errors_come_out_where_the_answer_is_awaited(pair, cloud) -> None:
    async def ask(model: HybridModel, *arguments: object) -> object:
        return await model.apredict(*arguments)

    model = edge_sdk.connect(pair.edge, cloud=cloud, deadline=PATIENT)
    with pytest.raises(InputError, match="cannot read"):
        asyncio.run(ask(model, "missing.jpg"))
    with pytest.raises(InputError, match="a mapping"):
        asyncio.run(ask(model, pair.easy[0], "acme"))
    asyncio.run(ask(model, pair.easy[0]))
    model.close()
    with pytest.raises(ModelClosedError):
        asyncio.run(ask(model, pair.easy[0]))
    assert not [thread.name for thread in threading.enumerate() if thread.name.startswith("edge-sdk-apredict")]


def test_closing_ends_what_waits_for_ever(pair) -> None:
    async def run(odd: OddCloud) -> list:
        model = edge_sdk.connect(pair.edge, cloud=odd.address, deadline=None)
        calls = [asyncio.ensure_future(model.apredict(frame)) for frame in pair.hard[:4]]
        await asyncio.sleep(0.3)
        await asyncio.get_running_loop().run_in_executor(None, model.close)
        return await asyncio.gather(*calls)

    with OddCloud("busy") as odd:
        answers = asyncio.run(asyncio.wait_for(run(odd), 60))
    assert [answer.source for answer in answers] == ["edge"] * 4
    assert not any(answer.certified for answer in answers)
