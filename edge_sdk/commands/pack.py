r"""Wrap a .tflite or .onnx file as a .edge bundle.

The model is run once on this device, so that the bundle carries golden answers.

example:
  edge-sdk pack resnet8.tflite --name cifar10 --version 1.0.0 --task classification \
      --labels labels.txt --processing processing.json --output probabilities -o cifar10-1.0.0.edge
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from edge_sdk import canonical
from edge_sdk.errors import InputError
from edge_sdk.packing import pack
from edge_sdk.processing import ProcessingSpec

__all__ = ["configure", "run"]

_MAX_LABEL_FILE = 16 << 20


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``edge-sdk pack``."""
    parser.add_argument("model", type=Path, help="a .tflite or .onnx file")
    parser.add_argument("--name", required=True, help="lower-case name, such as cifar10")
    parser.add_argument("--version", required=True, help="semantic version, such as 1.0.0")
    parser.add_argument("--task", choices=["classification"], default="classification", help="default: %(default)s")
    parser.add_argument(
        "--labels", type=Path, required=True, metavar="FILE", help="text file with one class name a line, by index"
    )
    parser.add_argument(
        "--processing", type=Path, required=True, metavar="FILE.json", help="processing specification, JSON"
    )
    parser.add_argument(
        "--output", choices=["probabilities", "logits"], required=True, help="what the model's first output holds"
    )
    parser.add_argument("-o", "--out", type=Path, required=True, metavar="OUT.edge", help="bundle to write")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")


def run(args: argparse.Namespace) -> int:
    """Pack, then print what was made."""
    bundle = pack(
        args.model,
        path=args.out,
        name=args.name,
        version=args.version,
        labels=_labels(args.labels),
        processing=ProcessingSpec.from_json(_json(args.processing)),
        output=args.output,
    )
    manifest = bundle.manifest
    size = args.out.stat().st_size
    if args.json:
        print(json.dumps({"bundle": str(args.out), "bytes": size, "model_digest": manifest.model_digest}))
    else:
        print(f"packed {manifest.name} {manifest.version} into {args.out} ({size:,} bytes)")
        print(f"model digest {manifest.model_digest}")
    return 0


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as stream:  # may be a pipe, whose length nobody knows
            data = stream.read(_MAX_LABEL_FILE + 1)
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from error
    if len(data) > _MAX_LABEL_FILE:
        raise InputError(f"{path} is over {_MAX_LABEL_FILE} bytes")
    return data


def _labels(path: Path) -> list[str]:
    try:
        lines = [line.strip() for line in _read(path).decode("utf-8-sig").splitlines()]
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 text with one label a line") from error
    labels = [line for line in lines if line]
    if not labels:
        raise InputError(f"{path} holds no labels; it should have one class name a line")
    return labels


def _json(path: Path) -> dict[str, object]:
    try:
        value = canonical.loads(_read(path))
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    if not isinstance(value, dict):
        raise InputError(f'{path} should hold an object such as {{"steps": [...]}}')
    return value
