"""What became of answers as they were given: who gave them, and what was lost where that was the edge.

A certificate speaks of answers that its rule keeps. Where the cloud could not be asked, the edge also
answers what the rule would not keep, and what goes wrong there comes on top. So shares are of all
answers here.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edge_sdk.cascade.audit import Estimate, estimate_mean
from edge_sdk.cascade.offpolicy import Columns
from edge_sdk.errors import InputError

__all__ = ["Delivery", "delivery"]


@dataclass(frozen=True, slots=True)
class Delivery:
    """How the answers of a journal were given.

    Attributes
    ----------
    answers, labels
        How many there are, and true labels that arrived for them.
    edge
        Share that the edge gave.
    withheld
        Share that the edge gave though the rule wanted the cloud's.
    differs
        Share that the edge gave and the cloud would have answered otherwise.
    harm
        Share that the edge gave, wrong, where the cloud would have been right; None where no label arrived.
    """

    answers: int
    labels: int
    edge: float
    withheld: float
    differs: Estimate
    harm: Estimate | None


def delivery(log: Columns, *, confidence: float = 0.95) -> Delivery:
    """Return how answers were given, with confidence intervals of what is not known of all of them.

    What the cloud would have said of answers that the rule kept is known from audits. Of those that it
    wanted to escalate and could not it is known from late answers, which stand for those that never came;
    without any, the interval holds whatever they may be.

    Parameters
    ----------
    log
        From `edge_sdk.cascade.offpolicy.columns`.
    confidence
        Of the intervals, in (0, 1).

    Raises
    ------
    InputError
        The confidence is out of range.
    """
    if not 0.0 < confidence < 1.0:
        raise InputError(f"confidence is {confidence}; it should be between 0 and 1")
    labels = int((~np.isnan(log.edge_right)).sum())
    known = ~np.isnan(log.edge_right) & ~np.isnan(log.cloud_right)
    harmed = np.where(known, (log.edge_right == 0.0) & (log.cloud_right == 1.0), math.nan)
    return Delivery(
        len(log.value),
        labels,
        float(log.local.mean()),
        float((log.local & log.wanted).mean()),
        _over_all(log, 1.0 - log.agrees, confidence),
        _over_all(log, harmed, confidence) if labels else None,
    )


def _over_all(log: Columns, outcome: NDArray[np.float64], confidence: float) -> Estimate:
    """Return the share of all answers that the edge gave and whose outcome is 1."""
    kept = _share(log.local & ~log.wanted, ~log.wanted, outcome, log.propensity, confidence)
    missed = log.local & log.wanted
    withheld = _share(missed, missed, outcome, log.propensity, confidence)
    value, observed = kept.value + withheld.value, kept.observed + withheld.observed
    if math.isnan(value):
        return Estimate(value, kept.low + withheld.low, min(1.0, kept.high + withheld.high), observed)
    low = value - math.hypot(kept.value - kept.low, withheld.value - withheld.low)
    high = value + math.hypot(kept.high - kept.value, withheld.high - withheld.value)
    return Estimate(value, max(0.0, low), min(1.0, high), observed)


def _share(
    of: NDArray[np.bool_],
    like: NDArray[np.bool_],
    outcome: NDArray[np.float64],
    propensity: NDArray[np.float64],
    confidence: float,
) -> Estimate:
    """Return the share of all answers that are in a part and whose outcome is 1, as among those that are like it."""
    if not of.any():
        return Estimate(0.0, 0.0, 0.0, 0)
    part, inside = float(of.mean()), estimate_mean(outcome[like], propensity[like], confidence=confidence)
    return Estimate(part * inside.value, part * inside.low, part * inside.high, inside.observed)
