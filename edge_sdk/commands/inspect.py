"""Show what is in a bundle: who it is, what it computes, what it promises.

example:
  edge-sdk inspect digits-1.0.0.edge
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from edge_sdk.bundle import Bundle, Manifest
from edge_sdk.cascade.policy import Policy

__all__ = ["configure", "run"]


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``edge-sdk inspect``."""
    parser.add_argument("bundle", type=Path, help="a .edge file or an unpacked folder")
    parser.add_argument("--json", action="store_true", help="print the whole manifest as JSON")


def run(args: argparse.Namespace) -> int:
    """Open the bundle, which checks every byte of it, and print."""
    bundle = Bundle.open(args.bundle)
    manifest = bundle.manifest
    if args.json:
        print(json.dumps(json.loads(manifest.to_bytes()), indent=2))
        return 0
    for key, value in _rows(manifest):
        print(f"{key:<14} {value}")
    return 0


def _rows(manifest: Manifest) -> list[tuple[str, str]]:
    some = ", ".join(manifest.labels[:10]) + (", …" if len(manifest.labels) > 10 else "")
    rows = [
        ("name", f"{manifest.name} {manifest.version}"),
        ("format", "{}.{}".format(*manifest.format)),
        ("task", f"{manifest.task}, {len(manifest.labels)} classes: {some}"),
        ("processing", " → ".join(str(step.get("op")) for step in manifest.processing.get("steps", []))),
    ]
    for artifact in manifest.artifacts:
        signature = f"{artifact.inputs[0].dtype}{list(artifact.inputs[0].shape)}"
        rows.append(("model", f"{artifact.file}, {artifact.runtime}, {artifact.precision}, {artifact.size:,} bytes"))
        rows.append(("input", signature))
    rows.append(("output", manifest.outputs))
    rows.append(("golden", f"{manifest.golden.count} examples"))
    if manifest.cascade is not None:
        policy = Policy.from_json(manifest.cascade)
        rows.append(("threshold", f"{policy.threshold} on {policy.signal}"))
        if policy.certificate is not None:
            promise = policy.certificate
            rows.append(
                (
                    "certificate",
                    (f"{promise.promise}, from {promise.n} samples; {promise.local_share:.1%} answered locally"),
                )
            )
    rows.append(("model digest", manifest.model_digest))
    return rows
