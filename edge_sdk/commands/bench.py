"""Time a bundle on this device: processing, model, and the whole of a prediction.

Figures are medians over many predictions of a random frame of the given size, with the 95th percentile.

example:
  edge-sdk bench digits-1.0.0.edge --size 640x480 --threads auto
"""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path

from edge_sdk.errors import InputError
from edge_sdk.model import load
from edge_sdk.runtime import Threads
from edge_sdk.timing import Figures, time_model

__all__ = ["configure", "run"]

_SIZE = re.compile(r"(\d{1,5})x(\d{1,5})")


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``edge-sdk bench``."""
    parser.add_argument("bundle", type=Path, help="a .edge file or an unpacked folder")
    parser.add_argument("--size", default="640x480", metavar="WxH", help="of the frames (default %(default)s)")
    parser.add_argument("--repeats", type=int, default=300, metavar="N", help="predictions (default %(default)s)")
    parser.add_argument("--threads", default="1", metavar="N", help="for one inference, or auto (default %(default)s)")
    parser.add_argument("--delegate", metavar="D", help="none, a delegate's library, or an execution provider")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")


def run(args: argparse.Namespace) -> int:
    """Time the model, then print where the time goes."""
    size = _SIZE.fullmatch(args.size)
    if size is None:
        raise InputError(f"--size is {args.size!r}; it should be such as 640x480")
    if args.threads != "auto" and not args.threads.isdigit():
        raise InputError(f"--threads is {args.threads!r}; it should be a number or auto")
    threads: Threads = "auto" if args.threads == "auto" else int(args.threads)
    with load(args.bundle, threads=threads, delegate=args.delegate) as model:
        measured = time_model(model, int(size[1]), int(size[2]), repeats=args.repeats)
    if args.json:
        print(json.dumps(measured.to_dict()))
        return 0
    for part in ("pre", "infer", "post", "total"):
        figures: Figures = getattr(measured, part)
        print(f"{part:<6} {figures.p50:9.3f} ms   p95 {figures.p95:9.3f} ms")
    print(f"{1e3 / measured.total.p50:.0f} predictions a second")
    return 0
