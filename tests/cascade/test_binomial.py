"""Exact binomial tails and bounds, against SciPy."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from edge_sdk.cascade import binomial, samples_needed

PROPORTIONS = st.floats(1e-6, 1 - 1e-6)


@settings(max_examples=300, deadline=None)
@given(n=st.integers(1, 3000), p=PROPORTIONS, data=st.data())
def test_the_tail_is_that_of_scipy(n, p, data):
    k = data.draw(st.integers(0, n))
    assert binomial.cdf(k, n, p) == pytest.approx(stats.binom.cdf(k, n, p), rel=1e-8, abs=1e-12)


def test_the_tail_ends_where_it_must():
    assert binomial.cdf(-1, 10, 0.3) == 0.0
    assert binomial.cdf(10, 10, 0.3) == 1.0
    assert binomial.cdf(3, 10, 0.0) == 1.0
    assert binomial.cdf(3, 10, 1.0) == 0.0


def test_small_tails_keep_their_digits():
    assert binomial.cdf(0, 5000, 0.01) == pytest.approx(0.99**5000, rel=1e-9)
    assert binomial.cdf(20, 5000, 0.01) == pytest.approx(stats.binom.cdf(20, 5000, 0.01), rel=1e-9)


@pytest.mark.parametrize("z", [-8.0, -1.0, 0.0, 1.0, 8.0])
def test_tails_of_a_hundred_million_samples_are_summed_where_they_count(z):
    n, p = 100_000_000, 0.3
    k = round(n * p + z * (n * p * (1 - p)) ** 0.5)
    assert binomial.cdf(k, n, p) == pytest.approx(stats.binom.cdf(k, n, p), rel=1e-5)


@settings(max_examples=100, deadline=None)
@given(n=st.integers(1, 500), confidence=st.sampled_from([0.9, 0.95, 0.999]), data=st.data())
def test_the_bounds_are_those_of_clopper_and_pearson(n, confidence, data):
    k = data.draw(st.integers(0, n))
    lower = stats.binomtest(k, n, alternative="greater").proportion_ci(confidence, method="exact").low
    upper = stats.binomtest(k, n, alternative="less").proportion_ci(confidence, method="exact").high
    assert binomial.lower_bound(k, n, confidence) == pytest.approx(lower, abs=1e-9)
    assert binomial.upper_bound(k, n, confidence) == pytest.approx(upper, abs=1e-9)


@pytest.mark.parametrize(("loss", "confidence", "n"), [(0.01, 0.95, 299), (0.05, 0.9, 45), (0.001, 0.99, 4603)])
def test_the_samples_needed_are_the_fewest_that_reject_without_a_harm(loss, confidence, n):
    assert samples_needed(loss, confidence) == n
    assert stats.binom.cdf(0, n, loss) <= 1 - confidence < stats.binom.cdf(0, n - 1, loss)
