"""Give a device its key, and take up the certificate that its fleet gives it.

The key never leaves the device. Without --accept, a request for a certificate is printed, to be
answered by `edge-sdk ota enrol`; with it, the answer is held against the key and kept. The agent
then finds id, certificate and pinned root in its state folder by itself.

example:
  edge-sdk enrol --state /var/lib/edge --device cam-1 > cam-1.request
  edge-sdk enrol --state /var/lib/edge --accept cam-1.enrolment
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from edge_sdk.errors import InputError
from edge_sdk.files import storage_errors
from edge_sdk.ota.identity import accept, request

__all__ = ["configure", "run"]


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("--state", type=Path, required=True, metavar="DIR", help="state folder of this device")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--device", help="device id: print a request for its certificate")
    what.add_argument("--accept", type=Path, metavar="FILE", help="take up what `edge-sdk ota enrol` answered")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(args: argparse.Namespace) -> int:
    """Print a request, or take up an enrolment."""
    if args.device is not None:
        made = request(args.state, args.device).decode()
        print(
            json.dumps({"device": args.device, "request": made}) if args.json else made, end="\n" if args.json else ""
        )
        return 0
    if not args.accept.is_file():
        raise InputError(f"there is no enrolment at {args.accept}")
    with storage_errors(args.accept, "read"):
        data = args.accept.read_bytes()
    found = accept(args.state, data)
    record = {"fleet": found.fleet, "device": found.device, "root": str(found.root)}
    print(json.dumps(record, sort_keys=True) if args.json else f"this is {found.device} of the fleet {found.fleet}")
    return 0
