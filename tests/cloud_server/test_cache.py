"""Answers that are known already: to equal requests only, within their bytes, gone with the model that gave them."""

from __future__ import annotations

import asyncio
import hashlib
import json
import time
import urllib.request
from collections.abc import Mapping
from typing import Any

import grpc
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_sdk.cloud.server.cache import ResponseCache
from edge_sdk.cloud.server.core import Answer, Core, Request
from edge_sdk.cloud.server.families import as_text
from edge_sdk.cloud.server.metrics import metrics_of
from edge_sdk.cloud.server.settings import ModelSettings, Serving
from edge_sdk.errors import InputError, ModelError
from edge_sdk.protocol import add_input, messages, read_parameters, set_parameter
from outside.engines import Doubling, steady_line

MANY = 1 << 20


def served(engine: Doubling, cache_bytes: int = MANY) -> Core:
    core = Core()
    core.put(steady_line(engine, ModelSettings(cache_bytes=cache_bytes)))
    return core


async def ask(core: Core, *numbers: float, outputs: tuple[str, ...] = ()) -> Answer:
    x = np.array([[number, 0] for number in numbers], np.float32)
    return await core.infer(Request("double", "", {"x": x}, "tensor", None, outputs=outputs))


def test_an_equal_request_is_answered_without_the_model_and_says_so() -> None:
    engine = Doubling(seconds=0.002)
    core = served(engine)

    async def story() -> None:
        first, second, other = [await ask(core, *numbers) for numbers in ((1, 2), (1, 2), (2, 1))]
        assert [answer.cached for answer in (first, second, other)] == [False, True, False]
        assert first.outputs["y"].tolist() == second.outputs["y"].tolist() == [[2, 0], [4, 0]]
        assert other.outputs["y"][:, 0].tolist() == [4, 2]
        assert second.model is first.model
        assert (await ask(core, 1, 2, outputs=("y",))).cached

    asyncio.run(story())
    assert engine.ran == [[1, 2], [2, 1]]
    ((_, counts),) = core.statistics()
    assert (counts.hits.count, counts.misses.count, counts.success.count, counts.items) == (2, 2, 4, 4)
    text = as_text(metrics_of(core))
    assert 'nv_cache_num_hits_per_model{model="double",version="1"} 2\n' in text
    assert 'nv_cache_num_misses_per_model{model="double",version="1"} 2\n' in text
    assert counts.cached_bytes > 32
    core.close()


def test_it_is_off_where_nothing_is_said() -> None:
    engine = Doubling()
    core = served(engine, 0)

    async def story() -> None:
        assert not (await ask(core, 1)).cached
        assert not (await ask(core, 1)).cached

    asyncio.run(story())
    assert engine.ran == [[1], [1]]
    core.close()


def test_a_model_that_is_loaded_anew_knows_nothing_of_what_the_one_before_said() -> None:
    core, newer = served(Doubling()), Doubling()

    async def story() -> None:
        await ask(core, 1)
        core.put(steady_line(newer, ModelSettings(cache_bytes=MANY)))
        assert not (await ask(core, 1)).cached
        assert (await ask(core, 1)).cached

    asyncio.run(story())
    assert newer.ran == [[1]]
    core.close()


def test_a_failure_is_not_kept() -> None:
    engine = Doubling()
    core = served(engine)
    engine.fail_on = 1

    async def story() -> None:
        with pytest.raises(ModelError):
            await ask(core, 1)
        engine.fail_on = np.inf
        assert not (await ask(core, 1)).cached

    asyncio.run(story())
    core.close()


def test_what_does_not_fit_the_model_is_refused_as_ever() -> None:
    core = served(Doubling())

    async def story() -> None:
        for _ in range(2):
            with pytest.raises(InputError):
                await core.infer(Request("double", "", {"x": np.zeros((1, 3), np.float32)}, "tensor", None))

    asyncio.run(story())
    core.close()


def test_who_gets_an_answer_cannot_change_that_of_others() -> None:
    core = served(Doubling())

    async def story() -> None:
        (await ask(core, 1)).outputs["y"][:] = 7  # the first is its caller's own
        known = (await ask(core, 1)).outputs["y"]
        assert known.tolist() == [[2, 0]]
        with pytest.raises(ValueError, match="read-only"):
            known[:] = 7

    asyncio.run(story())
    core.close()


def soon(core: Core, number: float, seconds: float | None = None, priority: int = 0) -> asyncio.Task[Answer]:
    deadline = None if seconds is None else time.monotonic() + seconds
    x = np.array([[number, 0]], np.float32)
    return asyncio.create_task(core.infer(Request("double", "", {"x": x}, "tensor", deadline, priority)))


async def until_it_runs(engine: Doubling) -> None:
    assert await asyncio.to_thread(engine.entered.wait, 120)
    await asyncio.sleep(0)


