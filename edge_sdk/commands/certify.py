"""Certify the deferral threshold of an edge bundle against a cloud bundle.

The promise written into the bundle: with the given confidence, at most the given share of inputs
is kept on the edge, wrong there, and right in the cloud. With --risk net, the pair's accuracy is at
most so much below that of the cloud alone; with --risk agreement, the edge answers otherwise than
the cloud would on at most this share of all inputs. With --strata, the promise is made for each group
of inputs by itself, and so for any mix of them.

example:
  edge-sdk certify student.edge --cloud teacher.edge --data mnist --max-accuracy-loss 0.01 -o digits-1.0.0.edge
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from edge_sdk.cascade.policy import RISKS, SIGNAL_NAMES, Policy
from edge_sdk.certification import STRATA, certify_bundle
from edge_sdk.datasets import load_splits
from edge_sdk.encodings import SentAs

__all__ = ["configure", "run"]


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``edge-sdk certify``."""
    parser.add_argument("edge", type=Path, metavar="EDGE.edge", help="bundle that runs on the device")
    parser.add_argument("--cloud", type=Path, required=True, metavar="CLOUD.edge", help="bundle that the server runs")
    parser.add_argument("--data", required=True, metavar="SPEC", help="mnist, cifar10:PATH, folder:PATH or npz:PATH")
    parser.add_argument("--max-accuracy-loss", type=float, default=0.01, metavar="A", help="default 0.01")
    parser.add_argument("--confidence", type=float, default=0.95, metavar="C", help="default 0.95")
    parser.add_argument(
        "--signal",
        choices=SIGNAL_NAMES,
        default="max_probability",
        help="what the threshold is of (default %(default)s)",
    )
    parser.add_argument("--risk", choices=tuple(RISKS), default="harm", help="what is bounded (default %(default)s)")
    parser.add_argument(
        "--strata",
        choices=STRATA,
        help="promise it for each true class, for each answer of the edge, or for each stratum that the data names, "
        "by itself (default: for all inputs)",
    )
    parser.add_argument(
        "--encoding",
        action="append",
        metavar="AS",
        help="as what pictures will be sent to the cloud: captured (default), jpeg, jpeg:QUALITY or resized; several, "
        "with commas and the best first, are a ladder, and the promise holds whichever of them is chosen",
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of the splits, as for training (default 0)")
    parser.add_argument("--limit", type=int, metavar="N", help="use at most about N images, as for training")
    parser.add_argument("-o", "--out", type=Path, required=True, metavar="OUT.edge", help="bundle to write")
    parser.add_argument("--json", action="store_true", help="print the policy as JSON")


def run(args: argparse.Namespace) -> int:
    """Certify, then print what is promised."""
    bundle = certify_bundle(
        args.edge,
        args.cloud,
        load_splits(args.data, seed=args.seed, limit=args.limit),
        args.out,
        max_accuracy_loss=args.max_accuracy_loss,
        confidence=args.confidence,
        signal=args.signal,
        risk=args.risk,
        strata=args.strata,
        encodings=SentAs.parse_all(",".join(args.encoding or ["captured"])),
    )
    policy = dict(bundle.manifest.cascade or {})
    if args.json:
        print(json.dumps({"bundle": str(args.out), **policy}))
        return 0
    rule = Policy.from_json(policy)
    assert rule.certificate is not None
    harmed = "differing" if rule.certificate.risk == "agreement" else "harmed"
    gained = f", {rule.certificate.gains} gained" if rule.certificate.risk == "net" else ""
    print(
        f"certified: {rule.certificate.promise}, "
        f"from {rule.certificate.n} samples ({rule.certificate.harms} {harmed}{gained})"
    )
    if rule.signal != args.signal:
        print(f"{rule.signal} is used: the {args.signal} signal was not better on held-out data")
    print(
        f"threshold {rule.threshold:.4f} on {rule.signal}, "
        f"{rule.certificate.local_share:.1%} answered locally; wrote {args.out}"
    )
    for rung in rule.certificate.rungs:
        right = "" if rung.cloud_accuracy is None else f"cloud {rung.cloud_accuracy:.2%} right, "
        print(f"  as {rung.name}: {right}{rung.mean_bytes or 0:,.0f} bytes each, {rung.harms} {harmed}")
    for stratum in rule.certificate.strata:
        print(
            f"  {stratum.name}: {stratum.n} samples ({stratum.needed} would have done), {stratum.harms} {harmed}, "
            f"{stratum.local_share:.1%} answered locally"
        )
    return 0
