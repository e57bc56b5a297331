"""The certificate of a detector: a bound on the mean of any loss of its boxes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_sdk.cascade.detections import DETECTIONS, detection_values
from edge_sdk.cascade.policy import LOSS, Certificate, Policy, Stratum
from edge_sdk.cascade.risk import check_share, fixed_sequence, loss_tests, split_by_stratum
from edge_sdk.errors import InputError

__all__ = ["certify_detector"]


def certify_detector(
    confidences: Sequence[NDArray[Any]],
    losses: NDArray[Any],
    *,
    max_loss: float,
    confidence: float = 0.95,
    grid: Sequence[float],
    strata: NDArray[Any] | None = None,
    validity: Mapping[str, str] | None = None,
) -> Policy:
    """Return the least cautious policy of a detector whose mean loss is certified, from calibration data.

    With probability at least ``confidence`` over the calibration data, the mean over all inputs of
    the loss of answers that are kept, and of 0 for those that escalate, is at most ``max_loss``.

    Parameters
    ----------
    confidences
        Of the boxes that the edge kept, n arrays of float [k].
    losses
        What is lost if the answer is kept, float [n] in [0, 1]: see `edge_sdk.cascade.detections`.
    max_loss
        In (0, 1).
    confidence
        In (0, 1).
    grid
        From `edge_sdk.cascade.detections.detection_grid`, on other data than these.
    strata
        Of each sample the name of its stratum, [n]; the promise is then made for each.
    validity
        Digests and names that the certificate holds for.

    Raises
    ------
    InputError
        An argument is out of range, or the arrays do not belong together.
    CannotCertifyError
        Not even the most cautious threshold passes; the message says how many samples would do.
    """
    check_share("max_loss", max_loss)
    check_share("confidence", confidence)
    if not all(threshold > 0.0 for threshold in grid):
        raise InputError("every threshold of the grid should be above 0, or what finds nothing would never escalate")
    values, lost = detection_values(confidences), np.asarray(losses, dtype=np.float64)
    level = 1.0 - confidence
    tests = loss_tests(values, lost, max_loss, level, strata=strata)
    passed = fixed_sequence(tests, grid, max_loss, level)
    kept = values >= passed
    harmed = kept & (lost > 0.0)
    of_strata = tuple(
        Stratum(
            name=name,
            n=tests[name].n,
            harms=int((harmed & mask).sum()),
            p_value=tests[name].p_value(passed),
            local_share=float(kept[mask].mean()),
            needed=min(tests[name].needed(passed) or tests[name].n, tests[name].n),  # n did
        )
        for name, mask in split_by_stratum(strata, len(values)).items()
        if strata is not None
    )
    certificate = Certificate(
        max_accuracy_loss=max_loss,
        confidence=confidence,
        n=len(values),
        harms=int(harmed.sum()),
        p_value=max(test.p_value(passed) for test in tests.values()),
        local_share=float(kept.mean()),
        validity=dict(validity or {}),
        risk=LOSS,
        strata=of_strata,
    )
    return Policy(passed, signal=DETECTIONS, certificate=certificate)
