"""Models of Keras 2: read by tf_keras in a process of its own, built anew of Keras 3 layers, and compared.

Two Kerases in one process disturb each other, and neither reads the other's files faithfully. So a worker
loads the file with tf_keras and gives what the model is made of: its configuration, its weights by
layer, and what it answers.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edge_sdk.errors import CompressionError, MissingExtraError, one_line

__all__ = ["Read", "read"]

_SECONDS = 600.0


@dataclass(frozen=True, eq=False)
class Read:
    """What a worker found in a file.

    Attributes
    ----------
    config
        The model's, of Keras 2.
    sequential
        Whether it is a chain of layers.
    weights
        By path of the layer, names of nested models before its own; each in the layer's order.
    logits
        float32 ``[n, classes]``: what the model answers.
    """

    config: dict[str, Any]
    sequential: bool
    weights: dict[str, list[npt.NDArray[Any]]]
    logits: npt.NDArray[np.float32]


def read(path: Path, inputs: npt.NDArray[Any], *, called: str = "") -> Read:
    """Read a file of Keras 2, or a SavedModel that still has its layers.

    Parameters
    ----------
    path
        That `archives.inspect` let pass.
    inputs
        ``[n, ...]`` to answer.
    called
        What errors call it; by default its path.

    Raises
    ------
    MissingExtraError
        tf_keras is not installed.
    CompressionError
        It cannot be loaded, or has a Lambda layer.
    """
    called = called or str(path)
    if importlib.util.find_spec("tf_keras") is None:
        raise MissingExtraError("tf-keras", "tfmot")
    with tempfile.TemporaryDirectory(prefix="edge-sdk-") as name:
        folder = Path(name)
        np.save(folder / "inputs.npy", inputs, allow_pickle=False)
        command = [sys.executable, "-P", "-m", "edge_sdk.compression.legacy", str(path.resolve()), str(folder)]
        quiet = {"TF_CPP_MIN_LOG_LEVEL": "3", "PYTHONPATH": os.pathsep.join(sys.path)}
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, timeout=_SECONDS, check=False, env=os.environ | quiet
            )
        except subprocess.TimeoutExpired as error:
            raise CompressionError(f"{called} cannot be loaded by tf_keras within {_SECONDS:g} s") from error
        if not (folder / "read.json").is_file():
            lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
            raise CompressionError(f"{called} cannot be loaded by tf_keras: {lines[-1][:300]}")
        found = json.loads((folder / "read.json").read_text())
        if "refused" in found:
            raise CompressionError(f"{called} cannot be loaded by tf_keras: {found['refused']}")
        weights: dict[str, list[npt.NDArray[Any]]] = {path: [] for path in found["weights"]}
        for at, path_of in enumerate(found["weights"]):
            weights[path_of].append(np.load(folder / f"{at}.npy", allow_pickle=False))
        logits = np.load(folder / "logits.npy", allow_pickle=False)
    return Read(found["config"], found["sequential"], weights, logits)


def _main(path: Path, folder: Path) -> None:
    """Run in the worker."""
    import tf_keras

    _check_metadata(path)
    model = tf_keras.models.load_model(path, compile=False, safe_mode=True) if path.is_file() else _of_folder(path)
    if not isinstance(model, tf_keras.Sequential) and not getattr(model, "_is_graph_network", False):
        raise TypeError("it is a class of its own, not a graph of layers; use it as a teacher")
    inputs = np.load(folder / "inputs.npy", allow_pickle=False)
    logits = np.asarray(model.predict(inputs, batch_size=256, verbose=0), dtype=np.float32)
    np.save(folder / "logits.npy", logits, allow_pickle=False)
    weights = list(_weights(model, ""))
    for at, (_, value) in enumerate(weights):
        plain = value if value.dtype.kind in "iub" else value.astype(np.float32)
        np.save(folder / f"{at}.npy", plain, allow_pickle=False)
    config = json.loads(json.dumps(model.get_config(), default=_plain))
    sequential = isinstance(model, tf_keras.Sequential)
    _write(folder, {"config": config, "sequential": sequential, "weights": [path for path, _ in weights]})


def _of_folder(path: Path) -> Any:
    import tf_keras

    if not (path / "keras_metadata.pb").is_file():
        raise TypeError("a SavedModel without Keras' own description of it; use it as a teacher")
    return tf_keras.models.load_model(path, compile=False)


def _check_metadata(path: Path) -> None:
    """Refuse Lambda layers in a SavedModel's description, as `archives` does in files."""
    description = path / "keras_metadata.pb"
    if path.is_file() or not description.is_file():
        return
    from tf_keras.protobuf import saved_metadata_pb2

    from edge_sdk.compression.archives import check_config

    for node in saved_metadata_pb2.SavedMetadata.FromString(description.read_bytes()).nodes:
        check_config(json.loads(node.metadata or "{}"), str(path), legacy=True)


def _weights(model: Any, prefix: str) -> Iterator[tuple[str, Any]]:
    for layer in model.layers:
        if hasattr(layer, "layers"):
            yield from _weights(layer, f"{prefix}{layer.name}/")
        else:
            for value in layer.get_weights():
                yield f"{prefix}{layer.name}", np.asarray(value)


def _plain(value: Any) -> Any:
    """Make JSON of what configurations hold beside plain values."""
    if hasattr(value, "as_list"):
        return value.as_list()
    if hasattr(value, "tolist"):
        return value.tolist()
    return getattr(value, "name", None) or str(value)


def _write(folder: Path, found: dict[str, Any]) -> None:
    (folder / "read.json").write_text(json.dumps(found))


if __name__ == "__main__":
    try:
        _main(Path(sys.argv[1]), Path(sys.argv[2]))
    except Exception as error:  # noqa: BLE001 - whatever it is, the parent says it
        _write(Path(sys.argv[2]), {"refused": one_line(error, 300)})
