"""Keep a device at the version its fleet assigned to it.

Prints `ready ...` when it is connected, then one line an event. Reports wait in the state folder
until the broker has them.

example:
  edge-sdk agent --state /var/lib/edge --broker mqtt://broker:1883 --fleet shop --device cam-1 --root root.json
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path

from edge_sdk.errors import InputError
from edge_sdk.ota.agent import OtaAgent
from edge_sdk.ota.identity import identity
from edge_sdk.ota.link import Broker
from edge_sdk.ota.records import Event

__all__ = ["configure", "run"]


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("--state", type=Path, required=True, metavar="DIR", help="state folder of this device")
    parser.add_argument(
        "--broker",
        default=os.environ.get("EDGE_SDK_BROKER"),
        metavar="URL",
        help="mqtt://[user:password@]host:port or mqtts://; by default EDGE_SDK_BROKER, which no process list shows",
    )
    parser.add_argument("--fleet", help="fleet id; an enrolled device knows it, as what follows")
    parser.add_argument("--device", help="device id")
    parser.add_argument("--root", type=Path, metavar="FILE", help="pinned root metadata (root.json)")
    parser.add_argument("--poll", type=float, default=60.0, help="seconds between looks without a hint (default 60)")
    parser.add_argument("--once", action="store_true", help="look once, send the reports, end; 1 if refused")
    parser.add_argument("--json", action="store_true", help="print events as JSON, one a line")
    parser.add_argument("--ca", type=Path, help="PEM file of authorities to trust for mqtts")
    parser.add_argument("--cert", type=Path, help="PEM file of the device's certificate")
    parser.add_argument("--cert-key", type=Path, help="PEM file of its key")


def run(args: argparse.Namespace) -> int:
    """Run until SIGTERM or Ctrl-C, or once."""
    if args.broker is None:
        raise InputError("no broker is named: give --broker URL or set EDGE_SDK_BROKER")
    known = identity(args.state)
    for name in ("fleet", "device", "root"):
        if getattr(args, name) is None:
            if known is None:
                raise InputError(f"give --{name}, or enrol the device: {args.state} holds no identity")
            setattr(args, name, getattr(known, name))
    if args.cert is None and known is not None:
        args.cert, args.cert_key = known.certificate, known.key
    broker = Broker.parse(args.broker, ca=args.ca, certificate=args.cert, key=args.cert_key)

    def show(event: Event) -> None:
        print(json.dumps(event.to_dict(), sort_keys=True) if args.json else _text(event), flush=True)

    with OtaAgent(
        args.state, broker, args.fleet, args.device, args.root, on_event=show, poll_seconds=args.poll
    ) as agent:
        agent.start()
        now = f"{agent.active.name}-{agent.active.version}" if agent.active else "none"
        print(f"ready agent={args.device} broker={broker} active={now}", flush=True)
        if args.once:
            state = agent.check()
            agent.flush()
            return 0 if state == "active" or (state == "idle" and not agent.trouble) else 1
        agent.run()
    return 0


def _text(event: Event) -> str:
    version = f" {event.name}-{event.version}" if event.version else ""
    reason = f": {event.reason}" if event.reason else ""
    return f"{event.state}{version} ({event.seconds:.2f} s, {event.bytes} bytes){reason}"
