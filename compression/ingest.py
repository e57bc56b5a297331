"""Bring a model of any origin and dtype policy into float32 Keras 3, and prove that it still says the same.

Converters to TFLite and ONNX know nothing of mixed precision, and neither do the methods of
compression. The model's configuration is rewritten, the model rebuilt and its weights copied; then both
are run on real inputs. Nothing that holds code is loaded: see `archives`.
"""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
import numpy.typing as npt

from edge_sdk.cloud.training.evaluate import logits_of
from edge_sdk.compression import archives, legacy
from edge_sdk.compression.bridge import bridged
from edge_sdk.compression.fitting import check_model
from edge_sdk.compression.rebuild import float32_default, leaves, rebuild
from edge_sdk.errors import CompressionError, InputError, one_line
from edge_sdk.files import storage_errors

__all__ = ["Agreement", "Ingested", "agreement", "ingest", "to_float32"]

REDUCED = frozenset({"mixed_bfloat16", "mixed_float16", "bfloat16", "float16", "float64"})

# Seen in practice: a largest change of 0.05 in logits that span 30, no changed answer.
LEAST_AGREEMENT = 0.98
LARGEST_DELTA = 0.1  # of the span of the logits


@dataclass(frozen=True, slots=True)
class Agreement:
    """How close two models are on the same inputs.

    Attributes
    ----------
    logit_delta
        Largest difference of a logit.
    logit_span
        Largest minus smallest logit of the first model.
    argmax
        Share of inputs with the same answer.
    n
        Number of inputs.
    """

    logit_delta: float
    logit_span: float
    argmax: float
    n: int

    def to_dict(self) -> dict[str, float]:
        """Return the fields as a plain dictionary."""
        return {
            "logit_delta": self.logit_delta,
            "logit_span": self.logit_span,
            "argmax": self.argmax,
            "n": self.n,
        }


@dataclass(frozen=True, eq=False)
class Ingested:
    """A model that compression can work on.

    Attributes
    ----------
    model
        Keras 3, float32.
    source
        ``keras``, ``tf_keras`` or ``saved_model``.
    policies
        Dtype policies of the original's layers; none where it is not of Keras 3.
    agreement
        With the original, on the inputs given.
    """

    model: keras.Model
    source: str
    policies: tuple[str, ...]
    agreement: Agreement


def ingest(
    source: keras.Model | str | Path,
    inputs: npt.NDArray[Any],
    *,
    shape: tuple[int, ...] | None = None,
    least: float = LEAST_AGREEMENT,
) -> Ingested:
    """Take a model in, as a verified float32 model of Keras 3.

    Parameters
    ----------
    source
        A Keras 3 or tf_keras model in memory; a ``.keras`` file of either, an ``.h5`` file, or a SavedModel
        folder that tf_keras wrote. It is not changed. A graph without layers (ONNX, TFLite, a SavedModel
        of another origin) can be a teacher: see `teachers.open_teacher`.
    inputs
        ``[n, ...]`` real inputs to compare on.
    shape
        Extents of an input without the batch, where the model leaves them open.
    least
        Share of inputs that must have the same answer.

    Raises
    ------
    InputError
        There is no such model, or it has no layers to work on.
    MissingExtraError
        A model of Keras 2 without tf_keras.
    CompressionError
        It holds code, an unknown layer, an open extent or weights that are not finite; it cannot be rebuilt, or
        says something else afterwards.
    """
    if not len(inputs):
        raise InputError("there are no inputs to compare on")
    if isinstance(source, keras.Model):
        return _of_memory(source, inputs, shape, least, "keras")
    with tempfile.TemporaryDirectory(prefix="edge-sdk-") as folder:
        if not isinstance(source, str | Path):
            source = _written(source, Path(folder))
        archive = archives.inspect(Path(source))
        if archive.kind in ("onnx", "litert"):
            raise InputError(f"{source} has no layers to work on; use it as a teacher (edge_sdk.compression.teachers)")
        path = archive.path
        if archive.kind != "saved_model":  # a copy is inspected and loaded, so that nobody changes it between
            with storage_errors(Path(folder)):
                path = Path(shutil.copyfile(path, Path(folder) / f"model{archive.suffix}"))
            again = archives.inspect(path)
            if (again.kind, again.suffix) != (archive.kind, archive.suffix):
                raise CompressionError(f"{source} changed while it was read; try again")
        if archive.kind == "keras":
            return _of_memory(_loaded(path, archive.path), inputs, shape, least, "keras")
        found = legacy.read(path, inputs, called=str(archive.path))
        model = bridged(found.config, found.weights, sequential=found.sequential)
        check_model(model := _fixed(model, shape))
        compared = agreement(found.logits, logits_of(model, inputs))
        _gate(model.name, compared, least)
        return Ingested(model, "saved_model" if archive.kind == "saved_model" else "tf_keras", (), compared)


