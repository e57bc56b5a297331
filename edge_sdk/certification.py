"""Certification of bundles: run both models on held-out data, and write the policy into the edge bundle."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edge_sdk import cascade
from edge_sdk.bundle import Bundle
from edge_sdk.cascade.policy import LEARNED
from edge_sdk.datasets import Dataset, Splits
from edge_sdk.encodings import SentAs
from edge_sdk.errors import CannotCertifyError, CertificateError, InputError
from edge_sdk.model import EdgeModel
from edge_sdk.processing import DeviceProcessor
from edge_sdk.processing.resizing import second_half
from edge_sdk.tabular import as_known
from edge_sdk.validity import certified_for

__all__ = ["CAPTURED", "STRATA", "certify_bundle", "check_encoding", "score"]

Progress = Callable[[str, int, int], None]

CAPTURED = SentAs()

_SIZED = 500  # pictures whose bytes are measured

STRATA = ("class", "answer", "data")
"""By what inputs can be told apart: their true class, what the edge model calls them, or names in the data."""


def score(
    model: EdgeModel,
    data: Dataset,
    *,
    encoding: SentAs = CAPTURED,
    on_progress: Progress | None = None,
    stage: str = "score",
) -> NDArray[np.float32]:
    """Return the probabilities of every image of a data set, float32 [n, classes], one at a time as devices do.

    With an encoding, of what the cloud sees of each image that is sent as such.
    """
    model.manifest.require_task("classification", "certification")
    spec = model.processor.spec
    finish = DeviceProcessor(second_half(spec)) if encoding.resized else None
    rows = []
    for n, image in enumerate(as_known(data, spec).images):
        seen = encoding.send(image, spec)[0]
        rows.append(model.infer(seen).probabilities if finish is None else model.infer_tensor(finish(seen))[0])
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
    strata: str | None = None,
    encodings: Sequence[SentAs] = (CAPTURED,),
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
    strata
        Makes the promise for each of these by itself: ``class``, the inputs of each true class;
        ``answer``, those that the edge model calls each class; ``data``, the strata that the data
        names. None makes one for all inputs.
    encodings
        As what pictures will be sent, the best first: the cloud model is measured on what it then sees of
        each, and the certificate names them. The promise holds whichever is chosen for an input.
    on_progress
        Called with a stage, the number done and the total.

    Raises
    ------
    InputError
        There are no such strata, or the encoding is none of these inputs.
    CertificateError
        The labels of the two differ from the data's, or the calibration data was used before.
    CannotCertifyError
        There is too little data, or too much loss.
    """
    edge = edge if isinstance(edge, Bundle) else Bundle.open(edge)
    cloud = cloud if isinstance(cloud, Bundle) else Bundle.open(cloud)
    _check(edge, cloud, splits)
    if strata not in (None, *STRATA):
        raise InputError(f"strata is {strata!r}; it should be one of {', '.join(STRATA)}")
    if strata == "data" and splits.calibration.strata is None:
        raise InputError(f"{splits.spec} names no strata; an .npz file does in an array `strata`")
    if not encodings:
        raise InputError("encodings: there are none to certify")
    for encoding in encodings:
        check_encoding(encoding, splits.calibration)
    run = partial(score, on_progress=on_progress)
    with EdgeModel(edge) as model:
        edge_scores = run(model, splits.calibration, stage="edge on calibration")
        edge_tuning = run(model, splits.validation, stage="edge on validation")
    cloud_scores, cloud_tuning, sizes = {}, None, {}
    with EdgeModel(cloud) as model:
        for encoding in encodings:
            name = str(encoding)
            as_it = "cloud" if len(encodings) == 1 else f"cloud as {name}"
            cloud_scores[name] = run(model, splits.calibration, encoding=encoding, stage=f"{as_it} on calibration")
            if len(encodings) > 1:
                spec = model.processor.spec
                images = as_known(splits.calibration, spec).images
                sizes[name] = float(np.mean([encoding.send(image, spec)[1] for image in images[:_SIZED]]))
        if signal == LEARNED:
            cloud_tuning = run(model, splits.validation, encoding=encodings[0], stage="cloud on validation")
    policy = cascade.certify(
        edge_scores,
        cloud_scores if len(encodings) > 1 else cloud_scores[str(encodings[0])],
        splits.calibration.labels,
        max_accuracy_loss=max_accuracy_loss,
        confidence=confidence,
        risk=risk,
        strata=None if strata is None else _strata_of(strata, splits, edge_scores),
        tuning=cascade.tune(edge_tuning, splits.validation.labels, signal=signal, cloud_scores=cloud_tuning),
        validity={
            **certified_for(edge.manifest),
            "cloud_model": cloud.manifest.model_digest,
            "cloud_name": cloud.manifest.name,
            "encoding": str(encodings[0]),  # all that readers of one know
            "calibration_data": splits.calibration.digest,
        },
        mean_bytes=sizes,
    )
    return edge.rewrite(out, cascade=policy.to_json())


def check_encoding(encoding: SentAs, data: Dataset) -> None:
    """Raise `InputError` where data that is no pictures should be sent as pictures are."""
    if encoding != CAPTURED and not data.pictures:
        raise InputError(f"only pictures can be sent as {encoding}; this data is sent as captured")


def _strata_of(strata: str, splits: Splits, edge_scores: NDArray[np.float32]) -> NDArray[np.str_]:
    """Return the stratum of each calibration sample; refuse those of which there is none, and so no promise."""
    data = splits.calibration
    if strata == "data":
        assert data.strata is not None
        parts = (splits.train, splits.validation, data, splits.test)
        wanted = {name for part in parts if part.strata is not None for name in part.strata.tolist()}
        names = data.strata
    else:
        names = np.array(data.classes)[data.labels if strata == "class" else edge_scores.argmax(axis=1)]
        wanted = set(data.classes)
    missing = sorted(wanted - set(names.tolist()))
    if missing:
        more = f" (and {len(missing) - 1} more)" if len(missing) > 1 else ""
        raise CannotCertifyError(
            f"stratum {missing[0]}{more}: no calibration sample is of it, so nothing can be promised for it"
        )
    return names


def _check(edge: Bundle, cloud: Bundle, splits: Splits) -> None:
    classes = tuple(splits.calibration.classes)
    for side, bundle in (("edge", edge), ("cloud", cloud)):
        bundle.manifest.require_task("classification", "certification")
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
