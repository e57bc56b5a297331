"""Made-up worlds whose truth is known: pairs of models to certify, and journals to judge rules from.

Tests hold the cascade's promises in them, and ``benchmarks/promises.py`` prints how well they are kept.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_sdk.cascade import Policy, Tuning, tune
from edge_sdk.cascade.audit import Guard
from edge_sdk.cascade.offpolicy import Columns

__all__ = ["IN_FORCE", "Population", "draw_journal", "draw_pair", "first_alarm", "truth_of"]

CLASSES = 10
IN_FORCE = 0.8
"""The threshold of the rule that the journals of `draw_journal` were made with."""

Sample = tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.int64]]


def draw_pair(n: int, seed: int | np.random.Generator) -> Sample:
    """Draw edge scores, cloud scores and labels of a pair like a real one.

    The edge is right 89 % of the time and says how sure it is, honestly but for a wrong
    temperature; the cloud is right 97 % of the time, whatever the edge says.
    """
    rng = np.random.default_rng(seed)
    sure = 1 - 0.9 * rng.beta(0.5, 3.6, n)  # probability that the edge is right, 0.1 to 1
    labels = rng.integers(0, CLASSES, n)
    edge_right, cloud_right = rng.random(n) < sure, rng.random(n) < 0.97
    other = (labels + rng.integers(1, CLASSES, n)) % CLASSES
    rows = np.arange(n)
    edge = np.repeat((1 - sure)[:, None] / (CLASSES - 1), CLASSES, axis=1)
    edge[rows, np.where(edge_right, labels, other)] = sure
    edge = edge**1.5
    edge /= edge.sum(axis=1, keepdims=True)
    cloud = np.full((n, CLASSES), 0.01)
    cloud[rows, np.where(cloud_right, labels, other)] = 1 - 0.01 * (CLASSES - 1)
    return edge, cloud, labels


class Population:
    """The world of `draw_pair` as it truly is, and a tuning from validation data of it."""

    def __init__(self) -> None:
        validation = draw_pair(3000, 1)
        self.tuning: Tuning = tune(validation[0], validation[2])
        edge, cloud, labels = draw_pair(200_000, 2)
        values = self.values(edge)
        order = np.argsort(-values)
        self._values = values[order]
        self._harms = np.cumsum(_harmed(edge, cloud, labels)[order]) / len(labels)

    def values(self, edge: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the signal of each row."""
        return Policy(0.0, self.tuning.temperature).signal_values(edge)

    def harm_at(self, threshold: float) -> float:
        """Return the true harm of a threshold."""
        kept = int(np.searchsorted(-self._values, -threshold, side="right"))
        return float(self._harms[kept - 1]) if kept else 0.0

    def share_at(self, threshold: float) -> float:
        """Return the share that a threshold truly keeps."""
        return float(np.searchsorted(-self._values, -threshold, side="right") / len(self._values))

    def oracle_share(self, alpha: float) -> float:
        """Return the share that the best threshold of harm at most ``alpha`` keeps."""
        return self.share_at(float(self._values[np.searchsorted(self._harms, alpha, side="right") - 1]))

    def naive_threshold(self, sample: Sample, alpha: float) -> float:
        """Return the lowest threshold whose observed harm meets the target: what a guarantee must beat."""
        values, harmful = self.values(sample[0]), _harmed(*sample)
        return float(min(t for t in self.tuning.grid if (harmful & (values >= t)).mean() <= alpha))


def _harmed(edge: NDArray[Any], cloud: NDArray[Any], labels: NDArray[Any]) -> NDArray[np.bool_]:
    return np.asarray((edge.argmax(axis=1) != labels) & (cloud.argmax(axis=1) == labels))


def first_alarm(guard: Guard, disagreements: NDArray[np.bool_]) -> int | None:
    """Return after how many audits a guard gives alarm; None where it does not."""
    for n, disagrees in enumerate(disagreements, start=1):
        guard = guard.update(bool(disagrees))
        if guard.alarm:
            return n
    return None


def draw_journal(n: int, seed: int, *, rate: float = 0.01, labelled: float = 0.1) -> tuple[Columns, Columns]:
    """Draw a journal of a rule that keeps from `IN_FORCE` up, and the same where everything is known."""
    rng = np.random.default_rng(seed)
    value = 1 - 0.9 * rng.beta(0.5, 3.6, n)
    truth = rng.integers(0, 10, n)
    edge = np.where(rng.random(n) < 0.16 + 0.83 * value, truth, (truth + 1) % 10)
    cloud = np.where(rng.random(n) < 0.98, truth, (truth + rng.integers(1, 10, n)) % 10)
    propensity = np.where(value >= IN_FORCE, rate, 1.0)
    agrees, edge_right, cloud_right = (a.astype(float) for a in (edge == cloud, edge == truth, cloud == truth))
    asked = (rng.random(n) < propensity) & (rng.random(n) >= 0.05)  # the network took one in twenty
    told = Columns(value, propensity, agrees, edge_right, cloud_right, value < IN_FORCE, ~asked)
    has_label = rng.random(n) < labelled
    seen = replace(
        told,
        agrees=np.where(asked, told.agrees, math.nan),
        edge_right=np.where(has_label, told.edge_right, math.nan),
        cloud_right=np.where(has_label & asked, told.cloud_right, math.nan),
    )
    return seen, told


def truth_of(told: Columns, threshold: float) -> tuple[float, float, float]:
    """Return coverage, agreement and accuracy of a threshold, from a journal where everything is known."""
    kept = told.value >= threshold
    return (
        float(kept.mean()),
        float(np.where(kept, told.agrees, 1.0).mean()),
        float(np.where(kept, told.edge_right, told.cloud_right).mean()),
    )
