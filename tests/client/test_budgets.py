"""Budgets, pace and deadlines against a real server: what is not asked is answered by the edge, and says why."""

from __future__ import annotations

import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

import edge_sdk
from edge_sdk.cascade.journal import Record
from edge_sdk.cascade.replay import replay
from edge_sdk.client import Budget
from edge_sdk.client.journal import Reader, read_key
from edge_sdk.errors import EscalationError, InputError
from outside.network import MisbehavingNetwork

PATIENT = 20.0
AGES = 1e9  # seconds of a period in which nothing is refilled


def reasons(model, frames) -> Counter:
    return Counter(model.predict(frame).reason for frame in frames)


def test_a_budget_of_calls_is_used_up_and_not_a_call_more(pair, cloud) -> None:
    budget = Budget(calls=12, period=AGES, burst=0.5)
    with edge_sdk.connect(pair.edge, cloud=cloud, deadline=PATIENT, budget=budget) as model:
        answers = [model.predict(frame) for frame in pair.hard[:20]]
        counters = model.counters
    assert Counter(answer.reason for answer in answers) == {"escalated": 6, "budget": 14}
    refused = [answer for answer in answers if answer.reason == "budget"]
    assert {(answer.source, answer.certified) for answer in refused} == {("edge", False)}
    assert (counters["escalated"], counters["failed_uploads"]) == (6, 0)
    assert counters["reasons"] == {"budget": 14, "escalated": 6}


def test_a_budget_of_bytes_and_one_of_money_hold_as_well(pair, cloud) -> None:
    size = pair.hard[0].nbytes + 200
    for budget in (
        Budget(bytes=10 * size, period=AGES, burst=0.5),
        Budget(money=10.0, price_per_call=1.0, period=AGES, burst=0.5),
        Budget(money=10.0, price_per_byte=1.0 / size, period=AGES, burst=0.5),
    ):
        with edge_sdk.connect(pair.edge, cloud=cloud, deadline=PATIENT, budget=budget) as model:
            seen = reasons(model, pair.hard[:12])
            assert seen == {"escalated": 5, "budget": 7}
            assert model.counters["bytes_sent"] <= 5 * size


def test_audits_are_paid_from_the_same_budget_and_cost_no_certificate(guarded, pair, cloud) -> None:
    budget = Budget(calls=12, period=AGES, burst=0.5)
    with edge_sdk.connect(guarded, cloud=cloud, deadline=PATIENT, budget=budget, audit_rate=1.0) as model:
        answers = [model.predict(frame) for frame in pair.easy[:10]]
        counters = model.counters
    assert Counter(answer.reason for answer in answers) == {"audit": 6, "confident": 4}
    assert all(answer.certified for answer in answers)
    assert counters["audits"] == {"asked": 10, "answered": 6, "missing": 4, "disagreed": 0}


def test_a_floor_keeps_escalations_apart(pair, cloud) -> None:
    with edge_sdk.connect(pair.edge, cloud=cloud, deadline=PATIENT, budget=Budget(floor=3600.0)) as model:
        assert reasons(model, pair.hard[:10]) == {"escalated": 1, "budget": 9}
    with edge_sdk.connect(pair.edge, cloud=cloud, deadline=PATIENT, budget=Budget(floor=0.05)) as model:
        assert model.predict(pair.hard[0]).reason == "escalated"
        time.sleep(0.06)
        assert model.predict(pair.hard[0]).reason == "escalated"


def test_the_modes_that_ask_always_keep_to_the_budget_too(pair, cloud) -> None:
    budget = Budget(calls=2, period=AGES)
    with edge_sdk.connect(pair.edge, cloud=cloud, mode="prefer_cloud", deadline=PATIENT, budget=budget) as model:
        assert reasons(model, pair.easy[:3]) == {"forced": 1, "budget": 2}
    with edge_sdk.connect(pair.edge, cloud=cloud, mode="cloud", deadline=PATIENT, budget=budget) as model:
        model.predict(pair.easy[0])
        with pytest.raises(EscalationError, match="the budget for escalations is used up"):
            model.predict(pair.easy[0])


def test_what_is_spare_escalates_more_and_never_less_and_can_be_replayed(guarded, pair, cloud, tmp_path: Path) -> None:
    options = {"deadline": PATIENT, "audit_rate": 0.1, "journal": tmp_path, "budget": Budget(spare=0.5)}
    with edge_sdk.connect(guarded, cloud=cloud, **options) as model:
        policy = model.edge.policy
        answers = [model.predict(pair.easy[n % len(pair.easy)]) for n in range(300)]
        doubtful = reasons(model, pair.hard[:5])
    assert doubtful == {"escalated": 5}, "never less"
    more = [answer for answer in answers if answer.reason == "escalated"]
    assert len(more) >= 20
    assert all(answer.certified and answer.source == "cloud" for answer in more)
    logged = [record for record in Reader(tmp_path) if isinstance(record, Record)]
    thresholds = np.array([record.threshold for record in logged])
    assert thresholds.min() == policy.threshold < thresholds.max()
    assert replay(logged, [policy], [read_key(tmp_path / "audit.key")]).passed
    escalated = [record.decision for record in logged if record.decision.reason == "escalated"]
    assert {decision.propensity for decision in escalated} == {1.0}


def test_a_certificate_of_net_loss_is_not_stretched(net, pair, cloud) -> None:
    with edge_sdk.connect(net, cloud=cloud, deadline=PATIENT, budget=Budget(spare=1.0), audit_rate=0) as model:
        assert reasons(model, pair.easy[:50]) == {"confident": 50}


def test_what_cannot_be_back_in_time_is_not_sent(pair, cloud) -> None:
    with (
        MisbehavingNetwork(int(cloud.rpartition(":")[2])) as network,
        edge_sdk.connect(pair.edge, cloud=network.address, deadline=PATIENT) as model,
    ):
        network.set("delay", seconds=0.1)  # there and back: 0.2 s
        end = time.monotonic() + PATIENT
        while model.counters["escalated"] < 5:
            model.predict(pair.hard[0])
            assert time.monotonic() < end
        model.deadline = 0.08
        before = model.counters
        assert reasons(model, pair.hard[:20]) == {"deadline": 20}
        after = model.counters
        assert after["failed_uploads"] == before["failed_uploads"], "not a byte"
        model.deadline = PATIENT
        assert model.predict(pair.hard[0]).source == "cloud"


def test_a_budget_that_makes_no_sense_is_refused() -> None:
    with pytest.raises(InputError, match="calls is 0"):
        Budget(calls=0)