def test_equal_requests_that_come_at_once_are_run_once() -> None:
    engine = Doubling()
    core = served(engine)

    async def story() -> None:
        engine.hold()
        first, second, other = [soon(core, number, 20) for number in (1, 1, 2)]
        await until_it_runs(engine)
        third = soon(core, 1, 20)
        await asyncio.sleep(0.02)
        engine.let_go()
        answers = await asyncio.gather(first, second, third, other)
        assert [answer.cached for answer in answers] == [False, True, True, False]
        assert [answer.outputs["y"][0, 0] for answer in answers] == [2, 2, 2, 4]
        answers[0].outputs["y"][:] = 7  # its caller's own
        assert answers[1].outputs["y"].tolist() == [[2, 0]]

    asyncio.run(story())
    assert sorted(number for run in engine.ran for number in run) == [1, 2]
    ((_, counts),) = core.statistics()
    assert (counts.hits.count, counts.misses.count, counts.success.count, counts.items) == (2, 2, 4, 2)
    core.close()


def test_they_are_run_once_though_the_answer_is_too_large_to_be_kept() -> None:
    engine = Doubling()
    core = served(engine, 1)

    async def story() -> None:
        engine.hold()
        tasks = [soon(core, 1) for _ in range(3)]
        await until_it_runs(engine)
        engine.let_go()
        answers = await asyncio.gather(*tasks)
        assert [answer.outputs["y"].tolist() for answer in answers] == [[[2, 0]]] * 3
        assert not (await soon(core, 1)).cached

    asyncio.run(story())
    assert engine.ran == [[1], [1]]
    core.close()


def test_who_waits_for_an_equal_request_waits_until_its_own_deadline() -> None:
    engine = Doubling()
    core = served(engine)

    async def story() -> None:
        engine.hold()
        first = soon(core, 1, 1.5)
        await until_it_runs(engine)
        second = soon(core, 1, 1.55)
        with pytest.raises(TimeoutError, match="no time is left"):
            await second
        engine.let_go()
        assert not (await first).cached

    asyncio.run(story())
    assert engine.ran == [[1]]
    assert core.statistics()[0][1].expired == 1
    core.close()


def test_a_first_that_fails_does_not_fail_the_second() -> None:
    engine = Doubling()
    core = served(engine)
    engine.fail_on = 1

    async def story() -> None:
        engine.hold()
        first = soon(core, 1)
        await until_it_runs(engine)
        second = soon(core, 1)
        await asyncio.sleep(0.02)
        assert not second.done()
        first.add_done_callback(lambda _: setattr(engine, "fail_on", np.inf))
        engine.let_go()
        with pytest.raises(ModelError):
            await first
        assert (await second).outputs["y"].tolist() == [[2, 0]]

    asyncio.run(story())
    core.close()


def test_when_the_first_is_cancelled_one_of_those_that_wait_is_run() -> None:
    engine = Doubling()
    core = served(engine)

    async def story() -> None:
        engine.hold()
        first = soon(core, 1)
        await until_it_runs(engine)
        others = [soon(core, 1) for _ in range(3)]
        await asyncio.sleep(0.02)
        first.cancel()
        others[2].cancel()
        await asyncio.sleep(0.02)
        engine.let_go()
        answers = await asyncio.gather(*others[:2])
        assert [answer.cached for answer in answers] == [False, True]
        assert first.cancelled()
        assert others[2].cancelled()

    asyncio.run(story())
    assert engine.ran == [[1], [1]], "once for the one that was cancelled, once for the others"
    core.close()


def test_a_crowd_of_equal_requests_gets_its_answers_whoever_goes_or_fails() -> None:
    engine = Doubling(seconds=0.001)
    core = served(engine, 600)  # room for one answer
    engine.fail_on = 3
    rng = np.random.default_rng(5)

    async def story() -> None:
        tasks = []
        for _ in range(400):
            number, seconds = float(rng.integers(5)), (None, 20, 30)[rng.integers(3)]
            tasks.append((number, soon(core, number, seconds, int(rng.integers(3)))))
            if rng.random() < 0.3:
                await asyncio.sleep(0.001)
            if rng.random() < 0.1:
                tasks[rng.integers(len(tasks))][1].cancel()
        await asyncio.wait([task for _, task in tasks])
        for number, task in tasks:
            if task.cancelled():
                continue
            if number == 3:
                assert isinstance(task.exception(), ModelError)
            else:
                assert task.result().outputs["y"].tolist() == [[2 * number, 0]]

    asyncio.run(story())
    ((_, counts),) = core.statistics()
    assert counts.hits.count > 50
    assert counts.pending == 0
    line = core._lines["double"]["1"]
    assert not line.cache.flights._flights
    core.close()


@pytest.mark.parametrize(("first", "second"), [((None, 0), (20, 0)), ((20, 0), (10, 0)), ((20, 2), (20, 1))])
def test_a_request_does_not_wait_for_one_that_may_wait_longer(first, second) -> None:
    engine = Doubling()
    core = served(engine)

    async def story() -> None:
        engine.hold()
        tasks = [soon(core, 9), soon(core, 1, *first)]  # the second of them waits in the queue
        await until_it_runs(engine)
        tasks.append(soon(core, 1, *second))
        await asyncio.sleep(0.02)
        engine.let_go()
        assert [answer.cached for answer in await asyncio.gather(*tasks)] == [False] * 3

    asyncio.run(story())
    assert [number for run in engine.ran for number in run].count(1) == 2
    core.close()


