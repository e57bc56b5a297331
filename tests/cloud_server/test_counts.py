"""Counters: what is counted later, many at a time, counts the same."""

from __future__ import annotations

import random
from dataclasses import asdict

import pytest

from edge_sdk.cloud.server.costs import BatchCosts
from edge_sdk.cloud.server.counts import Counts
from edge_sdk.cloud.server.ledger import Ledger


def test_requests_that_ran_as_soon_as_they_came_count_as_if_each_were_counted_by_itself() -> None:
    draw, one_by_one = random.Random(0), Counts()
    ledger = Ledger(BatchCosts(8))
    for _ in range(1000):
        items, arrived = draw.choice((1, 1, 1, 4)), draw.uniform(0.0, 100.0)
        started = arrived + draw.choice((1e-5, 1e-3, 0.2, 20.0)) * draw.random()
        done = started + draw.choice((1e-5, 4e-4, 0.3)) * draw.random()
        ledger.ran_at_once(items, arrived, started, done)
        one_by_one.answered(items, arrived, started, done, 0.0, done - started)
        one_by_one.ran(items, done - started)
    ledger.catch_up()
    together, apart = flat(ledger.counts), flat(one_by_one)
    assert together.pop("last_inference") > 0
    assert together == pytest.approx({name: apart[name] for name in together})


def flat(counts: Counts) -> dict[str, float]:
    found: dict[str, float] = {}

    def put(name: str, value: object) -> None:
        if isinstance(value, dict):
            for key, one in value.items():
                put(f"{name}.{key}", one)
        elif isinstance(value, list):
            for place, one in enumerate(value):
                put(f"{name}.{place}", one)
        else:
            found[name] = float(value)

    for name, value in asdict(counts).items():
        put(name, value)
    return found
