"""Answers that wait to be told together: which, and for how long."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import numpy as np
import pytest

from edge_sdk.cloud.server.outbox import Outbox
from edge_sdk.cloud.server.payloads import Payload
from edge_sdk.cloud.server.runs import Run
from edge_sdk.cloud.server.settings import ModelSettings
from edge_sdk.cloud.server.waiting import Job
from edge_sdk.errors import ModelError
from outside.engines import Doubling, steady_line

HOUR = 3600.0
Result = tuple[Job, Run | BaseException]


@pytest.fixture
def loop():
    loop = asyncio.new_event_loop()
    yield loop
    loop.close()


def answer(loop: asyncio.AbstractEventLoop, *, took: float = HOUR, deadline: float | None = None) -> Result:
    """Return a request that took so long to be answered, and its answer, which lies an hour ahead of the clock.

    So however long the test takes, it has not waited too long.
    """
    done = time.monotonic() + HOUR
    job = Job(Payload(1, 8, None, "tensor", lambda _: {}), deadline, done - took, loop.create_future(), loop, 0.0, 2)
    return job, Run([], 0.0, 0.0, 1e-3, [(1, 1e-3)], done)


def told(loop: asyncio.AbstractEventLoop, *results: Result) -> list[bool]:
    loop.run_until_complete(asyncio.sleep(0))
    return [job.future.done() for job, _ in results]


async def until(happened: Callable[[], bool]) -> None:
    """Wait until something that threads do has happened."""
    async with asyncio.timeout(120):
        while not happened():  # noqa: ASYNC110 - threads set no asyncio.Event
            await asyncio.sleep(1e-3)


def test_where_more_wait_four_answers_are_told_together(loop: asyncio.AbstractEventLoop) -> None:
    outbox, results = Outbox(), [answer(loop) for _ in range(5)]
    for result in results[:3]:
        outbox.put([result], more=True)
    assert told(loop, *results) == [False] * 5
    outbox.put([results[3]], more=True)
    assert told(loop, *results) == [True] * 4 + [False]
    outbox.put([results[4]], more=False)
    assert told(loop, *results) == [True] * 5


def test_what_waits_to_be_told_is_sent_once(loop: asyncio.AbstractEventLoop) -> None:
    outbox, result = Outbox(), answer(loop)
    outbox.put([result], more=True)
    outbox.send()
    assert told(loop, result) == [True]
    outbox.send()


def test_answers_of_a_whole_batch_are_told_at_once(loop: asyncio.AbstractEventLoop) -> None:
    results = [answer(loop) for _ in range(4)]
    Outbox().put(results, more=True)
    assert told(loop, *results) == [True] * 4


def test_an_answer_waits_for_a_small_part_of_what_it_took_and_of_what_it_has(loop: asyncio.AbstractEventLoop) -> None:
    now = time.monotonic()
    swift, late, early = answer(loop), answer(loop, deadline=now + 1e-3), answer(loop, deadline=now + 10 * HOUR)
    swift[1].done = swift[0].arrived = now - 1e-3
    for result in (swift, late, early):
        Outbox().put([result], more=True)
    assert told(loop, swift, late, early) == [True, True, False]


def test_an_error_is_told_at_once_with_what_waits(loop: asyncio.AbstractEventLoop) -> None:
    outbox, good, (bad, _) = Outbox(), answer(loop), answer(loop)
    outbox.put([good], more=True)
    outbox.put([(bad, ModelError("told to fail"))], more=True)
    assert told(loop, good, (bad, ModelError())) == [True, True]
    assert isinstance(bad.future.exception(), ModelError)


def test_who_waits_in_a_long_line_is_answered_also_where_the_model_hangs_meanwhile() -> None:
    engine = Doubling(items=1, seconds=1e-3)
    line = steady_line(engine, ModelSettings(max_queue=1000), batching="in turn")

    async def story() -> None:
        def ask(number: int) -> asyncio.Task[Run]:
            x = np.full((1, 2), number, np.float32)
            return asyncio.create_task(line.ask(line.model.reader.read({"x": x}, "tensor"), None, 0))

        tasks = [ask(number) for number in range(100)]
        await until(lambda: len(engine.ran) >= 50)
        engine.hold()
        await until(lambda: engine.inside == 1)

        def all_are_told() -> bool:
            line.watch(time.monotonic())
            return sum(task.done() for task in tasks) == len(engine.ran)

        await until(all_are_told)
        engine.let_go()
        runs = await asyncio.gather(*tasks)
        assert [run.outputs[0][0, 0] for run in runs] == [2 * number for number in range(100)]

    try:
        asyncio.run(story())
    finally:
        engine.let_go()
        line.close()
