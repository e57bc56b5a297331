"""Requests in line: who goes next, with whom, and who is not run."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

import numpy as np
import pytest

from edge_sdk.cloud.server.core import Answer, Core, Request
from edge_sdk.cloud.server.settings import ModelSettings, Serving
from edge_sdk.errors import InputError, ModelError, NotReadyError, OverloadedError, UnknownModelError
from outside.engines import Doubling, steady_line


def ask(core: Core, *numbers: float, seconds: float | None = None, priority: int = 0) -> asyncio.Task[Answer]:
    x = np.array([[number, 0] for number in numbers], np.float32)
    deadline = None if seconds is None else time.monotonic() + seconds
    return asyncio.create_task(core.infer(Request("double", "", {"x": x}, "tensor", deadline, priority)))


def tell(
    engine: Doubling,
    story: Callable[[Core], Awaitable[None]],
    *,
    batching: str = "batched",
    serving: Serving | None = None,
    **settings: object,
) -> Core:
    """Run a story over one model; return the core as it was left."""
    core = Core(serving)
    try:
        core.put(steady_line(engine, ModelSettings(**settings), batching=batching))
        engine.entered.clear()
        asyncio.run(story(core))
    finally:
        engine.let_go()
        core.close()
    return core


async def until(happened: Callable[[], bool]) -> None:
    """Wait until something that threads do has happened."""
    async with asyncio.timeout(120):
        while not happened():  # noqa: ASYNC110 - threads set no asyncio.Event
            await asyncio.sleep(0.01)


async def held(core: Core, engine: Doubling) -> asyncio.Task[Answer]:
    """Return a request that the model is at work on."""
    engine.hold()
    first = ask(core, 0)
    assert await asyncio.to_thread(engine.entered.wait, 120)
    return first


def test_what_waits_runs_together_where_that_pays_and_each_gets_its_own() -> None:
    engine = Doubling(seconds=0.005)

    async def story(core: Core) -> None:
        first = await held(core, engine)
        tasks = [ask(core, 1), ask(core, 2, 3), ask(core, 4)]
        await asyncio.sleep(0)
        engine.let_go()
        answers = [await task for task in tasks]
        assert [answer.outputs["y"][:, 0].tolist() for answer in answers] == [[2], [4, 6], [8]]
        assert (await first).outputs["y"][0, 0] == 0

    tell(engine, story)
    assert engine.ran == [[0], [1, 2, 3, 4]]


def test_what_waits_runs_alone_where_a_batch_costs_more_and_a_request_of_several_in_parts() -> None:
    engine = Doubling(seconds_item=0.004)

    async def story(core: Core) -> None:
        first = await held(core, engine)
        tasks = [ask(core, 1), ask(core, 2, 3)]
        await asyncio.sleep(0)
        engine.let_go()
        assert [(await task).outputs["y"][:, 0].tolist() for task in tasks] == [[2], [4, 6]]
        await first

    tell(engine, story)
    assert engine.ran == [[0], [1], [2], [3]]


def test_a_full_batch_runs_while_more_requests_of_the_same_turn_of_the_loop_are_read() -> None:
    engine = Doubling(seconds_item=0.01)

    async def story(core: Core) -> None:
        tasks = [ask(core, 1), ask(core, 2)]

        async def read_on() -> bool:
            return engine.entered.wait(60)  # the loop does not turn meanwhile

        assert await asyncio.create_task(read_on())
        assert [(await task).outputs["y"][0, 0] for task in tasks] == [2, 4]

    tell(engine, story)
    assert engine.ran == [[1], [2]]


def test_a_model_of_one_item_takes_several_in_turn() -> None:
    engine = Doubling(items=1)

    async def story(core: Core) -> None:
        assert (await ask(core, 1, 2, 3)).outputs["y"][:, 0].tolist() == [2, 4, 6]

    tell(engine, story, batching="in turn")
    assert engine.ran == [[1], [2], [3]]


def test_the_urgent_go_first_and_priority_goes_before_urgency() -> None:
    engine = Doubling()

    async def story(core: Core) -> None:
        tasks = [await held(core, engine)]
        # those without a deadline go as if they had ten seconds
        tasks += [ask(core, 1), ask(core, 2, seconds=8), ask(core, 3, seconds=6), ask(core, 4, seconds=30, priority=1)]
        tasks += [ask(core, 5, seconds=5, priority=3)]
        await asyncio.sleep(0)
        engine.let_go()
        await asyncio.gather(*tasks)

    tell(engine, story, max_batch=1)
    assert engine.ran == [[0], [4], [3], [2], [1], [5]]


def test_a_request_whose_time_ran_out_or_whose_caller_has_gone_is_not_run() -> None:
    engine = Doubling()

    async def story(core: Core) -> None:
        first = await held(core, engine)
        late, gone, last = ask(core, 1, seconds=0.5), ask(core, 2), ask(core, 3)
        await asyncio.sleep(0.55)
        gone.cancel()
        engine.let_go()
        await asyncio.gather(first, last)
        with pytest.raises(TimeoutError, match="no time is left"):
            await late
        ((_, counts),) = core.statistics()
        assert (counts.expired, counts.cancelled, counts.success.count, counts.pending) == (1, 1, 2, 0)

    tell(engine, story)
    assert engine.ran == [[0], [3]]


def test_what_could_not_be_answered_in_time_is_refused_at_once_and_told_when_to_come_back() -> None:
    engine = Doubling(seconds_item=0.05)

    async def story(core: Core) -> None:
        tasks = [await held(core, engine), *(ask(core, number, priority=1) for number in (1, 2, 3, 4))]
        await asyncio.sleep(0)
        with pytest.raises(OverloadedError, match="no time for it: 4 requests wait") as caught:
            await ask(core, 5, seconds=0.1)
        assert 0.05 < caught.value.retry_after < 1
        urgent = ask(core, 6, seconds=5, priority=1)
        engine.let_go()
        await asyncio.gather(urgent, *tasks)

    tell(engine, story, max_batch=1)
    assert engine.ran[:2] == [[0], [6]]
    assert [5] not in engine.ran


def test_with_nobody_before_it_a_request_is_tried_whatever_it_is_thought_to_cost() -> None:
    engine = Doubling()

    async def story(core: Core) -> None:
        core.line("double", "")._costs.learn(lambda _: 60.0)
        await ask(core, 1, seconds=20)

    tell(engine, story, max_batch=1)
    assert engine.ran == [[1]]


def test_what_would_be_refused_whatever_it_held_is_known_before_it_is_read() -> None:
    engine = Doubling(seconds_item=0.05)

    async def story(core: Core) -> None:
        def late(seconds: float = 20) -> OverloadedError | None:
            return core.refusal_of_any(time.monotonic() + seconds)

        assert late() is None, "nobody waits"
        # those without a deadline go as if they had ten seconds; 300 take 15 s
        tasks = [await held(core, engine), *(ask(core, number) for number in range(1, 301))]
        await asyncio.sleep(0)
        assert "no time for it" in str(late())
        assert late().retry_after > 1
        assert late(5) is None, "it goes before those who have more time"
        assert late(600) is core.refusal_of_any(None) is None
        urgent = ask(core, 1000, priority=1)
        await asyncio.sleep(0)
        assert late() is None, "it may be one that goes before others"
        ((_, counts),) = core.statistics()
        assert counts.shed == 2
        for task in tasks[1:]:
            task.cancel()
        engine.let_go()
        await asyncio.gather(tasks[0], urgent)

    tell(engine, story, max_batch=1, max_queue=1000)


def test_who_is_refused_among_many_is_told_to_stay_away_for_longer() -> None:
    engine = Doubling()

    async def story(core: Core) -> None:
        tasks = [await held(core, engine), ask(core, 1)]
        await asyncio.sleep(0)
        waits = []
        for number in range(200):
            with pytest.raises(OverloadedError) as caught:
                await ask(core, number)
            waits.append(caught.value.retry_after)
        assert waits[-1] > 2 * waits[0]
        engine.let_go()
        await asyncio.gather(*tasks)

    tell(engine, story, max_queue=1)


def test_only_so_many_requests_and_so_many_bytes_wait() -> None:
    engine = Doubling()

    async def story(core: Core) -> None:
        tasks = [await held(core, engine), ask(core, 1), ask(core, 2)]
        await asyncio.sleep(0)
        with pytest.raises(OverloadedError, match="2 requests wait"):
            await ask(core, 3)
        engine.let_go()
        await asyncio.gather(*tasks)

    tell(engine, story, max_queue=2)

    engine = Doubling()

    async def heavy(core: Core) -> None:
        tasks = [await held(core, engine), ask(core, 1, 2)]
        await asyncio.sleep(0)
        with pytest.raises(OverloadedError, match="MiB of inputs wait"):
            await ask(core, 3, 4)
        engine.let_go()
        await asyncio.gather(*tasks)
        await ask(core, 3, 4)

    tell(engine, heavy, serving=Serving(max_pending_bytes=32))


def test_places_of_those_who_left_are_free() -> None:
    engine = Doubling()

    async def story(core: Core) -> None:
        first, gone = await held(core, engine), ask(core, 1)
        await asyncio.sleep(0)
        gone.cancel()
        await asyncio.sleep(0)
        last = ask(core, 2)
        await asyncio.sleep(0)
        engine.let_go()
        await asyncio.gather(first, last)

    tell(engine, story, max_queue=1)
    assert engine.ran == [[0], [2]]


def test_one_that_fails_does_not_fail_the_others_of_its_batch() -> None:
    engine = Doubling(seconds=0.005)
    engine.fail_on = 2

    async def story(core: Core) -> None:
        first = await held(core, engine)
        tasks = [ask(core, 1), ask(core, 2), ask(core, 3)]
        await asyncio.sleep(0)
        engine.let_go()
        answers = await asyncio.gather(first, *tasks, return_exceptions=True)
        assert isinstance(answers.pop(2), ModelError)
        assert [float(answer.outputs["y"][0, 0]) for answer in answers] == [0, 2, 6]

    tell(engine, story)


def test_a_model_that_hangs_is_not_ready_its_requests_fail_and_it_is_ready_again_when_it_returns() -> None:
    engine = Doubling()

    async def story(core: Core) -> None:
        other = Doubling()
        core.put(steady_line(other, name="other"))
        first, waiting = await held(core, engine), ask(core, 1)
        with pytest.raises(ModelError, match="did not answer within"):
            await first
        with pytest.raises(NotReadyError, match="hangs"):
            await waiting
        assert not core.answers("double")
        assert not core.is_ready
        assert [(one.name, one.state) for one in core.index()] == [("double", "UNAVAILABLE"), ("other", "READY")]
        with pytest.raises(NotReadyError):
            await ask(core, 2)
        x = np.ones((1, 2), np.float32)
        assert (await core.infer(Request("other", "", {"x": x}, "tensor", None))).outputs["y"][0, 0] == 2
        engine.let_go()
        await until(lambda: core.answers("double"))
        await ask(core, 3)

    tell(engine, story, hang_seconds=1.0)
    assert engine.ran == [[0], [3]]


def test_a_newer_model_takes_over_while_the_old_one_answers_what_it_has() -> None:
    engine, newer = Doubling(), Doubling()

    async def story(core: Core) -> None:
        tasks = [await held(core, engine), ask(core, 1)]
        await asyncio.sleep(0)
        core.put(steady_line(newer))
        after = await ask(core, 2)
        core.put(steady_line(newer, version="10"))
        core.put(steady_line(newer, version="9"))
        assert core.versions("double") == ("1", "9", "10")
        assert (await ask(core, 3)).model.version == "10"
        assert not engine.closed
        engine.let_go()
        await asyncio.gather(*tasks)
        await until(lambda: engine.closed)
        core.drop("double", "10")
        assert (await ask(core, 4)).model.version == "9"
        assert after.outputs["y"][0, 0] == 4

    tell(engine, story)
    assert engine.ran == [[0], [1]]


def test_two_instances_run_at_a_time() -> None:
    engine = Doubling()

    async def story(core: Core) -> None:
        engine.hold()
        tasks = [ask(core, 1), ask(core, 2)]
        await until(lambda: engine.inside == 2)
        engine.let_go()
        await asyncio.gather(*tasks)

    tell(engine, story, instances=2, max_batch=1)


def test_where_the_time_went_is_counted() -> None:
    engine = Doubling(seconds=0.005)

    async def story(core: Core) -> None:
        await ask(core, 1)
        await ask(core, 2, 3)
        with pytest.raises(InputError):
            await core.infer(Request("double", "", {"z": np.ones(2)}, "tensor", None))
        ((model, counts),) = core.statistics("double", "1")
        assert model.digest == "sha256:1"
        assert (counts.items, counts.batches, counts.success.count, counts.failure.count) == (3, 2, 2, 0)
        assert {size: tally.count for size, tally in counts.by_size.items()} == {1: 1, 2: 1}
        assert counts.compute.seconds >= 0.01
        assert counts.success.seconds >= counts.compute.seconds + counts.queue.seconds
        assert sum(counts.latency.counts) == 2
        for name, version in (("other", ""), ("double", "2")):
            with pytest.raises(UnknownModelError):
                core.statistics(name, version)

    tell(engine, story)


@pytest.mark.parametrize("seed", range(3))
def test_in_any_crowd_each_gets_its_own_answer_or_a_plain_reason_and_nothing_is_begun_too_late(seed: int) -> None:
    engine = Doubling(seconds=0.001, seconds_item=0.0003)
    rng = np.random.default_rng(seed)
    late: set[float] = set()  # their time was up when they came
    ends: dict[str, int] = {}

    async def one(core: Core, number: int) -> None:
        x = np.array([[number, 0]] * int(rng.integers(1, 6)), np.float32)
        seconds = [None, 0.0, 0.003, 0.02, 1.0][int(rng.integers(5))]
        deadline = None if seconds is None else time.monotonic() + seconds
        if seconds == 0.0:
            late.add(number)
        ask = core.infer(Request("double", "", {"x": x}, "tensor", deadline, int(rng.integers(4))))
        task = asyncio.create_task(ask)
        if rng.random() < 0.1:
            asyncio.get_running_loop().call_later(float(rng.random()) * 0.01, task.cancel)
        try:
            outputs = (await task).outputs["y"]
        except (ModelError, OverloadedError, TimeoutError, asyncio.CancelledError) as error:
            ends[type(error).__name__] = ends.get(type(error).__name__, 0) + 1
        else:
            ends["answered"] = ends.get("answered", 0) + 1
            np.testing.assert_array_equal(outputs, 2 * x)

    async def story(core: Core) -> None:
        tasks = []
        for number in range(400):
            tasks.append(asyncio.create_task(one(core, number)))
            if number % 10 == 0:
                engine.fail_on = float(rng.integers(400))
                await asyncio.sleep(float(rng.random()) * 0.01)
        await asyncio.gather(*tasks)
        ((_, counts),) = core.statistics()
        assert (counts.pending, counts.pending_bytes) == (0, 0)
        assert counts.success.count >= ends["answered"], "some went while their answer was on its way"

    tell(engine, story, instances=2, max_queue=40)
    assert sum(ends.values()) == 400
    assert ends["answered"] > 50
    assert late
    assert not late & {number for numbers in engine.ran for number in numbers}
