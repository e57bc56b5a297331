"""Off-policy evaluation: from a journal, what another threshold would have done.

Everything with a signal below the threshold in force went to the cloud, so lower thresholds are
known. What was kept is known from audits alone, each of which stands for as many as the audit's rate
says. Where nothing was audited, nothing is estimated.
"""

from __future__ import annotations

import math
import sys
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from edge_sdk.cascade.audit import Estimate, estimate_mean, estimate_threshold
from edge_sdk.cascade.journal import CloudAnswer, Entry, Feedback, LateAnswer, Record
from edge_sdk.errors import InputError, JournalError

__all__ = ["Columns", "Evaluation", "columns", "evaluate"]


@dataclass(frozen=True, slots=True)
class Columns:
    """A journal as arrays, one row a decision.

    Attributes
    ----------
    value
        The signal, float64 [n]; −inf where the rule could not read the scores, which always escalates.
    propensity
        Probability with which the cloud was asked, float64 [n] in [0, 1].
    agrees
        1 where edge and cloud name the same class, 0 where not, NaN where the cloud did not
        answer; float64 [n].
    edge_right, cloud_right
        1 where it was right, 0 where not, NaN where no label arrived or the cloud did not answer;
        float64 [n].
    wanted
        Whether the rule wanted the cloud's answer, bool [n]; not of audits.
    local
        Whether the edge's answer was given, bool [n].
    """

    value: NDArray[np.float64]
    propensity: NDArray[np.float64]
    agrees: NDArray[np.float64]
    edge_right: NDArray[np.float64]
    cloud_right: NDArray[np.float64]
    wanted: NDArray[np.bool_]
    local: NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What a threshold would have done to the requests of a journal.

    Attributes
    ----------
    threshold
        The one that is judged.
    requests, labels
        Decisions in the journal, and true labels that arrived for them.
    coverage
        Share that would be answered by the edge.
    agreement
        Share whose answer would be that of the cloud.
    accuracy
        Share whose answer would be right; None where no label arrived.
    unknown
        Why something cannot be estimated; None where all can. What cannot be is NaN, from 0 to 1.
    """

    threshold: float
    requests: int
    labels: int
    coverage: Estimate
    agreement: Estimate
    accuracy: Estimate | None
    unknown: str | None


def columns(records: Iterable[Entry], *, rule: str | None = None, cloud: str | None = None) -> Columns:
    """Return a journal as arrays; labels and late answers are joined by the decision's id, whenever they came.

    Parameters
    ----------
    records
        As `edge_sdk.cascade.journal.parse` returns them, in any order.
    rule
        Digest of the rule whose decisions are taken. None takes the only one there is.
    cloud
        Digest of the cloud model whose answers are taken; those of others count as missing. None
        takes the only one there is.

    Raises
    ------
    JournalError
        There are no decisions, or those of several rules, or answers of several cloud models.
    """
    made: dict[str, _Row] = {}
    labels: dict[str, int] = {}
    late: dict[str, CloudAnswer] = {}
    for record in records:
        if isinstance(record, Feedback):
            labels[record.id] = record.label  # the last word counts
        elif isinstance(record, LateAnswer):
            late.setdefault(record.id, record.cloud)
        else:
            made[record.id] = _row(record)
    for name, said in late.items():
        if name in made and made[name].cloud is None:
            made[name] = made[name]._replace(cloud=sys.intern(said.model), cloud_index=said.index)
    rule = _only("rule", rule, Counter(row.rule for row in made.values()))
    chosen = {name: row for name, row in made.items() if row.rule == rule}
    if not chosen:
        raise JournalError("the journal holds no decisions" + (f" of the rule {rule}" if rule else ""))
    cloud = _only("cloud model", cloud, Counter(row.cloud for row in chosen.values() if row.cloud is not None))
    filled = np.full((5, len(chosen)), math.nan)
    for n, (name, row) in enumerate(chosen.items()):
        label = labels.get(name)
        filled[:2, n] = row.value, row.propensity
        if label is not None:
            filled[3, n] = row.edge_index == label
        if row.cloud is not None and row.cloud == cloud:
            filled[2, n] = row.edge_index == row.cloud_index
            if label is not None:
                filled[4, n] = row.cloud_index == label
    rows = chosen.values()
    wanted, local = (np.fromiter((getattr(row, name) for row in rows), bool, len(rows)) for name in ("wanted", "local"))
    value, propensity, agrees, edge_right, cloud_right = filled
    return Columns(value, propensity, agrees, edge_right, cloud_right, wanted, local)


class _Row(NamedTuple):
    """What is needed of a record; journals are long."""

    rule: str
    value: float
    propensity: float
    wanted: bool
    local: bool
    edge_index: int
    cloud: str | None
    cloud_index: int


def _row(record: Record) -> _Row:
    decision, outcome, cloud = record.decision, record.outcome, record.outcome.cloud
    return _Row(
        sys.intern(record.rule),
        -math.inf if decision.value is None else decision.value,
        decision.propensity,
        decision.reason == "escalated",
        outcome.source == "edge",
        outcome.index,
        None if cloud is None else sys.intern(cloud.model),
        0 if cloud is None else cloud.index,
    )


def _only(what: str, wanted: str | None, there: Counter[str]) -> str | None:
    if wanted is not None:
        return wanted
    if len(there) > 1:
        names = ", ".join(f"{name or 'unnamed'} ({count})" for name, count in there.most_common(5))
        raise JournalError(f"the journal holds decisions of more than one {what}, say which: {names}")
    return next(iter(there), None)


def evaluate(log: Columns, threshold: float, *, confidence: float = 0.95) -> Evaluation:
    """Return what a threshold would have done, with confidence intervals.

    Agreement needs audits wherever the edge would answer and did; accuracy needs labels as well. That labels
    arrive must have nothing to do with who was right.

    Parameters
    ----------
    log
        From `columns`.
    threshold
        Requests with at least this signal would be answered by the edge.
    confidence
        Of the intervals, in (0, 1).

    Raises
    ------
    InputError
        The threshold is not a number, or the confidence is out of range.
    """
    if math.isnan(threshold) or not 0.0 < confidence < 1.0:
        raise InputError(f"threshold is {threshold} and confidence {confidence}; they should be numbers, in (0, 1)")
    kept, n = log.value >= threshold, len(log.value)
    _, differs = estimate_threshold(log.value, log.agrees, log.propensity, threshold, confidence=confidence)
    unknown = None
    if math.isnan(differs.value):
        unknown = _why(log, kept, threshold)
    agreement = Estimate(1.0 - differs.value, 1.0 - differs.high, 1.0 - differs.low, differs.observed)
    labels = int((~np.isnan(log.edge_right)).sum())
    accuracy = None
    if labels:
        accuracy = _add(
            _part(log.edge_right, log.propensity, kept, confidence),
            _part(log.cloud_right, log.propensity, ~kept, confidence),
        )
        if unknown is None and math.isnan(accuracy.value):
            unknown = "accuracy: of some requests there is no label, or no answer of the cloud that would be given"
    coverage = estimate_mean(kept.astype(np.float64), np.ones(n), confidence=confidence)
    return Evaluation(threshold, n, labels, coverage, agreement, accuracy, unknown)


def _why(log: Columns, kept: NDArray[np.bool_], threshold: float) -> str:
    never = kept & (log.propensity == 0.0)
    if never.any():
        least = float(np.nextafter(log.value[never].max(), math.inf))
        return (
            f"agreement at {threshold:g}: {int(never.sum())} of the requests that would be kept had no chance of an "
            f"audit (propensity 0); only thresholds of {least!r} and above can be estimated"
        )
    return f"agreement at {threshold:g}: no audit of the requests that would be kept was answered"


def _part(
    outcome: NDArray[np.float64], propensity: NDArray[np.float64], of: NDArray[np.bool_], level: float
) -> Estimate:
    """Return the share of all requests that are in a part and whose outcome is 1."""
    if not of.any():
        return Estimate(0.0, 0.0, 0.0, 0)
    share, inside = float(of.mean()), estimate_mean(outcome[of], propensity[of], confidence=level)
    return Estimate(share * inside.value, share * inside.low, share * inside.high, inside.observed)


def _add(a: Estimate, b: Estimate) -> Estimate:
    """Return the sum of two independent estimates of parts of a whole."""
    value = a.value + b.value
    if math.isnan(value):
        return Estimate(math.nan, 0.0, 1.0, a.observed + b.observed)
    low = value - math.hypot(a.value - a.low, b.value - b.low)
    high = value + math.hypot(a.high - a.value, b.high - b.value)
    return Estimate(value, max(0.0, low), min(1.0, high), a.observed + b.observed)
