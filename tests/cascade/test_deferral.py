"""The learned deferral head: what it gains, when it is not used, and that devices decide as it was fitted."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize, special

from edge_sdk.cascade import Head, Policy, certify, tune
from edge_sdk.cascade.deferral import fit_head, held_out, learn_head
from edge_sdk.cascade.evaluation import router_curve
from edge_sdk.cascade.signals import max_probability
from edge_sdk.errors import CertificateError, InputError
from edge_sdk.ext.signals import features

CLASSES = 6


def specialists(n: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Draw a pair whose cloud masters the first half of the classes and guesses at the others."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 1.7, (n, CLASSES))
    edge = special.softmax(logits, axis=1)
    labels = (edge.cumsum(axis=1) > rng.random((n, 1))).argmax(axis=1)
    says = np.where(labels < CLASSES // 2, labels, rng.integers(0, CLASSES, n))
    return edge, np.eye(CLASSES)[says] * 0.94 + 0.01, labels


def alike(n: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Draw a pair whose cloud is right more often, no matter what the input is: confidence says all there is."""
    rng = np.random.default_rng(seed)
    edge = special.softmax(rng.normal(0, 2, (n, CLASSES)), axis=1)
    labels = (edge.cumsum(axis=1) > rng.random((n, 1))).argmax(axis=1)
    says = np.where(rng.random(n) < 0.97, labels, (labels + 1) % CLASSES)
    return edge, np.eye(CLASSES)[says] * 0.94 + 0.01, labels


def area(signal: np.ndarray, sample: tuple[np.ndarray, np.ndarray, np.ndarray]) -> float:
    edge, cloud, labels = sample
    return float(router_curve(signal, edge.argmax(axis=1) == labels, cloud.argmax(axis=1) == labels).accuracy.mean())


SPECIALISTS = specialists(2000, 0)
HEAD = fit_head(*SPECIALISTS)


def test_where_the_cloud_is_a_specialist_the_head_beats_confidence():
    fresh = specialists(4000, 1)
    assert area(HEAD.values(fresh[0]), fresh) > area(max_probability(fresh[0]), fresh) + 0.01
    assert learn_head(*SPECIALISTS) == HEAD


def test_where_confidence_says_all_there_is_the_head_is_not_used():
    edge, cloud, labels = alike(2000, 2)
    assert learn_head(edge, cloud, labels) is None
    tuning = tune(edge, labels, signal="learned", cloud_scores=cloud)
    assert tuning == tune(edge, labels)
    assert (tuning.signal, tuning.head) == ("max_probability", None)


def test_a_handful_of_samples_teaches_nothing():
    assert learn_head(*specialists(9, 3)) is None


def test_a_learned_policy_is_tuned_certified_and_survives_json():
    tuning = tune(SPECIALISTS[0], SPECIALISTS[2], signal="learned", cloud_scores=SPECIALISTS[1])
    assert tuning.head == HEAD
    assert tuning.grid[-1] == -1.0, "the last threshold keeps everything"
    sample = specialists(2000, 4)
    policy = certify(*sample, max_accuracy_loss=0.05, tuning=tuning, risk="net")
    assert policy.signal == "learned"
    assert 0 < policy.certificate.local_share < 1
    again = Policy.from_json(json.loads(json.dumps(policy.to_json())))
    assert again == policy
    assert (again.local_mask(sample[0]) == policy.local_mask(sample[0])).all()
    plain = tune(SPECIALISTS[0], SPECIALISTS[2])
    confidence = certify(*sample, max_accuracy_loss=0.05, tuning=plain, risk="net")
    assert policy.certificate.local_share > confidence.certificate.local_share, "it keeps more under the same promise"


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 20), st.sampled_from([np.float32, np.float64]), st.data())
def test_one_by_one_and_all_at_once_agree_to_the_last_bit(seed, n, dtype, data):
    scores = special.softmax(np.random.default_rng(seed).normal(0, 4, (n, CLASSES)), axis=1).astype(dtype)
    values = HEAD.values(scores)
    policy = Policy(float(data.draw(st.sampled_from(values.tolist()))), 1.3, "learned", head=HEAD)
    decisions = [policy.decide(row) for row in scores]
    assert [decision.value for decision in decisions] == values.tolist()
    assert [not decision.escalate for decision in decisions] == policy.local_mask(scores).tolist()
    assert [decision.confidence for decision in decisions] == max_probability(scores, 1.3).tolist()