def to_float32(model: keras.Model, inputs: npt.NDArray[Any]) -> tuple[keras.Model, Agreement]:
    """Return a float32 copy of a model and how well it agrees with the original.

    Parameters
    ----------
    model
        Any Keras 3 model with one output of logits; it is not changed.
    inputs
        ``[n, ...]`` real inputs to compare on.

    Raises
    ------
    CompressionError
        If the copy cannot be built, or disagrees by more than rounding explains.
    """
    found = ingest(model, inputs)
    return found.model, found.agreement


def agreement(first: npt.NDArray[np.float32], second: npt.NDArray[np.float32]) -> Agreement:
    """Compare two arrays of logits ``[n, classes]``."""
    return Agreement(
        logit_delta=float(np.abs(first - second).max()),
        logit_span=float(first.max() - first.min()),
        argmax=float(np.mean(first.argmax(axis=1) == second.argmax(axis=1))),
        n=len(first),
    )


def _of_memory(
    model: keras.Model, inputs: npt.NDArray[Any], shape: tuple[int, ...] | None, least: float, source: str
) -> Ingested:
    policies = tuple(sorted({layer.dtype_policy.name for layer in leaves(model)}))
    quantized = [layer.name for layer in leaves(model) if getattr(layer, "quantization_mode", None)]
    if quantized:
        raise CompressionError(
            f"the layer {quantized[0]!r} of {model.name!r} is quantized by Keras already; give the model before that"
        )
    if not model.built:
        raise CompressionError(f"the model {model.name!r} has no weights yet; call it once, or give it an Input")
    archives.check_config(_config(model), repr(model.name))
    copy = rebuild(model, _in_float32)
    for layer in copy._flatten_layers(include_self=False):  # noqa: SLF001 (nested models included)
        if layer.compute_dtype in REDUCED:
            raise CompressionError(f"the layer {layer.name!r} still computes in {layer.compute_dtype}")
    check_model(copy := _fixed(copy, shape))
    if tuple(copy.inputs[0].shape[1:]) != inputs.shape[1:]:
        raise InputError(
            f"the model {model.name!r} takes {list(copy.inputs[0].shape[1:])}, and the inputs to compare on are "
            f"{list(inputs.shape[1:])}"
        )
    found = agreement(logits_of(model, inputs), logits_of(copy, inputs))
    _gate(model.name, found, least)
    return Ingested(copy, source, policies, found)


def _config(model: keras.Model) -> Any:
    try:
        config = keras.saving.serialize_keras_object(model)
    except (RuntimeError, TypeError, ValueError) as error:
        raise CompressionError(
            f"the model {model.name!r} has no configuration: {one_line(error, 200)}; "
            "build it of layers, by keras.Model(inputs, outputs)"
        ) from error
    return {name: value for name, value in config.items() if name != "compile_config"}


def _loaded(copy: Path, path: Path) -> keras.Model:
    try:
        with float32_default():
            return keras.saving.load_model(copy, compile=False, safe_mode=True)
    except Exception as error:  # Keras raises what its layers raise
        raise CompressionError(f"{path} cannot be loaded: {one_line(error, 300)}") from error


def _written(model: Any, folder: Path) -> Path:
    """Write a tf_keras model of this process to a file, for another process to read."""
    if not type(model).__module__.startswith("tf_keras.") and not any(
        base.__module__.startswith("tf_keras.") for base in type(model).__mro__
    ):
        raise InputError(f"the model is a {type(model).__name__}; it should be a Keras model, or a path of one")
    path = folder / "given.keras"
    model.save(path)
    return path


def _fixed(model: keras.Model, shape: tuple[int, ...] | None) -> keras.Model:
    """Give open extents of the input a size."""
    if shape is None or len(model.inputs) != 1:
        return model
    given = tuple(model.inputs[0].shape[1:])
    if len(given) != len(shape) or any(have not in (None, want) for have, want in zip(given, shape, strict=True)):
        raise InputError(f"shape is {shape}; the model {model.name!r} takes {given}")
    if None not in given:
        return model
    with float32_default():
        inputs = keras.Input(shape, dtype=model.inputs[0].dtype, name="processed")
        return keras.Model(inputs, model(inputs), name=model.name)


def _gate(name: str, found: Agreement, least: float) -> None:
    if found.argmax < least or not found.logit_delta <= LARGEST_DELTA * found.logit_span:
        raise CompressionError(
            f"the float32 copy of {name!r} disagrees with it: {found.argmax:.1%} same answers, "
            f"logits differ by up to {found.logit_delta:.3g}"
        )


def _in_float32(value: dict[str, Any]) -> dict[str, Any]:
    """Rewrite the dtype policies of one serialised object."""
    if value.get("class_name") == "DTypePolicy" and value.get("config", {}).get("name") in REDUCED:
        return value | {"config": value["config"] | {"name": "float32"}}
    dtype = value.get("dtype")
    return value | {"dtype": "float32"} if isinstance(dtype, str) and dtype in REDUCED else value
