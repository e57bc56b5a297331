"""Show what is in a bundle: who it is, what it computes, what it promises.

example:
  edge-sdk inspect digits-1.0.0.edge
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from edge_sdk.bundle import Bundle, Detector, Manifest
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
    rows = [
        ("name", f"{manifest.name} {manifest.version}"),
        ("format", "{}.{}".format(*manifest.format)),
        ("task", manifest.task + _classes(manifest)),
        ("processing", " → ".join(str(step.get("op")) for step in manifest.processing.get("steps", []))),
    ]
    for artifact in manifest.artifacts:
        signature = f"{artifact.inputs[0].dtype}{list(artifact.inputs[0].shape)}"
        rows.append(("model", f"{artifact.file}, {artifact.runtime}, {artifact.precision}, {artifact.size:,} bytes"))
        rows.append(("input", signature))
        if manifest.task == "classification":
            rows.append(("output", manifest.outputs))
        else:
            rows += [("output", f"{one.name} {one.dtype}{list(one.shape)}") for one in artifact.outputs]
    if manifest.detection is not None:
        rows.append(("decoder", _decoder(manifest.detection)))
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
            if promise.encodings:
                rows.append(("certified as", ", ".join(promise.encodings)))
    rows.append(("model digest", manifest.model_digest))
    return rows


def _classes(manifest: Manifest) -> str:
    if not manifest.labels:
        return ""
    some = ", ".join(manifest.labels[:10]) + (", …" if len(manifest.labels) > 10 else "")
    return f", {len(manifest.labels)} classes: {some}"


def _decoder(detector: Detector) -> str:
    units = "fractions" if detector.normalized else "pixels"
    return (
        f"{detector.decoder}, boxes in {units}, score ≥ {detector.score_threshold:g}, "
        f"overlap ≤ {detector.iou_threshold:g}, at most {detector.max_detections}"
    )
