"""Compare what could decide which inputs go to the cloud, on the test split of a data set.

``evaluate`` runs both bundles and prints the accuracy of the pair at several shares escalated, for
every signal, for chance and for the oracle; beside it what KubeEdge Sedna's filters do at their
default threshold, and what the edge bundle's own rule does.

example:
  edge-sdk cascade evaluate digits-1.0.0.edge --cloud teacher.edge --data mnist --plot routers.png
"""

from __future__ import annotations

import argparse
import importlib.util
import io
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from edge_sdk.bundle import Bundle
from edge_sdk.cascade.policy import Policy
from edge_sdk.cascade.routers import Point, Router, compare_routers, filter_points, point_of
from edge_sdk.certification import score
from edge_sdk.datasets import load_splits
from edge_sdk.errors import CertificateError, MissingExtraError
from edge_sdk.files import write_durably
from edge_sdk.model import EdgeModel

__all__ = ["configure", "run"]

SHARES = (0.1, 0.2, 0.3, 0.4, 0.5)


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``edge-sdk cascade``."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="evaluate")
    evaluate = actions.add_parser("evaluate", help="compare routers on the test split of a data set")
    evaluate.add_argument("edge", type=Path, metavar="EDGE.edge", help="bundle that runs on the device")
    evaluate.add_argument("--cloud", type=Path, required=True, metavar="CLOUD.edge", help="bundle that the server runs")
    evaluate.add_argument("--data", required=True, metavar="SPEC", help="mnist, cifar10:PATH, folder:PATH or npz:PATH")
    evaluate.add_argument("--seed", type=int, default=0, help="seed of the splits, as for training (default 0)")
    evaluate.add_argument("--limit", type=int, metavar="N", help="use at most about N images, as for training")
    evaluate.add_argument("--plot", type=Path, metavar="FILE.png", help="draw accuracy against share escalated")
    evaluate.add_argument("--json", action="store_true", help="print the figures as JSON")


def run(args: argparse.Namespace) -> int:
    """Score the test split with both models, then compare."""
    if args.plot is not None and importlib.util.find_spec("matplotlib") is None:
        raise MissingExtraError("matplotlib", "demo")  # before the models run for minutes
    edge, cloud = Bundle.open(args.edge), Bundle.open(args.cloud)
    test = load_splits(args.data, seed=args.seed, limit=args.limit).test
    for side, bundle in (("edge", edge), ("cloud", cloud)):
        if bundle.manifest.labels != tuple(test.classes):
            raise CertificateError(
                f"the {side} bundle's {len(bundle.manifest.labels)} labels are not the data's {len(test.classes)}"
            )
    with EdgeModel(edge) as small, EdgeModel(cloud) as large:
        scores = {"edge": score(small, test), "cloud": score(large, test)}
    routers = compare_routers(scores["edge"], scores["cloud"], test.labels)
    points = list(filter_points(scores["edge"], scores["cloud"], test.labels))
    right = {side: of.argmax(axis=1) == test.labels for side, of in scores.items()}
    if edge.manifest.cascade is not None:
        rule = Policy.from_json(edge.manifest.cascade)
        points.append(point_of(f"the bundle's rule on {rule.signal}", rule.local_mask(scores["edge"]), *right.values()))
    if args.plot is not None:
        write_durably(args.plot, _picture(routers, points))
    accuracy = {side: float(of.mean()) for side, of in right.items()}
    if args.json:
        print(json.dumps(_record(routers, points, accuracy, len(test))))
        return 0
    print(f"{len(test)} test images; edge {accuracy['edge']:.2%}, cloud {accuracy['cloud']:.2%}")
    for row in _rows(routers):
        print("  ".join((row[0].ljust(16), *(cell.rjust(8) for cell in row[1:]))).rstrip())
    for point in points:
        print(f"{point.name}: {point.escalated:.1%} escalated, {point.accuracy:.2%} right, {point.harm:.2%} harmed")
    return 0


def _rows(routers: Sequence[Router]) -> list[tuple[str, ...]]:
    rows = [("escalated:", *(f"{share:.0%}" for share in SHARES), "needed", "AURC", "AUGRC", "E-AURC")]
    for router in routers:
        judged = () if router.judged is None else (router.judged.aurc, router.judged.augrc, router.judged.e_aurc)
        needed = "never" if router.needed is None else f"{router.needed:.1%}"
        at = (f"{router.accuracy(share):.2%}" for share in SHARES)
        rows.append((router.name, *at, needed, *(f"{value:.4f}" for value in judged)))
    return rows


def _record(routers: Sequence[Router], points: Sequence[Point], accuracy: dict[str, float], n: int) -> dict[str, Any]:
    made = [
        {
            "router": router.name,
            "accuracy": {f"{share:g}": router.accuracy(share) for share in SHARES},
            "needed": router.needed,
            **({} if router.judged is None else asdict(router.judged)),
        }
        for router in routers
    ]
    return {"n": n, "accuracy": accuracy, "routers": made, "rules": [asdict(point) for point in points]}


def _picture(routers: Sequence[Router], points: Sequence[Point]) -> bytes:
    """Return the curves and points as a PNG picture."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.0, 4.5), layout="constrained")
    axis = figure.add_subplot()
    for router in routers:
        axis.plot(100 * router.curve.share, 100 * router.curve.accuracy, label=router.name.replace("_", " "))
    for marker, point in zip("osD", points, strict=False):
        axis.plot(100 * point.escalated, 100 * point.accuracy, marker, color="black", label=point.name)
    axis.set(xlabel="escalated (%)", ylabel="accuracy of the pair (%)")
    axis.legend(fontsize="small")
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=120)
    return picture.getvalue()
