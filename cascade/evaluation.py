"""Evaluation: what a router achieves at every share escalated and for every byte sent, beside chance and the oracle."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_sdk.errors import InputError

__all__ = [
    "Curve",
    "Selective",
    "harm",
    "oracle_curve",
    "paired_bounds",
    "random_curve",
    "router_curve",
    "selective",
    "share_needed",
]

_ONE_SIDED = 1.645  # 95 % of a normal distribution lie below


@dataclass(frozen=True, slots=True)
class Curve:
    """Accuracy of the pair against the share of inputs escalated, and against what that sends.

    Attributes
    ----------
    share, accuracy
        Float64 [n + 1]; of the straight line of chance its two ends.
    sent
        Bytes sent, on average over all inputs, float64 alike; None where sizes are not known.
    """

    share: NDArray[np.float64]
    accuracy: NDArray[np.float64]
    sent: NDArray[np.float64] | None = None


def harm(local: NDArray[Any], edge_right: NDArray[Any], cloud_right: NDArray[Any]) -> int:
    """Count the inputs kept on the edge, wrong there, and right in the cloud; arguments are bool [n]."""
    return int((np.asarray(local) & ~np.asarray(edge_right) & np.asarray(cloud_right)).sum())


def router_curve(
    signal: NDArray[Any], edge_right: NDArray[Any], cloud_right: NDArray[Any], *, sizes: NDArray[Any] | None = None
) -> Curve:
    """Escalate in the order of a signal, least sure first.

    Parameters
    ----------
    signal
        Float [n]; higher is surer. Ties keep their order of arrival.
    edge_right, cloud_right
        Which answers are right, bool [n]; or how right they are, float [n] in [0, 1], as 1 less the
        loss of a detector.
    sizes
        Bytes that each input is sent as, [n].

    Raises
    ------
    InputError
        The arrays are empty or differ in length.
    """
    return _curve(np.argsort(np.asarray(signal), kind="stable"), edge_right, cloud_right, sizes)


def oracle_curve(edge_right: NDArray[Any], cloud_right: NDArray[Any], *, sizes: NDArray[Any] | None = None) -> Curve:
    """Escalate what gains most first and what loses last: no router can do better at any share.

    Among inputs that gain alike the smallest go first, and among those that lose the largest.
    Parameters and errors are those of `router_curve`.
    """
    gain = np.asarray(cloud_right, dtype=np.float64) - np.asarray(edge_right, dtype=np.float64)
    small = np.zeros(len(gain)) if sizes is None else np.where(gain > 0.0, 1.0, -1.0) * np.asarray(sizes)
    return _curve(np.lexsort((small, -gain)), edge_right, cloud_right, sizes)


def random_curve(edge_right: NDArray[Any], cloud_right: NDArray[Any], *, sizes: NDArray[Any] | None = None) -> Curve:
    """Escalate by lot: the straight line from the edge's accuracy to the cloud's."""
    sent = None if sizes is None else np.array([0.0, np.mean(sizes)])
    return Curve(np.array([0.0, 1.0]), np.array([np.mean(edge_right), np.mean(cloud_right)], dtype=np.float64), sent)


def _curve(
    order: NDArray[np.intp], edge_right: NDArray[Any], cloud_right: NDArray[Any], sizes: NDArray[Any] | None
) -> Curve:
    edge, cloud = np.asarray(edge_right, dtype=np.float64), np.asarray(cloud_right, dtype=np.float64)
    n = len(edge)
    if not len(order) == len(edge) == len(cloud) or n == 0:
        raise InputError("signal, edge_right and cloud_right should have the same length, at least 1")
    if sizes is not None and np.shape(sizes) != (n,):
        raise InputError(f"sizes should be {n} numbers of bytes, not an array of shape {list(np.shape(sizes))}")
    right = edge.sum() + np.concatenate([[0.0], np.cumsum((cloud - edge)[order])])
    sent = None if sizes is None else np.concatenate([[0.0], np.cumsum(np.asarray(sizes, np.float64)[order])]) / n
    return Curve(np.arange(n + 1) / n, right / n, sent)


def share_needed(curve: Curve, accuracy: float) -> float | None:
    """Return the smallest share escalated at which the pair reaches an accuracy, or None where it never does."""
    reached = curve.accuracy >= accuracy
    return float(curve.share[np.argmax(reached)]) if reached.any() else None


def paired_bounds(
    ours: NDArray[Any],
    other: NDArray[Any],
    edge_right: NDArray[Any],
    cloud_right: NDArray[Any],
    shares: NDArray[Any],
) -> NDArray[np.float64]:
    """Return the one-sided 95 % lower bound of what one signal gains over another, at each share escalated.

    Both see the same inputs, so the differences are paired; the bound is the normal one.

    Parameters
    ----------
    ours, other
        Signals, float [n]; higher is surer.
    edge_right, cloud_right
        Which answers are right, bool [n].
    shares
        Of inputs escalated, float [k] in [0, 1].

    Returns
    -------
    float64 [k], in accuracy.
    """
    edge, cloud = np.asarray(edge_right, dtype=np.float64), np.asarray(cloud_right, dtype=np.float64)
    n = len(edge)
    ranks = [np.argsort(np.argsort(np.asarray(signal), kind="stable"), kind="stable") for signal in (ours, other)]
    bounds = []
    for count in np.rint(np.asarray(shares) * n):
        right = [np.where(rank < count, cloud, edge) for rank in ranks]
        gain = right[0] - right[1]
        bounds.append(gain.mean() - _ONE_SIDED * gain.std() / math.sqrt(n))
    return np.array(bounds)


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
