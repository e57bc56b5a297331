"""Detectors in the cascade: an empty answer always escalates, and what wrong boxes cost."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from edge_sdk.cascade import Policy, certify_detector, certify_loss, detection_loss
from edge_sdk.cascade.detections import detection_grid, detection_value, detection_values, harm_of_losses
from edge_sdk.errors import CannotCertifyError, CertificateError, InputError

NOTHING = np.empty(0, np.float32)
NO_BOXES = np.empty((0, 4), np.float32)
POLICY = Policy(0.6, signal="detections")


@pytest.mark.parametrize("threshold", [1e-300, 0.25, 1.0, float("inf")])
def test_a_detector_that_finds_nothing_escalates_whatever_the_threshold(threshold):
    policy = Policy(threshold, signal="detections")
    decision = policy.decide(NOTHING)
    assert (decision.escalate, decision.reason, decision.value) == (True, "escalated", 0.0)
    assert policy.local_mask([NOTHING, NOTHING]).tolist() == [False, False]
    with pytest.raises(CertificateError, match="should be above 0, or what finds nothing would never escalate"):
        Policy(0.0, signal="detections")


def test_an_answer_is_as_sure_as_its_boxes_are_on_average():
    sure, unsure = np.array([0.9, 0.8], np.float32), np.array([0.9, 0.2], np.float32)
    assert POLICY.decide(sure).value == pytest.approx(0.85)
    assert (POLICY.decide(sure).reason, POLICY.decide(unsure).reason) == ("confident", "escalated")
    assert not Policy(0.6, signal="detections").decide(np.array([0.6])).escalate, "the threshold itself is kept"


confidences = st.lists(st.lists(st.floats(0, 1, width=32), max_size=40), max_size=8)


@settings(max_examples=200, deadline=None)
@given(confidences, st.floats(1e-6, 1), st.randoms(use_true_random=False))
def test_one_by_one_and_all_at_once_agree_in_any_order_of_the_boxes(rows, threshold, random):
    policy = Policy(threshold, signal="detections")
    answers = [np.array(row, np.float32) for row in rows]
    decisions = [policy.decide(answer) for answer in answers]
    assert [decision.value for decision in decisions] == policy.signal_values(answers).tolist()
    assert [not decision.escalate for decision in decisions] == policy.local_mask(answers).tolist()
    for row in rows:
        random.shuffle(row)
    assert detection_values([np.array(row, np.float32) for row in rows]).tolist() == [d.value for d in decisions]


def test_a_policy_of_a_detector_survives_json():
    again = Policy.from_json(json.loads(json.dumps(POLICY.to_json())))
    assert again == POLICY
    for change, why in (({"threshold": 0.0}, "above 0"), ({"temperature": 2.0}, "temperature is 2 and should be 1")):
        with pytest.raises(CertificateError, match=why):
            Policy.from_json({**POLICY.to_json(), **change})


@pytest.mark.parametrize("bad", [np.nan, -0.1, 1.1, np.inf])
def test_a_confidence_that_is_none_is_named(bad):
    with pytest.raises(InputError, match="box 1 has the confidence"):
        POLICY.decide(np.array([0.5, bad]))
    with pytest.raises(InputError, match="row 2: box 0"):
        POLICY.local_mask([NOTHING, np.array([0.5]), np.array([bad])])
    with pytest.raises(InputError, match=r"should have shape \[boxes\]"):
        detection_value(np.zeros((2, 2)))


# ---- losses

TRUE = np.array([[0, 0, 10, 10], [20, 20, 30, 30]], float)
CLASSES = np.array([1, 2])


@pytest.mark.parametrize(
    ("boxes", "labels", "f1", "missed"),
    [
        (TRUE, CLASSES, 0.0, 0.0),
        (TRUE[::-1], CLASSES[::-1], 0.0, 0.0),
        (NO_BOXES, np.empty(0, int), 1.0, 1.0),
        (TRUE, CLASSES[::-1], 1.0, 1.0),  # right places, wrong classes
        (TRUE[:1], CLASSES[:1], 1 - 2 / 3, 0.5),
        (np.concatenate([TRUE, TRUE[:1]]), np.append(CLASSES, 1), 1 - 4 / 5, 0.0),  # found twice counts once
        (TRUE + np.array([0, 0, 0, 5]), CLASSES, 0.0, 0.0),  # two thirds overlap
        (TRUE + 5, CLASSES, 1.0, 1.0),  # a seventh
    ],
)
def test_losses_are_what_a_hand_computes(boxes, labels, f1, missed):
    assert detection_loss(boxes, labels, TRUE, CLASSES) == pytest.approx(f1)
    assert detection_loss(boxes, labels, TRUE, CLASSES, kind="missed") == pytest.approx(missed)


def test_where_nothing_is_nothing_can_be_missed_and_a_false_alarm_is_a_loss():
    nothing = (NO_BOXES, np.empty(0, int))
    assert detection_loss(*nothing, *nothing) == 0.0
    assert detection_loss(TRUE, CLASSES, *nothing) == 1.0
    assert detection_loss(TRUE, CLASSES, *nothing, kind="missed") == 0.0


def test_what_is_wrong_with_boxes_is_named():
    with pytest.raises(InputError, match=r"true_boxes should have shape \[k, 4\]"):
        detection_loss(TRUE, CLASSES, TRUE[:, :3], CLASSES)
    with pytest.raises(InputError, match="boxes: row 1 holds a NaN"):
        detection_loss(np.where(TRUE == 30, np.nan, TRUE), CLASSES, TRUE, CLASSES)
    with pytest.raises(InputError, match="iou is 0"):
        detection_loss(TRUE, CLASSES, TRUE, CLASSES, iou=0)
    with pytest.raises(InputError, match="kind is 'map'"):
        detection_loss(TRUE, CLASSES, TRUE, CLASSES, kind="map")
    with pytest.raises(InputError, match="alike"):
        harm_of_losses(np.zeros(2), np.zeros(3))


def drawn(n: int, seed: int) -> tuple[list[np.ndarray], np.ndarray]:
    """Draw what a detector says of n pictures with 1 to 4 objects, and what it loses where the cloud finds all."""
    rng = np.random.default_rng(seed)
    answers, losses = [], np.empty(n)
    for row in range(n):
        objects = int(rng.integers(1, 5))
        corner = np.repeat(20.0 * np.arange(objects)[:, None], 2, axis=1)
        true = np.hstack([corner, corner + 10.0])
        clear = rng.beta(4, 0.5, objects)
        found = rng.random(objects) < clear
        answers.append(clear[found].astype(np.float32))
        classes = np.zeros(objects, int)
        losses[row] = detection_loss(true[found], classes[found], true, classes)
    return answers, harm_of_losses(losses, np.zeros(n))


GRID = detection_grid(drawn(1000, 0)[0])


def test_a_detectors_promise_holds_on_fresh_pictures_and_is_written_into_the_policy():
    answers, losses = drawn(3000, 1)
    policy = certify_detector(answers, losses, max_loss=0.05, grid=GRID, validity={"edge_model": "sha256:aa"})
    certificate = policy.certificate
    assert policy.threshold == certify_loss(detection_values(answers), losses, alpha=0.05, grid=GRID)
    assert certificate.promise == "mean loss where the edge answers ≤ 0.05 at confidence 0.95"
    kept = policy.local_mask(answers)
    assert (certificate.n, certificate.local_share) == (3000, kept.mean())
    assert certificate.harms == (losses[kept] > 0).sum() > 0
    assert certificate.p_value <= 0.05
    assert certificate.validity == {"edge_model": "sha256:aa"}
    assert Policy.from_json(json.loads(json.dumps(policy.to_json()))) == policy
    fresh, lost = drawn(20_000, 2)
    kept = policy.local_mask(fresh)
    assert 0.3 < kept.mean() < 1.0
    assert 0.02 < (kept * lost).mean() <= 0.05
    assert policy.decide(NOTHING).escalate


@pytest.mark.parametrize("draws", [60, pytest.param(1000, marks=pytest.mark.slow)])
def test_a_detectors_promise_is_kept_as_often_as_promised(draws):
    answers, losses = drawn(20_000, 3)
    values = detection_values(answers)
    rng = np.random.default_rng(4)
    broken = 0
    for _ in range(draws):
        of = rng.integers(0, len(values), 1000)
        threshold = certify_loss(values[of], losses[of], alpha=0.05, grid=GRID)
        broken += (losses * (values >= threshold)).mean() > 0.05
    assert broken <= max(0.061 * draws, stats.binom.isf(1e-3, draws, 0.05) if draws < 1000 else 0)


def test_a_detector_can_be_certified_in_every_stratum():
    answers, losses = drawn(4000, 5)
    strata = np.where(np.arange(4000) % 4 == 0, "night", "day")
    policy = certify_detector(answers, losses, max_loss=0.08, grid=GRID, strata=strata)
    assert {stratum.name: stratum.n for stratum in policy.certificate.strata} == {"day": 3000, "night": 1000}
    assert sum(stratum.harms for stratum in policy.certificate.strata) == policy.certificate.harms


def test_what_cannot_be_certified_of_a_detector_is_said():
    answers, losses = drawn(50, 6)
    with pytest.raises(CannotCertifyError, match=r"50 calibration samples cannot certify a loss of 0\.01"):
        certify_detector(answers, losses, max_loss=0.01, grid=GRID)
    with pytest.raises(InputError, match="threshold of the grid should be above 0"):
        certify_detector(answers, losses, max_loss=0.5, grid=(0.5, 0.0))
    with pytest.raises(InputError, match="grid is empty"):
        certify_detector(answers, losses, max_loss=0.5, grid=())
    with pytest.raises(InputError, match="no answer has a box"):
        detection_grid([NOTHING, np.zeros(2)])
    assert min(GRID) > 0
    assert list(GRID) == sorted(GRID, reverse=True)
