"""From the device's records to the figures of the report. Pure functions on arrays."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_sdk.cascade import binomial
from edge_sdk.cascade.evaluation import Curve, harm, oracle_curve, random_curve, router_curve
from edge_sdk.cascade.policy import Policy
from edge_sdk.examples.demo.records import REASONS, SOURCES

__all__ = ["FAIR_CONFIDENCE", "Sweeps", "percentiles", "window"]

FAIR_CONFIDENCE = 0.999  # a fair certificate must not fail by chance

_EDGE = SOURCES.index("edge")


@dataclass(frozen=True)
class Sweeps:
    """The whole test split, predicted once in each mode.

    Attributes
    ----------
    edge, cloud, hybrid
        Records, one a test image and in the same order.
    labels
        True classes, int64 [n].
    """

    edge: NDArray[np.void]
    cloud: NDArray[np.void]
    hybrid: NDArray[np.void]
    labels: NDArray[np.int64]

    def right(self, mode: str) -> NDArray[np.bool_]:
        """Which answers of a mode are right, bool [n]."""
        return np.asarray(getattr(self, mode)["index"] == self.labels)

    @property
    def accuracy(self) -> dict[str, float]:
        """Share of right answers, by mode."""
        return {mode: float(self.right(mode).mean()) for mode in ("edge", "cloud", "hybrid")}

    @property
    def local(self) -> NDArray[np.bool_]:
        """Which answers of the hybrid run the edge gave, for whatever reason, bool [n]."""
        return np.asarray(self.hybrid["source"] == _EDGE)

    @property
    def harms(self) -> int:
        """Inputs kept on the edge, wrong there, and right in the cloud."""
        return harm(self.local, self.right("hybrid"), self.right("cloud"))

    def loss(self) -> dict[str, float | int]:
        """Return the realised loss, with its exact one-sided lower confidence bound."""
        n = len(self.labels)
        return {
            "realised_loss": self.harms / n,
            "harms": self.harms,
            "lower_bound": binomial.lower_bound(self.harms, n, FAIR_CONFIDENCE),
        }

    def curves(self, policy: Policy) -> dict[str, Curve]:
        """Accuracy against share escalated: max probability, random, oracle."""
        edge, cloud = self.right("edge"), self.right("cloud")
        return {
            policy.signal.replace("_", " "): router_curve(self.edge["confidence"], edge, cloud),
            "random": random_curve(edge, cloud),
            "oracle": oracle_curve(edge, cloud),
        }


def percentiles(latency_ms: NDArray[np.float64]) -> dict[str, float]:
    """Return p50, p95 and p99 in milliseconds."""
    p50, p95, p99 = np.percentile(latency_ms, [50, 95, 99])
    return {"p50": float(p50), "p95": float(p95), "p99": float(p99)}


def window(rows: NDArray[np.void], start: float, end: float, deadline: float) -> dict[str, Any]:
    """Count what became of the calls that began between two times of the monotonic clock.

    While other programs have the processor no answer can be given: a call has that much longer than its deadline.

    Returns
    -------
    ``calls``, ``answered``, ``in_deadline``, how many of these were later by the clock (``withheld``), the counts of
    ``reasons`` and the ``versions`` that answered.
    """
    part = rows[(rows["at"] >= start) & (rows["at"] < end)]
    answered = part["index"] >= 0
    late = answered & (part["latency_ms"] > deadline * 1e3)
    withheld = late & (part["latency_ms"] - part["withheld_ms"] <= deadline * 1e3)
    reasons = {name: int((part["reason"] == n).sum()) for n, name in enumerate(REASONS)}
    return {
        "calls": len(part),
        "answered": int(answered.sum()),
        "in_deadline": int((answered & ~late | withheld).sum()),
        "withheld": int(withheld.sum()),
        "reasons": {name: count for name, count in reasons.items() if count},
        "versions": sorted(set(part["version"].tolist())),
    }
