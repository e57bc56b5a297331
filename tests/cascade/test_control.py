"""Budgets, pace and deadlines: never over, never early, and never below the certified threshold."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from edge_sdk.cascade.control import PROBE_SECONDS, Budget, Control, Network, Threshold
from edge_sdk.errors import InputError

EXACT = 1e-9  # relative: sums of floats


class Spending(RuleBasedStateMachine):
    """Whoever asks as often and as much as he likes, whenever he likes."""

    @initialize(
        calls=st.none() | st.integers(1, 12),
        size=st.none() | st.floats(1, 1e6),
        money=st.none() | st.floats(0.01, 100),
        period=st.floats(0.5, 1e5),
        floor=st.just(0.0) | st.floats(0, 50),
        burst=st.floats(0.01, 0.99),
        spare=st.floats(0, 1),
    )
    def begin(self, calls, size, money, period, floor, burst, spare):
        self.budget = Budget(calls, size, money, period, 0.5, 1e-4, floor, burst, spare)
        self.now = 1000.0
        self.control = Control.of(self.budget, self.now)
        self.sent: list[tuple[float, int]] = []

    @precondition(lambda self: hasattr(self, "control"))
    @rule(wait=st.just(0.0) | st.floats(0, 1e5) | st.floats(0, 2), size=st.integers(0, 300_000))
    def ask(self, wait, size):
        self.now += wait
        self.control, refused = self.control.ask(self.now, size, None)
        if refused is None:
            self.sent.append((self.now, size))
        else:
            assert refused == "budget"

    @precondition(lambda self: hasattr(self, "control"))
    @rule(share=st.floats(0.05, 1.5), size=st.integers(0, 5000))
    def ask_again_and_again(self, share, size):
        for _ in range(20):
            self.ask(self.budget.period * share / 20, size)

    @invariant()
    def no_period_sees_more_than_its_budget(self):
        for n, (start, _) in enumerate(getattr(self, "sent", [])):
            inside = [size for at, size in self.sent[n:] if at < start + self.budget.period * (1 - EXACT)]
            if self.budget.calls is not None:
                assert len(inside) <= self.budget.calls
            if self.budget.bytes is not None:
                assert sum(inside) <= self.budget.bytes * (1 + EXACT)
            if self.budget.money is not None:
                assert sum(0.5 + 1e-4 * size for size in inside) <= self.budget.money * (1 + EXACT)

    @invariant()
    def no_two_requests_are_nearer_than_the_floor(self):
        times = [at for at, _ in getattr(self, "sent", [])]
        assert all(b - a >= self.budget.floor for a, b in pairwise(times))

    @invariant()
    def what_is_spare_is_within_what_was_allowed(self):
        if hasattr(self, "control"):
            assert 0.0 <= self.control.spare(self.now) <= self.budget.spare


Spending.TestCase.settings = settings(max_examples=60, stateful_step_count=20, deadline=None)
TestSpending = Spending.TestCase


class Rising(RuleBasedStateMachine):
    """Signals of any size, and shares that come and go."""

    @initialize(certified=st.floats(-10, 10))
    def begin(self, certified):
        self.threshold, self.most = Threshold.of(certified), certified

    @precondition(lambda self: hasattr(self, "threshold"))
    @rule(signal=st.floats(-20, 20) | st.sampled_from([math.inf, -math.inf]), share=st.floats(0, 1))
    def see(self, signal, share):
        self.threshold = self.threshold.after(signal, share)
        if math.isfinite(signal):
            self.most = max(self.most, signal)

    @invariant()
    def the_threshold_is_never_below_the_certified_one_nor_above_every_signal(self):
        if hasattr(self, "threshold"):
            assert self.threshold.certified <= self.threshold.value <= self.most


Rising.TestCase.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
TestRising = Rising.TestCase


def test_most_of_a_budget_can_be_used_by_who_asks_all_the_time():
    control, sent = Control.of(Budget(calls=100, period=100.0), 0.0), 0
    for tick in range(10_000):
        control, refused = control.ask(tick / 10, 1)
        sent += refused is None
    assert 750 <= sent <= 1000  # ten periods: three quarters of the budget and the burst, at most all


def test_a_budget_of_one_call_gives_one_a_period():
    control, sent = Control.of(Budget(calls=1, period=10.0), 0.0), []
    for tick in range(1000):
        control, refused = control.ask(tick / 10, 1)
        if refused is None:
            sent.append(tick / 10)
    assert sent == pytest.approx(np.arange(0, 100, 10), abs=0.2)


def test_a_request_over_the_burst_is_never_sent_and_costs_nothing():
    control = Control.of(Budget(bytes=1000, burst=0.5), 0.0)
    again, refused = control.ask(1.0, 501)
    assert (again, refused) == (control, "budget")
    assert control.ask(1.0, 500)[1] is None


def test_what_one_bucket_refuses_is_not_paid_from_another():
    control = Control.of(Budget(calls=1, bytes=1000, burst=0.5), 0.0)
    assert control.ask(0.0, 900)[1] == "budget"
    assert control.ask(0.0, 100)[1] is None


def learned(calls: list[tuple[int, float]]) -> Network:
    network = Network()
    for size, seconds in calls:
        network = network.learn(size, seconds)
    return network


def test_the_network_model_finds_round_trip_and_bandwidth():
    rng = np.random.default_rng(0)
    sizes = rng.integers(1_000, 200_000, 300)
    network = learned([(int(size), 0.03 + size / 1e6 + rng.exponential(0.002)) for size in sizes])
    assert network.round_trip == pytest.approx(0.032, abs=0.003)
    assert network.bandwidth == pytest.approx(1e6, rel=0.05)
    assert network.expect(100_000) == pytest.approx(0.132, abs=0.004)
    slower = network
    for size in sizes[:60]:
        slower = slower.learn(int(size), 0.2 + size / 1e5)
    assert slower.bandwidth == pytest.approx(1e5, rel=0.1), "it follows"


def test_sizes_that_do_not_vary_say_nothing_of_the_bandwidth_and_all_is_put_down_to_the_bytes():
    network = learned([(1000 + n % 2, 0.05 + 0.01 * (n % 2)) for n in range(50)])
    assert network.bandwidth == math.inf
    assert network.expect(500) == pytest.approx(0.0275, rel=0.1), "a smaller one is worth a try"
    assert network.expect(10_000) == pytest.approx(0.55, rel=0.1), "a larger one is not"


def test_what_is_larger_than_anything_seen_is_taken_to_cost_something():
    network = learned([(1000 + 100 * (n % 5), 0.05) for n in range(50)])
    assert network.bandwidth == math.inf
    assert network.expect(1000) == pytest.approx(0.05, rel=0.02)
    assert network.expect(100_000) > 0.5


def test_what_cannot_be_back_in_time_is_not_begun_but_tried_again_later():
    control = Control.of(Budget(), 0.0)
    assert control.ask(0.0, 1000, 0.001)[1] is None, "nothing is known yet"
    for _ in range(30):
        control = control.learn(1000, 0.1)
    control, refused = control.ask(1.0, 1000, 0.5)
    assert refused is None
    soon = 1.0 + PROBE_SECONDS / 2
    assert control.ask(soon, 1000, 0.05)[1] == "deadline"
    assert control.ask(soon, 1000, None)[1] is None, "no deadline, no hurry"
    later = 2.0  # a second later, for who comes back is to be found within a few
    probed, refused = control.ask(later, 1000, 0.05)
    assert refused is None, "the network may be faster by now"
    assert probed.ask(later, 1000, 0.05)[1] == "deadline", "one try, until it is answered"
    quick = probed.learn(1000, 0.02)
    assert quick.ask(later, 1000, 0.05)[1] is None, "and it was: what had been known is forgotten"
    assert quick.learn(1000, 0.02).network.calls == 2


def test_what_nobody_waits_for_takes_nobody_s_turn_to_try_the_network_and_keeps_the_floor():
    control = Control.of(Budget(floor=0.2), 0.0)
    for _ in range(30):
        control = control.learn(1000, 0.1)
    control, _ = control.ask(1.0, 1000, 0.5)
    for n in range(1, 5):
        control, refused = control.ask(1.0 + n * PROBE_SECONDS / 4, 1000, 30.0, awaited=False)
        assert refused is None
    later = control.asked_at
    assert control.ask(later + 0.1, 1000, 0.05)[1] == "budget", "the floor is between any two"
    probed, refused = control.ask(later + 0.2, 1000, 0.05)
    assert (refused, probed.doubted) == (None, True)
    unawaited, _ = probed.ask(later + 1.0, 1000, 30.0, awaited=False)
    assert unawaited.doubted, "whose answer is still to come"


def test_a_large_picture_may_be_too_late_where_a_small_one_is_not():
    control = Control.of(Budget(), 0.0)
    for n in range(60):
        size = 1000 * (1 + n % 10)
        control = control.learn(size, 0.01 + size / 1e5)
    control, _ = control.ask(0.0, 1000, 1.0)
    assert control.ask(0.5, 2_000, 0.15)[1] is None
    assert control.ask(0.5, 100_000, 0.15)[1] == "deadline"


@pytest.mark.parametrize("share", [0.05, 0.3])
def test_the_threshold_comes_to_where_the_share_wanted_lies_below_it_and_back(share):
    rng = np.random.default_rng(1)
    threshold, below = Threshold.of(0.6), []
    for signal in rng.uniform(0.6, 1.0, 20_000):
        threshold = threshold.after(signal, share)
        below.append(signal < threshold.value)
    assert np.mean(below[2000:]) == pytest.approx(share, abs=0.02)
    for signal in rng.uniform(0.6, 1.0, 20_000):
        threshold = threshold.after(signal, 0.0)
    assert threshold.value == pytest.approx(0.6, abs=0.002)


def test_spare_is_nothing_below_half_a_bucket_and_all_of_it_at_a_full_one():
    control = Control.of(Budget(calls=100, burst=0.4, spare=0.2), 0.0)
    assert control.spare(0.0) == 0.2
    for _ in range(10):
        control, _ = control.ask(0.0, 1)
    assert control.spare(0.0) == pytest.approx(0.1)
    for _ in range(15):
        control, _ = control.ask(0.0, 1)
    assert control.spare(0.0) == 0.0
    assert Control.of(Budget(spare=0.1), 0.0).spare(0.0) == 0.1, "no limit, all to spare"


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"calls": 0}, "calls is 0"),
        ({"bytes": -1.0}, "bytes is -1"),
        ({"money": math.nan}, "money is nan"),
        ({"money": 1.0}, "needs price_per_call"),
        ({"period": 0.0}, "period is 0"),
        ({"floor": math.inf}, "floor is inf"),
        ({"burst": 1.0}, "burst is 1"),
        ({"spare": 1.1}, "spare is 1.1"),
        ({"price_per_byte": -1.0}, "price_per_byte is -1"),
        ({"calls": "1"}, "calls is '1'; it should be a number"),
        ({"calls": True}, "calls is True"),
        ({"period": None}, "period is None"),
    ],
)
def test_a_budget_that_makes_no_sense_is_refused(fields, why):
    with pytest.raises(InputError, match=why):
        Budget(**fields)
