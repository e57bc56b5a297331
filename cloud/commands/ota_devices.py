"""The sub-commands of `edge-sdk ota` that enrol devices and revoke them."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from edge_sdk.cloud.ota.devices import Devices
from edge_sdk.cloud.ota.repository import Repository
from edge_sdk.errors import InputError
from edge_sdk.files import storage_errors, write_durably
from edge_sdk.ota.identity import accept, request

__all__ = ["configure_enrol", "configure_revoke", "enrol", "revoke"]

Say = Callable[[argparse.Namespace, dict[str, Any], str], None]


def configure_enrol(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``enrol``."""
    parser.add_argument("--fleet", required=True, help="fleet id")
    who = parser.add_mutually_exclusive_group(required=True)
    who.add_argument(
        "--request", type=Path, metavar="FILE", help="what `edge-sdk enrol --device` printed on the device"
    )
    who.add_argument("--device", help="id of a device whose state folder is here (with --state)")
    who.add_argument(
        "--service", action="store_true", help="key and certificate of the repository service (with --out)"
    )
    parser.add_argument("--state", type=Path, metavar="DIR", help="state folder of the device")
    parser.add_argument("--out", type=Path, metavar="PATH", help="file of the enrolment, or folder for --service")
    parser.add_argument("--replace", action="store_true", help="the device of that id is lost or was reset: revoke it")
    parser.add_argument("--days", type=float, default=730, help="how long the certificate holds (default %(default)s)")


def configure_revoke(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``revoke``."""
    parser.add_argument("--fleet", required=True, help="fleet id")
    parser.add_argument("--device", required=True, help="device id")


def _devices(args: argparse.Namespace) -> Devices:
    folders = args.keys or [None]
    keys = next((folder for folder in folders if folder and (folder / "fleet-authority.pem").exists()), folders[0])
    return Devices(args.folder, args.fleet, keys=keys, passphrase=os.environ.get("EDGE_SDK_OTA_PASSPHRASE") or None)


def enrol(args: argparse.Namespace, repository: Repository, say: Say) -> None:
    """Sign a device's request, or certify the service."""
    if not 0 < args.days <= 36_500:
        raise InputError(f"{args.days:g} days are not a number above 0, 36500 at most")
    devices = _devices(args)
    if (args.state if args.device is not None else args.out) is None:
        raise InputError(f"give {'--state' if args.device is not None else '--out'} too")
    if args.service:
        devices.issue_service(args.out, days=args.days)
        say(args, {"service": str(args.out)}, f"wrote service.pem and service-key.pem into {args.out}")
        return
    if args.device is not None:
        made = request(args.state, args.device)
    elif args.request.is_file():
        with storage_errors(args.request, "read"):
            made = args.request.read_bytes()
    else:
        raise InputError(f"there is no request at {args.request}")
    device, answer = devices.enrol(made, repository.newest_root(), replaces=args.replace, days=args.days)
    if args.device is not None:
        accept(args.state, answer)
    else:
        write_durably(args.out, answer)
    where = args.out if args.device is None else args.state
    say(args, {"device": device, "enrolment": str(where)}, f"{device} is enrolled: {where}")


def revoke(args: argparse.Namespace, repository: Repository, say: Say) -> None:
    """Shut a device out."""
    devices = _devices(args)
    devices.revoke(args.device)
    text = f"{args.device} is revoked; give the broker {devices.access_path} and {devices.revoked_path}"
    say(args, {"device": args.device, "access": str(devices.access_path)}, text)
