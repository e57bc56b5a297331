"""Margin, entropy and energy; what peers get wrong about them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import special, stats

from edge_sdk.cascade import Policy, certify, tune
from edge_sdk.cascade.signals import SIGNALS, energy, entropy, margin, max_probability
from edge_sdk.errors import InputError

TEMPERATURES = st.floats(0.05, 20)
LEVELS = st.sampled_from([0.0, 0.0, 1.0, 1.0, 2.0, 1e-30, 0.3, 255.0])


@st.composite
def probabilities(draw):
    """Rows that sum to 1, with exact zeros, ties and certainties among them."""
    levels = draw(hnp.arrays(np.float64, (draw(st.integers(1, 6)), draw(st.integers(1, 20))), elements=LEVELS))
    levels[levels.sum(axis=1) == 0, 0] = 1.0
    return levels / levels.sum(axis=1, keepdims=True)


def scaled(scores, temperature):
    with np.errstate(divide="ignore"):
        return special.softmax(np.log(scores) / temperature, axis=1)


@settings(max_examples=200, deadline=None)
@given(probabilities(), TEMPERATURES)
def test_margin_and_entropy_are_those_of_the_scaled_softmax(scores, temperature):
    softmax = np.sort(scaled(scores, temperature), axis=1)
    if scores.shape[1] == 1:
        assert margin(scores, temperature).tolist() == entropy(scores, temperature).tolist() == [1.0] * len(scores)
        return
    np.testing.assert_allclose(margin(scores, temperature), softmax[:, -1] - softmax[:, -2], atol=1e-9)
    expected = 1 - stats.entropy(softmax, axis=1) / np.log(scores.shape[1])
    np.testing.assert_allclose(entropy(scores, temperature), expected, atol=1e-9)


def test_energy_is_that_of_centred_logits_where_nothing_was_rounded_away():
    logits = np.random.default_rng(0).normal(0, 0.8, (50, 6))
    centred = logits - logits.mean(axis=1, keepdims=True)
    expected = special.logsumexp(centred, axis=1) - np.log(6)
    np.testing.assert_allclose(energy(special.softmax(logits, axis=1)), expected, atol=1e-12)
    softer = special.logsumexp(centred / 2, axis=1) - np.log(6)
    np.testing.assert_allclose(energy(special.softmax(logits, axis=1), 2.0), softer, atol=1e-12)


@settings(max_examples=200, deadline=None)
@given(probabilities(), TEMPERATURES, st.sampled_from(list(SIGNALS)), st.randoms(use_true_random=False))
def test_every_signal_is_finite_in_its_range_and_blind_to_the_order_of_classes(scores, temperature, signal, random):
    order = list(range(scores.shape[1]))
    random.shuffle(order)
    values = SIGNALS[signal](scores, temperature)
    assert values.shape == (len(scores),)
    assert np.isfinite(values).all()
    assert (values >= 0).all()
    assert signal == "energy" or (values <= 1).all()
    np.testing.assert_allclose(SIGNALS[signal](scores[:, order], temperature), values, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("signal", SIGNALS)
def test_indifference_is_the_lowest_value_and_certainty_the_highest(signal):
    of = SIGNALS[signal]
    least, some, most = of(np.array([[0.25] * 4, [0.4, 0.3, 0.2, 0.1], [0.0, 0.0, 1.0, 0.0]]), 1.0)
    assert least < some < most
    assert least == pytest.approx(0.25 if signal == "max_probability" else 0.0, abs=1e-12)
    assert signal == "energy" or most == 1.0


# A peer's entropy filter takes log(0) of an exact-zero probability, as int8 softmax gives them, and
# divides by log(1) where there is one class. Warnings are errors here, so either would fail.


@pytest.mark.parametrize("signal", SIGNALS)
@pytest.mark.parametrize("temperature", [0.05, 1.0, 20.0])
def test_exact_zeros_of_a_quantized_softmax_decide_like_any_other_scores(signal, temperature):
    scores = np.array([[255, 1, 0, 0, 0, 0, 0, 0, 0, 0], [128, 128, 0, 0, 0, 0, 0, 0, 0, 0]]) / 256
    sure, tied = (Policy(0.7, temperature, signal).decide(row) for row in scores)
    assert sure.value > tied.value
    assert 0 < tied.confidence <= 0.5 + 1e-12


@pytest.mark.parametrize("signal", SIGNALS)
def test_a_model_of_one_class_can_be_decided_about(signal):
    decision = Policy(0.0, 2.0, signal).decide(np.array([1.0]))
    assert not decision.escalate
    assert decision.value == (0.0 if signal == "energy" else 1.0)
    assert decision.confidence == 1.0


def test_a_tie_of_the_two_best_has_no_margin():
    assert margin(np.array([[0.5, 0.5, 0.0]])).tolist() == [0.0]
    assert margin(np.full((1, 3), 1 / 3), 0.05).tolist() == [0.0]


def test_of_two_classes_every_signal_gives_the_same_order():
    top = np.linspace(0.5, 0.98, 25)
    scores = np.stack([top, 1 - top], axis=1)
    for of in SIGNALS.values():
        assert (np.diff(of(scores, 1.0)) > 0).all()
    np.testing.assert_allclose(margin(scores), 2 * max_probability(scores) - 1)


@pytest.mark.parametrize("signal", SIGNALS)
def test_any_signal_can_be_tuned_and_certified_and_its_policy_says_which(signal):
    rng = np.random.default_rng(0)
    scores = special.softmax(rng.normal(0, 3, (2000, 5)), axis=1)
    labels = np.array([rng.choice(5, p=row) for row in scores])
    tuning = tune(scores[:1000], labels[:1000], signal=signal)
    policy = certify(scores[1000:], np.eye(5)[labels[1000:]], labels[1000:], max_accuracy_loss=0.05, tuning=tuning)
    assert (tuning.signal, policy.signal) == (signal, signal)
    assert 0 < policy.certificate.local_share < 1
    assert policy.local_mask(scores[1000:]).mean() == policy.certificate.local_share


def test_a_signal_that_there_is_not_is_refused_by_name():
    with pytest.raises(InputError, match="no signal 'mood'; there are max_probability, margin, entropy, energy"):
        tune(np.full((3, 2), 0.5), np.zeros(3, int), signal="mood")
