"""One certificate for several encodings: the promise holds of each, and of any choice between them."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from edge_sdk.cascade import certify
from edge_sdk.errors import InputError
from harness.worlds import Population, draw_pair

ALPHA, CONFIDENCE = 0.02, 0.95
RIGHT = {"captured": 0.97, "jpeg:75": 0.8, "resized": 0.6}
WORLD = Population()


def draw_rungs(n, rng):
    """Draw a pair whose cloud is right more or less often by what it is sent, each time about other inputs."""
    edge, _, labels = draw_pair(n, rng)
    other = (labels + 1) % edge.shape[1]
    clouds = {}
    for name, right in RIGHT.items():
        clouds[name] = np.full(edge.shape, 0.01)
        clouds[name][np.arange(n), np.where(rng.random(n) < right, labels, other)] = 0.91
    return edge, clouds, labels


class Truth:
    """Loss of every threshold in the population, by encoding, and where the worst is chosen for each input."""

    def __init__(self, risk):
        edge, clouds, labels = draw_rungs(200_000, np.random.default_rng(1))
        wrong = edge.argmax(axis=1) != labels
        right = {name: cloud.argmax(axis=1) == labels for name, cloud in clouds.items()}
        gained = {name: (~wrong & ~right[name]) if risk == "net" else 0 for name in clouds}
        lost = {name: (wrong & right[name]).astype(int) - gained[name] for name in clouds}
        lost["worst"] = np.max(list(lost.values()), axis=0)
        values = WORLD.values(edge)
        self.order = np.sort(-values)
        self.losses = {name: np.cumsum(of[np.argsort(-values)]) / len(values) for name, of in lost.items()}

    def broken(self, threshold):
        kept = int(np.searchsorted(self.order, -threshold, side="right"))
        return {name: kept > 0 and bool(losses[kept - 1] > ALPHA) for name, losses in self.losses.items()}


@pytest.mark.parametrize("risk", ["harm", pytest.param("net", marks=pytest.mark.slow)])
def test_the_promise_is_kept_for_every_encoding_and_whichever_is_chosen_for_an_input(risk):
    draws, rng, truth = 300, np.random.default_rng(7), Truth(risk)
    broken, alone = dict.fromkeys((*RIGHT, "worst"), 0), 0
    for _ in range(draws):
        edge, clouds, labels = draw_rungs(1000, rng)
        options = {"max_accuracy_loss": ALPHA, "confidence": CONFIDENCE, "tuning": WORLD.tuning}
        policy = certify(edge, clouds, labels, risk=risk, **options)
        for name, is_broken in truth.broken(policy.threshold).items():
            broken[name] += is_broken
        alone += truth.broken(certify(edge, clouds["resized"], labels, risk=risk, **options).threshold)["worst"]
    assert stats.binom.sf(0.0875 * draws, draws, 1 - CONFIDENCE) < 4e-3
    assert max(broken.values()) == broken["worst"] <= 0.061 * draws
    assert alone > 0.2 * draws, "the control: a certificate for one encoding does not hold for the others"


def test_a_certificate_says_of_each_encoding_what_was_seen():
    edge, clouds, labels = draw_rungs(3000, np.random.default_rng(2))
    sizes = {"captured": 1e6, "jpeg:75": 5e4}
    options = {"max_accuracy_loss": ALPHA, "tuning": WORLD.tuning}
    policy = certify(edge, clouds, labels, mean_bytes=sizes, **options)
    certificate = policy.certificate
    assert certificate.encodings == tuple(RIGHT)
    kept, wrong = policy.local_mask(edge), edge.argmax(axis=1) != labels
    right = {name: cloud.argmax(axis=1) == labels for name, cloud in clouds.items()}
    for rung in certificate.rungs:
        assert rung.harms == (kept & wrong & right[rung.name]).sum()
        assert rung.cloud_accuracy == right[rung.name].mean()
        assert rung.mean_bytes == sizes.get(rung.name)
    assert certificate.harms == (kept & wrong & np.any(list(right.values()), axis=0)).sum()
    one = certify(edge, clouds["captured"], labels, **options)
    assert policy.threshold >= one.threshold, "more encodings are never less cautious"
    assert one.certificate.rungs == ()


def test_one_encoding_by_name_is_what_it_is_without():
    edge, clouds, labels = draw_rungs(1500, np.random.default_rng(3))
    options = {"max_accuracy_loss": ALPHA, "tuning": WORLD.tuning}
    named, plain = (certify(edge, of, labels, **options) for of in ({"x": clouds["captured"]}, clouds["captured"]))
    assert named.threshold == plain.threshold
    assert named.certificate.harms == plain.certificate.harms


def test_agreement_is_with_the_cloud_in_every_encoding():
    edge, clouds, _ = draw_rungs(3000, np.random.default_rng(4))
    options = {"max_accuracy_loss": 0.2, "tuning": WORLD.tuning, "risk": "agreement"}
    policy = certify(edge, clouds, None, **options)
    differs = np.any([edge.argmax(axis=1) != cloud.argmax(axis=1) for cloud in clouds.values()], axis=0)
    assert policy.certificate.harms == policy.certificate.disagreements == (policy.local_mask(edge) & differs).sum()
    assert policy.certificate.rungs[0].cloud_accuracy is None


def test_no_encodings_or_scores_of_another_shape_are_refused():
    edge, clouds, labels = draw_rungs(1000, np.random.default_rng(5))
    options = {"max_accuracy_loss": ALPHA, "tuning": WORLD.tuning}
    with pytest.raises(InputError, match="at least one encoding"):
        certify(edge, {}, labels, **options)
    with pytest.raises(InputError, match=r"cloud_scores\['resized'\] \[999, 10\] differ"):
        certify(edge, {**clouds, "resized": clouds["resized"][1:]}, labels, **options)
