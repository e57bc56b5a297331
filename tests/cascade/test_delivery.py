"""How answers were given: harm over all of them, those included that the rule wanted from the cloud and did not get."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from edge_sdk.cascade.delivery import delivery
from edge_sdk.cascade.offpolicy import Columns
from edge_sdk.errors import InputError
from harness.worlds import IN_FORCE, draw_journal


def with_late_answers(seen: Columns, told: Columns, rng: np.random.Generator, share: float) -> Columns:
    """Return a journal to which the cloud's answers come late, for a share of those that never came in time."""
    late = seen.wanted & seen.local & (rng.random(len(seen.value)) < share)
    labelled = ~np.isnan(seen.edge_right)
    return replace(
        seen,
        agrees=np.where(late, told.agrees, seen.agrees),
        cloud_right=np.where(late & labelled, told.cloud_right, seen.cloud_right),
    )


@pytest.mark.parametrize("runs", [20, pytest.param(200, marks=pytest.mark.slow)])
def test_intervals_hold_the_truth_in_nineteen_of_twenty_journals(runs: int) -> None:
    covered = np.zeros(2)
    for seed in range(runs):
        seen, told = draw_journal(50_000, seed, labelled=0.5)
        result = delivery(with_late_answers(seen, told, np.random.default_rng(seed), 0.5))
        true = told.local & (told.agrees == 0)
        harmed = told.local & (told.edge_right == 0) & (told.cloud_right == 1)
        for n, (estimate, what) in enumerate(((result.differs, true), (result.harm, harmed))):
            covered[n] += estimate.low <= what.mean() <= estimate.high
        assert result.edge == pytest.approx(told.local.mean())
        assert result.withheld == pytest.approx((told.local & (told.value < IN_FORCE)).mean())
    assert (covered >= 0.85 * runs).all(), covered / runs


def test_what_the_network_withheld_counts() -> None:
    seen, told = draw_journal(50_000, 1, labelled=1.0)
    full = with_late_answers(seen, told, np.random.default_rng(0), 1.0)
    away = replace(full, local=full.local | full.wanted)  # the cloud was never there in time, and answered all late
    always, never = delivery(full), delivery(away)
    assert never.withheld == pytest.approx(seen.wanted.mean())
    assert never.harm.value > 1.5 * always.harm.value, "the hard ones are the ones that go wrong"
    wrong = (told.wanted & (told.edge_right == 0) & (told.cloud_right == 1)).mean()
    assert never.harm.value - wrong == pytest.approx(always.harm.value, abs=0.02)


def test_without_late_answers_nothing_is_claimed_of_what_was_withheld() -> None:
    seen, _ = draw_journal(20_000, 2, labelled=1.0)
    result = delivery(seen)
    for estimate in (result.differs, result.harm):
        assert math.isnan(estimate.value)
        assert estimate.high - estimate.low >= result.withheld


def test_without_labels_there_is_no_harm_and_without_the_edge_none_either() -> None:
    seen, told = draw_journal(2000, 3, labelled=0.0)
    assert delivery(seen).harm is None
    cloudy = delivery(replace(told, local=np.zeros(2000, bool)))
    assert (cloudy.edge, cloudy.differs.value, cloudy.harm.value, cloudy.harm.high) == (0.0, 0.0, 0.0, 0.0)


def test_a_confidence_that_is_none_is_refused() -> None:
    seen, _ = draw_journal(100, 4)
    with pytest.raises(InputError, match="confidence is 1"):
        delivery(seen, confidence=1.0)
