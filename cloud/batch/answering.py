"""What answers the rows of a batch, a bundle or a plain model file, and the columns that answers make."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from edge_sdk import canonical
from edge_sdk.bundle import Bundle
from edge_sdk.cloud import saved_model
from edge_sdk.cloud.batch.cells import Wanted
from edge_sdk.errors import InputError, ModelError
from edge_sdk.model import EdgeModel
from edge_sdk.processing import Columns
from edge_sdk.runtime import Session, open_session
from edge_sdk.types import TensorSpec
from edge_sdk.verification import verify

__all__ = ["Answering", "as_tensor", "open_answering", "struct_of"]

_RUNTIMES = {".onnx": "onnx", ".tflite": "litert"}
_DETECTION = pa.struct([
    ("box", pa.list_(pa.float64())),
    ("score", pa.float64()),
    ("index", pa.int32()),
    ("label", pa.string()),
])  # fmt: skip
_COLUMNS = {
    "classification": (
        ("label", pa.string()),
        ("index", pa.int32()),
        ("confidence", pa.float64()),
        ("certified", pa.bool_()),
        ("scores", pa.list_(pa.float32())),
    ),
    "detection": (
        ("label", pa.string()),
        ("confidence", pa.float64()),
        ("certified", pa.bool_()),
        ("detections", pa.list_(_DETECTION)),
    ),
}


class Answering(Protocol):
    """A model as a batch asks it; for one thread.

    Attributes
    ----------
    wanted
        What it takes.
    columns
        Name and Arrow type of what an answer says.
    identity
        Texts that say which model this is: ``name``, ``version``, ``task``, ``model_digest`` and so on.
    """

    wanted: Wanted
    columns: tuple[tuple[str, Any], ...]
    identity: dict[str, str]

    def answer(self, value: Any) -> dict[str, Any]:
        """Return an answer by column; raise `InputError`, `ProcessingError` or `ModelError` where there is none."""

    def another(self) -> Answering:
        """Return one for another thread."""

    def finish(self, output: Path) -> None:
        """Do what is to be done with the file when it is there."""

    def close(self) -> None:
        """Release the model."""


def open_answering(path: Path, *, threads: int = 1) -> Answering:
    """Load a bundle, or a plain ``.onnx`` or ``.tflite`` file or SavedModel folder with one input.

    Parameters
    ----------
    path
        The model. A bundle's golden outputs and processing are checked on this machine first.
    threads
        Of the runtime, for one inference.

    Raises
    ------
    InputError
        There is no such file, or it is of none of these kinds.
    BundleError, GoldenError, SkewError, ModelError
        It cannot be loaded, or does not compute here what it should.
    """
    if path.suffix in _RUNTIMES:
        if not path.is_file():
            raise InputError(f"there is no model at {path}")
        data, runtime = path.read_bytes(), _RUNTIMES[path.suffix]
        # ONNX Runtime finds weights in files beside the model by its path
        source = path if runtime == "onnx" else data
        return _Plain(path, canonical.sha256(data), lambda: open_session(source, runtime, threads=threads))
    if saved_model.is_saved_model(path):
        return _Plain(path, saved_model.digest_of(path), lambda: _TensorFlow(path, threads))
    bundle = Bundle.open(path)
    verify(bundle)
    return _Bundled(bundle, threads)


class _Bundled:
    """A bundle: from an input as it was captured to what its task says."""

    def __init__(self, bundle: Bundle, threads: int) -> None:
        self._source = (bundle, threads)
        self._model = EdgeModel(bundle, threads=threads)
        spec, manifest = self._model.processor.spec, bundle.manifest
        columns = spec.find(Columns)
        self.wanted = Wanted(spec.modality, () if columns is None else columns.names)
        outputs = (("outputs", struct_of(manifest.artifacts[0].outputs, pa.float32())),)
        self.columns: tuple[tuple[str, Any], ...] = _COLUMNS.get(manifest.task, outputs)
        self.identity = {
            "name": manifest.name,
            "version": manifest.version,
            "task": manifest.task,
            "model_digest": manifest.model_digest,
            "bundle_digest": bundle.digest,
            "labels": canonical.dumps(list(manifest.labels)).decode(),
        }

    def answer(self, value: Any) -> dict[str, Any]:
        told = self._model.predict(value)
        task = self._model.task
        if task == "classification":
            return {name: getattr(told, name) for name, _ in self.columns}
        if task == "detection":
            first = next(iter(told), None)
            return {
                "label": None if first is None else first.label,
                "confidence": None if first is None else first.score,
                "certified": told.certified,
                "detections": told.to_dict()["detections"],
            }
        return {"outputs": {name: values.ravel() for name, values in told.outputs.items()}}

    def another(self) -> Answering:
        return _Bundled(*self._source)

    def finish(self, output: Path) -> None:
        """Leave it as it is."""

    def close(self) -> None:
        self._model.close()


class _Plain:
    """A model file without a bundle: from its input tensor to its output tensors."""

    wanted = Wanted("tensor")

    def __init__(self, path: Path, digest: str, open_model: Callable[[], Session]) -> None:
        self._source = (path, digest, open_model)
        self._session = open_model()
        if len(self._session.inputs) != 1:
            raise ModelError(f"{path} has {len(self._session.inputs)} inputs; a batch needs a model with one")
        self._input, outputs = self._session.inputs[0], self._session.outputs
        for spec in (self._input, *outputs):
            if np.dtype(spec.dtype).kind not in "fiub":
                raise ModelError(f"{path}: tensor {spec.name} holds {spec.dtype}; a batch is of numbers")
        self.columns: tuple[tuple[str, Any], ...] = (("outputs", struct_of(outputs)),)
        self.identity = {
            "name": saved_model.name_of(path) if path.is_dir() else path.stem,
            "version": "1",
            "task": "tensors",
            "model_digest": digest,
        }

    def answer(self, value: Any) -> dict[str, Any]:
        outputs = self._session.run(as_tensor(value, self._input))
        return {"outputs": {spec.name: y.ravel() for spec, y in zip(self._session.outputs, outputs, strict=True)}}

    def another(self) -> Answering:
        return _Plain(*self._source)

    def finish(self, output: Path) -> None:
        """Leave it as it is."""

    def close(self) -> None:
        self._session.close()


class _TensorFlow:
    """A SavedModel of one input as a session of `edge_sdk.runtime`."""

    def __init__(self, path: Path, threads: int) -> None:
        self._model = saved_model.SavedModel(path, threads)
        self.inputs, self.outputs = self._model.inputs, self._model.outputs

    def run(self, x: NDArray[Any]) -> list[NDArray[Any]]:
        return self._model.run({self.inputs[0].name: x})

    def close(self) -> None:
        self._model.close()


def as_tensor(value: Any, spec: TensorSpec) -> NDArray[Any]:
    """Return a row's numbers as one item of a model's input.

    Parameters
    ----------
    value
        An array, or the path of a .npy file.
    spec
        The input.

    Raises
    ------
    InputError
        The file cannot be read, or the numbers do not fit.
    """
    given = _read(value) if isinstance(value, Path) else value
    want, dtype = spec.shape, np.dtype(spec.dtype)
    if given.dtype.kind not in "fiub" or (given.dtype.kind == "f" and dtype.kind != "f"):
        raise InputError(f"the model takes {dtype}, not {given.dtype}")
    shape = (1, *want[1:]) if want and want[0] in (-1, 1) else want
    try:
        if shape.count(-1) > 1:
            return np.ascontiguousarray(given.reshape(1, *given.shape), dtype)
        return np.ascontiguousarray(given.reshape(shape), dtype)
    except ValueError as error:
        raise InputError(f"{given.size} numbers do not make the model's {list(want)}") from error


def _read(path: Path) -> Any:
    try:
        given = np.load(path, allow_pickle=False)
        if isinstance(given, np.ndarray):
            return given
    except (OSError, ValueError, EOFError) as error:
        raise InputError(f"cannot read {path}: {error}") from error
    raise InputError(f"{path} holds several arrays")


def struct_of(outputs: tuple[TensorSpec, ...], kind: Any = None) -> Any:
    """Return the type of a struct with one list for each output, flat, in C order; of its own numbers, or of a kind."""
    return pa.struct([(spec.name, pa.list_(kind or _number(spec.dtype))) for spec in outputs])


def _number(dtype: str) -> Any:
    return pa.from_numpy_dtype(np.dtype(dtype))
