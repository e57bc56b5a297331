"""Audits: a coin that can be replayed, estimates without bias, and an alarm that may be looked at all the time."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from edge_sdk.cascade import Certificate, Decision, Policy, certify, tune
from edge_sdk.cascade.audit import Audit, Guard, estimate_mean, estimate_threshold, toss
from edge_sdk.errors import CertificateError, InputError
from harness.worlds import first_alarm

KEY = bytes(range(32))
CONFIDENT = Decision(False, "confident", 0.9, 0.0, 0.9)
SENT = Decision(True, "escalated", 0.4, 1.0, 0.4)
MANY = pytest.mark.slow


# ---- the coin


def test_the_coin_is_fixed_by_key_and_id_and_the_same_in_every_process():
    assert toss(KEY, "a1b2") == 0.5008184350366004
    assert toss(KEY, "a1b2") != toss(KEY, "a1b3")
    assert toss(KEY, "a1b2") != toss(KEY[::-1], "a1b2")


def test_the_coin_is_fair_and_tosses_are_independent():
    tosses = np.array([toss(KEY, f"{n:x}") for n in range(20_000)])
    assert stats.kstest(tosses, "uniform").pvalue > 0.001
    assert abs(np.corrcoef(tosses[:-1], tosses[1:])[0, 1]) < 0.03


def test_confident_answers_are_audited_at_the_rate_and_others_are_left_alone():
    audit = Audit(KEY, rate=0.05)
    decisions = [audit.decide(CONFIDENT, str(n)) for n in range(10_000)]
    audited = [decision for decision in decisions if decision.escalate]
    assert 430 <= len(audited) <= 570
    assert {(d.reason, d.propensity, d.confidence) for d in audited} == {("audit", 0.05, 0.9)}
    assert {(d.reason, d.propensity) for d in decisions if not d.escalate} == {("confident", 0.05)}
    assert decisions == [audit.decide(CONFIDENT, str(n)) for n in range(10_000)], "it can be replayed"
    assert all(audit.decide(SENT, str(n)) == SENT for n in range(100))


def test_a_rate_of_none_or_all_is_kept_exactly():
    assert not any(Audit(KEY, 0.0).decide(CONFIDENT, str(n)).escalate for n in range(1000))
    assert all(Audit(KEY, 1.0).decide(CONFIDENT, str(n)).escalate for n in range(1000))


def test_an_audit_hides_its_key_and_refuses_a_weak_one():
    assert "00" not in repr(Audit(bytes(16)))
    for key in (b"", b"x" * 15, b"x" * 65):
        with pytest.raises(InputError, match="should have 16 to 64"):
            Audit(key)
    with pytest.raises(InputError, match=r"rate of an audit is 1\.5"):
        Audit(KEY, 1.5)


# ---- estimates


def log(n: int, seed: int, rate: float = 0.01) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Draw signals, agreement, propensities and what is known of a rule that keeps from 0.8 up."""
    rng = np.random.default_rng(seed)
    values = 1 - 0.9 * rng.beta(0.5, 3.6, n)
    agrees = (rng.random(n) < 0.15 + 0.85 * values).astype(float)
    propensity = np.where(values >= 0.8, rate, 1.0)
    known = np.where(rng.random(n) < propensity, agrees, np.nan)
    known[rng.random(n) < 0.05] = np.nan  # the network took one in twenty
    return values, agrees, propensity, known


def test_audited_agreement_is_within_a_point_and_a_half_where_escalated_answers_alone_are_far_off():
    errors, naive, covered = [], [], 0
    for seed in range(100):
        _, agrees, propensity, known = log(100_000, seed)
        estimate = estimate_mean(known, propensity)
        errors.append(estimate.value - agrees.mean())
        naive.append(np.nanmean(known) - agrees.mean())
        covered += estimate.low <= agrees.mean() <= estimate.high
    assert np.mean(np.abs(errors) <= 0.015) >= 0.95
    assert abs(np.mean(errors)) <= 3 * np.std(errors) / 10, "no bias"
    assert covered >= 88  # of 100 at 95 %: fewer happen once in a thousand
    assert np.mean(naive) < -0.1, "the control: what was escalated is no sample of what was not"


