"""Evaluation: what a router achieves at every share of inputs escalated, beside chance and the oracle."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_sdk.errors import InputError

__all__ = ["Curve", "harm", "oracle_curve", "random_curve", "router_curve"]


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
