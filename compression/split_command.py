"""Find out where to cut an ONNX model between a device and the cloud, if anywhere, and cut it.

``plan`` measures every cut on this machine: the head, the tail, and the bytes between them. For each
link it says whether the model should stay on the device, go to the cloud whole, or be cut, and by how
much. ``write`` makes two ONNX files of one model.

A link is NAME:ROUNDTRIP_MS:MBIT_PER_S, with the bandwidth from the device. Without --link these are
assumed: Wi-Fi:5:50, LTE:50:10 and satellite:600:2.

example:
  edge-sdk split plan model.onnx --link depot:8:20 --cloud-speed 8 --input-bytes 30000
  edge-sdk split write model.onnx --at /layer3/Relu_output_0 --head head.onnx --tail tail.onnx
"""

from __future__ import annotations

import argparse
import json
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import rich.console
import rich.table
from numpy.typing import NDArray
from rich.markup import escape

from edge_sdk.cloud.training import terminal
from edge_sdk.compression.split import Link, Option, Plan, plan_split, write_split
from edge_sdk.errors import InputError

__all__ = ["configure", "run"]

_ASSUMED = ("Wi-Fi:5:50", "LTE:50:10", "satellite:600:2")


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``edge-sdk split``."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="plan|write")
    plan = actions.add_parser("plan", help="measure every cut and recommend one, or none")
    plan.add_argument("model", type=Path, metavar="MODEL.onnx", help="the model")
    plan.add_argument("--link", action="append", metavar="NAME:MS:MBIT", help="a network; may be given several times")
    plan.add_argument(
        "--cloud-speed", type=float, default=1.0, metavar="X", help="how often faster than this machine (default: 1)"
    )
    plan.add_argument(
        "--input-bytes", type=int, metavar="N", help="sent to a cloud with the whole model (default: its input's size)"
    )
    plan.add_argument("--inputs", type=Path, metavar="FILE.npz", help="one input by name (default: one is made up)")
    plan.add_argument("--repeats", type=int, default=20, metavar="N", help="runs of each side (default: 20)")
    plan.add_argument("--json", action="store_true", help="print one JSON object")
    write = actions.add_parser("write", help="write the two parts of a model")
    write.add_argument("model", type=Path, metavar="MODEL.onnx", help="the model")
    write.add_argument("--at", required=True, metavar="TENSOR[,TENSOR]", help="what crosses")
    write.add_argument("--head", type=Path, required=True, metavar="HEAD.onnx", help="for the device")
    write.add_argument("--tail", type=Path, required=True, metavar="TAIL.onnx", help="for the cloud")


def run(args: argparse.Namespace) -> int:
    """Plan or write."""
    console = rich.console.Console(highlight=False)
    if args.action == "write":
        write_split(args.model, args.at.split(","), args.head, args.tail)
        for path in (args.head, args.tail):
            console.print(f"wrote {escape(str(path))}, {path.stat().st_size:,} bytes", soft_wrap=True)
        return 0
    links = [_link(text) for text in args.link or _ASSUMED]
    if len({link.name for link in links}) < len(links):
        raise InputError("two links have one name")
    inputs = None if args.inputs is None else _inputs(args.inputs)
    with terminal.progress(rich.console.Console(stderr=True), {"cuts": "measuring cuts"}) as on_progress:
        plan = plan_split(
            args.model,
            inputs,
            cloud_speed=args.cloud_speed,
            input_bytes=args.input_bytes,
            repeats=args.repeats,
            progress=lambda done, total: on_progress("cuts", done, total),
        )
    if args.json:
        json.dump(_to_json(plan, links), sys.stdout)
        sys.stdout.write("\n")
    else:
        _show(console, plan, links)
    return 0


def _link(text: str) -> Link:
    name, *figures = text.rsplit(":", 2)
    try:
        round_trip, bandwidth = map(float, figures)
    except ValueError:
        raise InputError(f"--link {text}: it should be NAME:ROUNDTRIP_MS:MBIT_PER_S, such as LTE:50:10") from None
    return Link(name, round_trip / 1e3, bandwidth * 1e6 / 8)


def _inputs(path: Path) -> dict[str, NDArray[Any]]:
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except (OSError, ValueError, AttributeError, EOFError, zipfile.BadZipFile) as error:
        raise InputError(f"cannot read {path} as an .npz file: {error}") from error


def _name(option: Option) -> str:
    return {"edge": "whole, on the device", "cloud": "whole, in the cloud"}.get(
        option.place, "cut at " + ", ".join(option.tensors)
    )


def _rivals(plan: Plan, link: Link) -> tuple[Option, Option]:
    """Return the option to take, and the fastest of another place."""
    best = plan.best(link)
    others = [*plan.options[:2], *((cut,) if (cut := plan.best_cut(link)) else ())]
    return best, min((one for one in others if one.place != best.place), key=lambda one: one.latency_ms(link))


def _to_json(plan: Plan, links: list[Link]) -> dict[str, Any]:
    recommended = {}
    for link in links:
        best, second = _rivals(plan, link)
        recommended[link.name] = {
            "place": best.place,
            "tensors": list(best.tensors),
            "latency_ms": best.latency_ms(link),
            "before": {"place": second.place, "tensors": list(second.tensors), "latency_ms": second.latency_ms(link)},
        }
    return {
        "options": [
            {
                "place": option.place,
                "tensors": list(option.tensors),
                "bytes": option.bytes,
                "device_ms": option.device_ms,
                "cloud_ms": option.cloud_ms,
                "latency_ms": {link.name: option.latency_ms(link) for link in links},
            }
            for option in plan.options
        ],
        "left_out": [list(tensors) for tensors in plan.left_out],
        "links": {link.name: {"round_trip_ms": link.round_trip * 1e3, "mbit": link.bandwidth * 8e-6} for link in links},
        "recommended": recommended,
    }


def _show(console: rich.console.Console, plan: Plan, links: list[Link]) -> None:
    table = rich.table.Table()
    table.add_column("where", overflow="fold")
    for column in ("bytes", "device ms", "cloud ms", *(f"{link.name} ms" for link in links)):
        table.add_column(escape(column), justify="right")
    for option in plan.options:
        latencies = (f"{option.latency_ms(link):,.2f}" for link in links)
        table.add_row(
            escape(_name(option)), f"{option.bytes:,}", f"{option.device_ms:.2f}", f"{option.cloud_ms:.2f}", *latencies
        )
    console.print(table)
    for link in links:
        best, second = _rivals(plan, link)
        took, other = best.latency_ms(link), second.latency_ms(link)
        won = f"{abs(other - took):.2f} ms {'less' if took <= other else 'more'} than {_name(second)}"
        if took > other:
            won += ", too little for a cut to earn its keep"
        console.print(
            escape(
                f"{link.name} ({link.round_trip * 1e3:g} ms, {link.bandwidth * 8e-6:g} Mbit/s): {_name(best)}: "
                f"{took:.2f} ms, {won}"
            ),
            soft_wrap=True,
        )
    if not any(plan.best(link).place == "cut" for link in links):
        console.print("no cut wins")
    if plan.left_out:
        console.print(f"{len(plan.left_out)} cuts were left out: in two parts, the model computes something else")
