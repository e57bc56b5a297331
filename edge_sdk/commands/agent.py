"""Keep a device at the version its fleet assigned to it.

Prints `ready ...` when it is connected, then one line an event. Reports wait in the state folder
until the broker has them.

example:
  edge-sdk agent --state /var/lib/edge --broker mqtt://broker:1883 --fleet shop --device cam-1 --root root.json

the same in a file for --config, with two models, which lie in /var/lib/edge/models/faces and .../sound:
  state = "/var/lib/edge"
  broker = "mqtt://broker:1883"
  fleet = "shop"
  device = "cam-1"
  root = "root.json"
  models = ["faces", "sound"]
"""

from __future__ import annotations

import argparse
import json
import os
import tomllib
from pathlib import Path

from edge_sdk.errors import InputError
from edge_sdk.ota.agent import OtaAgent
from edge_sdk.ota.health import Limits
from edge_sdk.ota.identity import identity
from edge_sdk.ota.link import Broker
from edge_sdk.ota.ranges import Ranges
from edge_sdk.ota.records import Event
from edge_sdk.ota.reporting import Pace
from edge_sdk.ota.rules import Hours, Rules
from edge_sdk.ota.soak import Soak

__all__ = ["configure", "run"]


_NAMES = ("fleet", "device", "device_class", "broker", "hours", "repository", "client_id", "topic_prefix")
_RATES = ("max_error_rate", "max_escalation_rate", "min_confidence", "max_confidence_drop")
_PATHS = ("state", "root", "ca", "cert", "cert_key", "hold", "token")


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("--config", type=Path, metavar="FILE", help="TOML file of these options, by their long names")
    parser.add_argument("--state", type=Path, metavar="DIR", help="state folder of this device")
    parser.add_argument(
        "--broker",
        metavar="URL",
        help="mqtt://[user:password@]host:port or mqtts://; by default EDGE_SDK_BROKER, which no process list shows",
    )
    parser.add_argument("--fleet", help="fleet id; an enrolled device knows it, as what follows")
    parser.add_argument("--device", help="device id")
    parser.add_argument("--device-class", metavar="CLASS", help="kind of device; bundles may be for some kinds only")
    parser.add_argument(
        "--model",
        action="append",
        dest="models",
        metavar="NAME",
        help="one of the device's several models, by its bundles' name; repeatable (in a file: models = [...])",
    )
    parser.add_argument("--root", type=Path, metavar="FILE", help="pinned root metadata (root.json)")
    parser.add_argument("--poll", type=float, metavar="SECONDS", help="between looks without a hint (default 60)")
    parser.add_argument("--once", action="store_true", help="look once, send the reports, end; 1 if refused")
    parser.add_argument("--json", action="store_true", help="print events as JSON, one a line")
    parser.add_argument("--client-id", metavar="ID", help="name of the session (default edge-FLEET-DEVICE)")
    parser.add_argument("--topic-prefix", metavar="LEVELS/", help="before every topic, such as factory/2/")
    parser.add_argument("--ca", type=Path, help="PEM file of authorities to trust for mqtts")
    parser.add_argument("--cert", type=Path, help="PEM file of the device's certificate")
    parser.add_argument("--cert-key", type=Path, help="PEM file of its key")
    parser.add_argument(
        "--report-rate", type=float, metavar="N", help="reports a second; half of what `ota serve` takes (default 10)"
    )
    fetching = parser.add_argument_group("how to fetch bundles")
    fetching.add_argument("--repository", metavar="URL", help="https:// of the repository's folder, in place of MQTT")
    fetching.add_argument(
        "--token", type=Path, metavar="FILE", help="token for --repository; read anew when it changes"
    )
    fetching.add_argument("--max-rate", type=float, metavar="BYTES", help="bytes a second")
    fetching.add_argument("--hours", metavar="HH:MM-HH:MM", help="of each day, local time, such as 22:00-06:00")
    fetching.add_argument("--hold", type=Path, metavar="FILE", help="not while this file exists: a metered link, say")
    health = parser.add_argument_group("what a new version has to keep")
    health.add_argument("--max-latency", type=float, metavar="SECONDS", help="from a golden example to its answer")
    health.add_argument("--max-memory", type=int, metavar="BYTES", help="by which a process may grow that runs it")
    health.add_argument("--soak", type=float, metavar="SECONDS", help="on trial in use before it is kept (default 0)")
    health.add_argument("--soak-requests", type=int, metavar="N", help="answers to be seen in that time (default 0)")
    health.add_argument("--max-error-rate", type=float, metavar="SHARE", help="of these that fail (default 0.05)")
    health.add_argument("--max-escalation-rate", type=float, metavar="SHARE", help="of these that want the cloud")
    health.add_argument("--min-confidence", type=float, metavar="MEAN", help="of the answers given on the device")
    health.add_argument("--max-confidence-drop", type=float, metavar="MEAN", help="of it below the version before")


