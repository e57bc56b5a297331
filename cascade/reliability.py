"""Reliability: how far a model's confidence is from what it says. Lower is better in all of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from edge_sdk.cascade.calibration import check_labels
from edge_sdk.cascade.signals import check_scores
from edge_sdk.errors import InputError

__all__ = ["Binning", "Reliability", "brier_score", "calibration_error", "negative_log_likelihood", "reliability"]

Binning = Literal["width", "mass"]

_SMALLEST = 1e-12  # stands for an exact zero of a quantized softmax


@dataclass(frozen=True, slots=True)
class Reliability:
    """What a reliability diagram shows; empty bins are left out.

    Attributes
    ----------
    confidence
        Mean confidence in each bin, float64 [bins].
    accuracy
        Share of right answers in each bin, float64 [bins].
    count
        Samples in each bin, int64 [bins].
    """

    confidence: NDArray[np.float64]
    accuracy: NDArray[np.float64]
    count: NDArray[np.int64]

    @property
    def error(self) -> float:
        """Mean distance of confidence and accuracy, weighted by count: the expected calibration error."""
        return float((self.count * np.abs(self.confidence - self.accuracy)).sum() / self.count.sum())

    @property
    def worst(self) -> float:
        """Largest distance of confidence and accuracy of any bin."""
        return float(np.abs(self.confidence - self.accuracy).max())


def reliability(
    confidence: NDArray[Any], right: NDArray[Any], *, bins: int = 15, binning: Binning = "width"
) -> Reliability:
    """Return the data of a reliability diagram.

    Parameters
    ----------
    confidence
        Of each answer, float [n] in [0, 1].
    right
        Which answers were right, bool [n].
    bins
        How many, at most.
    binning
        ``width``: bins of equal width over [0, 1], each closed above. ``mass``: bins of equal
        counts, but for equal confidences, which always share one.

    Raises
    ------
    InputError
        The arrays are empty or differ in length, a confidence is outside [0, 1], or an option is
        none of the above.

    References
    ----------
    Naeini, Cooper, Hauskrecht, "Obtaining Well Calibrated Probabilities Using Bayesian Binning",
    AAAI 2015; Nguyen and O'Connor, "Posterior Calibration and Exploratory Analysis", EMNLP 2015
    (equal mass).
    """
    sure, hit = np.asarray(confidence, dtype=np.float64), np.asarray(right, dtype=np.float64)
    if sure.ndim != 1 or sure.shape != hit.shape or len(sure) == 0:
        raise InputError("confidence and right should have the same length, at least 1")
    bad = ~((sure >= 0.0) & (sure <= 1.0))
    if bad.any():
        row = int(np.argmax(bad))
        raise InputError(f"confidence: row {row} is {sure[row]}, which is not between 0 and 1")
    if bins < 1:
        raise InputError(f"bins is {bins}; it should be at least 1")
    if binning == "width":
        of_row = np.clip(np.ceil(sure * bins).astype(np.int64) - 1, 0, bins - 1)
    elif binning == "mass":
        # a tie takes the bin of its first, so that equal confidences are never parted
        rank = np.searchsorted(np.sort(sure), sure, side="left")
        of_row = rank * bins // len(sure)
    else:
        raise InputError(f"binning is {binning!r}; it should be 'width' or 'mass'")
    count = np.bincount(of_row, minlength=bins)
    used = count > 0
    return Reliability(
        np.bincount(of_row, weights=sure, minlength=bins)[used] / count[used],
        np.bincount(of_row, weights=hit, minlength=bins)[used] / count[used],
        count[used],
    )


def calibration_error(
    scores: NDArray[Any], labels: NDArray[Any], *, bins: int = 15, binning: Binning = "width"
) -> float:
    """Return the expected calibration error of the largest probability; in [0, 1].

    Parameters
    ----------
    scores
        Probabilities, float [n, classes].
    labels
        True classes, int [n].
    bins, binning
        See `reliability`.

    Raises
    ------
    InputError
        An argument is not what it should be.
    """
    array = check_scores(scores)
    truth = check_labels(labels, *array.shape)
    top = np.minimum(array.max(axis=1), 1.0)  # rows may sum to a little more than 1
    return reliability(top, array.argmax(axis=1) == truth, bins=bins, binning=binning).error


def brier_score(scores: NDArray[Any], labels: NDArray[Any]) -> float:
    """Return the mean squared distance of the scores from the truth, summed over classes; in [0, 2].

    Parameters and errors are those of `calibration_error`. For two classes it is twice what some
    libraries call the Brier score.

    References
    ----------
    Brier, "Verification of Forecasts Expressed in Terms of Probability", 1950.
    """
    array = check_scores(scores)
    truth = check_labels(labels, *array.shape)
    of_truth = array[np.arange(len(truth)), truth]
    return float(((array**2).sum(axis=1) - 2 * of_truth + 1.0).mean())


def negative_log_likelihood(scores: NDArray[Any], labels: NDArray[Any]) -> float:
    """Return the mean of −ln p of the true class in nats; a probability of 0 counts as 1e-12.

    Parameters and errors are those of `calibration_error`.
    """
    array = check_scores(scores)
    truth = check_labels(labels, *array.shape)
    return float(-np.log(np.maximum(array[np.arange(len(truth)), truth], _SMALLEST)).mean())
