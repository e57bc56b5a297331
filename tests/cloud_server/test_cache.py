"""Answers that are known already: to equal requests only, within their bytes, gone with the model that gave them."""

from __future__ import annotations

import asyncio
import hashlib
import json
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
from edge_sdk.cloud.server.lines import Line
from edge_sdk.cloud.server.metrics import metrics_text
from edge_sdk.cloud.server.settings import ModelSettings, Serving
from edge_sdk.errors import InputError, ModelError
from edge_sdk.protocol import add_input, messages, read_parameters, set_parameter
from outside.engines import Doubling

MANY = 1 << 20


def served(engine: Doubling, cache_bytes: int = MANY) -> Core:
    core = Core()
    core.put(Line(engine.served(), ModelSettings(cache_bytes=cache_bytes)))
    return core


async def ask(core: Core, *numbers: float, outputs: tuple[str, ...] = ()) -> Answer:
    x = np.array([[number, 0] for number in numbers], np.float32)
    return await core.infer(Request("double", "", {"x": x}, "tensor", None, outputs=outputs))


def test_an_equal_request_is_answered_without_the_model_and_says_so() -> None:
    engine = Doubling()
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
    text = metrics_text(core)
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
        core.put(Line(newer.served(), ModelSettings(cache_bytes=MANY)))
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
