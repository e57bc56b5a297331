"""When the event loop rests beside models that are asked for more than they can do."""

from __future__ import annotations

import asyncio
import time

import numpy as np
import pytest

from edge_sdk.cloud.server.core import Answer, Core, Request
from edge_sdk.cloud.server.leisure import Leisure
from edge_sdk.cloud.server.settings import ModelSettings
from outside.engines import Doubling, steady_line


@pytest.mark.parametrize(
    ("lasts", "rests"), [(60.0, [0.004]), (0.016, [0.002]), (0.004, []), (0.0, [])], ids=["long", "some", "short", "no"]
)
def test_it_rests_once_in_a_turn_and_the_longer_the_more_waits(lasts: float, rests: list[float]) -> None:
    rested: list[float] = []

    async def story() -> None:
        leisure, loop = Leisure(lambda: lasts, sleep=rested.append), asyncio.get_running_loop()
        for _ in range(3):
            leisure.take(loop)
        assert not rested, "what is to be done in this turn comes first"
        await asyncio.sleep(0)
        assert rested == rests
        leisure.take(loop)
        await asyncio.sleep(0)
        assert rested == 2 * rests

    asyncio.run(story())


def test_models_have_work_for_as_long_as_the_shortest_line_takes_of_those_that_are_asked() -> None:
    engines = {"one": Doubling(seconds_item=0.01), "two": Doubling(seconds_item=0.01), "idle": Doubling()}
    core = Core()

    def ask(name: str) -> asyncio.Task[Answer]:
        x = np.zeros((1, 2), np.float32)
        return asyncio.create_task(core.infer(Request(name, "", {"x": x}, "tensor", time.monotonic() + 600)))

    async def story() -> None:
        assert core.lasts() == 0, "nobody asks"
        tasks = []
        for name in ("one", "two"):
            engines[name].hold()
            tasks.append(ask(name))
            assert await asyncio.to_thread(engines[name].entered.wait, 120)
            assert core.lasts() == 0, "nothing waits"
        tasks += [ask("one") for _ in range(40)]
        await asyncio.sleep(0)
        assert core.lasts() == 0, "the other has nothing that waits"
        tasks += [ask("two") for _ in range(20)]
        await asyncio.sleep(0)
        fewer = core.lasts()
        assert fewer > 0
        tasks += [ask("two") for _ in range(20)]
        await asyncio.sleep(0)
        assert core.lasts() > fewer
        for engine in engines.values():
            engine.let_go()
        await asyncio.gather(*tasks)
        assert core.lasts() == 0

    try:
        for name, engine in engines.items():
            core.put(steady_line(engine, ModelSettings(), name=name))
            engine.entered.clear()
        asyncio.run(story())
    finally:
        for engine in engines.values():
            engine.let_go()
        core.close()
