"""Keep and serve a repository of signed updates.

The offline keys (root, targets, publisher) are encrypted with the passphrase in the environment
variable EDGE_SDK_OTA_PASSPHRASE, if it is set; `add` needs it then.

example:
  edge-sdk ota init repo
  edge-sdk ota add repo digits-1.0.0.edge
  edge-sdk ota assign repo --device cam-1 --target digits-1.0.0
  edge-sdk ota serve repo --broker mqtt://127.0.0.1:1883 --fleet shop
"""

from __future__ import annotations

import argparse
import json
import os
from datetime import timedelta
from pathlib import Path
from typing import Any

from edge_sdk.cloud.ota.gateway import Gateway
from edge_sdk.cloud.ota.repository import Repository
from edge_sdk.errors import InputError
from edge_sdk.ota.link import Broker

__all__ = ["configure", "run"]


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's sub-commands and their arguments."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="init|add|assign|serve|status")

    def action(name: str, summary: str) -> argparse.ArgumentParser:
        sub = actions.add_parser(name, help=summary, description=summary)
        sub.add_argument("folder", type=Path, metavar="DIR", help="folder of the repository")
        sub.add_argument("--keys", type=Path, help="folder of the private keys (default DIR/keys)")
        sub.add_argument("--json", action="store_true", help="print one JSON object")
        return sub

    init = action("init", "make the keys and the first metadata")
    init.add_argument("--root-keys", type=int, default=3, help="number of root keys (default %(default)s)")
    init.add_argument("--threshold", type=int, default=2, help="root keys that must sign (default %(default)s)")
    init.add_argument("--bins", type=int, default=16, help="hashed bins a role, a power of two (default %(default)s)")

    add = action("add", "sign a bundle as a target")
    add.add_argument("bundle", type=Path, metavar="BUNDLE", help="a .edge file")

    assign = action("assign", "sign what a device should run")
    assign.add_argument("--device", required=True, help="device id")
    assign.add_argument("--target", required=True, metavar="NAME-VERSION", help="a bundle that was added")
    assign.add_argument("--downgrade", action="store_true", help="allow a version lower than the active one")
    assign.add_argument("--days", type=_days, default=90, help="how long it may be followed (default %(default)s)")

    serve = action("serve", "answer devices over MQTT, and keep their reports in DIR/reports.jsonl")
    serve.add_argument(
        "--broker",
        default=os.environ.get("EDGE_SDK_BROKER"),
        metavar="URL",
        help="mqtt://[user:password@]host:port or mqtts://; by default EDGE_SDK_BROKER, which no process list shows",
    )
    serve.add_argument("--fleet", required=True, help="fleet id, a part of every topic")
    serve.add_argument("--ca", type=Path, help="PEM file of authorities to trust for mqtts")
    serve.add_argument("--cert", type=Path, help="PEM file of our own certificate")
    serve.add_argument("--cert-key", type=Path, help="PEM file of its key")

    action("status", "show versions, expiry, assignments and the last report of each device")


def run(args: argparse.Namespace) -> int:
    """Run one sub-command."""
    passphrase = os.environ.get("EDGE_SDK_OTA_PASSPHRASE") or None
    if args.action == "init":
        made = Repository.init(
            args.folder,
            keys=args.keys,
            passphrase=passphrase,
            root_keys=args.root_keys,
            threshold=args.threshold,
            bins=args.bins,
        )
        _say(args, {"repository": str(made.folder), "root": str(made.root_path)}, f"pin {made.root_path} on devices")
        return 0
    repository = Repository.open(args.folder, keys=args.keys, passphrase=passphrase)
    if args.action == "add":
        target = repository.add(args.bundle)
        record = {
            "target": f"{target.name}-{target.version}",
            "sha256": f"sha256:{target.sha256}",
            "digest": target.bundle_digest,
            "bytes": target.size,
            "blocks": len(target.blocks),
        }
        _say(args, record, f"added {record['target']}: {target.size:,} bytes, blocks: {len(target.blocks)}")
    elif args.action == "assign":
        signed = repository.assign(
            args.device, args.target, downgrade=args.downgrade, expires=timedelta(days=args.days)
        )
        _say(
            args,
            {"device": signed.device, "target": args.target, "counter": signed.counter},
            f"assigned {args.target} to {signed.device} (counter {signed.counter})",
        )
    elif args.action == "serve":
        _serve(args, repository)
    else:
        _status(args, repository)
    return 0


def _serve(args: argparse.Namespace, repository: Repository) -> None:
    if args.broker is None:
        raise InputError("no broker is named: give --broker URL or set EDGE_SDK_BROKER")
    broker = Broker.parse(args.broker, ca=args.ca, certificate=args.cert, key=args.cert_key)
    with Gateway(repository, broker, args.fleet) as gateway:
        print(f"ready repository={args.folder} broker={broker} fleet={args.fleet}", flush=True)
        gateway.run()


def _status(args: argparse.Namespace, repository: Repository) -> None:
    last: dict[str, dict[str, Any]] = {}
    log = repository.folder / "reports.jsonl"
    for line in log.read_bytes().splitlines() if log.exists() else []:
        try:
            report = json.loads(line)
            last[report["device"]] = report
        except (ValueError, KeyError, TypeError):
            continue
    assignments = repository.assignments()
    roles = [row for row in repository.status() if "-bin-" not in row.role]
    if args.json:
        record = {
            "roles": {r.role: {"version": r.version, "expires": r.expires.isoformat()} for r in roles},
            "bundles": sorted(repository.bundles()),
            "assignments": {d: json.loads(a.to_bytes()) for d, a in assignments.items()},
            "reports": last,
        }
        print(json.dumps(record, sort_keys=True))
        return
    for row in roles:
        print(f"{row.role:<12} version {row.version:<5} expires {row.expires:%Y-%m-%d %H:%M} UTC")
    for name, target in sorted(repository.bundles().items()):
        print(f"bundle       {name} ({target.size} bytes)")
    for device, assignment in sorted(assignments.items()):
        said = last.get(device)
        state = f"{said['state']} {said.get('version', '')} {said.get('reason', '')}".strip() if said else "no report"
        print(f"device       {device}: {assignment.name}-{assignment.version} (counter {assignment.counter}); {state}")


def _days(text: str) -> float:
    days = float(text)
    if not 0 < days <= 36_500:
        raise argparse.ArgumentTypeError(f"{text} is not a number of days above 0, 36500 at most")
    return days


def _say(args: argparse.Namespace, record: dict[str, Any], text: str) -> None:
    print(json.dumps(record, sort_keys=True) if args.json else text)
