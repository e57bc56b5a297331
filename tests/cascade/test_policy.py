"""Signals, calibration and the rule itself."""

from __future__ import annotations

import copy
import json
import math
import pickle
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import optimize

from edge_sdk.cascade import Certificate, Policy
from edge_sdk.cascade.calibration import fit_temperature
from edge_sdk.cascade.signals import SIGNALS, check_scores, max_probability
from edge_sdk.errors import CertificateError, InputError

TEMPERATURES = st.floats(0.05, 20)
CERTIFICATE = Certificate(
    max_accuracy_loss=0.01,
    confidence=0.95,
    n=1000,
    harms=3,
    p_value=0.01,
    local_share=0.4,
    validity={"edge_model": "sha256:aa", "cloud_model": "sha256:bb"},
)


@st.composite
def probabilities(draw, most_rows=6):
    """Rows that sum to 1, with exact zeros, ties and certainties among them."""
    shape = draw(st.integers(1, most_rows)), draw(st.integers(1, 40))
    levels = draw(hnp.arrays(np.float64, shape, elements=st.sampled_from([0.0, 0.0, 1.0, 1.0, 2.0, 1e-30, 0.3, 255.0])))
    levels[levels.sum(axis=1) == 0, 0] = 1.0
    return levels / levels.sum(axis=1, keepdims=True)


def softmax_of_logs(scores, temperature):
    with np.errstate(divide="ignore"):
        logs = np.log(scores) / temperature
    weights = np.exp(logs - logs.max(axis=1, keepdims=True))
    return weights / weights.sum(axis=1, keepdims=True)


@settings(max_examples=200, deadline=None)
@given(probabilities(), TEMPERATURES)
def test_the_largest_probability_is_that_of_a_scaled_softmax_whatever_zeros_and_ties_there_are(scores, temperature):
    values = max_probability(scores, temperature)
    assert np.isfinite(values).all()
    assert (values > 0).all()
    assert (values <= 1).all()
    np.testing.assert_allclose(values, softmax_of_logs(scores, temperature).max(axis=1), rtol=1e-9)


@settings(max_examples=100, deadline=None)
@given(probabilities(), TEMPERATURES, st.randoms(use_true_random=False))
def test_the_order_of_classes_and_the_scale_of_a_row_do_not_matter(scores, temperature, random):
    order = list(range(scores.shape[1]))
    random.shuffle(order)
    values = max_probability(scores, temperature)
    np.testing.assert_allclose(max_probability(scores[:, order], temperature), values, rtol=1e-12)
    np.testing.assert_allclose(max_probability(scores * 0.25, temperature), values, rtol=1e-12)


def test_the_ends_of_the_signal_are_certainty_and_indifference():
    assert max_probability(np.array([[1.0]]), 3.0).tolist() == [1.0]
    assert max_probability(np.array([[0.0, 1.0, 0.0]]), 7.0).tolist() == [1.0]
    assert max_probability(np.full((1, 4), 0.25), 0.1).tolist() == [0.25]
    assert max_probability(np.array([[0.5, 0.5, 0.0]]), 1.0).tolist() == [0.5]


def test_a_softer_temperature_is_never_surer():
    scores = np.array([[0.7, 0.2, 0.1]])
    values = [max_probability(scores, t)[0] for t in (0.1, 0.5, 1.0, 2.0, 10.0)]
    assert values == sorted(values, reverse=True)


@pytest.mark.parametrize(
    ("scores", "why"),
    [
        ([0.5, 0.5], "shape"),
        (np.empty((0, 3)), "shape"),
        ([[0.5, 0.5], [0.5, math.nan]], "row 1 holds a NaN"),
        ([[0.5, 0.5], [0.5, math.inf]], "row 1 holds a NaN or an infinity"),
        ([[0.5, 0.5], [1.5, -0.5]], "row 1 holds a negative"),
        ([[0.5, 0.5], [0.5, 0.5], [3.0, 1.0]], "row 2 sums to 4.*logits"),
    ],
)
def test_scores_that_are_no_probabilities_are_refused_by_row(scores, why):
    with pytest.raises(InputError, match=why):
        check_scores(np.asarray(scores))


def negative_log_likelihood(scores, labels, temperature):
    scaled = softmax_of_logs(np.maximum(scores, 1e-12), temperature)
    return -np.log(scaled[np.arange(len(labels)), labels]).mean()