@given(st.lists(st.tuples(st.integers(0, 12), st.integers(1, 40)), max_size=60), st.integers(600, 4000))
def test_it_never_holds_more_than_its_bytes_and_forgets_what_was_asked_least_recently(asked, most) -> None:
    cache = ResponseCache(most)
    held: list[tuple[int, int]] = []  # name and bytes, the least recent first
    for name, size in asked:
        known = cache.get(bytes([name]))
        mine = [entry for entry in held if entry[0] == name]
        assert (known is not None) == bool(mine)
        if known is None:
            cache.put(bytes([name]), [np.full(size, name, np.float32)])
            mine = [(name, 512 + 4 * size)] if 512 + 4 * size <= most else []
        else:
            assert set(known[0]) == {name}
        held = [*(entry for entry in held if entry[0] != name), *mine]
        while sum(nbytes for _, nbytes in held) > most:
            held.pop(0)
        assert cache.nbytes == sum(nbytes for _, nbytes in held) <= most


def key(inputs: Mapping[str, np.ndarray[Any, Any]], encoding: str = "tensor") -> bytes:
    return asyncio.run(ResponseCache(1).key(inputs, encoding, sum(x.nbytes for x in inputs.values())))


def test_requests_are_equal_only_in_everything() -> None:
    base = np.arange(12, dtype=np.float32).reshape(3, 4)
    text = np.array([b"ab", b"c"], object)
    ways = [
        key({"x": base}),
        key({"x": base}, "captured"),
        key({"y": base}),
        key({"x": base.reshape(4, 3)}),
        key({"x": base.astype(np.float64)}),
        key({"x": base.view(np.int32)}),
        key({"x": np.where(base == 0, np.float32(-0.0), base)}),
        key({"x": base, "y": base}),
        key({"x": text}),
        key({"x": np.array([b"a", b"bc"], object)}),
        key({"x": np.array([b"abc"], object)}),
    ]
    assert len(set(ways)) == len(ways)
    assert key({"a": base, "b": text}) == key({"b": text, "a": base})
    assert key({"x": base}) == key({"x": np.asfortranarray(base)})
    assert len(ways[0]) == hashlib.sha256().digest_size


def test_a_large_input_has_the_key_that_a_small_one_would_have() -> None:
    x = np.random.default_rng(1).integers(0, 255, 66_100, np.uint8)
    small = asyncio.run(ResponseCache(1).key({"x": x}, "tensor", 0))
    assert small == key({"x": x})


@pytest.mark.parametrize("value", [-1, 1.5, True, "1"])
def test_a_size_that_is_none_is_refused(value) -> None:
    with pytest.raises(InputError, match="cache_bytes"):
        Serving(models={"*": {"cache_bytes": value}})


def test_the_answer_on_the_wire_says_that_it_was_known(tiny_edge_bundle, tmp_path, service) -> None:
    (tmp_path / "serve.toml").write_text('[models."*"]\ncache_bytes = 1000000\n')
    ports = ("--grpc-port", "0", "--http-port", "0")
    running = service("serve", tiny_edge_bundle.path, *ports, "--config", tmp_path / "serve.toml")
    address, web = running.ready["grpc"], running.ready["http"]
    request = messages.ModelInferRequest(model_name="tiny")
    add_input(request, "image", tiny_edge_bundle.images[0])
    set_parameter(request.parameters, "edge_encoding", "captured")
    takes, gives = messages.METHODS["ModelInfer"]
    with grpc.insecure_channel(address) as channel:
        infer = channel.unary_unary(
            "/inference.GRPCInferenceService/ModelInfer", takes.SerializeToString, gives.FromString
        )
        first, second = infer(request, timeout=20), infer(request, timeout=20)
    assert "edge_cached" not in read_parameters(first.parameters)
    assert read_parameters(second.parameters)["edge_cached"] is True
    assert second.raw_output_contents == first.raw_output_contents
    frame = tiny_edge_bundle.images[0]
    tensor = {"name": "image", "shape": frame.shape, "datatype": "UINT8", "data": frame.ravel().tolist()}
    body = json.dumps({"inputs": [tensor], "parameters": {"edge_encoding": "captured"}}).encode()
    with urllib.request.urlopen(f"http://{web}/v2/models/tiny/infer", body, timeout=20) as answer:
        assert json.load(answer)["parameters"]["edge_cached"] is True  # however it came
    with urllib.request.urlopen(f"http://{web}/v2/models/tiny/stats", timeout=20) as answer:
        assert json.load(answer)["model_stats"][0]["inference_stats"]["cache_hit"]["count"] == 2
