"""Compare what could decide which inputs go to the cloud, on the test split of a data set.

``evaluate`` runs both bundles and prints the accuracy of the pair at several shares escalated, for
every signal, for chance and for the oracle; beside it what KubeEdge Sedna's filters do at their
default threshold, and what the edge bundle's own rule does. As a picture, it is drawn against the share
escalated and against the bytes that this sends.

example:
  edge-sdk cascade evaluate digits-1.0.0.edge --cloud teacher.edge --data mnist --html routers.html
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np

from edge_sdk.bundle import Bundle
from edge_sdk.cascade.policy import Policy
from edge_sdk.certification import check_encoding, score
from edge_sdk.comparison import HEADINGS, compare
from edge_sdk.comparison_page import needs_matplotlib, page, picture
from edge_sdk.datasets import load_splits
from edge_sdk.encodings import SentAs
from edge_sdk.errors import CertificateError
from edge_sdk.files import write_durably
from edge_sdk.model import EdgeModel

__all__ = ["configure", "run"]


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``edge-sdk cascade``."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="evaluate")
    evaluate = actions.add_parser("evaluate", help="compare routers on the test split of a data set")
    evaluate.add_argument("edge", type=Path, metavar="EDGE.edge", help="bundle that runs on the device")
    evaluate.add_argument("--cloud", type=Path, required=True, metavar="CLOUD.edge", help="bundle that the server runs")
    evaluate.add_argument("--data", required=True, metavar="SPEC", help="mnist, cifar10:PATH, folder:PATH or npz:PATH")
    evaluate.add_argument("--seed", type=int, default=0, help="seed of the splits, as for training (default 0)")
    evaluate.add_argument("--limit", type=int, metavar="N", help="use at most about N images, as for training")
    evaluate.add_argument(
        "--encoding",
        default="captured",
        metavar="AS",
        help="as what pictures are sent to the cloud: captured (default), jpeg, jpeg:QUALITY or resized",
    )
    evaluate.add_argument("--html", type=Path, metavar="FILE.html", help="write curves and tables as one page")
    evaluate.add_argument("--plot", type=Path, metavar="FILE.png", help="draw the curves as a picture")
    evaluate.add_argument("--json", action="store_true", help="print figures and curves as JSON")


def run(args: argparse.Namespace) -> int:
    """Score the test split with both models, then compare."""
    if args.html is not None or args.plot is not None:
        needs_matplotlib()  # before the models run for minutes
    encoding = SentAs.parse(args.encoding)
    edge, cloud = Bundle.open(args.edge), Bundle.open(args.cloud)
    test = load_splits(args.data, seed=args.seed, limit=args.limit).test
    check_encoding(encoding, test)
    for side, bundle in (("edge", edge), ("cloud", cloud)):
        if bundle.manifest.labels != tuple(test.classes):
            raise CertificateError(
                f"the {side} bundle's {len(bundle.manifest.labels)} labels are not the data's {len(test.classes)}"
            )
    with EdgeModel(edge) as small, EdgeModel(cloud) as large:
        scores = score(small, test), score(large, test, encoding=encoding)
        spec = large.processor.spec
    compared = compare(
        f"{edge.manifest.name} {edge.manifest.version} and {cloud.manifest.name} {cloud.manifest.version}",
        *scores,
        test.labels,
        sizes=np.array([encoding.send(image, spec)[1] for image in test.images]),
        encoding=str(encoding),
        policy=None if edge.manifest.cascade is None else Policy.from_json(edge.manifest.cascade),
    )
    if args.plot is not None:
        write_durably(args.plot, picture([compared]))
    if args.html is not None:
        write_durably(args.html, page(f"Routers on {args.data}", [compared]).encode())
    if args.json:
        print(json.dumps(compared.to_json()))
        return 0
    print(f"{compared.n} test images; edge {compared.edge:.2%}, cloud {compared.cloud:.2%}")
    for row in (HEADINGS, *compared.rows()):
        print("  ".join((row[0].ljust(16), *(cell.rjust(8) for cell in row[1:]))).rstrip())
    for point in compared.points:
        print(f"{point.name}: {point.escalated:.1%} escalated, {point.accuracy:.2%} right, {point.harm:.2%} harmed")
    for path in (args.html, args.plot):
        if path is not None:
            print(f"wrote {path}")
    return 0