def test_another_threshold_is_judged_from_the_log_of_the_one_that_was_used():
    for threshold in (0.5, 0.85):
        errors = []
        for seed in range(100):
            values, agrees, propensity, known = log(100_000, seed)
            share, estimate = estimate_threshold(values, known, propensity, threshold)
            kept = values >= threshold
            assert share == kept.mean()
            errors.append(estimate.value - (kept * (1 - agrees)).mean())
        assert np.mean(np.abs(errors) <= 0.015) >= 0.95
        assert abs(np.mean(errors)) <= 3 * np.std(errors) / 10


def test_what_nothing_is_known_of_is_not_made_up():
    estimate = estimate_mean(np.array([1.0, np.nan, np.nan]), np.array([1.0, 0.01, 0.01]))
    assert np.isnan(estimate.value)
    assert (estimate.low, estimate.high, estimate.observed) == (0.0, 1.0, 1)
    assert estimate_threshold(np.array([0.1]), np.array([1.0]), np.array([1.0]), 0.5)[0] == 0.0
    all_agree = estimate_mean(np.ones(200), np.ones(200))
    assert (all_agree.value, all_agree.high) == (1.0, 1.0)
    assert all_agree.low < 1.0, "no disagreement seen is not none there"


@pytest.mark.parametrize(
    ("outcome", "propensity", "options", "why"),
    [
        ([1.0, 2.0], [1.0, 1.0], {}, "outcome: row 1 is 2.0"),
        ([1.0, 0.0], [1.0, 1.1], {}, "propensity: row 1 is 1.1"),
        ([1.0], [np.nan], {}, "propensity: row 0 is nan"),
        ([1.0], [1.0, 1.0], {}, "same length"),
        ([], [], {}, "at least 1"),
        ([1.0], [1.0], {"confidence": 1.0}, "confidence is 1.0"),
    ],
)
def test_a_log_that_cannot_be_is_refused_by_row(outcome, propensity, options, why):
    with pytest.raises(InputError, match=why):
        estimate_mean(np.array(outcome), np.array(propensity), **options)


# ---- the guard


@pytest.mark.parametrize("draws", [300, pytest.param(1000, marks=MANY)])
def test_false_alarms_in_a_hundred_thousand_requests_are_as_rare_as_promised(draws):
    # 1 % of 100,000 requests are 1,000 audits, at exactly the baseline
    rng = np.random.default_rng(0)
    alarms = sum(first_alarm(Guard(0.05), rng.random(1000) < 0.05) is not None for _ in range(draws))
    assert alarms <= stats.binom.isf(1e-3, draws, 0.05)
    assert alarms <= 0.061 * draws


@pytest.mark.parametrize("draws", [200, pytest.param(2000, marks=MANY)])
def test_false_alarms_stay_rare_where_the_baseline_was_only_measured(draws):
    rng = np.random.default_rng(1)
    alarms = 0
    for _ in range(draws):
        certificate = replace(CERTIFICATE, disagreements=int(rng.binomial(500, 0.05)))
        alarms += first_alarm(Guard.of(certificate), rng.random(1000) < 0.05) is not None
    assert alarms <= 0.05 * draws


@pytest.mark.parametrize("draws", [100, pytest.param(600, marks=MANY)])
def test_the_guard_of_a_certificate_finds_a_rise_of_ten_points_as_soon(draws):
    # its baseline is an upper bound, from 500 kept answers of 1,000 samples, and half of the level is spent on that
    rng = np.random.default_rng(5)
    delays = []
    for _ in range(draws):
        certificate = replace(CERTIFICATE, disagreements=int(rng.binomial(500, 0.05)))
        delays.append(first_alarm(Guard.of(certificate), rng.random(3000) < 0.15) or 3000)
    within_200, within_400 = (sum(delay <= limit for delay in delays) for limit in (200, 400))
    assert within_200 >= 0.5 * draws
    assert within_400 >= 0.9 * draws
    assert stats.binomtest(within_200, draws, 0.5, alternative="less").pvalue > 0.5, "the median, not by luck"


