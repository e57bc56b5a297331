"""Off-policy evaluation: what another threshold would have done, from the journal of the one that was used."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from edge_sdk.cascade import Decision, Policy
from edge_sdk.cascade.audit import Audit
from edge_sdk.cascade.journal import CloudAnswer, Feedback, Outcome, Record, derive, rule_digest
from edge_sdk.cascade.offpolicy import columns, evaluate
from edge_sdk.errors import InputError, JournalError
from harness.worlds import IN_FORCE, draw_journal, truth_of

MANY = pytest.mark.slow
WITHIN = 0.015


@pytest.mark.parametrize("threshold", [0.5, IN_FORCE, 0.9])
@pytest.mark.parametrize("runs", [40, pytest.param(400, marks=MANY)])
def test_estimates_are_within_a_point_and_a_half_in_nineteen_of_twenty_logs_of_100_000_requests(threshold, runs):
    near, covered = np.zeros(3), np.zeros(3)
    for seed in range(runs):
        seen, told = draw_journal(100_000, seed)
        result = evaluate(seen, threshold)
        true = truth_of(told, threshold)
        assert result.unknown is None
        for n, estimate in enumerate((result.coverage, result.agreement, result.accuracy)):
            near[n] += abs(estimate.value - true[n]) <= WITHIN
            covered[n] += estimate.low <= true[n] <= estimate.high
    assert (near >= 0.95 * runs).all(), near / runs
    assert (covered >= stats.binom.ppf(1e-3, runs, 0.95)).all(), "the intervals are as honest as they say"


def test_the_answers_that_happen_to_be_there_would_be_far_off():
    seen, told = draw_journal(100_000, 0)
    assert abs(np.nanmean(seen.agrees) - told.agrees.mean()) > 0.05
    assert abs(evaluate(seen, 0.0).agreement.value - told.agrees.mean()) < WITHIN


def test_where_nothing_was_audited_only_thresholds_above_what_was_kept_are_estimated():
    seen, _ = draw_journal(5000, 1)
    unaudited = replace(
        seen,
        propensity=np.where(seen.value >= IN_FORCE, 0.0, 1.0),
        agrees=np.where(seen.value >= IN_FORCE, math.nan, seen.agrees),
    )
    for threshold in (0.5, IN_FORCE, 0.9):
        result = evaluate(unaudited, threshold)
        assert "propensity 0" in result.unknown
        assert f"only thresholds of {np.nextafter(seen.value.max(), 2).item()!r} and above" in result.unknown
        assert math.isnan(result.agreement.value)
        assert (result.coverage.value, result.agreement.high) == ((seen.value >= threshold).mean(), 1.0)
    everything = evaluate(unaudited, 1.1)
    assert (everything.coverage.value, everything.agreement.value) == (0.0, 1.0)


def test_audits_of_which_none_was_answered_say_nothing():
    seen, _ = draw_journal(2000, 2)
    lost = replace(seen, agrees=np.where(seen.value >= IN_FORCE, math.nan, seen.agrees))
    assert "no audit of the requests that would be kept was answered" in evaluate(lost, IN_FORCE).unknown


def test_without_labels_there_is_no_accuracy():
    seen, _ = draw_journal(2000, 3, labelled=0.0)
    result = evaluate(seen, IN_FORCE)
    assert (result.accuracy, result.labels, result.requests, result.unknown) == (None, 0, 2000, None)


def test_a_threshold_or_confidence_that_is_none_is_refused():
    seen, _ = draw_journal(100, 4)
    for threshold, confidence in ((math.nan, 0.95), (0.5, 1.0), (0.5, math.nan)):
        with pytest.raises(InputError):
            evaluate(seen, threshold, confidence=confidence)


# ---- from records

POLICY = Policy(IN_FORCE)


def journal(n: int, seed: int) -> list[Record]:
    rng, audit = np.random.default_rng(seed), Audit(bytes(32), 0.1)
    made = []
    for k in range(n):
        scores = rng.dirichlet([0.15] * 4).astype(np.float32)
        decision = derive(POLICY, scores, f"{seed}-{k}", audit=audit)
        cloud = CloudAnswer(int(rng.integers(0, 4)), 0.5, "teacher", "captured") if decision.escalate else None
        outcome = Outcome("edge", "confident", True, int(scores.argmax()), cloud)
        made.append(
            Record(
                id=f"{seed}-{k}",
                time=float(k),
                input="",
                model="m",
                rule=rule_digest(POLICY),
                scores=scores.tobytes(),
                threshold=IN_FORCE,
                audit_rate=0.1,
                audit_key="k",
                decision=decision,
                outcome=outcome,
            )
        )
    return made


def test_labels_that_arrive_later_are_joined_by_the_decision_and_the_last_word_counts():
    records = journal(50, 0)
    labels = [Feedback(record.id, 1e6, record.outcome.index) for record in records[:10]]
    labels += [Feedback(records[3].id, 2e6, (records[3].outcome.index + 1) % 4), Feedback("unheard of", 0.0, 1)]
    log = columns([*labels[:5], *records, *labels[5:]])
    right = [1.0] * 10 + [math.nan] * 40
    right[3] = 0.0
    assert np.array_equal(log.edge_right, right, equal_nan=True)
    assert evaluate(log, IN_FORCE).labels == 10
    for n, record in enumerate(records):
        cloud = record.outcome.cloud
        assert log.propensity[n] == record.decision.propensity
        assert log.agrees[n] == (cloud.index == record.outcome.index) if cloud else np.isnan(log.agrees[n])
        assert log.cloud_right[n] in (0.0, 1.0) if cloud and n < 10 else np.isnan(log.cloud_right[n])


def test_rules_and_cloud_models_are_not_mixed():
    records = journal(40, 1)
    other = replace(records[0], id="other", rule="sha256:other")
    with pytest.raises(JournalError, match="more than one rule, say which"):
        columns([*records, other])
    assert len(columns([*records, other], rule="sha256:other").value) == 1
    asked = next(record for record in records if record.outcome.cloud)
    foreign = replace(asked, id="f", outcome=replace(asked.outcome, cloud=replace(asked.outcome.cloud, model="")))
    with pytest.raises(JournalError, match=r"more than one cloud model, say which: teacher .*unnamed \(1\)"):
        columns([*records, foreign])
    log = columns([*records, foreign], cloud="teacher")
    assert np.isnan(log.agrees[-1]), "the answer of another model is missing"
    with pytest.raises(JournalError, match="holds no decisions"):
        columns([])
    with pytest.raises(JournalError, match="no decisions of the rule nothing"):
        columns(records, rule="nothing")


def test_scores_that_no_rule_could_read_count_as_always_escalated():
    record = replace(journal(1, 2)[0], decision=Decision(True, "escalated", 0.0, 1.0))
    assert columns([record]).value.tolist() == [-math.inf]
    assert evaluate(columns([record]), -1e300).coverage.value == 0.0
