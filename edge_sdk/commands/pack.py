r"""Wrap a .tflite or .onnx file as a .edge bundle.

The model is run once on this device, so that the bundle carries golden answers.

example:
  edge-sdk pack resnet8.tflite --name cifar10 --version 1.0.0 --task classification \
      --labels labels.txt --processing processing.json --output probabilities -o cifar10-1.0.0.edge
  edge-sdk pack yolo.onnx --name street --version 1.0.0 --task detection --decoder yolo \
      --labels labels.txt --processing processing.json -o street-1.0.0.edge
"""

from __future__ import annotations

import argparse
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_sdk import canonical
from edge_sdk.bundle import DECODERS, TASKS, Detector
from edge_sdk.bundle.manifest import OUTPUTS
from edge_sdk.errors import InputError
from edge_sdk.packing import pack
from edge_sdk.processing import ProcessingSpec

__all__ = ["configure", "run"]

_MAX_LABEL_FILE = 16 << 20
_DETECTION = {  # option -> field of Detector
    "decoder": "decoder",
    "score_threshold": "score_threshold",
    "iou_threshold": "iou_threshold",
    "max_detections": "max_detections",
    "box_units": "normalized",
    "variances": "variances",
    "box_order": "order",
    "background": "background",
}


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``edge-sdk pack``."""
    parser.add_argument("model", type=Path, help="a .tflite or .onnx file")
    parser.add_argument("--name", required=True, help="lower-case name, such as cifar10")
    parser.add_argument("--version", required=True, help="semantic version, such as 1.0.0")
    parser.add_argument("--task", choices=TASKS, default="classification", help="default: %(default)s")
    parser.add_argument("--labels", type=Path, metavar="FILE", help="text file with one class name a line, by index")
    parser.add_argument(
        "--processing", type=Path, required=True, metavar="FILE.json", help="processing specification, JSON"
    )
    parser.add_argument("--output", choices=OUTPUTS, help="what the first output of a classifier holds")
    parser.add_argument("-o", "--out", type=Path, required=True, metavar="OUT.edge", help="bundle to write")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    boxes = parser.add_argument_group("of a detector")
    boxes.add_argument("--decoder", choices=DECODERS, help="how its outputs are read")
    boxes.add_argument("--score-threshold", type=float, metavar="P", help="least score of a box (default 0.25)")
    boxes.add_argument("--iou-threshold", type=float, metavar="P", help="most overlap within a class (default 0.45)")
    boxes.add_argument("--max-detections", type=int, metavar="N", help="most boxes of one frame (default 300)")
    boxes.add_argument("--box-units", choices=["pixels", "fractions"], help="of the model's input (default pixels)")
    boxes.add_argument("--anchors", type=Path, metavar="FILE.npy", help="ssd: float32 [anchors, 4]")
    boxes.add_argument("--variances", type=float, nargs=2, metavar="V", help="ssd: of centres and sizes (0.1 0.2)")
    boxes.add_argument("--box-order", choices=["xy", "yx"], help="ssd: yx as TensorFlow has it (default xy)")
    boxes.add_argument("--background", action="store_true", default=None, help="ssd: class 0 is the background")


def run(args: argparse.Namespace) -> int:
    """Pack, then print what was made."""
    bundle = pack(
        args.model,
        path=args.out,
        name=args.name,
        version=args.version,
        labels=() if args.labels is None else _labels(args.labels),
        processing=ProcessingSpec.from_json(_json(args.processing)),
        output=args.output,
        task=args.task,
        detection=_detector(args),
        anchors=None if args.anchors is None else _array(args.anchors),
    )
    manifest = bundle.manifest
    size = args.out.stat().st_size
    if args.json:
        print(json.dumps({"bundle": str(args.out), "bytes": size, "model_digest": manifest.model_digest}))
    else:
        print(f"packed {manifest.name} {manifest.version} into {args.out} ({size:,} bytes)")
        print(f"model digest {manifest.model_digest}")
    return 0


def _detector(args: argparse.Namespace) -> Detector | None:
    """Return what the options of a detector say; None where there are none of them."""
    given = {name: getattr(args, option) for option, name in _DETECTION.items() if getattr(args, option) is not None}
    if "normalized" in given:
        given["normalized"] = given["normalized"] == "fractions"
    if given and "decoder" not in given:
        raise InputError(f"--decoder is missing: {' or '.join(DECODERS)}")
    return Detector(**given) if given else None


def _array(path: Path) -> NDArray[Any]:
    try:
        array: NDArray[Any] = np.load(io.BytesIO(_read(path)), allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise InputError(f"{path} is not a .npy array: {error}") from error
    return array


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