@MANY
def test_from_requests_to_alarm_the_coin_the_losses_and_the_guard_together_keep_both_promises():
    rng = np.random.default_rng(6)
    false, delays = 0, []
    for fleet in range(60):
        audit = Audit(bytes([fleet]) * 32, rate=0.01)
        # two thirds of 100,000 requests are confident; the network takes one audit in twenty
        audited = sum(audit.decide(CONFIDENT, f"{fleet}-{n}").escalate for n in range(66_667))
        answered = int(rng.binomial(audited, 0.95))
        assert 500 <= answered <= 800
        certificate = replace(CERTIFICATE, disagreements=int(rng.binomial(500, 0.05)))
        false += first_alarm(Guard.of(certificate), rng.random(answered) < 0.05) is not None
        delays.append(first_alarm(Guard.of(certificate), rng.random(answered) < 0.15) or 10_000)
    assert false <= stats.binom.isf(1e-3, 60, 0.05)
    assert np.median(delays) <= 200
    assert np.quantile(delays, 0.9) <= 400


@pytest.mark.parametrize("before", [0, 200, 1000])
def test_a_rise_of_ten_points_is_found_soon_whenever_it_comes(before):
    rng = np.random.default_rng(2)
    delays = []
    for _ in range(100):
        audits = np.concatenate([rng.random(before) < 0.05, rng.random(2000) < 0.15])
        alarm = first_alarm(Guard(0.05), audits)
        assert alarm is not None
        if alarm > before:
            delays.append(alarm - before)
    assert len(delays) >= 90
    assert np.median(delays) <= 200
    assert np.quantile(delays, 0.9) <= 400


def test_wealth_does_not_grow_in_expectation_while_the_baseline_holds():
    guard = Guard(0.2)
    for disagrees in (True, False, True, True, False):
        expected = 0.2 * guard.update(True).wealth + 0.8 * guard.update(False).wealth
        assert expected == pytest.approx(guard.wealth)
        guard = guard.update(disagrees)
    assert Guard(0.2).wealth == 1.0


def test_a_guard_survives_a_restart_and_its_alarm_stays():
    guard = Guard(0.05)
    for _ in range(3):
        guard = guard.update(True)
    again = Guard.from_json(json.loads(json.dumps(guard.to_json())))
    assert again == guard
    while not guard.alarm:
        guard = guard.update(True)
    assert guard.update(False) == guard
    assert Guard.from_json(guard.to_json()).alarm


CERTIFICATE = Certificate(0.01, 0.95, 1000, 3, 0.01, 0.5, {}, disagreements=25)


def test_the_guard_of_a_certificate_starts_from_what_calibration_saw():
    guard = Guard.of(CERTIFICATE, level=0.05)
    assert guard.baseline == pytest.approx(stats.beta.ppf(0.975, 26, 475))
    assert guard.level == 0.025
    with pytest.raises(CertificateError, match="certify anew"):
        Guard.of(replace(CERTIFICATE, disagreements=None))
    policy = Policy(0.5, certificate=CERTIFICATE)
    assert Policy.from_json(policy.to_json()) == policy


def test_certify_counts_disagreements_among_kept_answers():
    rng = np.random.default_rng(3)
    scores = rng.dirichlet(np.full(4, 0.2), 1500)
    labels = scores.argmax(axis=1)
    cloud = np.eye(4)[np.where(rng.random(1500) < 0.9, labels, (labels + 1) % 4)]
    policy = certify(scores, cloud, labels, max_accuracy_loss=0.05, tuning=tune(scores, labels))
    kept = policy.local_mask(scores)
    assert policy.certificate.disagreements == (kept & (cloud.argmax(axis=1) != labels)).sum() > 0
    assert policy.certificate.harms == 0, "the edge is right wherever they disagree: no harm, but a disagreement"


@pytest.mark.parametrize(
    "change",
    [
        {"baseline": 0.0},
        {"level": 1},
        {"audits": 1, "disagreements": 2},
        {"audits": 10**400},
        {"audits": 1 << 60},
        {"baseline": 10**400},
        {"disagreements": math.inf},
        {"alarm": True},
        {"stakes": [1e300] * 5},
        {"stakes": [1.0]},
        {"stakes": [-1.0] * 5},
        {"stakes": None},
        {"alarm": None, "audits": "many"},
    ],
)
def test_a_guard_that_cannot_be_is_refused(change):
    with pytest.raises(CertificateError):
        Guard.from_json({**Guard(0.05).to_json(), **change})
