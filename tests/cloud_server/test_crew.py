"""Which instances go to work: one more beside others takes only full batches, and only where that pays."""

from __future__ import annotations

import pytest

from edge_sdk.cloud.server.costs import BatchCosts
from edge_sdk.cloud.server.crew import Crew
from edge_sdk.cloud.server.instances import Instance
from outside.engines import Doubling

FULL = 8
NOW = 100.0  # seconds: the clock stands


@pytest.fixture
def costs() -> BatchCosts:
    """Return what batches of up to 8 items cost, of which the largest is the cheapest an item."""
    known = BatchCosts(FULL)
    known.learn(lambda size: 1e-3 + 1e-5 * size)
    return known


def crew_of(costs: BatchCosts, *, through_in: float) -> tuple[Crew, Instance]:
    """Return a crew of two, and the one of them that is at work and should be through after so many seconds."""
    instances = [Instance(Doubling()), Instance(Doubling())]
    crew = Crew(instances, costs, clock=lambda: NOW)
    busy = crew.idle.pop()
    busy.started, busy.until = NOW, NOW + through_in
    return crew, busy


def test_a_free_one_leaves_what_fills_no_batch_to_one_that_is_through_soon(costs: BatchCosts) -> None:
    crew, busy = crew_of(costs, through_in=1e-3)
    assert not crew.may_begin(0)
    assert not crew.may_begin(FULL - 1)
    assert crew.may_begin(FULL)
    crew.idle.append(busy)
    assert crew.may_begin(1)


@pytest.mark.parametrize("through_in", [1.0, -1.0], ids=["long", "overdue"])
def test_nobody_waits_for_one_that_is_not_through_soon(costs: BatchCosts, through_in: float) -> None:
    crew, _ = crew_of(costs, through_in=through_in)
    assert crew.may_begin(1)


def test_nobody_waits_for_one_that_hangs(costs: BatchCosts) -> None:
    crew, busy = crew_of(costs, through_in=1e-3)
    busy.hangs = True
    assert crew.may_begin(1)


def test_items_that_run_alone_wait_for_nobody(costs: BatchCosts) -> None:
    costs.take_each_alone()
    crew, _ = crew_of(costs, through_in=1e-3)
    assert crew.may_begin(1)


def test_full_batches_run_one_after_the_other_where_two_at_once_take_twice_as_long(costs: BatchCosts) -> None:
    crew, _ = crew_of(costs, through_in=1e-3)
    crew.note(FULL, 1e-3, beside=False)
    crew.note(FULL, 2e-3, beside=True)

    def begun(times: int) -> int:
        return sum(crew.may_begin(FULL) for _ in range(times))

    assert 0 < begun(640) < 32  # now and then, to learn whether that is still so
    for _ in range(40):
        crew.note(FULL, 1.1e-3, beside=True)
    assert begun(10) == 10


def test_small_batches_say_nothing_of_full_ones(costs: BatchCosts) -> None:
    crew, _ = crew_of(costs, through_in=1e-3)
    crew.note(FULL, 1e-3, beside=False)
    crew.note(1, 1.0, beside=True)
    assert crew.may_begin(FULL)
