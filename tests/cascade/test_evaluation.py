"""Routers beside each other: measures of order, and what is stated of real models."""

from __future__ import annotations

import math
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_sdk.cascade.deferral import held_out
from edge_sdk.cascade.evaluation import Curve, router_curve, selective, share_needed
from edge_sdk.cascade.routers import compare_routers, filter_points
from edge_sdk.cascade.signals import max_probability
from edge_sdk.errors import InputError
from harness.pairs import Pair, mlperf_tiny, specialist


def test_the_measures_are_what_a_hand_computes():
    # surest first: right, wrong, right, wrong; errors among the first k: 0, 1, 1, 2
    measured = selective(np.array([0.9, 0.8, 0.7, 0.6]), np.array([True, False, True, False]))
    assert measured.aurc == pytest.approx((0 + 1 / 2 + 1 / 3 + 2 / 4) / 4)
    assert measured.augrc == pytest.approx((0 + 1 + 1 + 2) / 16)
    assert measured.e_aurc == pytest.approx(measured.aurc - (0.5 + 0.5 * math.log(0.5)))


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 2**32), st.integers(2, 300), st.sampled_from([2, 5, 10**6]))
def test_errors_among_ties_are_spread_so_that_the_order_of_arrival_does_not_matter(seed, n, levels):
    rng = np.random.default_rng(seed)
    values, right = rng.integers(0, levels, n), rng.random(n) < 0.7
    order = rng.permutation(n)
    once, again = selective(values, right), selective(values[order], right[order])
    assert once.aurc == pytest.approx(again.aurc)
    assert once.augrc == pytest.approx(again.augrc)


def test_the_perfect_order_has_no_excess_and_a_useless_one_has_the_error_at_every_share():
    right = np.arange(20_000) % 4 > 0
    assert selective(right.astype(float), right).e_aurc == pytest.approx(0, abs=1e-3)
    useless = selective(np.zeros(20_000), right)
    assert useless.aurc == pytest.approx(0.25)
    assert useless.augrc == pytest.approx(0.125, abs=1e-4)
    assert selective(np.zeros(3), np.zeros(3, bool)).e_aurc == 0.0
    assert selective(np.ones(3), np.ones(3, bool)).aurc == 0.0
    with pytest.raises(InputError, match="same length, at least 1"):
        selective(np.array([]), np.array([], bool))


def test_the_share_needed_is_the_first_that_reaches_the_accuracy():
    curve = Curve(np.array([0.0, 0.5, 1.0]), np.array([0.7, 0.9, 0.8]))
    assert [share_needed(curve, accuracy) for accuracy in (0.6, 0.8, 0.95)] == [0.0, 0.5, None]


def test_routers_are_compared_with_chance_the_oracle_and_a_peers_filters():
    rng = np.random.default_rng(0)
    edge = rng.dirichlet(np.full(4, 0.4), 2000)
    labels = (edge.cumsum(axis=1) > rng.random((2000, 1))).argmax(axis=1)
    cloud = np.eye(4)[np.where(rng.random(2000) < 0.97, labels, (labels + 1) % 4)]
    routers = {router.name: router for router in compare_routers(edge, cloud, labels)}
    assert set(routers) == {"random", "oracle", "max_probability", "margin", "entropy", "energy", "learned"}
    for router in routers.values():
        assert router.accuracy(0.0) == pytest.approx((edge.argmax(axis=1) == labels).mean())
        assert router.accuracy(0.3) <= routers["oracle"].accuracy(0.3)
        assert (router.judged is None) == (router.name in {"random", "oracle"})
    assert routers["max_probability"].accuracy(0.3) > routers["random"].accuracy(0.3) + 0.05
    threshold, entropy = filter_points(edge, cloud, labels)
    assert (threshold.name, entropy.name) == ("Sedna Threshold at 0.5", "Sedna CrossEntropy at 0.5")
    assert threshold.escalated == pytest.approx((edge.max(axis=1) < 0.5).mean())
    kept = edge.max(axis=1) >= 0.5
    wrong_here = (edge.argmax(axis=1) != labels) & (cloud.argmax(axis=1) == labels)
    assert threshold.harm == pytest.approx((kept & wrong_here).mean())
    assert "learned" not in {router.name for router in compare_routers(edge[:9], cloud[:9], labels[:9])}
    with pytest.raises(InputError, match="differ in shape"):
        compare_routers(edge, cloud[:-1], labels)


# ---- somebody else's models


@pytest.fixture(scope="module")
def pair() -> Pair:
    folder = os.environ.get("EDGE_SDK_DATA")
    if not folder:
        pytest.skip("EDGE_SDK_DATA is not set; it should name a folder with mlperf_tiny/ and cifar10/")
    if not (Path(folder) / "mlperf_tiny" / "pretrainedResnet_large_float.tflite").is_file():
        pytest.skip("EDGE_SDK_DATA does not hold the large model of mlperf_tiny/")
    pytest.importorskip("PIL")
    return mlperf_tiny(Path(folder))


def needed(pair: Pair, signal: np.ndarray) -> float:
    return share_needed(router_curve(signal, pair.edge_right, pair.cloud_right), float(pair.cloud_right.mean()))


def test_the_head_reaches_the_cloud_with_little_more_than_half_of_what_confidence_escalates(pair):
    by_confidence = needed(pair, max_probability(pair.edge))
    learned = [needed(pair, held_out(pair.edge, pair.cloud, pair.labels, seed=seed)) for seed in range(3)]
    assert by_confidence == pytest.approx(0.385, abs=0.01)
    assert np.mean(learned) <= 0.22


# With the specialist, more than half escalated only loses, whoever chooses.
@pytest.mark.parametrize(("of", "most"), [(lambda pair: pair, 0.98), (specialist, 0.5)], ids=["plain", "specialist"])
def test_the_head_is_not_worse_than_confidence_at_any_share(pair, of, most):
    chosen = of(pair)
    edge, cloud = chosen.edge_right, chosen.cloud_right
    n = len(edge)
    orders = [
        np.argsort(signal, kind="stable")
        for signal in (held_out(chosen.edge, chosen.cloud, chosen.labels), max_probability(chosen.edge))
    ]
    for share in np.arange(0.02, most, 0.02):
        right = []
        for order in orders:
            sent = np.zeros(n, dtype=bool)
            sent[order[: round(share * n)]] = True
            right.append(np.where(sent, cloud, edge).astype(float))
        paired = right[0] - right[1]
        lower = paired.mean() - 1.645 * paired.std() / math.sqrt(n)
        assert lower >= -0.005, f"at {share:.0%} escalated"
