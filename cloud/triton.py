"""A bundle's model as a folder that Triton serves: ``NAME/config.pbtxt``, ``NAME/labels.txt``, ``NAME/1/model.onnx``.

Only the model goes there. Triton takes the encoding ``tensor``, so the processing stays with who asks.
Format: Triton's "Model Repository" and "Model Configuration".
"""

from __future__ import annotations

from pathlib import Path

from edge_sdk.bundle import Artifact, Bundle, Manifest
from edge_sdk.errors import InputError
from edge_sdk.files import fsync_dir, make_folder, storage_errors, write_durably
from edge_sdk.protocol import datatype_of
from edge_sdk.types import TensorSpec

__all__ = ["MAX_BATCH", "export_triton"]

MAX_BATCH = 32
"""Items that Triton may run together, where the model takes several."""


def export_triton(bundle: Bundle, folder: Path, *, name: str | None = None) -> Path:
    """Write the ONNX model of a bundle as the next version of a model in a Triton repository.

    Parameters
    ----------
    bundle
        The bundle.
    folder
        The repository; made where it is not there.
    name
        Of the model there, in place of the bundle's.

    Returns
    -------
    Path
        Folder of the new version, ``FOLDER/NAME/VERSION``. It appears whole, so that a running server may watch.

    Raises
    ------
    InputError
        The bundle has no ONNX model, its tensors cannot be named to Triton, or the repository has a model of
        this name with other tensors or labels.
    StorageError
        The folder cannot be written.
    """
    manifest = bundle.manifest
    artifact = next((one for one in manifest.artifacts if one.runtime == "onnx"), None)
    if artifact is None:
        found = ", ".join(one.runtime for one in manifest.artifacts)
        raise InputError(
            f"{manifest.name} has no ONNX model, only {found}, for which Triton has no backend: "
            "pack the .onnx file of the model as a bundle, or serve this one with edge-sdk serve"
        )
    name = manifest.name if name is None else name
    if not name or name[0] == "." or not all(c.isascii() and (c.isalnum() or c in "._-") for c in name):
        raise InputError(f"a model's name has letters, digits, '.', '_' and '-', unlike {name[:40]!r}")
    root = make_folder(folder / name)
    texts = {"config.pbtxt": _config(name, manifest, artifact)}
    if manifest.labels:
        texts["labels.txt"] = "".join(f"{label}\n" for label in manifest.labels)
    with storage_errors(root):
        versions = [int(one.name) for one in root.iterdir() if one.name.isascii() and one.name.isdecimal()]
        for file, text in texts.items():
            there = (root / file).read_text(encoding="utf-8") if versions and (root / file).exists() else text
            if there != text:
                raise InputError(f"{root / file} is of a model with other tensors or labels: give another --name")
            write_durably(root / file, text.encode())
        version = root / str(max(versions, default=0) + 1)
        unnamed = make_folder(root / f".{version.name}")  # of which no server takes notice
        write_durably(unnamed / "model.onnx", bundle.read(artifact.file))
        unnamed.rename(version)
        fsync_dir(root)
    return version


def _config(name: str, manifest: Manifest, artifact: Artifact) -> str:
    """Return ``config.pbtxt``."""
    specs = (*artifact.inputs, *artifact.outputs)
    # Triton takes the axis of items off, and wants one to be left
    batched = all(len(spec.shape) > 1 and spec.shape[0] == -1 for spec in specs)
    labelled = manifest.task == "classification"
    lines = [
        f'name: "{name}"',
        'platform: "onnxruntime_onnx"',
        f"max_batch_size: {MAX_BATCH if batched else 0}",
        *("input [ " + _tensor(spec, batched) + " ]" for spec in artifact.inputs),
        *(
            "output [ " + _tensor(spec, batched, 'label_filename: "labels.txt" ' if labelled and not at else "") + " ]"
            for at, spec in enumerate(artifact.outputs)
        ),
        *(["dynamic_batching { }"] if batched else []),
    ]
    return "\n".join(lines) + "\n"


def _tensor(spec: TensorSpec, batched: bool, more: str = "") -> str:
    if '"' in spec.name or "\\" in spec.name or not spec.name.isprintable():
        raise InputError(f"Triton has no tensors of a name such as {spec.name[:40]!r}")
    dims = ", ".join(map(str, spec.shape[1 if batched else 0 :]))
    return f'{{ name: "{spec.name}" data_type: TYPE_{datatype_of(spec.dtype)} dims: [ {dims} ] {more}}}'
