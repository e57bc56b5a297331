"""Run an MQTT 5 broker for development, tests and demonstrations, on one address only.

It has no access control: for a fleet, use a broker of your own (docs/brokers.md).

example:
  edge-sdk broker --port 1883
"""

from __future__ import annotations

import argparse
import time

from edge_sdk.cloud.ota.broker import ENGINES, EmbeddedBroker
from edge_sdk.errors import BrokerError

__all__ = ["configure", "run"]


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default %(default)s)")
    parser.add_argument("--port", type=int, default=1883, help="port; 0 takes a free one (default %(default)s)")
    parser.add_argument("--engine", choices=ENGINES, default="auto", help="broker to run (default: what is installed)")


def run(args: argparse.Namespace) -> int:
    """Run until SIGTERM or Ctrl-C."""
    with EmbeddedBroker(args.host, args.port, engine=args.engine) as broker:
        print(f"ready mqtt={broker.host}:{broker.port}", flush=True)
        while broker.running:
            time.sleep(0.2)
    raise BrokerError(f"the broker ({broker.engine}) ended by itself")
