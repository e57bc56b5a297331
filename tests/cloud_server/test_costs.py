"""What batches cost: learned by running them, and corrected by what they take later."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_sdk.cloud.server.costs import BatchCosts


def learned(seconds: object, most: int = 64) -> BatchCosts:
    costs = BatchCosts(most)
    costs.learn(seconds, budget=1e9)
    return costs


def test_a_batch_is_taken_where_an_item_costs_less_in_it_and_only_of_what_waits() -> None:
    costs = learned(lambda size: 50e-6 + 16e-6 * size)
    assert [costs.best(waiting) for waiting in (0, 1, 2, 5, 9, 64, 500)] == [1, 1, 2, 5, 9, 32, 32]


def test_no_batch_is_taken_where_each_item_is_to_run_alone_whatever_it_would_spare() -> None:
    costs = learned(lambda size: 1e-3 + 0.9e-3 * (size - 1), most=8)
    assert costs.best(8) == 4
    assert costs.least_share() == pytest.approx(7.3 / 8)
    assert learned(lambda size: 1e-3, most=1).least_share() == 1
    assert BatchCosts(8).least_share() == 0, "nothing is known of batches"
    costs.take_each_alone()
    assert costs.best(8) == 1
    costs.correct(1, 2e-3)
    assert costs.best(8) == 1


def test_no_batch_is_taken_where_an_item_costs_more_in_it() -> None:
    costs = learned(lambda size: 1.5e-3 * size**1.1)
    assert {costs.best(waiting) for waiting in range(1, 100)} == {1}
    assert costs.drain(10) == pytest.approx(10 * 1.5e-3)


def test_a_batch_is_as_large_as_pays_and_no_larger() -> None:
    costs = learned(lambda size: 1e-3 if size <= 8 else 1e-3 * (size / 8) ** 1.5)
    assert costs.best(64) == 8
    assert costs.drain(64) == pytest.approx(8e-3)


def test_learning_stops_when_its_time_is_up_and_single_items_are_always_measured() -> None:
    ran: list[int] = []

    def run(size: int) -> float:
        ran.append(size)
        return 10.0 * size

    costs = BatchCosts(64)
    costs.learn(run, budget=0.5)
    assert ran == [1, 1]
    assert costs.seconds(1) == 10.0
    assert costs.best(2) == 2, "what was never run is tried, for it may pay"
    costs.correct(2, 25.0)
    assert costs.best(64) == 1


def test_the_shortest_of_several_runs_counts_though_the_machine_was_busy_for_all_the_first_of_a_size() -> None:
    ran: list[int] = []

    def run(size: int) -> float:
        ran.append(size)
        busy = size == 4 and ran.count(4) <= 6
        return (1e-3 + 1e-5 * size) * (3 if busy else 1)

    costs = BatchCosts(8)
    costs.learn(run, budget=1e9)
    assert costs.table() == pytest.approx({size: 1e-3 + 1e-5 * size for size in (1, 2, 4, 8)})


@pytest.mark.parametrize("pays", [True, False])
def test_a_size_that_seemed_dear_is_tried_again_and_kept_where_it_pays(*, pays: bool) -> None:
    def takes(size: int) -> float:
        return 1e-3 * (1 + 0.1 * size if pays else size)

    costs = BatchCosts(4)
    costs.learn(lambda size: 1e-3 * size * (1.5 if size == 4 else 1.0 - 0.1 * (size == 2)), budget=1e9)
    assert costs.best(4) == 2
    tried = 0
    for _ in range(3000):
        size = costs.best(4)
        tried += size == 4
        costs.correct(size, takes(size) if pays or size == 4 else 0.9e-3 * size)
    assert costs.best(4) == (4 if pays else 2)
    assert tried > 2000 if pays else 0 < tried < 60


def test_a_machine_that_becomes_slower_is_noticed_and_one_outlier_is_not() -> None:
    costs = learned(lambda size: 1e-3 * size, 4)
    costs.correct(1, 10.0)
    assert costs.seconds(1) < 1.2e-3
    for _ in range(200):
        costs.correct(1, 3e-3)
    assert costs.seconds(1) == pytest.approx(3e-3, rel=0.11)
    assert costs.seconds(4) > 1.5 * 4e-3


@given(
    st.integers(1, 64),
    st.lists(st.tuples(st.integers(1, 64), st.floats(1e-7, 10)), max_size=40),
    st.integers(0, 300),
)
def test_whatever_is_learned_batches_stay_within_bounds(most: int, seen: list[tuple[int, float]], waiting: int) -> None:
    costs = BatchCosts(most)
    for size, seconds in seen:
        costs.correct(size, seconds)
    assert 1 <= costs.best(waiting) <= max(1, min(most, waiting))
    assert costs.seconds(costs.best(waiting)) > 0
    assert costs.drain(waiting) >= 0
    assert (costs.drain(waiting) == 0) == (waiting == 0)


def test_of_short_runs_the_interrupted_ones_teach_nothing() -> None:
    costs = BatchCosts(1)
    costs.learn(lambda size: 1e-5)
    for number in range(80):
        costs.correct_short(1, 1e-5 if number % 8 == 3 else 1e-3)
    assert costs.seconds(1) == 1e-5
    for _ in range(800):
        costs.correct_short(1, 1e-3)
    assert costs.seconds(1) > 5e-4


def test_a_size_that_was_never_run_may_take_longer_than_is_thought() -> None:
    costs = BatchCosts(64)
    assert costs.at_most(4) == costs.seconds(4), "nothing was run"
    costs.correct(1, 0.003)
    costs.correct(2, 0.006)
    assert costs.at_most(2) == costs.seconds(2)
    assert costs.at_most(4) > costs.seconds(4)
