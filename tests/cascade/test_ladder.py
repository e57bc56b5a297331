"""Which encoding is sent: the best that fits into the time and the budget, and never what does not."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_sdk.cascade.control import PROBE_SECONDS, Budget, Control
from edge_sdk.cascade.ladder import Making, Offer, best_offer
from edge_sdk.cascade.network import LEAST, Network

LADDER = [Offer(900_000, 0.0, 0.975), Offer(60_000, 0.003, 0.97), Offer(10_000, 0.003, 0.93)]


def known(bandwidth: float = 1e6, round_trip: float = 0.05, budget: Budget | None = None) -> Control:
    """Return a control that has learned a network."""
    control = Control.of(budget or Budget(), 0.0)
    for n in range(60):
        size = 10_000 * (1 + n % 8)
        control = control.learn(size, round_trip + size / bandwidth)
    return control


@pytest.mark.parametrize(("remaining", "chosen"), [(None, 0), (5.0, 0), (0.25, 1), (0.09, 2)])
def test_the_best_that_is_back_in_time_is_chosen(remaining, chosen):
    assert known().choose(1.0, LADDER, remaining)[1] == chosen


def test_what_making_takes_is_time_as_well():
    slow = [replace(LADDER[1], seconds=0.2), LADDER[2]]
    assert known().choose(1.0, slow, 0.25)[1] == 1


def test_none_is_sent_where_none_is_back_in_time_but_the_least_is_tried_now_and_then():
    control, _ = known().ask(0.0, 1000, 1.0)
    assert control.choose(PROBE_SECONDS / 2, LADDER, 0.02)[1] == "deadline"
    assert control.choose(PROBE_SECONDS, LADDER, 0.02)[1] == 2


def test_it_begins_with_the_least_where_nothing_is_known_and_time_is_short():
    assert Control.of(Budget(), 0.0).choose(0.0, LADDER, 0.2)[1] == 2
    assert Control.of(Budget(), 0.0).choose(0.0, LADDER, None)[1] == 0


def test_after_calls_without_an_answer_it_waits_then_tries_the_least_and_comes_back():
    control, now, pauses, chosen = known(), 0.0, [], 1
    for _ in range(5):
        size = int(LADDER[chosen].size)
        control, refused = control.ask(now, size, 0.25)
        assert refused is None
        control = control.miss(size, 0.25)
        tried = now
        while (chosen := control.choose(now, LADDER, 0.25)[1]) == "deadline":
            now += 0.05
        pauses.append(now - tried)
    assert chosen == 2
    assert pauses == pytest.approx([3.75] * 5, abs=0.1), "so it is back within 5 s"
    control, _ = control.ask(now, 10_000, 0.25)
    for _ in range(4):
        control = control.learn(10_000, 0.06)
    assert control.choose(now + 0.1, LADDER, 0.25)[1] in (1, 2)
    assert control.network.misses == 0


def test_nothing_waits_for_a_call_that_was_late_while_later_ones_were_answered():
    control = known()
    late = control.learn(10_000, 0.06, now=7.20).miss(10_000, 0.25, now=7.25)  # of calls begun at 7.14 and 7.00
    assert late.network.pause == 0.0
    assert late.network.expect(10_000) > control.network.expect(10_000)
    closed = control.learn(10_000, 0.06, now=7.05).miss(10_000, 0.25, now=7.25)
    assert closed.network.pause > 3.0


def test_as_the_budget_is_used_up_fewer_bytes_are_sent_and_only_where_they_are_worth_most():
    control = known(bandwidth=1e8, budget=Budget(bytes=8e6, period=1e9, burst=0.5))
    seen = []
    for n in range(60):
        control, chosen = control.choose(float(n), LADDER, 1.0, confidence=0.6)
        if isinstance(chosen, int):
            control, refused = control.ask(float(n), int(LADDER[chosen].size), 1.0)
            assert refused is None
        seen.append(chosen)
    sizes = [LADDER[chosen].size for chosen in seen if isinstance(chosen, int)]
    assert sizes[0] == 900_000
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[-1] == 10_000
    assert control.price(60.0) > 0
    sure = control.choose(60.0, LADDER[:2], 1.0, confidence=0.93)[1]
    unsure = control.choose(60.0, LADDER[:2], 1.0, confidence=0.2)[1]
    assert (sure, unsure) == ("budget", 1)


def test_no_bytes_are_spared_where_nothing_is_said_of_confidence():
    control = known(bandwidth=1e8, budget=Budget(bytes=8e6, period=1e9, burst=0.5))
    chosen = []
    for n in range(4):
        control, choice = control.choose(float(n), LADDER, 1.0)
        control, _ = control.ask(float(n), int(LADDER[choice].size), 1.0)
        chosen.append(choice)
    assert chosen == [0] * 4
    assert control.choose(5.0, LADDER, 1.0)[1] == 1, "what cannot be paid is not chosen"


OFFERS = st.lists(st.builds(Offer, st.floats(1, 1e7), st.floats(0, 0.5), st.floats(0, 1)), min_size=1, max_size=6)
STEPS = st.lists(
    st.tuples(st.floats(0, 5), OFFERS, st.none() | st.floats(0, 3), st.floats(0, 1), st.none() | st.floats(1e-3, 4)),
    min_size=1,
    max_size=30,
)


def walk(steps, budget):
    control, now, seen = Control.of(budget, 0.0), 0.0, []
    for wait, offers, remaining, confidence, seconds in steps:
        now += wait
        level = control.level(now)
        control, chosen = control.choose(now, offers, remaining, confidence=confidence)
        seen.append(chosen)
        assert control.level(now) == level, "choosing costs nothing"
        if isinstance(chosen, str):
            assert chosen in ("deadline", "budget")
            continue
        size = int(offers[chosen].size)
        control, refused = control.ask(now, size, remaining)
        assert refused != "budget", "what is chosen can be paid"
        if refused is None:
            control = control.learn(size, seconds) if seconds is not None else control.miss(size, remaining or 1.0)
    return control, seen


@settings(max_examples=150, deadline=None)
@given(STEPS)
def test_whatever_comes_the_choice_is_an_offer_that_can_be_paid_and_the_same_again(steps):
    budget = Budget(bytes=2e7, period=10.0, burst=0.5)
    assert walk(steps, budget) == walk(steps, budget)


@given(OFFERS, st.data())
def test_what_is_worth_most_is_no_less_sure_than_wanted(offers, data):
    in_time = data.draw(st.lists(st.floats(0, 1), min_size=len(offers), max_size=len(offers)))
    chosen = best_offer(offers, in_time, confidence=0.5, price=0.0, sure=0.9)
    assert (chosen is None) == (max(in_time) < 0.9)
    assert chosen is None or in_time[chosen] >= 0.9


@given(st.lists(st.tuples(st.integers(1, 10**7), st.floats(1e-4, 10)), max_size=40), st.integers(1, 10**7))
def test_more_time_is_never_less_sure(calls, size):
    network = Network()
    for sent, seconds in calls:
        network = network.learn(sent, seconds)
    sure = [network.in_time(size, left) for left in (0.001, 0.01, 0.1, 1.0, 10.0, 1e6)]
    assert sure == sorted(sure)
    assert all(0.0 <= value <= 1.0 for value in sure)
    assert network.expect(size) >= 0.0
    assert network.in_time(size, None) == 1.0


def test_one_miss_makes_the_same_size_too_slow_and_a_smaller_one_worth_a_try():
    control = known().miss(60_000, 0.25)
    assert control.network.in_time(60_000, 0.25) < known().network.in_time(60_000, 0.25)
    assert control.network.in_time(10_000, 0.25) > max(LEAST, control.network.in_time(60_000, 0.25))


def test_sizes_and_times_are_learned_of_each_encoding():
    making = Making()
    assert making.size_of("jpeg:75", 1000, 75) < making.size_of("jpeg:95", 1000, 95)
    assert making.seconds_of("jpeg:75", 1000) == 0.0
    for _ in range(50):
        making = making.learn("jpeg:75", 1000, 300, 0.002)
    assert making.size_of("jpeg:75", 5000, 75) == pytest.approx(1500)
    assert making.seconds_of("jpeg:75", 500) == pytest.approx(0.001)
    assert making.size_of("jpeg:95", 1000, 95) == Making().size_of("jpeg:95", 1000, 95)


def test_what_nobody_measured_is_taken_to_be_a_little_worse_than_the_rung_above():
    assert Offer.ranked([None, 0.9, None, 0.95]) == [1.0, 0.9, pytest.approx(0.89), 0.95]