def run(args: argparse.Namespace) -> int:
    """Run until SIGTERM or Ctrl-C, or once."""
    if args.config is not None:
        _configured(args)
    args.broker = args.broker or os.environ.get("EDGE_SDK_BROKER")
    for name in ("state", "broker"):
        if getattr(args, name) is None:
            more = " or set EDGE_SDK_BROKER" if name == "broker" else ""
            raise InputError(f"no {name} is named: give --{name}{more}, or {name} in the file of --config")
    known = identity(args.state)
    for name in ("fleet", "device", "root"):
        if getattr(args, name) is None:
            if known is None:
                raise InputError(f"give --{name}, or enrol the device: {args.state} holds no identity")
            setattr(args, name, getattr(known, name))
    if args.cert is None and known is not None:
        args.cert, args.cert_key = known.certificate, known.key
    tls = {"ca": args.ca, "certificate": args.cert, "key": args.cert_key}
    broker = Broker.parse(args.broker, **tls, client_id=args.client_id, prefix=args.topic_prefix or "")
    rates = {name: getattr(args, name) for name in _RATES}
    soak = Soak(args.soak or 0.0, args.soak_requests or 0, **{k: v for k, v in rates.items() if v is not None})
    rules = Rules(args.max_rate, Hours.parse(args.hours) if args.hours else None, hold=args.hold)
    web = Ranges(args.repository, token=args.token, rate=args.max_rate, **tls) if args.repository else None
    limited = args.max_latency is not None or args.max_memory is not None

    def show(event: Event) -> None:
        print(json.dumps(event.to_dict(), sort_keys=True) if args.json else _text(event), flush=True)

    with OtaAgent(
        args.state,
        broker,
        args.fleet,
        args.device,
        args.root,
        on_event=show,
        poll_seconds=60.0 if args.poll is None else args.poll,
        limits=Limits(args.max_latency, args.max_memory) if limited else None,
        soak=soak,
        rules=rules,
        repository=web,
        device_class=args.device_class or "",
        pace=None if args.report_rate is None else Pace(args.report_rate),
        models=args.models or (),
    ) as agent:
        agent.start()
        active = ",".join(_active(agent, name) for name in agent.models or ("",))
        print(f"ready agent={args.device} broker={broker} active={active}", flush=True)
        if args.once:
            state = agent.check()
            agent.flush()
            return 0 if state in ("active", "soaking") or (state == "idle" and not agent.trouble) else 1
        agent.run()
    return 0


def _configured(args: argparse.Namespace) -> None:
    """Take what the file says for what the command line does not."""
    try:
        document = tomllib.loads(args.config.read_text())
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise InputError(f"cannot read the configuration {args.config}: {reason}") from error
    for key, value in document.items():
        name = key.replace("-", "_")
        if name in ("config", "once") or not hasattr(args, name):
            raise InputError(f"{args.config}: {key!r} is not an option of edge-sdk agent")
        kinds = {"json": bool, "soak_requests": int, "max_memory": int, "models": list}
        text = name in (*_NAMES, *_PATHS)
        if type(value) not in ((str,) if text else (kinds[name],) if name in kinds else (int, float)):
            raise InputError(f"{args.config}: {key} cannot be {value!r}")
        if getattr(args, name) in (None, False):
            setattr(args, name, Path(value) if name in _PATHS else value)


def _active(agent: OtaAgent, name: str) -> str:
    now = agent.model(name).active
    return f"{now.name}-{now.version}" if now else f"{name}-none".lstrip("-")


def _text(event: Event) -> str:
    version = f" {event.name}-{event.version}" if event.version else f" {event.model}".rstrip()
    reason = f": {event.reason}" if event.reason else ""
    return f"{event.state}{version} ({event.seconds:.2f} s, {event.bytes} bytes){reason}"
