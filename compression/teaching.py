"""Who teaches: Keras models, ONNX files, functions, or logits that were computed before."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

import keras
import numpy as np
import numpy.typing as npt
import onnx
import tensorflow as tf
from keras import ops

from edge_sdk.compression.fitting import FittingData, loss_of
from edge_sdk.compression.teachers import open_teacher
from edge_sdk.errors import CompressionError, ModelError, one_line
from edge_sdk.processing import ProcessingSpec
from edge_sdk.processing.keras import ProcessingLayer
from edge_sdk.runtime.onnx import new_session

__all__ = ["Ask", "Prepared", "Source", "answers", "ask", "followed", "logits_in"]

Model: TypeAlias = keras.Model | str | Path | bytes

Source: TypeAlias = "Model | Prepared | npt.NDArray[Any] | Callable[[npt.NDArray[Any]], npt.NDArray[Any]]"
"""A teacher: a Keras model; a file of those that `teachers.open_teacher` takes, or the bytes of one in ONNX; a function
from what a student takes, ``[n, ...]``, to logits ``[n, classes]``; such logits, of the data's samples in order; or a
model with a processing of its own."""

Ask: TypeAlias = Callable[[Any], list[Any]]
"""Takes a batch as the data have it, gives float32 logits ``[batch, classes]``, then what the hints name."""

LEAST_PROBABILITY = 1e-7
BATCH = 256
CERTAIN = 0.02  # what probabilities of a quantized model may miss 1 by


@dataclass(frozen=True, eq=False)
class Prepared:
    """A teacher that sees the data's frames through another processing than the student does.

    Attributes
    ----------
    model
        Of Keras, or a file.
    processing
        Makes what it takes of a frame.
    """

    model: Model
    processing: ProcessingSpec


def ask(source: Source, data: FittingData, classes: int, hints: Sequence[str] = ()) -> Ask:
    """Open a teacher to ask it within a training step.

    A teacher of uint8 takes frames as captured; another takes what the processing makes of them.
    One that gives probabilities is read as their logarithms. An ONNX teacher runs in ONNX Runtime on
    the CPU, one thread, and may have its channels first.

    Parameters
    ----------
    source
        A model or a file, no array.
    data
        What it will be asked about.
    classes
        How many logits the student gives.
    hints
        Names of layers (Keras) or tensors (ONNX) to answer as well.

    Raises
    ------
    CompressionError
        The file cannot be read, a name is not there, or shapes do not fit.
    """
    if isinstance(source, Prepared):
        return ask(source.model, replace(data, processing=source.processing), classes, hints)
    if isinstance(source, keras.Model):
        teach = _of_keras(source, hints)
    elif callable(source):
        teach = _of_function(source, classes)
    elif isinstance(source, str | Path) and Path(source).suffix != ".onnx":
        teach = _of_file(source, data, classes, hints)
    else:
        teach = _of_onnx(_bytes(source), data, hints)
    if teach.classes not in (None, classes):
        raise CompressionError(f"the teacher {teach.name} gives {teach.classes} logits, and the student {classes}")
    expected = tuple(data.inputs.shape[1:])
    processing = None
    if data.processing is not None and not teach.frames:
        processing = ProcessingLayer(data.processing.without_quantize(), dtype="float32")
        expected = tuple(data.processing.output_shape[1:])
    if teach.shape is not None and (
        len(teach.shape) != len(expected)
        or any(open_or not in (None, side) for open_or, side in zip(teach.shape, expected, strict=True))
    ):
        raise CompressionError(f"the teacher {teach.name} takes {teach.shape}, and the data are {expected}")

    def answer(batch: Any) -> list[Any]:
        return teach.run(batch if processing is None else processing(batch))

    return answer


def logits_in(source: npt.NDArray[Any], data: FittingData, classes: int) -> npt.NDArray[np.float32]:
    """Check logits that were computed before."""
    if source.shape != (len(data), classes):
        raise CompressionError(
            f"the teacher's logits are {list(source.shape)}; {len(data)} samples and {classes} classes need "
            f"[{len(data)}, {classes}]"
        )
    if source.dtype.kind not in "iuf" or not np.isfinite(source).all():
        raise CompressionError("the teacher's logits are not finite numbers")
    return source.astype(np.float32, copy=False)


def answers(question: Ask, data: FittingData) -> npt.NDArray[np.float32]:
    """Ask a teacher about all samples: logits float32 ``[n, classes]``."""
    parts = [keras.ops.convert_to_numpy(question(data.inputs[at : at + BATCH])[0]) for at in range(0, len(data), BATCH)]
    return np.concatenate(parts).astype(np.float32, copy=False)


class _Teach:
    """A model that can be asked: its name, what it takes, what it gives, and how to run it."""

    def __init__(
        self,
        name: str,
        shape: tuple[int | None, ...] | None,
        classes: int | None,
        frames: bool,
        run: Callable[[Any], list[Any]],
    ) -> None:
        self.name, self.shape, self.classes, self.frames, self.run = name, shape, classes, frames, run


def _of_keras(model: keras.Model, hints: Sequence[str]) -> _Teach:
    if not getattr(model, "inputs", None) or len(model.inputs) != 1 or len(model.outputs) != 1:
        raise CompressionError(f"the teacher {model.name!r} should have one input and one output of logits")
    names = {layer.name for layer in model.layers}
    for hint in hints:
        if hint not in names:
            raise CompressionError(f"the teacher {model.name!r} has no layer {hint!r}")
    outputs = [model.outputs[0], *(model.get_layer(hint).output for hint in hints)]
    inner = keras.Model(model.inputs, outputs)
    given = model.inputs[0]
    probabilities = not loss_of(model).get_config()["from_logits"]

    def run(batch: Any) -> list[Any]:
        values = [ops.cast(value, "float32") for value in _listed(inner(ops.cast(batch, given.dtype), training=False))]
        return [_logs(values[0]) if probabilities else values[0], *values[1:]]

    return _Teach(repr(model.name), tuple(given.shape[1:]), model.outputs[0].shape[-1], given.dtype == "uint8", run)


def _of_file(source: str | Path, data: FittingData, classes: int, hints: Sequence[str]) -> _Teach:
    some = data.taken(BATCH)
    opened = open_teacher(source, some)
    if opened.model is not None:
        return _of_keras(opened.model, hints)
    if hints:
        raise CompressionError(f"hints follow layers of Keras or tensors of ONNX; {source} is {opened.kind}")
    found = opened(some)
    certain = bool((found >= 0.0).all() and (np.abs(found.sum(axis=1) - 1.0) <= CERTAIN).all())
    return _of_function((lambda x: np.log(np.maximum(opened(x), LEAST_PROBABILITY))) if certain else opened, classes)


def _of_function(function: Callable[[npt.NDArray[Any]], npt.NDArray[Any]], classes: int) -> _Teach:
    def compute(batch: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        return np.asarray(function(batch), dtype=np.float32)

    def run(batch: Any) -> list[Any]:
        return [tf.ensure_shape(tf.numpy_function(compute, [batch], tf.float32, stateful=False), [None, classes])]

    return _Teach(getattr(function, "__name__", "function"), None, classes, False, run)


def _of_onnx(content: bytes, data: FittingData, hints: Sequence[str]) -> _Teach:
    try:
        proto = onnx.load_model_from_string(content)
    except Exception as error:  # of protobuf, which has a type of its own
        raise CompressionError(f"the teacher is not an ONNX model: {one_line(error)}") from error
    made = {name: node for node in proto.graph.node for name in node.output}
    for hint in hints:
        if hint not in made:
            raise CompressionError(f"the ONNX teacher has no tensor {hint!r}; name the output of a node")
        if hint not in {value.name for value in proto.graph.output}:
            proto.graph.output.append(onnx.ValueInfoProto(name=hint))
    try:
        session = new_session(proto.SerializeToString() if hints else content, 1)
    except ModelError as error:
        raise CompressionError(f"the ONNX teacher does not load: {error}") from error
    given, given_back = session.get_inputs(), session.get_outputs()[0]
    if len(given) != 1 or given[0].type not in ("tensor(float)", "tensor(uint8)"):
        raise CompressionError("the ONNX teacher should take one tensor, of float32 or uint8")
    entry, wanted = given[0], [given_back.name, *hints]
    shape = tuple(side if isinstance(side, int) else None for side in entry.shape[1:])
    frames = entry.type == "tensor(uint8)"
    sides = data.inputs.shape[1:] if data.processing is None or frames else data.processing.output_shape[1:]
    first = _channels_first(shape, tuple(sides))
    last = made.get(given_back.name)
    probabilities = last is not None and last.op_type == "Softmax"
    dtype = np.uint8 if frames else np.float32

    def compute(batch: npt.NDArray[Any]) -> list[npt.NDArray[np.float32]]:
        fed = np.asarray(batch, dtype=dtype)
        fed = np.ascontiguousarray(np.moveaxis(fed, -1, 1) if first else fed)
        values = session.run(wanted, {entry.name: fed})
        return [np.asarray(np.moveaxis(v, 1, -1) if first and v.ndim == 4 else v, np.float32) for v in values]

    try:
        tried = compute(np.zeros((1, *sides), dtype))  # a file does not always state its shapes
    except Exception as error:  # onnxruntime raises types of its own that share no base
        raise CompressionError(
            f"the ONNX teacher takes {list(entry.shape)}, and not [n, {', '.join(map(str, sides))}] as the data have: "
            f"{str(error).splitlines()[0]}"
        ) from error

    def run(batch: Any) -> list[Any]:
        values = _listed(tf.numpy_function(compute, [batch], [tf.float32] * len(wanted), stateful=False))
        values = [tf.ensure_shape(v, [None, *known.shape[1:]]) for v, known in zip(values, tried, strict=True)]
        return [_logs(values[0]) if probabilities else values[0], *values[1:]]

    return _Teach("in ONNX", (*shape[1:], shape[0]) if first else shape, tried[0].shape[-1], frames, run)


def _channels_first(shape: tuple[int | None, ...], sides: tuple[int, ...]) -> bool:
    """Whether a model takes images ``[c, h, w]`` that the data have as ``[h, w, c]``."""
    if len(shape) != 3 or len(sides) != 3:
        return False
    fits = all(side in (None, known) for side, known in zip(shape, sides, strict=True))
    turned = all(side in (None, known) for side, known in zip(shape, (sides[2], *sides[:2]), strict=True))
    return turned and not (fits and shape[-1] == sides[-1])


def followed(source: Source) -> bool:
    """Whether a teacher is a model, whose insides hints can follow."""
    return isinstance(source, keras.Model | str | bytes | Path | Prepared)


def _bytes(source: Any) -> bytes:
    if isinstance(source, bytes):
        return source
    try:
        return Path(source).read_bytes()
    except TypeError:
        raise CompressionError(
            f"a teacher is a Keras model, an ONNX file or an array of logits, and not {type(source).__name__}"
        ) from None
    except OSError as error:
        raise CompressionError(f"{source}: the teacher cannot be read: {error.strerror or error}") from error


def _listed(values: Any) -> list[Any]:
    """Return several outputs as a list where there is only one, too."""
    return list(values) if isinstance(values, list | tuple) else [values]


def _logs(probabilities: Any) -> Any:
    return ops.log(ops.maximum(probabilities, LEAST_PROBABILITY))
