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
from edge_sdk.cascade.evaluation import (
    Curve,
    oracle_curve,
    paired_bounds,
    random_curve,
    router_curve,
    selective,
    share_needed,
)
from edge_sdk.cascade.routers import compare_detectors, compare_routers, filter_points
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


def test_bytes_add_up_in_the_order_of_escalation_and_the_oracle_gains_most_for_the_fewest():
    edge, cloud = np.array([0, 1, 0, 1, 0], bool), np.array([1, 0, 1, 1, 0], bool)
    sizes = np.array([900, 50, 100, 10, 30])
    curve = router_curve(np.array([0.1, 0.5, 0.2, 0.9, 0.3]), edge, cloud, sizes=sizes)
    assert (curve.sent * 5).tolist() == pytest.approx([0, 900, 1000, 1030, 1080, 1090])
    assert (curve.accuracy * 5).tolist() == pytest.approx([2, 3, 4, 4, 3, 3])
    best = oracle_curve(edge, cloud, sizes=sizes)
    assert (best.sent[:3] * 5).tolist() == pytest.approx([0, 100, 1000])
    assert (best.accuracy[:3] * 5).tolist() == pytest.approx([2, 3, 4])
    chance = random_curve(edge, cloud, sizes=sizes)
    assert chance.sent.tolist() == [0.0, sizes.mean()]
    assert router_curve(np.ones(5), edge, cloud).sent is None
    with pytest.raises(InputError, match="sizes should be 5 numbers of bytes"):
        router_curve(np.ones(5), edge, cloud, sizes=sizes[:4])


def test_a_paired_bound_tells_a_better_order_from_a_worse_one():
    rng = np.random.default_rng(0)
    edge, cloud = rng.random(4000) < 0.7, rng.random(4000) < 0.9
    gain, noise = edge.astype(float) - cloud, rng.random(4000)
    assert paired_bounds(gain, noise, edge, cloud, np.array([0.1, 0.2])).min() > 0.03
    assert paired_bounds(noise, gain, edge, cloud, np.array([0.1, 0.2])).max() < -0.03
    assert paired_bounds(noise, noise, edge, cloud, np.array([0.0, 0.3, 1.0])).tolist() == [0, 0, 0]


def test_detectors_are_compared_and_peers_miss_what_finds_nothing():
    rng = np.random.default_rng(1)
    answers, losses = [], []
    for _ in range(3000):
        clear = rng.beta(4, 1, rng.integers(1, 4))
        found = rng.random(len(clear)) < clear
        answers.append(clear[found])
        losses.append(1 - found.mean())
    routers = {router.name: router for router in compare_detectors(answers, np.array(losses), np.zeros(3000))}
    assert set(routers) == {"random", "oracle", "detections", "Sedna Threshold", "Sedna IBT"}
    for share in (0.1, 0.3):
        ours = routers["detections"].accuracy(share)
        assert routers["oracle"].accuracy(share) >= ours > routers["random"].accuracy(share)
        assert ours > max(routers[name].accuracy(share) for name in ("Sedna Threshold", "Sedna IBT"))


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
    head = held_out(chosen.edge, chosen.cloud, chosen.labels)
    sides = chosen.edge_right, chosen.cloud_right
    assert paired_bounds(head, max_probability(chosen.edge), *sides, np.arange(0.02, most, 0.02)).min() >= -0.005
