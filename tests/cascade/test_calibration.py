"""Vector scaling, isotonic regression and the measures of calibration, against SciPy and scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize, special

from edge_sdk.cascade.calibration import fit_isotonic, fit_temperature, fit_vector
from edge_sdk.cascade.reliability import brier_score, calibration_error, negative_log_likelihood, reliability
from edge_sdk.cascade.signals import max_probability
from edge_sdk.errors import InputError


def skewed(n: int, seed: int, classes: int = 4) -> tuple[np.ndarray, np.ndarray]:
    """Draw honest labels, and scores that are sharper than they should be and favour some classes."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 1.5, (n, classes))
    labels = (special.softmax(logits, axis=1).cumsum(axis=1) > rng.random((n, 1))).argmax(axis=1)
    return special.softmax(2.5 * logits + np.linspace(-1, 1, classes), axis=1), labels


# ---- vector scaling


def test_vector_scaling_is_the_optimum_that_scipy_finds():
    scores, labels = skewed(1500, 0)
    logs, rows = np.log(scores), np.arange(1500)
    start = np.array([1.0] * 4 + [0.0] * 4)

    def loss(at):
        scaled = logs * at[:4] + at[4:]
        return -special.log_softmax(scaled, axis=1)[rows, labels].sum() + 0.5 * ((at - start) ** 2).sum()

    found = optimize.minimize(loss, start, method="BFGS", options={"gtol": 1e-3})
    scaling = fit_vector(scores, labels)
    np.testing.assert_allclose([*scaling.weights, *scaling.bias], found.x, atol=1e-4)


def test_vector_scaling_mends_what_a_temperature_cannot():
    scores, labels = skewed(4000, 1)
    fresh, truth = skewed(4000, 2)
    scaled = fit_vector(scores, labels).apply(fresh)
    temperature = fit_temperature(scores, labels)
    tempered = special.softmax(np.log(fresh) / temperature, axis=1)
    by = [negative_log_likelihood(each, truth) for each in (fresh, tempered, scaled)]
    assert by == sorted(by, reverse=True)
    assert by[1] - by[2] > 0.02
    np.testing.assert_allclose(scaled.sum(axis=1), 1.0)


def test_vector_scaling_bears_zeros_one_class_and_a_class_that_never_occurs():
    scores = np.array([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.5, 0.5, 0.0]] * 5)
    scaled = fit_vector(scores, np.array([0, 1, 0] * 5)).apply(scores)
    assert np.isfinite(scaled).all()
    assert fit_vector(np.ones((3, 1)), np.zeros(3, int)).apply(np.ones((2, 1))).tolist() == [[1.0], [1.0]]
    with pytest.raises(InputError, match="have 2 classes; this scaling was fitted to 3"):
        fit_vector(scores, np.array([0, 1, 0] * 5)).apply(np.full((1, 2), 0.5))


# ---- isotonic


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 200), st.sampled_from([3, 20, 10**6]))
def test_the_isotonic_line_is_that_of_scikit_learn(seed, n, levels):
    isotonic = pytest.importorskip("sklearn.isotonic")
    rng = np.random.default_rng(seed)
    values = rng.integers(0, levels, n) / levels
    right = rng.random(n) < values
    oracle = isotonic.IsotonicRegression(out_of_bounds="clip").fit(values, right)
    line = fit_isotonic(values, right)
    at = np.concatenate([values, rng.uniform(-0.2, 1.2, 50)])
    np.testing.assert_allclose(line.apply(at), oracle.predict(at), atol=1e-6)
    assert list(line.values) == sorted(set(line.values))
    assert list(line.shares) == sorted(line.shares)


def test_the_isotonic_line_makes_any_signal_a_probability():
    scores, labels = skewed(4000, 3)
    fresh, truth = skewed(4000, 4)
    line = fit_isotonic(max_probability(scores), scores.argmax(axis=1) == labels)
    top, right = max_probability(fresh), fresh.argmax(axis=1) == truth
    assert reliability(line.apply(top), right).error < 0.05 < reliability(top, right).error


