"""Answer files with a bundle, on this device or with the cloud's help.

With --json, one JSON object a file; a file that cannot be read ends the run with exit code 2.

example:
  edge-sdk predict digits-1.0.0.edge seven.png four.jpg --json
  edge-sdk predict digits-1.0.0.edge seven.png --cloud 127.0.0.1:8001
  edge-sdk predict ages-1.0.0.edge row.json
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from edge_sdk.bundle import Bundle, Manifest
from edge_sdk.errors import InputError
from edge_sdk.files import make_folder
from edge_sdk.frames import draw_boxes, draw_label
from edge_sdk.model import load
from edge_sdk.processing import ProcessingSpec
from edge_sdk.types import Classification, Detections, Prediction, Tensors

__all__ = ["configure", "run"]


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``edge-sdk predict``."""
    parser.add_argument("bundle", type=Path, help="a .edge file or an unpacked folder")
    parser.add_argument(
        "files", type=Path, nargs="+", metavar="FILE", help="a picture, a .wav, or a row in .json or .npy"
    )
    parser.add_argument("--cloud", metavar="HOST:PORT[/MODEL]", help="fallback server to escalate unsure answers to")
    parser.add_argument("--tls-ca", type=Path, metavar="PEM", help="authority that signed the server's certificate")
    parser.add_argument(
        "--tls-cert", type=Path, metavar="PEM", help="certificate of this device, where it is asked for"
    )
    parser.add_argument("--tls-key", type=Path, metavar="PEM", help="key of that certificate")
    parser.add_argument("--token-file", type=Path, metavar="FILE", help="file with the bearer token for the server")
    parser.add_argument("--deadline", type=float, default=1.0, metavar="S", help="seconds for one answer (default 1)")
    parser.add_argument("--render", type=Path, metavar="DIR", help="write a copy of each picture with its answer here")
    parser.add_argument("--json", action="store_true", help="print one JSON object a file")


def run(args: argparse.Namespace) -> int:
    """Predict each file and print each answer as it comes."""
    if args.render is not None:
        _check_drawn(Bundle.open(args.bundle).manifest)
    if args.cloud is None:
        with load(args.bundle) as model:
            _predict(args, model.predict)
    else:
        from edge_sdk.client import Cloud, connect

        cloud = Cloud(
            args.cloud,
            tls_ca=args.tls_ca,
            tls_cert=args.tls_cert,
            tls_key=args.tls_key,
            token_file=args.token_file,
        )
        with connect(args.bundle, cloud=cloud, deadline=args.deadline) as hybrid:
            _predict(args, hybrid.predict)
    return 0


def _check_drawn(manifest: Manifest) -> None:
    """Refuse what cannot be drawn before anything is predicted."""
    modality = ProcessingSpec.from_json(manifest.processing).modality
    if modality != "image":
        raise InputError(f"--render draws on pictures; this model takes {modality}")
    if manifest.task not in ("classification", "detection"):
        raise InputError("--render draws classes and boxes; this model answers with numbers")


def _predict(args: argparse.Namespace, predict: Callable[[Path], Prediction]) -> None:
    for number, file in enumerate(args.files):
        answer = predict(file)
        if args.render is not None:
            make_folder(args.render)
            # numbered: files of several folders may have one name
            _render(answer, file, args.render / f"{number:04d}-{file.stem}.png")
        if args.json:
            row = {
                "file": str(file),
                **_record(answer),
                "source": answer.source,
                "reason": answer.reason,
                "latency_ms": round(answer.timing.total_ms, 3),
            }
            print(json.dumps(row), flush=True)
        else:
            print(f"{file}: {_text(answer)}", flush=True)


def _render(answer: Prediction, file: Path, path: Path) -> None:
    if isinstance(answer, Classification):
        draw_label(file, f"{answer.label} {answer.confidence:.0%}", path)
    elif isinstance(answer, Detections):
        draw_boxes(file, answer, path)


def _record(answer: Prediction) -> dict[str, Any]:
    """Return what an answer says, without how it came about."""
    if isinstance(answer, Classification):
        return {"label": answer.label, "index": answer.index, "confidence": answer.confidence}
    record = answer.to_dict()
    return {key: record[key] for key in ("detections", "outputs") if key in record}


def _text(answer: Prediction) -> str:
    if isinstance(answer, Classification):
        return f"{answer.label} ({answer.confidence:.1%}, {answer.source}, {answer.reason})"
    if isinstance(answer, Detections):
        found = (f"{one.label} {one.score:.1%} at {', '.join(f'{side:.0f}' for side in one.box)}" for one in answer)
        return "; ".join(found) or "nothing found"
    assert isinstance(answer, Tensors)
    return "; ".join(f"{name} {_some(values.ravel().tolist())}" for name, values in answer.outputs.items())


def _some(values: list[float], limit: int = 6) -> str:
    return " ".join(f"{value:.4g}" for value in values[:limit]) + (f" … ({len(values)})" if len(values) > limit else "")
