"""Evaluation: what a router achieves at every share of inputs escalated, beside chance and the oracle."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_sdk.errors import InputError

__all__ = ["Curve", "Selective", "harm", "oracle_curve", "random_curve", "router_curve", "selective", "share_needed"]


@dataclass(frozen=True, slots=True)
class Curve:
    """Accuracy of the pair against the share of inputs escalated; both float64 [n + 1]."""

    share: NDArray[np.float64]
    accuracy: NDArray[np.float64]


def harm(local: NDArray[Any], edge_right: NDArray[Any], cloud_right: NDArray[Any]) -> int:
    """Count the inputs kept on the edge, wrong there, and right in the cloud; arguments are bool [n]."""
    return int((np.asarray(local) & ~np.asarray(edge_right) & np.asarray(cloud_right)).sum())


def router_curve(signal: NDArray[Any], edge_right: NDArray[Any], cloud_right: NDArray[Any]) -> Curve:
    """Escalate in the order of a signal, least sure first.

    Parameters
    ----------
    signal
        Float [n]; higher is surer. Ties keep their order of arrival.
    edge_right, cloud_right
        Which answers are right, bool [n].

    Raises
    ------
    InputError
        The arrays are empty or differ in length.
    """
    edge, cloud = np.asarray(edge_right, dtype=bool), np.asarray(cloud_right, dtype=bool)
    if not len(signal) == len(edge) == len(cloud) or len(edge) == 0:
        raise InputError("signal, edge_right and cloud_right should have the same length, at least 1")
    gain = cloud.astype(np.float64) - edge
    order = np.argsort(np.asarray(signal), kind="stable")
    right = edge.sum() + np.concatenate([[0.0], np.cumsum(gain[order])])
    n = len(edge)
    return Curve(np.arange(n + 1) / n, right / n)


def oracle_curve(edge_right: NDArray[Any], cloud_right: NDArray[Any]) -> Curve:
    """Escalate what gains first and what loses last: no router can do better."""
    edge, cloud = np.asarray(edge_right, dtype=bool), np.asarray(cloud_right, dtype=bool)
    return router_curve(edge.astype(np.float64) - cloud, edge, cloud)


def random_curve(edge_right: NDArray[Any], cloud_right: NDArray[Any]) -> Curve:
    """Escalate by lot: the straight line from the edge's accuracy to the cloud's."""
    share = np.array([0.0, 1.0])
    return Curve(share, np.array([np.mean(edge_right), np.mean(cloud_right)], dtype=np.float64))


def share_needed(curve: Curve, accuracy: float) -> float | None:
    """Return the smallest share escalated at which the pair reaches an accuracy, or None where it never does."""
    reached = curve.accuracy >= accuracy
    return float(curve.share[np.argmax(reached)]) if reached.any() else None


@dataclass(frozen=True, slots=True)
class Selective:
    """How well a signal tells right from wrong answers of the edge alone; lower is better in all.

    Attributes
    ----------
    aurc
        Mean error among the answers kept, over all shares kept. Gives much weight to the first few.
    augrc
        Mean, over all shares kept, of the share of all inputs that is kept and wrong.
    e_aurc
        ``aurc`` less what the perfect order would have, ``e + (1 − e) ln(1 − e)`` at error e.

    References
    ----------
    Geifman, Uziel, El-Yaniv, "Bias-Reduced Uncertainty Estimation for Deep Neural Classifiers", ICLR
    2019 (AURC, E-AURC); Traub et al., "Overcoming Common Flaws in the Evaluation of Selective
    Classification Systems", NeurIPS 2024 (AUGRC).
    """

    aurc: float
    augrc: float
    e_aurc: float


def selective(signal: NDArray[Any], right: NDArray[Any]) -> Selective:
    """Measure a signal as a judge of the edge's answers.

    Parameters
    ----------
    signal
        Float [n]; higher is surer. Errors among equal values count as spread evenly over them.
    right
        Which answers of the edge are right, bool [n].

    Raises
    ------
    InputError
        The arrays are empty or differ in length.
    """
    values, wrong = np.asarray(signal, dtype=np.float64), ~np.asarray(right, dtype=bool)
    n = len(values)
    if values.shape != wrong.shape or n == 0:
        raise InputError("signal and right should have the same length, at least 1")
    _, group, counts = np.unique(-values, return_inverse=True, return_counts=True)
    rates = np.bincount(group, weights=wrong) / counts
    errors = np.cumsum(np.repeat(rates, counts))
    error = float(wrong.mean())
    aurc = float((errors / np.arange(1, n + 1)).mean())
    best = error + (1.0 - error) * math.log1p(-error) if error < 1.0 else 1.0
    return Selective(aurc, float(errors.mean()) / n, aurc - best)
