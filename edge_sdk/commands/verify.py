"""Check a bundle on this device: digests, golden outputs, processing.

example:
  edge-sdk verify digits-1.0.0.edge
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from edge_sdk.bundle import Bundle, GoldenSet
from edge_sdk.processing import ProcessingSpec, check_skew
from edge_sdk.processing.steps import Quantize
from edge_sdk.verification import verify

__all__ = ["configure", "run"]


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``edge-sdk verify``."""
    parser.add_argument("bundle", type=Path, help="a .edge file or an unpacked folder")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")


def run(args: argparse.Namespace) -> int:
    """Verify, then print how close this device came."""
    bundle = Bundle.open(args.bundle)
    result = verify(bundle)
    spec = ProcessingSpec.from_json(bundle.manifest.processing)
    skew = check_skew(spec, GoldenSet.from_bundle(bundle).inputs)
    if args.json:
        key = "skew_grey_levels" if spec.modality == "image" else "skew"
        print(json.dumps({"ok": True, **result, key: skew.device_error}))
        return 0
    print(f"{len(bundle.members)} members match their digests")
    rounding = "" if spec.find(Quantize) is None else f", rounding to {spec.output_dtype} included"
    unit = " grey levels" if spec.modality == "image" else ""
    print(f"processing is within {skew.device_error:.3g}{unit} of the reference{rounding}")
    print(f"{result['examples']} golden answers hold, the worst within {result['output_error']:.3g}")
    return 0
