"""What is in a model file, found out before any of it is loaded.

Loading a model builds what its configuration names. Code in it (Lambda layers, pickles), layers that
load other files, and links out of HDF5 files are refused here, by what the file says, before Keras sees it.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import h5py
import keras

from edge_sdk.compression.operators import operator
from edge_sdk.errors import CompressionError, InputError, one_line
from edge_sdk.files import storage_errors

__all__ = ["MOST_BYTES", "Archive", "check_config", "inspect", "taken"]

Kind = Literal["keras", "legacy", "saved_model", "onnx", "litert"]

MOST_BYTES = 8 << 30
"""Of everything in an archive, unpacked."""
_MOST_CONFIG = 64 << 20
_MOST_MEMBERS = 10_000
_MOST_DEPTH = 200

_CODE = frozenset({"Lambda", "__lambda__"})
_FOREIGN = frozenset({"TFSMLayer", "TorchModuleWrapper", "JaxLayer", "FlaxLayer"})
_TEXT = frozenset({"StringLookup", "TextVectorization", "Hashing", "HashedCrossing", "IntegerLookup"})
_PICKLES = frozenset({".pkl", ".pickle", ".joblib", ".pt", ".pth", ".ckpt"})
_FUNCTIONS = frozenset(
    {None, "builtins", "keras.activations", "keras.initializers", "keras.losses", "keras.metrics", "keras.ops"}
)
_MODULES = (
    "keras.activations", "keras.constraints", "keras.dtype_policies", "keras.initializers", "keras.layers",
    "keras.losses", "keras.metrics", "keras.models", "keras.ops", "keras.optimizers", "keras.quantizers",
    "keras.random", "keras.regularizers", "keras.src.",
)  # fmt: skip
_OF_KERAS_2 = ("keras.engine.", "keras.mixed_precision")
_CALLS = frozenset({"ClassMethod", "InstanceMethod", "InstanceProperty", "SlicingOpLambda"})
_VALUES = frozenset(
    {"__bytes__", "__ellipsis__", "__keras_tensor__", "__numpy__", "__slice__", "__tensor__", "__tuple__"}
)
_HDF5 = b"\x89HDF\r\n\x1a\n"


@dataclass(frozen=True, slots=True)
class Archive:
    """A model file or folder that may be loaded.

    Attributes
    ----------
    path
        Where it is.
    kind
        ``keras``: Keras 3; ``legacy``: of Keras 2 or tf_keras; ``saved_model``, ``onnx``, ``litert``.
    suffix
        What a file must be called to be read as what was inspected: readers go by names, and one file can be
        HDF5 and zip at once.
    """

    path: Path
    kind: Kind
    suffix: str = ""


def inspect(path: Path) -> Archive:
    """Find out what a file holds, and refuse what would run code or hold too much.

    Raises
    ------
    InputError
        There is no such file, or it is of no known kind.
    CompressionError
        It is a pickle, has a Lambda layer or one of a class that nobody registered, is damaged or too large.
    """
    if (path / "saved_model.pb").is_file():
        return Archive(path, "saved_model")
    if not path.is_file():
        raise InputError(f"there is no model at {path}")
    with storage_errors(path, "read"), path.open("rb") as stream:
        head = stream.read(8)
    if path.suffix == ".onnx":
        return Archive(path, "onnx")
    if path.suffix == ".tflite":
        return Archive(path, "litert")
    if path.suffix in _PICKLES or head[:1] == b"\x80":
        raise CompressionError(
            f"{path} is a pickle, and loading one runs the code in it; save the model as .keras or .onnx "
            "where it was made"
        )
    if head == _HDF5:
        return Archive(path, _inspect_hdf5(path), ".h5")
    if zipfile.is_zipfile(path):
        return Archive(path, _inspect_zip(path), ".keras")
    raise InputError(f"{path} is no model that can be read: give .keras, .h5, .onnx, .tflite or a SavedModel folder")


def taken(archive: Archive) -> tuple[int | None, ...] | None:
    """Return what a file of Keras takes without the batch, None for open extents; None where it does not say."""
    if archive.suffix == ".h5":
        with h5py.File(archive.path, "r") as file:
            config = _parsed(file.attrs["model_config"], "model_config", archive.path)
    else:
        with zipfile.ZipFile(archive.path) as members:
            config = _json(members, "config.json", archive.path)
    for item in [config, *_first_layers(config)]:
        inner, build = item.get("config"), item.get("build_config")
        found = (inner.get("batch_shape") or inner.get("batch_input_shape")) if isinstance(inner, dict) else None
        found = found or (build.get("input_shape") if isinstance(build, dict) else None)
        if isinstance(found, list | tuple) and all(side is None or isinstance(side, int) for side in found):
            return tuple(found[1:])
    return None


def _first_layers(config: Any) -> Iterator[dict[str, Any]]:
    """Yield the first layer of a model, of that the first where it is a model, and so on."""
    for _ in range(_MOST_DEPTH):
        inner = config.get("config") if isinstance(config, dict) else None
        layers = inner.get("layers") if isinstance(inner, dict) else None
        if not isinstance(layers, list) or not layers or not isinstance(layers[0], dict):
            return
        config = layers[0]
        yield config


def check_config(config: Any, where: str, *, legacy: bool = False) -> None:
    """Refuse a configuration that holds code, or names what Keras does not know.

    Parameters
    ----------
    config
        As read from JSON, or serialised from a model.
    where
        What to call the model.
    legacy
        Whether it is of Keras 2, which imports any module that a file names and calls what it finds there.

    Raises
    ------
    CompressionError
        Naming the layer and what to do.
    """
    for item in _objects(config, where):
        kind, inner = str(item.get("class_name")), item.get("config")
        name = str(inner.get("name", kind)) if isinstance(inner, dict) else kind
        if kind in _CODE:
            raise CompressionError(
                f"{where}: the layer {name!r} is a Lambda, whose code would be run; write it as operations of "
                "keras.ops, or as a layer class of its own"
            )
        if kind in _FOREIGN:
            raise CompressionError(
                f"{where}: the layer {name!r} ({kind}) wraps a model of another kind; use that one as a teacher instead"
            )
        if kind in _TEXT:
            raise CompressionError(
                f"{where}: the layer {name!r} ({kind}) has no form on devices; do this before the model, "
                "and let it begin with the numbers that come of it"
            )
        if legacy:
            _check_legacy(item, kind, name, where)
        else:
            _check_known(item, kind, name, where)


def _check_known(item: dict[str, Any], kind: str, name: str, where: str) -> None:
    registered = item.get("registered_name")
    if keras.saving.get_registered_object(str(registered)) is not None:
        return
    if registered in (None, kind) and _is_of_keras(item.get("module"), kind, _MODULES):
        return
    raise CompressionError(
        f"{where}: the layer {name!r} is of a class {registered or kind!r} that is not known here; import the module "
        "that has it, and register it with keras.saving.register_keras_serializable"
    )


def _check_legacy(item: dict[str, Any], kind: str, name: str, where: str) -> None:
    module = item.get("module")
    module = module.removeprefix("tf_") if isinstance(module, str) else module
    if kind in _CALLS or not _is_of_keras(module, kind, _MODULES + _OF_KERAS_2):
        raise CompressionError(
            f"{where}: the layer {name!r} is of a class {kind!r} that Keras 3 has not; replace it, "
            "or use the model as a teacher, as a SavedModel"
        )
    if kind == "TFOpLambda":
        inner = item.get("config")
        operator(name, str(inner.get("function") if isinstance(inner, dict) else None))


def _is_of_keras(module: Any, kind: str, modules: tuple[str, ...]) -> bool:
    """Whether a name is of a class, a value or a function of numbers: Keras calls any other function just the same."""
    if module not in (None, "builtins", "keras") and not str(module).startswith(modules):
        return False
    if kind == "function":
        return module in _FUNCTIONS
    return kind[:1].isupper() or kind in _VALUES


def _objects(config: Any, where: str) -> Iterator[dict[str, Any]]:
    """Yield every serialised object, however deep."""
    waiting = [(config, 0)]
    while waiting:
        value, depth = waiting.pop()
        if depth > _MOST_DEPTH:
            raise CompressionError(f"{where}: its configuration is nested more than {_MOST_DEPTH} deep")
        if isinstance(value, dict):
            if "class_name" in value:
                yield value
            waiting += [(item, depth + 1) for item in value.values()]
        elif isinstance(value, list | tuple):
            waiting += [(item, depth + 1) for item in value]


def _inspect_zip(path: Path) -> Kind:
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            if len(members) > _MOST_MEMBERS:
                raise CompressionError(f"{path} has {len(members)} members; at most {_MOST_MEMBERS} are read")
            total = sum(member.file_size for member in members)
            if total > MOST_BYTES:
                raise CompressionError(f"{path} unpacks to {total:,} bytes; at most {MOST_BYTES:,} are read")
            names = [member.filename for member in members]
            if any(name.endswith((".pkl", ".npz")) for name in names):
                raise CompressionError(
                    f"{path} may hold pickles, and loading one runs the code in it; save the model as .keras"
                )
            for name in names:
                parts = PurePosixPath(name)
                if parts.is_absolute() or ".." in parts.parts or "\\" in name:
                    raise CompressionError(f"{path} has a member {name!r} that leads out of it")
            if len(set(names)) < len(names) or not {"config.json", "metadata.json", "model.weights.h5"} <= set(names):
                raise InputError(f"{path} is a zip file, but not a model that Keras wrote")
            config, metadata = (_json(archive, name, path) for name in ("config.json", "metadata.json"))
            with archive.open("model.weights.h5") as stream, h5py.File(stream, "r") as weights:
                _check_links(weights, path)
    except (zipfile.BadZipFile, OSError, EOFError, RuntimeError) as error:
        raise CompressionError(f"{path} is damaged: {one_line(error, 200)}") from error
    version = str(metadata.get("keras_version", "")) if isinstance(metadata, dict) else ""
    legacy = version.startswith("2.")
    check_config(config, str(path), legacy=legacy)
    return "legacy" if legacy else "keras"


def _json(archive: zipfile.ZipFile, name: str, path: Path) -> Any:
    if archive.getinfo(name).file_size > _MOST_CONFIG:
        raise CompressionError(f"{path}: {name} has more than {_MOST_CONFIG:,} bytes")
    return _parsed(archive.read(name), name, path)


def _parsed(text: str | bytes, name: str, path: Path) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise CompressionError(f"{path} is damaged: {name} is not JSON") from error


def _inspect_hdf5(path: Path) -> Kind:
    try:
        with h5py.File(path, "r") as file:
            config = file.attrs.get("model_config")
            version = str(file.attrs.get("keras_version", "2"))
            _check_links(file, path)
    except (OSError, RuntimeError, KeyError) as error:
        raise CompressionError(f"{path} is damaged: {one_line(error, 200)}") from error
    if config is None:
        raise InputError(f"{path} holds weights without a model; save the whole model, as .keras")
    legacy = version.startswith("2")
    check_config(_parsed(config, "model_config", path), str(path), legacy=legacy)
    return "legacy" if legacy else "keras"


def _check_links(file: h5py.File, path: Path) -> None:
    """Refuse an HDF5 file that reads other files."""
    waiting = [file]
    while waiting:
        group = waiting.pop()
        for name in group:
            link = group.get(name, getlink=True)
            if not isinstance(link, h5py.HardLink):
                raise CompressionError(f"{path}: {name!r} in it is a link to elsewhere; save the model anew")
            item = group[name]
            if isinstance(item, h5py.Group):
                waiting.append(item)
            elif item.external or item.is_virtual:
                raise CompressionError(f"{path}: the values of {name!r} are in another file; save the model anew")
