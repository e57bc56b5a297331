"""The certificate: a deferral threshold with a finite-sample guarantee.

Learn-then-Test with fixed-sequence testing and exact binomial p-values. The thresholds to test are
fixed beforehand, on validation data, and ordered from the most to the least cautious. Each in turn
is tested on calibration data against "the loss is above the target" at level 1 − confidence; the
last one before the first that cannot be rejected is the answer. The order being fixed, no
correction for testing several is needed.

References
----------
Angelopoulos, Bates, Candès, Jordan, Lei, "Learn then Test: Calibrating Predictive Algorithms to
Achieve Risk Control", Annals of Applied Statistics, 2025.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_sdk.cascade import binomial
from edge_sdk.cascade.calibration import check_labels, fit_temperature
from edge_sdk.cascade.policy import Certificate, Policy
from edge_sdk.cascade.signals import SIGNALS, check_scores
from edge_sdk.errors import CannotCertifyError, InputError

__all__ = ["Tuning", "certify", "samples_needed", "tune"]

GRID_SIZE = 200


@dataclass(frozen=True, slots=True)
class Tuning:
    """What is learned on validation data, before calibration data is looked at.

    Attributes
    ----------
    temperature
        Fitted to the edge's scores.
    grid
        Thresholds to test, from the most cautious (highest) down.
    signal
        Name of the signal that the thresholds are of.
    """

    temperature: float
    grid: tuple[float, ...]
    signal: str = "max_probability"


def tune(
    edge_scores: NDArray[Any],
    labels: NDArray[Any],
    *,
    signal: str = "max_probability",
    grid_size: int = GRID_SIZE,
) -> Tuning:
    """Fit the temperature and lay out the thresholds to test, on validation data.

    Parameters
    ----------
    edge_scores
        Probabilities of the edge model, float [n, classes].
    labels
        True classes, int [n].
    signal
        Name of the signal: one of `edge_sdk.cascade.signals.SIGNALS`.
    grid_size
        How many thresholds: quantiles of the signal, so that each keeps a like share more.

    Raises
    ------
    InputError
        Scores or labels are not what they should be, or there is no such signal.
    """
    scores = check_scores(edge_scores, "edge_scores")
    if signal not in SIGNALS:
        raise InputError(f"there is no signal {signal!r}; there are {', '.join(SIGNALS)}")
    temperature = fit_temperature(scores, labels)
    values = SIGNALS[signal](scores, temperature)
    quantiles = np.quantile(values, np.linspace(1.0, 0.0, grid_size), method="higher")
    # the last threshold keeps everything: where the edge alone is good enough, that may be certified
    grid = dict.fromkeys([*quantiles.tolist(), 0.0])
    return Tuning(temperature, tuple(grid), signal)


def samples_needed(max_accuracy_loss: float, confidence: float) -> int:
    """Return how many calibration samples a certificate takes if none of them is harmed."""
    return math.ceil(math.log1p(-confidence) / math.log1p(-max_accuracy_loss))


def certify(
    edge_scores: NDArray[Any],
    cloud_scores: NDArray[Any],
    labels: NDArray[Any],
    *,
    max_accuracy_loss: float,
    confidence: float = 0.95,
    tuning: Tuning,
    validity: Mapping[str, str] | None = None,
) -> Policy:
    """Return the least cautious policy whose loss is certified, from calibration data.

    The loss is the harm: the share of inputs that are kept on the edge, wrong there, and right in
    the cloud. The calibration data must be exchangeable with what comes later and must not have
    been used for training, compression or `tune`.

    Parameters
    ----------
    edge_scores, cloud_scores
        Probabilities of the two deployed models on the same inputs, float [n, classes].
    labels
        True classes, int [n].
    max_accuracy_loss
        Largest harm allowed, in (0, 1).
    confidence
        Probability, over calibration data, with which the promise holds; in (0, 1).
    tuning
        Temperature, signal and thresholds from `tune`.
    validity
        Digests that the certificate holds for.

    Raises
    ------
    InputError
        An argument is out of range, or the arrays do not belong together.
    CannotCertifyError
        Not even the most cautious threshold passes; the message says how many samples would do.
    """
    for name, value in (("max_accuracy_loss", max_accuracy_loss), ("confidence", confidence)):
        if not 0.0 < value < 1.0:
            raise InputError(f"{name} is {value}; it should be between 0 and 1")
    if not tuning.grid:
        raise InputError("tuning.grid is empty; `tune` lays out thresholds to test")
    edge = check_scores(edge_scores, "edge_scores")
    cloud = check_scores(cloud_scores, "cloud_scores")
    if edge.shape != cloud.shape:
        raise InputError(f"edge_scores {list(edge.shape)} and cloud_scores {list(cloud.shape)} differ in shape")
    truth = check_labels(labels, *edge.shape)
    harmful = (edge.argmax(axis=1) != truth) & (cloud.argmax(axis=1) == truth)
    values = Policy(0.0, tuning.temperature, tuning.signal).signal_values(edge)
    passed = _fixed_sequence(values, harmful, tuning.grid, max_accuracy_loss, 1.0 - confidence)
    kept = values >= passed
    harms = int((kept & harmful).sum())
    return Policy(
        threshold=passed,
        temperature=tuning.temperature,
        signal=tuning.signal,
        certificate=Certificate(
            max_accuracy_loss=max_accuracy_loss,
            confidence=confidence,
            n=len(truth),
            harms=harms,
            p_value=binomial.cdf(harms, len(truth), max_accuracy_loss),
            local_share=float(kept.mean()),
            validity=dict(validity or {}),
        ),
    )


def _fixed_sequence(
    values: NDArray[np.float64], harmful: NDArray[np.bool_], grid: Sequence[float], target: float, level: float
) -> float:
    """Return the last threshold of ``grid`` before the first whose null is not rejected."""
    n = len(values)
    of_harmed = np.sort(values[harmful])
    passed: float | None = None
    for threshold in grid:
        harms = len(of_harmed) - int(np.searchsorted(of_harmed, threshold, side="left"))
        if binomial.cdf(harms, n, target) > level:
            break
        passed = threshold
    if passed is not None:
        return passed
    least = samples_needed(target, 1.0 - level)
    if n < least:
        raise CannotCertifyError(
            f"{n} calibration samples cannot certify a loss of {target:g} at confidence {1 - level:g}: "
            f"at least {least} are needed, and more if any of them is harmed",
            needed=least,
        )
    needed = _needed_at(harms, n, target, level)
    hint = f"about {needed} samples would do" if needed else "more samples will not help: allow more loss"
    raise CannotCertifyError(
        f"even the most cautious threshold ({grid[0]:.4f}) harms {harms} of {n} calibration samples, "
        f"too many for a loss of {target:g} at confidence {1 - level:g}; {hint}",
        needed=needed,
    )


def _needed_at(harms: int, n: int, target: float, level: float) -> int | None:
    """Return how many samples would do if harm went on at the rate seen, or None if none would."""
    rate = harms / n
    if rate >= target:
        return None
    size = n
    while binomial.cdf(math.ceil(rate * size), size, target) > level:
        size = size + max(1, size // 20)
        if size > 10_000_000:
            return None
    return size