def test_an_isotonic_line_needs_numbers():
    with pytest.raises(InputError, match="row 1 is a NaN"):
        fit_isotonic(np.array([0.1, np.nan]), np.array([True, False]))
    with pytest.raises(InputError, match="same length, at least 1"):
        fit_isotonic(np.array([]), np.array([]))


# ---- measures


def test_the_calibration_error_is_what_a_hand_computes():
    confidence = np.array([0.95, 0.85, 0.55, 0.55])
    right = np.array([True, False, True, False])
    data = reliability(confidence, right, bins=2, binning="mass")
    np.testing.assert_allclose(data.confidence, [0.55, 0.9])
    assert (data.accuracy.tolist(), data.count.tolist()) == ([0.5, 0.5], [2, 2])
    assert data.error == pytest.approx(0.5 * 0.05 + 0.5 * 0.4)
    assert data.worst == pytest.approx(0.4)
    wide = reliability(confidence, right, bins=10)
    assert wide.count.tolist() == [2, 1, 1]
    assert wide.error == pytest.approx((2 * 0.05 + 0.85 + 0.05) / 4)


@pytest.mark.parametrize("binning", ["width", "mass"])
def test_honest_confidence_has_little_error_and_overconfidence_has_much(binning):
    rng = np.random.default_rng(5)
    honest = rng.uniform(0.5, 1, 20_000)
    right = rng.random(20_000) < honest
    assert reliability(honest, right, binning=binning).error < 0.015
    assert reliability(np.ones(20_000), right, binning=binning).error == pytest.approx(1 - right.mean())


def test_bins_of_equal_mass_hold_alike_and_never_part_a_tie():
    rng = np.random.default_rng(6)
    assert reliability(rng.random(1500), rng.random(1500) < 0.5, binning="mass").count.tolist() == [100] * 15
    tied = reliability(np.full(100, 0.7), np.arange(100) < 60, binning="mass")
    assert (tied.count.tolist(), tied.accuracy.tolist()) == ([100], [0.6])


def test_the_ends_of_the_scale_have_their_bins():
    data = reliability(np.array([0.0, 1.0]), np.array([False, True]), bins=10)
    assert (data.confidence.tolist(), data.accuracy.tolist(), data.error) == ([0.0, 1.0], [0.0, 1.0], 0.0)


def test_brier_and_likelihood_are_those_of_scikit_learn():
    metrics = pytest.importorskip("sklearn.metrics")
    scores, labels = skewed(500, 7)
    assert negative_log_likelihood(scores, labels) == pytest.approx(metrics.log_loss(labels, scores))
    assert brier_score(scores, labels) == pytest.approx(((scores - np.eye(4)[labels]) ** 2).sum(axis=1).mean())
    two, truth = skewed(500, 8, classes=2)
    assert brier_score(two, truth) == pytest.approx(2 * metrics.brier_score_loss(truth, two[:, 1]))
    certain = np.eye(2)[[0, 1]]
    assert brier_score(certain, np.array([0, 1])) == 0.0
    assert negative_log_likelihood(certain, np.array([1, 0])) == pytest.approx(-np.log(1e-12))


def test_a_temperature_lowers_every_measure_of_an_oversure_model():
    scores, labels = skewed(5000, 9)
    fresh, truth = skewed(5000, 10)
    tempered = special.softmax(np.log(fresh) / fit_temperature(scores, labels), axis=1)
    for measure in (calibration_error, brier_score, negative_log_likelihood):
        assert measure(tempered, truth) < measure(fresh, truth)


@pytest.mark.parametrize(
    ("confidence", "right", "options", "why"),
    [
        ([0.5, 1.2], [True, False], {}, "row 1 is 1.2"),
        ([0.5, np.nan], [True, False], {}, "row 1 is nan"),
        ([], [], {}, "at least 1"),
        ([0.5], [True, False], {}, "same length"),
        ([0.5], [True], {"bins": 0}, "bins is 0"),
        ([0.5], [True], {"binning": "depth"}, "binning is 'depth'"),
    ],
)
def test_what_cannot_be_binned_is_refused(confidence, right, options, why):
    with pytest.raises(InputError, match=why):
        reliability(np.array(confidence), np.array(right), **options)
