"""Certification of bundles: run both models on held-out data, and write the policy into the edge bundle."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edge_sdk import cascade
from edge_sdk.bundle import Bundle
from edge_sdk.cascade.policy import LEARNED
from edge_sdk.datasets import Dataset, Splits
from edge_sdk.errors import CertificateError
from edge_sdk.model import EdgeModel, certified_for

__all__ = ["certify_bundle", "score"]

Progress = Callable[[str, int, int], None]


def score(
    model: EdgeModel, data: Dataset, *, on_progress: Progress | None = None, stage: str = "score"
) -> NDArray[np.float32]:
    """Return the probabilities of every image of a data set, float32 [n, classes], one at a time as devices do."""
    rows = []
    for n, image in enumerate(data.images):
        rows.append(model.infer(image).probabilities)
        if on_progress is not None and (n % 50 == 49 or n + 1 == len(data)):
            on_progress(stage, n + 1, len(data))
    return np.stack(rows)


def certify_bundle(
    edge: Bundle | str | Path,
    cloud: Bundle | str | Path,
    splits: Splits,
    out: str | Path,
    *,
    max_accuracy_loss: float = 0.01,
    confidence: float = 0.95,
    signal: str = "max_probability",
    risk: str = "harm",
    on_progress: Progress | None = None,
) -> Bundle:
    """Certify a deferral threshold for a pair of bundles and write the edge bundle with it.

    The temperature and the thresholds to test come from the validation split; the calibration
    split is used for the test alone.

    Parameters
    ----------
    edge, cloud
        The two models, as they are deployed; opened bundles or their paths.
    splits
        Data that neither was trained on; `splits.validation` and `splits.calibration` are used.
    out
        The bundle to write: ``edge`` with the policy in its manifest.
    max_accuracy_loss, confidence
        The promise; see `edge_sdk.cascade.certify`.
    signal
        What the threshold is of; see `edge_sdk.cascade.tune`.
    risk
        What is bounded; see `edge_sdk.cascade.certify`.
    on_progress
        Called with a stage, the number done and the total.

    Raises
    ------
    CertificateError
        The labels of the two differ from the data's, or the calibration data was used before.
    CannotCertifyError
        There is too little data, or too much loss.
    """
    edge = edge if isinstance(edge, Bundle) else Bundle.open(edge)
    cloud = cloud if isinstance(cloud, Bundle) else Bundle.open(cloud)
    _check(edge, cloud, splits)
    scores, tuning_scores = {}, {}
    for side, bundle in (("edge", edge), ("cloud", cloud)):
        with EdgeModel(bundle) as model:
            scores[side] = score(model, splits.calibration, on_progress=on_progress, stage=f"{side} on calibration")
            if side == "edge" or signal == LEARNED:
                stage = f"{side} on validation"
                tuning_scores[side] = score(model, splits.validation, on_progress=on_progress, stage=stage)
    policy = cascade.certify(
        scores["edge"],
        scores["cloud"],
        splits.calibration.labels,
        max_accuracy_loss=max_accuracy_loss,
        confidence=confidence,
        risk=risk,
        tuning=cascade.tune(
            tuning_scores["edge"],
            splits.validation.labels,
            signal=signal,
            cloud_scores=tuning_scores.get("cloud"),
        ),
        validity={
            **certified_for(edge.manifest),
            "cloud_model": cloud.manifest.model_digest,
            "cloud_name": cloud.manifest.name,
            "encoding": "captured",  # the cloud model saw every pixel
            "calibration_data": splits.calibration.digest,
        },
    )
    return edge.rewrite(out, cascade=policy.to_json())


def _check(edge: Bundle, cloud: Bundle, splits: Splits) -> None:
    classes = tuple(splits.calibration.classes)
    for side, bundle in (("edge", edge), ("cloud", cloud)):
        if bundle.manifest.labels != classes:
            raise CertificateError(
                f"the {side} bundle's {len(bundle.manifest.labels)} labels are not the data's {len(classes)} classes"
            )
        lineage = bundle.manifest.lineage
        used = lineage.get("splits")
        for split in ("train", "validation"):
            if isinstance(used, dict) and used.get(split) == splits.calibration.digest:
                raise CertificateError(
                    f"the calibration data is the {split} split of the {side} bundle; certify on data it has not seen"
                )
        if lineage.get("data") == splits.spec and isinstance(used, dict) and used != splits.digests:
            raise CertificateError(
                f"the {side} bundle was trained on other splits of {splits.spec} (seed {lineage.get('split_seed')}), "
                f"so the calibration data may be training data; split with the same seed and limit"
            )