@pytest.mark.parametrize("sharpness", [0.3, 1.0, 4.0])
@pytest.mark.parametrize("classes", [2, 10])
def test_the_temperature_is_the_optimum_that_scipy_finds(sharpness, classes):
    rng = np.random.default_rng(classes)
    logits = rng.normal(0, 2, (2000, classes))
    true = softmax_of_logs(np.exp(logits), 1.0)
    labels = np.array([rng.choice(classes, p=row) for row in true])
    scores = softmax_of_logs(true, 1 / sharpness)
    found = optimize.minimize_scalar(
        lambda t: negative_log_likelihood(scores, labels, t),
        bounds=(0.05, 20),
        method="bounded",
        options={"xatol": 1e-7},
    )
    temperature = fit_temperature(scores, labels)
    assert temperature == pytest.approx(found.x, rel=1e-3)
    assert temperature == pytest.approx(sharpness, rel=0.1), "what was over-sharpened is softened back"


def test_the_temperature_stays_within_its_range_on_degenerate_data():
    certain = np.array([[0.9, 0.1]] * 5)
    assert fit_temperature(certain, np.zeros(5, int)) == pytest.approx(0.05, rel=1e-6)
    assert fit_temperature(certain, np.ones(5, int)) == pytest.approx(20, rel=1e-6)
    assert 0.05 <= fit_temperature(np.array([[1.0, 0.0]]), np.array([1])) <= 20.01
    assert 0.05 <= fit_temperature(np.ones((3, 1)), np.zeros(3, int)) <= 20.01


@pytest.mark.parametrize(
    ("labels", "why"),
    [
        ([0, 2, 1], "row 1 is 2; there are 2 classes"),
        ([0, -1, 0], "row 1 is -1"),
        ([0, 1], "3 integers"),
        ([0.0] * 3, "integers"),
    ],
)
def test_labels_that_name_no_class_are_refused_by_row(labels, why):
    with pytest.raises(InputError, match=why):
        fit_temperature(np.full((3, 2), 0.5), np.asarray(labels))


@settings(max_examples=300, deadline=None)
@given(
    probabilities(most_rows=30),
    TEMPERATURES,
    st.sampled_from(list(SIGNALS)),
    st.sampled_from(["C", "F", "strided", "float32"]),
    st.data(),
)
def test_deciding_one_by_one_and_all_at_once_agree_to_the_last_bit(scores, temperature, signal, layout, data):
    if layout == "float32":
        scores = scores.astype(np.float32)
    elif layout == "F":
        scores = np.asfortranarray(scores)
    elif layout == "strided":
        scores = np.repeat(scores, 2, axis=1)[:, ::2]
    values = Policy(0.0, temperature, signal).signal_values(scores)
    # a threshold that is exactly one of the values is where a difference in the last bit would show
    policy = Policy(float(data.draw(st.sampled_from(values.tolist()))), temperature, signal)
    decisions = [policy.decide(row) for row in scores]
    assert [not decision.escalate for decision in decisions] == policy.local_mask(scores).tolist()
    assert [decision.value for decision in decisions] == values.tolist()
    assert [decision.confidence for decision in decisions] == max_probability(scores, temperature).tolist()


def test_a_decision_says_why_and_how_likely_it_was():
    policy = Policy(threshold=0.6)
    kept, sent = policy.decide(np.array([0.6, 0.4])), policy.decide(np.array([0.55, 0.45]))
    assert (kept.escalate, kept.reason, kept.propensity, kept.confidence) == (False, "confident", 0.0, 0.6)
    assert (sent.escalate, sent.reason, sent.propensity) == (True, "escalated", 1.0)
    assert policy.decide(np.array([0.6, 0.4])) == kept


@pytest.mark.parametrize(
    ("scores", "why"),
    [
        ([], "shape"),
        ([[0.5, 0.5]], "shape"),
        (0.5, "shape"),
        ([0.0, 0.0], "sums to 0"),
        ([2.0, 1.0], "sums to 3, not 1; are these logits"),
        ([math.nan, 1.0], "a NaN or an infinity"),
        ([math.inf, 0.0], "a NaN or an infinity"),
        ([-math.inf, 1.0], "a NaN or an infinity"),
        ([1.2, -0.2], "a negative probability"),
    ],
)
def test_a_decision_refuses_what_a_mask_of_many_refuses(scores, why):
    with pytest.raises(InputError, match=why):
        Policy(0.5).decide(np.asarray(scores))
    with pytest.raises(InputError, match=why):
        Policy(0.5).local_mask(np.asarray([scores]))


