"""Keep and serve a repository of signed updates.

The offline keys (root, targets, publisher) are encrypted with the passphrase in the environment
variable EDGE_SDK_OTA_PASSPHRASE, if it is set; `add` needs it then. Every action is written into
DIR/audit.jsonl.

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

from edge_sdk.cloud.commands.ota_devices import configure_enrol, configure_revoke, enrol, revoke
from edge_sdk.cloud.ota.gateway import REPORT_BURST, REPORT_RATE, REQUEST_RATE, Gateway
from edge_sdk.cloud.ota.operators import ROLES
from edge_sdk.cloud.ota.reports import last_reports
from edge_sdk.cloud.ota.repository import Repository
from edge_sdk.cloud.ota.throttle import Throttle
from edge_sdk.cloud.ota.tokens import name_token_key
from edge_sdk.errors import InputError
from edge_sdk.ota.link import Broker

__all__ = ["configure", "run"]


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's sub-commands and their arguments."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="init|add|assign|…")

    def action(name: str, summary: str) -> argparse.ArgumentParser:
        sub = actions.add_parser(name, help=summary, description=summary)
        sub.add_argument("folder", type=Path, metavar="DIR", help="folder of the repository")
        sub.add_argument(
            "--keys",
            type=Path,
            action="append",
            metavar="FOLDER",
            help="folder of private keys (default DIR/keys); may be given several times, new keys go into the first",
        )
        sub.add_argument("--json", action="store_true", help="print one JSON object")
        return sub

    init = action("init", "make the keys and the first metadata")
    init.add_argument("--root-keys", type=int, default=3, help="number of root keys (default %(default)s)")
    init.add_argument("--threshold", type=int, default=2, help="root keys that must sign (default %(default)s)")
    init.add_argument("--bins", type=int, default=16, help="hashed bins a role, a power of two (default %(default)s)")

    add = action("add", "sign a bundle as a target")
    add.add_argument("bundle", type=Path, metavar="BUNDLE", help="a .edge file")
    add.add_argument(
        "--device-class", action="append", default=[], metavar="CLASS", help="kind of device that it is for; repeatable"
    )
    add.add_argument("--sdk", default="", metavar="VERSION", help="least version of edge-sdk on the device")

    add.add_argument(
        "--delta-from",
        action="append",
        metavar="NAME-VERSION",
        help="a version in the repository that devices run, to make a delta from; repeatable (default: the four of "
        "this name that most devices are assigned)",
    )
    add.add_argument("--no-delta", action="store_true", help="make no delta: devices fetch the whole file")

    assign = action("assign", "sign what a device should run")
    assign.add_argument("--device", required=True, help="device id; DEVICE/NAME for one of several models, by its name")
    assign.add_argument("--target", required=True, metavar="NAME-VERSION", help="a bundle that was added")
    assign.add_argument("--downgrade", action="store_true", help="allow a version lower than the active one")
    assign.add_argument("--days", type=_days, default=90, help="how long it may be followed (default %(default)s)")

    expire = action("expire", "withdraw what a device was assigned, or a bundle from all devices")
    which = expire.add_mutually_exclusive_group(required=True)
    which.add_argument("--device", help="device id, or DEVICE/NAME: it is assigned nothing more")
    which.add_argument("--target", metavar="NAME-VERSION", help="a bundle: no device installs it any more")

    action("publish", "sign anew what has lived half its life, and snapshot and timestamp in any case")

    rotate = action("rotate", "replace a key by a new one; devices follow by themselves")
    rotate.add_argument("key", metavar="KEY", help="root-1, root-2, …, targets, publisher, assignments or online")

    token = action("token", "name a key in a PKCS#11 token (PYKCS11LIB), for init to take or rotate to change to")
    token.add_argument("key", metavar="KEY", help="root-1, root-2, …, targets or publisher")
    token.add_argument("--id", type=int, required=True, metavar="N", help="number of the key (CKA_ID) in the token")
    token.add_argument("--label", help="label of the token, where there are several")
    token.add_argument("--next", action="store_true", help="it is to replace the present key at the next rotation")

    operator = action("operator", "say who may do what; without --name, show it")
    operator.add_argument("--name", help="account of the operating system")
    operator.add_argument("--roles", default="", help=f"comma-separated, of {', '.join(ROLES)}; none: not an operator")

    configure_enrol(action("enrol", "give a device its certificate and the root to pin"))
    configure_revoke(action("revoke", "shut a device out of the broker"))

    serve = action("serve", "answer devices over MQTT, and keep their reports in DIR/reports.jsonl")
    serve.add_argument(
        "--broker",
        default=os.environ.get("EDGE_SDK_BROKER"),
        metavar="URL",
        help="mqtt://[user:password@]host:port or mqtts://; by default EDGE_SDK_BROKER, which no process list shows",
    )
    serve.add_argument("--fleet", required=True, help="fleet id, a part of every topic")
    serve.add_argument("--worker", type=int, metavar="N", help="number of this one of several that share the work")
    serve.add_argument(
        "--request-rate",
        type=float,
        metavar="N",
        default=REQUEST_RATE,
        help="requests a second of one device, and as many at once, that are answered (default %(default)g)",
    )
    serve.add_argument(
        "--report-rate",
        type=float,
        metavar="N",
        default=REPORT_RATE,
        help=f"reports a second of one device, and {REPORT_BURST} at once, that are kept (default %(default)g)",
    )
    serve.add_argument("--client-id", metavar="ID", help="name of the session at the broker (default by fleet)")
    serve.add_argument("--topic-prefix", default="", metavar="LEVELS/", help="before every topic, as on the devices")
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
    if args.action == "token":
        keys = (args.keys or [args.folder / "keys"])[0]
        path = name_token_key(keys, args.key, key=args.id, label=args.label, replaces=args.next)
        _say(args, {"key": args.key, "file": str(path)}, f"{path} stands for the key in the token")
        return 0
    repository = Repository.open(args.folder, keys=args.keys, passphrase=passphrase)
    if args.action == "add":
        if args.no_delta and args.delta_from:
            raise InputError("--no-delta and --delta-from contradict each other")
        deltas = [] if args.no_delta else args.delta_from
        target = repository.add(args.bundle, device_classes=args.device_class, sdk=args.sdk, deltas=deltas)
        found = repository.deltas(f"{target.name}-{target.version}")
        record = {
            "target": f"{target.name}-{target.version}",
            "sha256": f"sha256:{target.sha256}",
            "digest": target.bundle_digest,
            "bytes": target.size,
            "blocks": len(target.blocks),
            "deltas": found,
        }
        lines = [f"added {record['target']}: {target.size:,} bytes, blocks: {len(target.blocks)}"]
        lines += [f"  from {base}: {size:,} bytes" for base, size in found.items()]
        _say(args, record, "\n".join(lines))
    elif args.action == "assign":
        signed = repository.assign(
            args.device, args.target, downgrade=args.downgrade, expires=timedelta(days=args.days)
        )
        _say(
            args,
            {"device": args.device, "target": args.target, "counter": signed.counter},
            f"assigned {args.target} to {args.device} (counter {signed.counter})",
        )
    else:
        _OTHERS[args.action](args, repository)
    return 0


def _expire(args: argparse.Namespace, repository: Repository) -> None:
    if args.device is not None:
        ended = repository.withdraw(args.device)
        _say(args, {"device": args.device, "counter": ended.counter}, f"{args.device} is assigned nothing more")
        return
    repository.remove(args.target)
    still = sorted(d for d, a in repository.assignments().items() if f"{a.name}-{a.version}" == args.target)
    hint = f"; still assigned to {', '.join(still)}" if still else ""
    _say(args, {"target": args.target, "assigned": still}, f"{args.target} is withdrawn{hint}")


def _publish(args: argparse.Namespace, repository: Repository) -> None:
    roles = repository.publish()
    named = ", ".join(role for role in roles if "-bin-" not in role) or "nothing else was due"
    _say(args, {"roles": roles}, f"signed anew: timestamp, snapshot; {named}")


def _rotate(args: argparse.Namespace, repository: Repository) -> None:
    version = repository.rotate(args.key)
    note = "; the machine that serves needs it" if args.key in ("online", "assignments") else ""
    _say(args, {"key": args.key, "root": version}, f"{args.key} is a new key, the root is version {version}{note}")


def _operator(args: argparse.Namespace, repository: Repository) -> None:
    if args.name is not None:
        roles = [role for role in args.roles.split(",") if role]
        with repository.operators.acting("operator", "keeper", name=args.name, roles=roles):
            repository.operators.set_roles(args.name, roles)
    named = repository.operators.roles()
    lines = [f"{name}: {', '.join(roles)}" for name, roles in sorted(named.items())]
    _say(args, {"operators": named}, "\n".join(lines) or "no operators are named: who can write the folder may do all")


def _serve(args: argparse.Namespace, repository: Repository) -> None:
    if args.broker is None:
        raise InputError("no broker is named: give --broker URL or set EDGE_SDK_BROKER")
    tls = {"ca": args.ca, "certificate": args.cert, "key": args.cert_key}
    broker = Broker.parse(args.broker, **tls, client_id=args.client_id, prefix=args.topic_prefix)
    throttle, reports = Throttle(args.request_rate), Throttle(args.report_rate, REPORT_BURST)
    with Gateway(repository, broker, args.fleet, throttle=throttle, reports=reports, worker=args.worker) as gateway:
        print(f"ready repository={args.folder} broker={broker} fleet={args.fleet}", flush=True)
        gateway.run()


def _status(args: argparse.Namespace, repository: Repository) -> None:
    actions, broken = repository.operators.actions()
    last = last_reports(repository.folder)
    assignments = repository.assignments()
    roles = [row for row in repository.status() if "-bin-" not in row.role]
    if args.json:
        record = {
            "roles": {r.role: {"version": r.version, "expires": r.expires.isoformat(), "due": r.due} for r in roles},
            "audit": {"actions": len(actions), "broken_at": broken},
            "bundles": sorted(repository.bundles()),
            "assignments": {d: json.loads(a.to_bytes()) for d, a in assignments.items()},
            "reports": last,
        }
        print(json.dumps(record, sort_keys=True))
        return
    for row in roles:
        due = "  sign it anew: edge-sdk ota publish" if row.due else ""
        print(f"{row.role:<12} version {row.version:<5} expires {row.expires:%Y-%m-%d %H:%M} UTC{due}")
    for name, target in sorted(repository.bundles().items()):
        print(f"bundle       {name} ({target.size} bytes)")
    for device, assignment in sorted(assignments.items()):
        said = last.get(device)
        state = f"{said['state']} {said.get('version', '')} {said.get('reason', '')}".strip() if said else "no report"
        print(f"device       {device}: {assignment.name}-{assignment.version} (counter {assignment.counter}); {state}")

    state = "whole" if broken is None else f"CHANGED: line {broken} does not follow the one before"
    print(f"audit log    {len(actions)} lines, {state}")


_OTHERS = {
    "enrol": lambda args, repository: enrol(args, repository, _say),
    "revoke": lambda args, repository: revoke(args, repository, _say),
    "expire": _expire,
    "operator": _operator,
    "publish": _publish,
    "rotate": _rotate,
    "serve": _serve,
    "status": _status,
}


def _days(text: str) -> float:
    days = float(text)
    if not 0 < days <= 36_500:
        raise argparse.ArgumentTypeError(f"{text} is not a number of days above 0, 36500 at most")
    return days


def _say(args: argparse.Namespace, record: dict[str, Any], text: str) -> None:
    print(json.dumps(record, sort_keys=True) if args.json else text)