def test_values_are_differences_of_probabilities_whatever_zeros_and_ties_there_are():
    scores = np.array([[1.0, 0, 0, 0, 0, 0], [0, 0, 0, 0, 0, 1.0], [0.5, 0.5, 0, 0, 0, 0], [1 / 6] * 6])
    values = HEAD.values(scores)
    assert np.isfinite(values).all()
    assert (np.abs(values) <= 1).all()


def test_one_class_and_models_that_are_always_right_can_be_fitted():
    head = fit_head(np.ones((20, 1)), np.ones((20, 1)), np.zeros(20, int))
    assert head.values(np.ones((2, 1))).tolist() == [0.0, 0.0]
    certain = np.eye(3)[np.arange(30) % 3]
    assert np.isfinite(fit_head(certain, certain, np.arange(30) % 3).values(certain)).all()


def test_the_fit_is_the_optimum_that_scipy_finds():
    edge, _, labels = SPECIALISTS
    made_of = features(edge)
    spread = made_of.std(axis=0)
    design = np.c_[(made_of - made_of.mean(axis=0)) / np.where(spread < 1e-9, 1, spread), np.ones(len(edge))]
    hit = (edge.argmax(axis=1) == labels).astype(float)
    ridge = np.r_[np.full(design.shape[1] - 1, 30.0), 1e-3]

    def loss(at):
        scaled = design @ at
        return (np.logaddexp(0, scaled) - hit * scaled).sum() + 0.5 * (ridge * at**2).sum()

    def slope(at):
        return design.T @ (special.expit(design @ at) - hit) + ridge * at

    found = optimize.minimize(loss, np.zeros(design.shape[1]), jac=slope, method="L-BFGS-B", options={"maxiter": 5000})
    ours = special.logit(special.expit(made_of @ np.array(HEAD.edge[:-1]) + HEAD.edge[-1]))
    np.testing.assert_allclose(special.expit(ours), special.expit(design @ found.x), atol=2e-3)


def test_no_sample_is_judged_by_a_head_that_saw_it():
    # labels by lot: what is seen can be learned by heart, what is held out cannot
    rng = np.random.default_rng(5)
    edge = special.softmax(rng.normal(0, 2, (300, CLASSES)), axis=1)
    labels = rng.integers(0, CLASSES, 300)
    cloud = np.eye(CLASSES)[rng.integers(0, CLASSES, 300)]
    sample = (edge, cloud, labels)
    assert area(fit_head(*sample).values(edge), sample) > area(held_out(*sample), sample)
    with pytest.raises(InputError, match="folds is 1"):
        held_out(*sample, folds=1)


def test_scores_of_another_model_are_refused():
    policy = Policy(0.0, 1.0, "learned", head=HEAD)
    with pytest.raises(InputError, match="have 2 classes; the deferral head was fitted to 6"):
        policy.decide(np.array([0.5, 0.5]))
    with pytest.raises(InputError, match="have 7 classes; the deferral head was fitted to 6"):
        policy.local_mask(np.full((3, 7), 1 / 7))
    with pytest.raises(InputError, match="at most 256"):
        fit_head(np.full((2, 257), 1 / 257), np.full((2, 257), 1 / 257), np.zeros(2, int))
    with pytest.raises(InputError, match="differ in shape"):
        fit_head(SPECIALISTS[0], SPECIALISTS[1][:-1], SPECIALISTS[2])
    with pytest.raises(InputError, match="give both"):
        tune(SPECIALISTS[0], SPECIALISTS[2], signal="learned")


@pytest.mark.parametrize(
    "change",
    [
        {"edge": [0.0]},
        {"cloud": [float("nan")] * 32},
        {"classes": 0},
        {"classes": 5},
        {"edge": "heavy"},
        {"edge": None},
    ],
)
def test_a_head_that_cannot_be_is_refused(change):
    record = Policy(0.0, 1.0, "learned", head=HEAD).to_json()
    with pytest.raises(CertificateError):
        Policy.from_json({**record, "head": {**record["head"], **change}})


def test_a_head_goes_with_its_signal_and_with_no_other():
    with pytest.raises(CertificateError, match="needs a head"):
        Policy(0.0, 1.0, "learned")
    with pytest.raises(CertificateError, match="no other has one"):
        Policy(0.0, 1.0, "margin", head=HEAD)
    assert isinstance(Head.from_json(HEAD.to_json()), Head)
