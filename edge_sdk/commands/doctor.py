"""Say what this device is and has, and what keeps it from running models or taking updates.

Exit code 1 says that something is missing or that the device is slowing itself down; each such line begins with NO
and says what to do.

example:
  edge-sdk doctor --state /var/lib/edge-sdk
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from edge_sdk.diagnosis import examine

__all__ = ["configure", "run"]


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``edge-sdk doctor``."""
    parser.add_argument("--state", type=Path, metavar="DIR", help="look at this state folder of the agent, too")
    parser.add_argument("--json", action="store_true", help="print the findings as JSON")


def run(args: argparse.Namespace) -> int:
    """Examine the device and print the findings."""
    findings = examine(state=args.state)
    if args.json:
        print(json.dumps([finding.to_dict() for finding in findings]))
    else:
        for finding in findings:
            told = f"{finding.seen}: {finding.advice}" if finding.advice else finding.seen
            print(f"{'ok ' if finding.ok else 'NO '} {finding.what:<22} {told}")
    return 0 if all(finding.ok for finding in findings) else 1
