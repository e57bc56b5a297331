"""Requests of which the like was answered before: they get what they would have got without that."""

from __future__ import annotations

import asyncio
import gc
import json
import time
import weakref
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from google.protobuf.message import DecodeError
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edge_sdk.cloud.server.core import Core
from edge_sdk.cloud.server.exchange import Failure
from edge_sdk.cloud.server.heads import cut
from edge_sdk.cloud.server.lines import Line
from edge_sdk.cloud.server.models import load_model
from edge_sdk.cloud.server.request_log import RequestLog
from edge_sdk.cloud.server.responder import Responder
from edge_sdk.cloud.server.settings import ModelSettings
from edge_sdk.cloud.server.tickets import Ticket
from edge_sdk.errors import RateLimitError
from edge_sdk.protocol import add_input, messages, read_outputs, set_parameter
from outside.engines import Doubling, steady_line

FUZZ = settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))


def write_mixer(path: Path, factor: float) -> Path:
    """Write a model of two inputs and two outputs: a + factor * b, and a - b; float32 [N, 2] each."""
    from onnx import TensorProto, helper, numpy_helper

    def tensor(name: str) -> object:
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", 2])

    nodes = [
        helper.make_node("Mul", ["b", "factor"], ["c"]),
        helper.make_node("Add", ["a", "c"], ["sum"]),
        helper.make_node("Sub", ["a", "b"], ["difference"]),
    ]
    weights = [numpy_helper.from_array(np.array(factor, np.float32), "factor")]
    graph = helper.make_graph(
        nodes, "mixer", [tensor("a"), tensor("b")], [tensor("sum"), tensor("difference")], weights
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    path.write_bytes(model.SerializeToString())
    return path


def write_scale(path: Path, factor: float) -> Path:
    """Write a model of one input and one output: factor * x, float32 [N, 3]."""
    from onnx import TensorProto, helper, numpy_helper

    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", 3]) for name in "xy")
    weights = [numpy_helper.from_array(np.array(factor, np.float32), "factor")]
    graph = helper.make_graph([helper.make_node("Mul", ["x", "factor"], ["y"])], "scale", [x], [y], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    path.write_bytes(model.SerializeToString())
    return path


@pytest.fixture(scope="module")
def core(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Core]:
    folder = tmp_path_factory.mktemp("models")
    loaded = Core.load([write_mixer(folder / "mixer.onnx", 10), write_scale(folder / "scale.onnx", 2)])
    yield loaded
    loaded.close()


@pytest.fixture
def scale(tmp_path: Path) -> Iterator[Core]:
    """Return a core of one model."""
    loaded = Core.load([write_scale(tmp_path / "scale.onnx", 2)])
    yield loaded
    loaded.close()


def request(*rows: float, request_id: str = "", **parameters: str | int) -> bytes:
    """Return a request to the model of one input."""
    message = messages.ModelInferRequest(model_name="scale", id=request_id)
    for name, value in parameters.items():
        set_parameter(message.parameters, name, value)
    add_input(message, "x", np.array([[row, row, row] for row in rows], np.float32))
    data: bytes = message.SerializeToString()
    return data


def ask(responder: Responder, data: bytes, **options: object) -> bytes | Failure:
    return asyncio.run(responder.respond(data, arrived=time.monotonic(), **options))


async def swiftly(responder: Responder, data: bytes, **options: object) -> bytes | Failure:
    """Return what is said without a coroutine of the responder's, or by one where it wants one."""
    told = asyncio.get_running_loop().create_future()
    options = {"time_remaining": None, "admit": None} | options
    said = responder.take(data, arrived=time.monotonic(), tell=told.set_result, **options)
    if said is None:
        return await responder.respond(data, arrived=time.monotonic(), **options)
    if not isinstance(said, Ticket):
        return said
    try:
        return await told
    finally:
        if not told.done() or told.cancelled():
            said.cancel()


def answer(said: bytes | Failure) -> object:
    assert isinstance(said, bytes), said
    return messages.ModelInferResponse.FromString(said)


def first(said: bytes | Failure) -> float:
    return float(read_outputs(answer(said))["y"][0, 0])


@st.composite
def requests(draw: st.DrawFn) -> bytes:
    """Draw requests that are answered, and some that are not."""
    message = messages.ModelInferRequest(
        model_name=draw(st.sampled_from(["mixer", "scale"])),
        model_version=draw(st.sampled_from(["", "1", "", "2"])),
        id=draw(st.one_of(st.just(""), st.text(max_size=8), st.just("i" * 200))),
    )
    choices = {
        "timeout": st.sampled_from([0, 10**9, -1]),
        "priority": st.integers(-1, 3),
        "edge_encoding": st.sampled_from(["tensor", "jpeg"]),
        "edge_key": st.text(max_size=3),
        "other": st.floats(),
    }
    for name in draw(st.lists(st.sampled_from(sorted(choices)), unique=True, max_size=2)):
        set_parameter(message.parameters, name, draw(choices[name]))
    names, wide = (["a", "b"], 2) if message.model_name == "mixer" else (["x"], 3)
    items = draw(st.integers(1, 3))
    for name in draw(st.permutations(names)):
        numbers = draw(st.lists(st.floats(width=32), min_size=items * wide, max_size=items * wide))
        add_input(message, name, np.array(numbers, np.float32).reshape(items, wide))
    if draw(st.integers(0, 5)) == 0:
        for tensor, raw in zip(message.inputs, message.raw_input_contents, strict=True):
            tensor.contents.fp32_contents.extend(np.frombuffer(raw, np.float32))
        del message.raw_input_contents[:]
    for name in draw(st.lists(st.sampled_from(["sum", "difference", "y"]), max_size=2)):
        output = message.outputs.add(name=name)
        if draw(st.integers(0, 4)) == 0:
            set_parameter(output.parameters, "classification", 1)
    data: bytes = message.SerializeToString()
    return data


@st.composite
def spoiled(draw: st.DrawFn, data: bytes) -> bytes:
    """Change bytes of a request, or put some in, or leave some out."""
    changed = bytearray(data)
    for _ in range(draw(st.integers(0, 3))):
        at, end = sorted(draw(st.tuples(st.integers(0, len(changed)), st.integers(0, len(changed)))))
        match draw(st.integers(0, 4)):
            case 0:
                changed[at:at] = draw(st.binary(max_size=3))
            case 1:
                del changed[at:end]
            case 2:
                changed[at : at + 1] = draw(st.binary(min_size=1, max_size=1))
            case 3:
                changed += changed[at:end]
            case 4:
                changed[at:at] = data[at:end]
    return bytes(changed)


def same(one: bytes | Failure, other: bytes | Failure) -> bool:
    if isinstance(one, Failure) or isinstance(other, Failure):
        return one == other
    a, b = answer(one), answer(other)
    # NaN is not equal to itself, but its bytes are
    return a.SerializeToString(deterministic=True) == b.SerializeToString(deterministic=True)


@FUZZ
@given(st.data())
def test_a_request_gets_what_it_would_get_had_nothing_been_asked_before(core: Core, data: st.DataObject) -> None:
    known = Responder(core, max_concurrent=8)
    learned = data.draw(st.lists(requests(), min_size=1, max_size=3))
    with asyncio.Runner() as runner:

        def say(responder: Responder, message: bytes) -> bytes | Failure:
            return runner.run(responder.respond(message, arrived=time.monotonic()))

        for message in learned:
            say(known, message)
        for _ in range(3):
            message = data.draw(spoiled(data.draw(st.sampled_from(learned))))
            usual = say(Responder(core, max_concurrent=8), message)
            assert same(say(known, message), usual)
            assert same(runner.run(swiftly(known, message)), usual)


@FUZZ
@given(st.data())
def test_what_is_cut_is_put_together_to_the_same_message(data: st.DataObject) -> None:
    message = data.draw(spoiled(data.draw(requests())))
    parts = cut(message)
    if parts is None:
        return
    (begin, size), *others = parts.contents
    whole = parts.head + message[begin : begin + size]
    for at, more in others:
        whole += bytes([7 << 3 | 2, more]) + message[at : at + more]
    try:
        parsed = messages.ModelInferRequest.FromString(message)
    except DecodeError:
        with pytest.raises(DecodeError):
            messages.ModelInferRequest.FromString(whole + parts.parameters)
        return
    again = messages.ModelInferRequest.FromString(whole + parts.parameters)
    assert not again.id
    again.id = parts.request_id
    assert again.SerializeToString(deterministic=True) == parsed.SerializeToString(deterministic=True)


def test_each_request_gets_its_own_answer_and_id(scale: Core) -> None:
    responder = Responder(scale, max_concurrent=8)
    for number in range(1, 50):
        said = ask(responder, request(number, request_id=f"r{number}" if number % 2 else "", priority=number % 3))
        assert first(said) == 2 * number
        assert answer(said).id == (f"r{number}" if number % 2 else "")


async def together(core: Core, model: str, asked: list[bytes]) -> list[bytes | Failure]:
    """Ask while the model is taken, so that all wait for it."""
    responder, line = Responder(core, max_concurrent=64), core.line(model, "")
    assert line is not None
    for data in asked:  # what is known is taken without a coroutine
        await responder.respond(data, arrived=time.monotonic())
    line._costs.learn(lambda _: 1e-5)  # so short that it may be taken, however busy the machine is
    instance = line.seize(1)
    assert instance is not None
    waiting = [asyncio.create_task(swiftly(responder, data)) for data in asked]
    await asyncio.sleep(0)
    line.release(instance, 1, time.monotonic(), None)
    return await asyncio.gather(*waiting)


def test_requests_that_run_together_get_what_each_gets_alone(core: Core) -> None:
    rng, asked = np.random.default_rng(7), list[bytes]()
    for number in range(24):
        message = messages.ModelInferRequest(model_name="mixer", id=f"request {number}" if number % 2 else "")
        for name in ("ab", "ba")[number % 5 == 0]:
            add_input(message, name, rng.normal(size=(1 + number % 3, 2)).astype(np.float32))
        if number % 4 == 0:
            message.outputs.add(name="difference")
        asked.append(message.SerializeToString())
    alone = [answer(ask(Responder(core, max_concurrent=64), data)) for data in asked]
    before = core.statistics("mixer")[0][1].batches
    said = asyncio.run(together(core, "mixer", asked))
    assert core.statistics("mixer")[0][1].batches - before < 2 * len(asked)  # each once to be known
    for have, want in zip(map(answer, said), alone, strict=True):
        assert (have.id, have.model_version, list(have.outputs)) == (want.id, want.model_version, list(want.outputs))
        for name, array in read_outputs(want).items():
            np.testing.assert_allclose(read_outputs(have)[name], array, rtol=1e-6)


def test_a_request_at_which_the_model_fails_harms_no_other_of_its_batch(tmp_path: Path) -> None:
    from onnx import TensorProto, helper, numpy_helper

    x, y = (helper.make_tensor_value_info(name, kind, ["N"]) for name, kind in (("x", 7), ("y", TensorProto.FLOAT)))
    weights = [numpy_helper.from_array(np.array([5, 6, 7], np.float32), "numbers")]
    graph = helper.make_graph([helper.make_node("Gather", ["numbers", "x"], ["y"])], "pick", [x], [y], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    (tmp_path / "pick.onnx").write_bytes(model.SerializeToString())
    core = Core.load([tmp_path / "pick.onnx"])
    try:
        asked = []
        for number in (0, 1, 9, 2):
            message = messages.ModelInferRequest(model_name="pick")
            add_input(message, "x", np.array([number], np.int64))
            asked.append(message.SerializeToString())
        said = asyncio.run(together(core, "pick", asked))
        assert isinstance(said[2], Failure)
        assert said[2].status.name == "INTERNAL"
        assert [float(read_outputs(answer(said[place]))["y"][0]) for place in (0, 1, 3)] == [5, 6, 7]
    finally:
        core.close()


def test_a_model_that_takes_over_answers_at_once(scale: Core, tmp_path: Path) -> None:
    responder = Responder(scale, max_concurrent=8)
    assert [first(ask(responder, request(number))) for number in (1, 2, 3)] == [2, 4, 6]
    newer = load_model(write_scale(tmp_path / "newer.onnx", 5), name="scale")
    scale.put(Line(newer, ModelSettings()))
    assert [first(ask(responder, request(number))) for number in (1, 2, 3)] == [5, 10, 15]
    scale.drop("scale", "1")
    said = ask(responder, request(1))
    assert isinstance(said, Failure)
    assert said.status.name == "NOT_FOUND"


def test_what_runs_at_once_is_counted(scale: Core) -> None:
    responder = Responder(scale, max_concurrent=8)
    for number in range(70):
        ask(responder, request(*[number] * (1 + number % 2)))
    ((_, counts),) = scale.statistics("scale")
    assert counts.success.count == sum(counts.latency.counts) == sum(counts.waiting.counts) == 70
    assert counts.items == 105
    assert counts.pending == counts.failure.count == 0
    assert 0 < counts.compute.seconds <= counts.success.seconds
    assert abs(counts.last_inference / 1e3 - time.time()) < 60


def test_no_request_runs_when_its_time_is_up(scale: Core) -> None:
    responder = Responder(scale, max_concurrent=8)
    assert first(ask(responder, request(1), time_remaining=10.0)) == 2
    late = [ask(responder, request(1), time_remaining=0.0), ask(responder, request(1, timeout=1), time_remaining=5.0)]
    late.append(asyncio.run(swiftly(responder, request(1), time_remaining=0.0)))
    # of a timeout of 1 µs, too, some is over when it is looked at
    assert [said.status.name for said in late if isinstance(said, Failure)] == ["DEADLINE_EXCEEDED"] * 3
    ((_, counts),) = scale.statistics("scale")
    assert counts.success.count == 1


def test_each_request_is_let_in_once(scale: Core) -> None:
    responder, asked = Responder(scale, max_concurrent=8), []

    def admit(model: str) -> None:
        asked.append(model)
        if len(asked) > 3:
            raise RateLimitError("too often", retry_after=1.0)

    said = [ask(responder, request(1, request_id="me"), admit=admit) for _ in range(4)]
    said.append(asyncio.run(swiftly(responder, request(1, request_id="me"), admit=admit)))
    assert asked == ["scale"] * 5
    assert [isinstance(one, Failure) for one in said] == [False] * 3 + [True] * 2
    refused = said[-1]
    assert isinstance(refused, Failure)
    assert (refused.status.name, refused.retry_after, refused.request_id) == ("RESOURCE_EXHAUSTED", 1.0, "me")
    ((_, counts),) = scale.statistics("scale")
    assert (counts.success.count, counts.failure.count) == (3, 0)


def test_each_request_is_logged(scale: Core, tmp_path: Path) -> None:
    log = RequestLog(tmp_path / "log")
    responder = Responder(scale, max_concurrent=8, log=log)
    for request_id in ("one", "two"):
        ask(responder, request(1, request_id=request_id))
    asyncio.run(swiftly(responder, request(1)))
    ask(responder, request(1), time_remaining=0.0, front="stream")
    log.close()
    lines = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]
    assert [(line["id"], line["status"], line["front"]) for line in lines] == [
        ("one", "OK", "grpc"),
        ("two", "OK", "grpc"),
        ("", "OK", "grpc"),
        ("", "DEADLINE_EXCEEDED", "stream"),
    ]
    assert {line["model"] for line in lines} == {"scale"}


@pytest.mark.parametrize("swift", [False, True])
def test_one_like_those_before_waits_in_line_is_limited_and_may_be_given_up(swift: bool) -> None:
    engine, core = Doubling(), Core()

    def message(number: float) -> bytes:
        asked = messages.ModelInferRequest(model_name="double")
        add_input(asked, "x", np.array([[number, 0]], np.float32))
        data: bytes = asked.SerializeToString()
        return data

    async def story() -> None:
        responder = Responder(core, max_concurrent=2)

        def start(number: float) -> asyncio.Task[bytes | Failure]:
            data = message(number)
            return asyncio.create_task(
                swiftly(responder, data) if swift else responder.respond(data, arrived=time.monotonic())
            )

        await start(1)
        engine.entered.clear()
        engine.hold()
        running = start(2)
        await asyncio.to_thread(engine.entered.wait, 120)
        waiting = start(3)
        await asyncio.sleep(0)
        refused = await start(4)
        assert isinstance(refused, Failure)
        assert refused.status.name == "RESOURCE_EXHAUSTED"
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        engine.let_go()
        assert read_outputs(answer(await running))["y"][0, 0] == 4
        assert read_outputs(answer(await start(5)))["y"][0, 0] == 10
        assert responder.activity[1] == 0, "nothing is at work any more"

    try:
        core.put(steady_line(engine))
        asyncio.run(story())
        assert engine.ran == [[1.0], [2.0], [5.0]]
        ((_, counts),) = core.statistics("double")
        assert (counts.cancelled, counts.success.count, counts.pending, counts.pending_bytes) == (1, 3, 0, 0)
    finally:
        engine.let_go()
        core.close()


def sessions() -> list[object]:
    """Return the models that ONNX Runtime holds."""
    return [one for one in gc.get_objects() if type(one).__name__ == "InferenceSession"]


def test_an_answer_that_cannot_be_given_keeps_no_other_of_its_batch(caplog: pytest.LogCaptureFixture) -> None:
    def fail(_run: object, _error: object) -> None:
        raise asyncio.InvalidStateError

    told = []
    tickets = [Ticket(fail), Ticket(lambda _run, error: told.append(error))]
    for ticket in tickets:
        ticket.set_exception(TimeoutError("late"))
    assert [str(error) for error in told] == ["late"]
    assert all(ticket.done() for ticket in tickets)
    assert "an answer could not be given" in caplog.text


def test_what_a_closed_model_held_is_let_go(tmp_path: Path) -> None:
    others = {id(one) for one in sessions()}
    core = Core.load([write_scale(tmp_path / "scale.onnx", 2)])
    responder = Responder(core, max_concurrent=8)
    assert [first(ask(responder, request(number))) for number in (1, 2, 3)] == [2, 4, 6]
    held = [weakref.ref(one) for one in sessions() if id(one) not in others]
    core.close()
    gc.collect()
    assert held
    assert not any(one() for one in held)
    said = ask(responder, request(1))
    assert isinstance(said, Failure)
    assert said.status.name == "UNAVAILABLE"
