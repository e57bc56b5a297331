"""Read the journal of a device: derive its decisions again, or judge another threshold by it.

``replay`` derives every decision from what was logged and compares it bit for bit; it ends with code
1 if one comes out otherwise. ``report`` says how answers were given, those among them that the rule
wanted from the cloud and did not get. ``evaluate`` estimates what another threshold would have done, from the
audits of the one that was used. An estimate is no certificate: ``edge-sdk certify`` makes those.

example:
  edge-sdk journal replay journal/ --bundle digits-1.0.0.edge
  edge-sdk journal report journal/
  edge-sdk journal evaluate journal/ --threshold 0.8
"""

from __future__ import annotations

import argparse
import json
import math
from dataclasses import asdict
from pathlib import Path

from edge_sdk.bundle import Bundle
from edge_sdk.cascade.audit import Estimate
from edge_sdk.cascade.delivery import Delivery, delivery
from edge_sdk.cascade.offpolicy import Evaluation, columns, evaluate
from edge_sdk.cascade.policy import Policy
from edge_sdk.cascade.replay import replay
from edge_sdk.client.journal import KEY_FILE, Reader, read_key
from edge_sdk.errors import CertificateError

__all__ = ["configure", "run"]


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``edge-sdk journal``."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="replay|report|evaluate")
    again = actions.add_parser("replay", help="derive every decision again and compare it bit for bit")
    again.add_argument("path", type=Path, metavar="PATH", help="a journal's folder, or one of its files")
    again.add_argument(
        "--bundle",
        type=Path,
        action="append",
        required=True,
        metavar="B.edge",
        help="bundle whose rule was in force; give all there were",
    )
    again.add_argument("--key-file", type=Path, metavar="F", help=f"key of the audits (default PATH/{KEY_FILE})")
    again.add_argument("--json", action="store_true", help="print the report as JSON")
    tell = actions.add_parser("report", help="say how answers were given, and what was lost where the edge gave them")
    judge = actions.add_parser("evaluate", help="estimate what another threshold would have done")
    judge.add_argument("--threshold", type=float, required=True, metavar="X", help="keep answers from this signal up")
    for action in (tell, judge):
        action.add_argument("path", type=Path, metavar="PATH", help="a journal's folder, or one of its files")
        action.add_argument("--confidence", type=float, default=0.95, help="of the intervals (default 0.95)")
        action.add_argument("--rule", metavar="DIGEST", help="which rule's decisions, where there are several")
        action.add_argument("--cloud-model", metavar="DIGEST", help="which cloud model's answers, if of several")
        action.add_argument("--json", action="store_true", help="print the estimates as JSON")


def run(args: argparse.Namespace) -> int:
    """Read the journal, and print what comes of it."""
    return {"replay": _replay, "report": _report, "evaluate": _evaluate}[args.action](args)


def _replay(args: argparse.Namespace) -> int:
    policies = []
    for path in args.bundle:
        cascade = Bundle.open(path).manifest.cascade
        if cascade is None:
            raise CertificateError(f"{path} has no policy, so no decision was made by it")
        policies.append(Policy.from_json(cascade))
    beside = (args.path if args.path.is_dir() else args.path.parent) / KEY_FILE
    key_file = args.key_file or (beside if beside.exists() else None)
    reader = Reader(args.path)
    report = replay(reader, policies, [] if key_file is None else [read_key(key_file)])
    if args.json:
        print(json.dumps({**asdict(report), "torn": reader.torn}))
    else:
        print(f"{report.decisions} decisions, {report.matched} derived again bit for bit")
        if reader.torn:
            print(f"{reader.torn} torn last lines were passed over")
        if report.problem is not None:
            print(f"first that is not: {report.problem}")
    return 0 if report.passed else 1


def _report(args: argparse.Namespace) -> int:
    log = columns(Reader(args.path), rule=args.rule, cloud=args.cloud_model)
    result = delivery(log, confidence=args.confidence)
    if args.json:
        print(json.dumps(_record(result)))
        return 0
    print(f"{result.answers} answers, {result.labels} labels; shares are of all answers")
    print(f"  given by the edge      {result.edge:.2%}")
    print(f"  the cloud was wanted   {result.withheld:.2%}")
    print(f"  the cloud differs      {_shown(result.differs)}")
    if result.harm is not None:
        print(f"  harmed                 {_shown(result.harm)}")
    return 0


def _evaluate(args: argparse.Namespace) -> int:
    log = columns(Reader(args.path), rule=args.rule, cloud=args.cloud_model)
    result = evaluate(log, args.threshold, confidence=args.confidence)
    if args.json:
        print(json.dumps(_record(result)))
        return 0
    print(f"threshold {result.threshold:g}, from {result.requests} decisions and {result.labels} labels")
    parts = [("answered by the edge", result.coverage), ("as the cloud answers", result.agreement)]
    if result.accuracy is not None:
        parts.append(("right", result.accuracy))
    for name, estimate in parts:
        print(f"  {name:<22} {_shown(estimate)}")
    if result.unknown is not None:
        print(f"cannot be estimated: {result.unknown}")
    return 0


def _shown(estimate: Estimate) -> str:
    if math.isnan(estimate.value):
        return f"between {estimate.low:.2%} and {estimate.high:.2%}, no estimate"
    return f"{estimate.value:.2%}, between {estimate.low:.2%} and {estimate.high:.2%}"


def _record(result: Evaluation | Delivery) -> dict[str, object]:
    """Return what was found as JSON values; what cannot be estimated is null."""
    made = asdict(result)
    for part in made.values():
        if isinstance(part, dict) and math.isnan(part["value"]):
            part["value"] = None
    return made
