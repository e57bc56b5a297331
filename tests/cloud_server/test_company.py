"""Requests that come one by one: who is waited for, and who is not."""

from __future__ import annotations

import asyncio
import time

import grpc
import numpy as np
import pytest

from edge_sdk.cloud.server.company import Company
from edge_sdk.cloud.server.core import Answer, Core, Request
from edge_sdk.cloud.server.costs import BatchCosts
from edge_sdk.cloud.server.grpc_front import GrpcFront
from edge_sdk.cloud.server.payloads import Payload
from edge_sdk.cloud.server.waiting import Job, WaitingList
from edge_sdk.protocol import add_input, messages
from edge_sdk.protocol.names import SERVICE
from outside.engines import Doubling, steady_line

MANY = 1_000_000  # turns of a loop: more than anybody waits


@pytest.fixture
def loop():
    loop = asyncio.new_event_loop()
    yield loop
    loop.close()


def job(loop: asyncio.AbstractEventLoop, *, arrived: float | None = None, deadline: float | None = None) -> Job:
    now = time.monotonic() if arrived is None else arrived
    return Job(Payload(1, 8, None, "tensor", lambda _: {}), deadline, now, loop.create_future(), loop, 0.0, 2)


def line_of(loop: asyncio.AbstractEventLoop, count: int, **options: float) -> WaitingList:
    waiting = WaitingList()
    for _ in range(count):
        waiting.put(job(loop, **options))
    return waiting


def costs(*, pays: bool, max_batch: int = 8) -> BatchCosts:
    """Return what batches cost of which one takes as long as a single item, or more than its items do alone."""
    known = BatchCosts(max_batch)
    known.learn(lambda size: 0.005 if pays else 0.001 * size * size)
    return known


def turns(company: Company, waiting: WaitingList, known: BatchCosts) -> int:
    """Return for how many turns of the loop those who wait do so."""
    return next(turn for turn in range(MANY) if not company.is_awaited(waiting, known))


def test_requests_that_come_in_turns_of_the_loop_one_after_another_share_a_batch():
    engine, core = Doubling(seconds=0.005), Core()

    async def story() -> None:
        def ask(number: int) -> asyncio.Task[Answer]:
            x = np.array([[number, 0]], np.float32)
            return asyncio.create_task(core.infer(Request("double", "", {"x": x}, "tensor", None, 0)))

        await asyncio.gather(ask(0), ask(1))  # now it is known that there are several
        tasks = []
        for number in (2, 3, 4, 5):
            tasks.append(ask(number))
            await asyncio.sleep(0)
            await asyncio.sleep(0)
        assert [(await task).outputs["y"][0, 0] for task in tasks] == [4, 6, 8, 10]

    try:
        core.put(steady_line(engine))
        asyncio.run(story())
    finally:
        core.close()
    assert engine.ran == [[0, 1], [2, 3, 4, 5]]


def test_nobody_is_waited_for_where_batches_do_not_pay_or_are_full(loop: asyncio.AbstractEventLoop):
    assert turns(Company(), line_of(loop, 2), costs(pays=False)) == 0
    assert turns(Company(), line_of(loop, 8), costs(pays=True)) == 0
    assert turns(Company(), line_of(loop, 7), costs(pays=True)) > 0


def test_who_comes_alone_waits_for_nobody_unless_others_were_there_before(
    loop: asyncio.AbstractEventLoop,
):
    company, known = Company(), costs(pays=True)
    assert turns(company, line_of(loop, 1), known) == 0
    assert turns(company, line_of(loop, 2), known) > 0
    assert turns(company, line_of(loop, 1), known) > 0, "one is missing"
    assert turns(company, line_of(loop, 1), known) == 0


def test_who_has_come_alone_for_a_while_is_thought_to_be_until_a_call_has_begun_beside_it(
    loop: asyncio.AbstractEventLoop,
):
    company, known = Company(), costs(pays=True)
    company.coming.begun()
    for _ in range(8):
        assert not company.is_alone()
        assert turns(company, line_of(loop, 1), known) > 0
        company.met(1)
    assert company.is_alone()
    assert turns(company, line_of(loop, 1), known) == 0
    company.coming.begun()
    assert not company.is_alone()
    assert turns(company, line_of(loop, 1), known) > 0


def test_a_call_that_begins_and_sends_nothing_is_given_up(loop: asyncio.AbstractEventLoop):
    company, known = Company(), costs(pays=True)
    company.coming.begun()
    for _ in range(1000):  # turns that take long, as where the processor is given to others, end the waiting before it
        turns(company, line_of(loop, 1), known)
        if not company.coming.expected:
            break
    assert company.coming.expected == 0


def test_those_who_come_without_end_are_not_waited_for_without_end(loop: asyncio.AbstractEventLoop):
    company, waiting, known = Company(), line_of(loop, 1), costs(pays=True)
    for _ in range(MANY):
        company.coming.begun()
        if not company.is_awaited(waiting, known):
            break
    else:
        pytest.fail("it still waits")


def test_who_has_spent_a_good_part_of_its_time_waits_for_nobody(loop: asyncio.AbstractEventLoop):
    now, known = time.monotonic(), costs(pays=True)
    assert turns(Company(), line_of(loop, 2, arrived=now - 1, deadline=now + 0.9), known) == 0
    assert turns(Company(), line_of(loop, 2, arrived=now - 1, deadline=now + 300), known) > 0


def test_an_instance_is_left_to_the_loop_while_some_are_missing_of_those_who_were_there(
    loop: asyncio.AbstractEventLoop,
):
    company, known = Company(), BatchCosts(8)
    known.learn(lambda size: 0.0005)
    turns(company, line_of(loop, 5), known)
    assert company.is_incomplete(line_of(loop, 3), known)
    assert not company.is_incomplete(line_of(loop, 5), known)
    assert not company.is_incomplete(WaitingList(), known)
    assert not company.is_incomplete(line_of(loop, 3), costs(pays=True)), "its batches are long"


def test_a_call_is_expected_from_its_beginning_until_its_message_has_come():
    core = Core()

    async def story() -> None:
        front, server = GrpcFront(core, max_concurrent=4), grpc.aio.server()
        server.add_generic_rpc_handlers((front.door((front.handler(),)),))
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            call = channel.unary_unary(f"/{SERVICE}/ModelInfer")
            request = messages.ModelInferRequest(model_name="double")
            add_input(request, "x", np.ones((1, 2), np.float32))
            for _ in range(3):
                await call(request.SerializeToString())
        await server.stop(None)

    try:
        core.put(steady_line(Doubling()))
        asyncio.run(story())
        assert (core.coming.seen, core.coming.expected) == (6, 0)
    finally:
        core.close()
