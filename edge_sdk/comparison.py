"""What could decide when to ask the cloud, compared on one pair of models: as a record, a table and JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_sdk.cascade.policy import Policy
from edge_sdk.cascade.routers import Point, Router, compare_routers, filter_points, point_of

__all__ = ["HEADINGS", "SHARES", "Comparison", "compare", "thinned"]

SHARES = (0.1, 0.2, 0.3, 0.4, 0.5)
"""Shares escalated that tables show."""

HEADINGS = ("escalated:", *(f"{share:.0%}" for share in SHARES), "needed", "AURC", "AUGRC", "E-AURC")
"""Of `Comparison.rows`."""

_MOST_POINTS = 401  # of a curve, for programs and pictures: more than a screen shows


@dataclass(frozen=True, slots=True)
class Comparison:
    """Routers beside each other on one pair of models.

    Attributes
    ----------
    name
        Of the pair.
    n
        Test inputs.
    edge, cloud
        Accuracy of each alone.
    routers
        Chance, the oracle, and every signal.
    points
        Rules with a fixed threshold: Sedna's filters, and the bundle's own rule.
    encoding
        As what the inputs are sent; empty where that is not known, and bytes neither.
    """

    name: str
    n: int
    edge: float
    cloud: float
    routers: tuple[Router, ...]
    points: tuple[Point, ...]
    encoding: str = ""

    def rows(self) -> list[tuple[str, ...]]:
        """Return a row a router, under `HEADINGS`; the last three cells are missing where nothing is judged."""
        return [
            (
                router.name,
                *(f"{router.accuracy(share):.2%}" for share in SHARES),
                "never" if router.needed is None else f"{router.needed:.1%}",
                *(() if router.judged is None else (f"{value:.4f}" for value in asdict(router.judged).values())),
            )
            for router in self.routers
        ]

    def to_json(self) -> dict[str, Any]:
        """Return the comparison as JSON-compatible values, with at most 401 points of each curve."""
        return {
            "name": self.name,
            "n": self.n,
            "accuracy": {"edge": self.edge, "cloud": self.cloud},
            "encoding": self.encoding,
            "routers": [
                {
                    "router": router.name,
                    "accuracy": {f"{share:g}": router.accuracy(share) for share in SHARES},
                    "needed": router.needed,
                    **({} if router.judged is None else asdict(router.judged)),
                    "curve": {name: values.tolist() for name, values in thinned(router).items()},
                }
                for router in self.routers
            ],
            "rules": [asdict(point) for point in self.points],
        }


def compare(
    name: str,
    edge_scores: NDArray[Any],
    cloud_scores: NDArray[Any],
    labels: NDArray[Any],
    *,
    sizes: NDArray[Any] | None = None,
    encoding: str = "",
    policy: Policy | None = None,
) -> Comparison:
    """Compare every router on the scores of a pair of models on test data.

    Parameters
    ----------
    name, encoding
        See `Comparison`.
    edge_scores, cloud_scores, labels, sizes
        See `edge_sdk.cascade.routers.compare_routers`.
    policy
        A rule of one's own, to be shown beside the others.

    Raises
    ------
    InputError
        Scores, labels or sizes are not what they should be, or do not belong together.
    """
    routers = compare_routers(edge_scores, cloud_scores, labels, sizes=sizes)
    points: Sequence[Point] = filter_points(edge_scores, cloud_scores, labels, sizes=sizes)
    right, cloud_right = (np.asarray(scores).argmax(axis=1) == labels for scores in (edge_scores, cloud_scores))
    if policy is not None:
        rule = f"the bundle's rule on {policy.signal}"
        points = (*points, point_of(rule, policy.local_mask(edge_scores), right, cloud_right, sizes))
    return Comparison(
        name, len(right), float(right.mean()), float(cloud_right.mean()), routers, tuple(points), encoding
    )


def thinned(router: Router) -> dict[str, NDArray[np.float64]]:
    """Return at most 401 points of a router's curve: ``share`` and ``accuracy``, and ``sent`` where it is known."""
    curve = router.curve
    chosen = np.unique(np.linspace(0, len(curve.share) - 1, _MOST_POINTS).round().astype(np.intp))
    made = {"share": curve.share[chosen], "accuracy": curve.accuracy[chosen]}
    return made if curve.sent is None else {**made, "sent": curve.sent[chosen]}