@pytest.mark.parametrize("signal", SIGNALS)
def test_a_threshold_that_other_arithmetic_certified_keeps_nothing_that_it_did_not_keep(signal):
    scores = np.random.default_rng(3).dirichlet([0.3] * 5, 200)
    values = Policy(0.0, 1.3, signal).signal_values(scores)
    for threshold in values[:20].tolist():
        record = Policy(threshold, 1.3, signal, CERTIFICATE).to_json()
        del record["arithmetic"]  # as version 0.1 wrote them
        policy = Policy.from_json(record)
        assert policy.threshold > threshold
        # whatever the last places were where it was certified
        assert (values[policy.local_mask(scores)] - 1e-13 >= threshold).all()
        assert policy.local_mask(scores).sum() == (values > threshold).sum(), "and loses no more than the tie"
        assert Policy.from_json(policy.to_json()) == policy
    plain = {**Policy(0.5).to_json(), "arithmetic": None}
    assert Policy.from_json(plain).threshold == 0.5, "nothing was promised"


def test_a_policy_can_be_copied_and_sent_to_another_process():
    policy = Policy(0.6, 1.3, "entropy", CERTIFICATE)
    row = np.array([0.7, 0.2, 0.1])
    for other in (copy.deepcopy(policy), pickle.loads(pickle.dumps(policy)), replace(policy, threshold=0.6)):
        assert other == policy
        assert other.decide(row) == policy.decide(row)
    assert replace(policy, temperature=3.0).decide(row).value < policy.decide(row).value


@pytest.mark.parametrize("signal", SIGNALS)
@pytest.mark.parametrize("certificate", [None, CERTIFICATE])
def test_a_policy_survives_json(certificate, signal):
    policy = Policy(threshold=0.1 + 0.2, temperature=1 / 3, signal=signal, certificate=certificate)
    assert Policy.from_json(json.loads(json.dumps(policy.to_json()))) == policy


def test_a_newer_policy_is_refused():
    with pytest.raises(CertificateError, match="policy format 2 cannot be read; this SDK reads 1"):
        Policy.from_json({**Policy(0.5).to_json(), "format": 2})
    with pytest.raises(CertificateError, match="policy format None"):
        Policy.from_json({})


@pytest.mark.parametrize(
    "change",
    [
        {"signal": "mood"},
        {"temperature": 0},
        {"temperature": -1.0},
        {"temperature": "warm"},
        {"temperature": 10**400},
        {"threshold": None},
        {"threshold": math.nan},
        {"threshold": math.inf},
        {"threshold": "0.5"},
        {"threshold": True},
        {"certificate": "trust me"},
        {"certificate": []},
        {"certificate": {}},
    ],
)
def test_a_policy_that_cannot_be_is_refused(change):
    with pytest.raises(CertificateError):
        Policy.from_json({**Policy(0.5).to_json(), **change})


@pytest.mark.parametrize(
    "change",
    [
        {"max_accuracy_loss": 1.5},
        {"confidence": 0},
        {"n": 0},
        {"n": 1 << 63},
        {"n": 10**400},
        {"n": 1000.5},
        {"n": True},
        {"harms": "3"},
        {"harms": 1001},
        {"harms": -1},
        {"p_value": 2},
        {"local_share": -0.1},
        {"validity": "always"},
        {"validity": None},
        {"rungs": [{"name": "captured"}]},
        {"rungs": [{"name": "captured", "harms": -1}]},
        {"rungs": [{"name": "captured", "harms": 0, "cloud_accuracy": 1.5}]},
        {"rungs": [{"name": "captured", "harms": 0, "mean_bytes": -1}]},
        {"rungs": "all"},
    ],
)
def test_a_certificate_that_cannot_be_is_refused(change):
    certificate = {**CERTIFICATE.to_json(), **change}
    with pytest.raises(CertificateError):
        Policy.from_json({**Policy(0.5).to_json(), "certificate": certificate})
