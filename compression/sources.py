"""What is compressed, and who teaches it: folders of ``edge-sdk train``, and models of any other origin.

A folder tells how images are processed and what the classes are. A model file does not: its processing is told
beside it, and its classes are those of the data, in their order.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Literal, TypeAlias, get_args

import keras
import numpy as np

from edge_sdk import canonical
from edge_sdk.cloud.saved_model import SavedModel
from edge_sdk.cloud.training import data, evaluate, loop
from edge_sdk.cloud.training.trained import MODEL_FILE, RECORD_FILE
from edge_sdk.compression import archives
from edge_sdk.compression.distill import student
from edge_sdk.compression.ingest import ingest
from edge_sdk.compression.teaching import Prepared
from edge_sdk.datasets import Dataset, Splits
from edge_sdk.errors import CompressionError, DataError, InputError
from edge_sdk.processing import Color, Layout, Normalize, ProcessingSpec, Resize
from edge_sdk.runtime import open_session

__all__ = [
    "SCALES",
    "Told",
    "can_only_teach",
    "new_student",
    "of_training",
    "open_guide",
    "open_model",
    "read_processing",
]

logger = logging.getLogger("edge_sdk.compression")

Scale = Literal["pixels", "unit", "signed"]
Told: TypeAlias = "ProcessingSpec | Scale"
"""What is done to an image before a model sees it: all of it, or what its values are after resizing."""

SCALES: dict[str, tuple[float, float]] = {"pixels": (0.0, 1.0), "unit": (0.0, 255.0), "signed": (127.5, 127.5)}
"""By name: what is subtracted from levels of 0 to 255, and what they are divided by then."""

COMPARED = 256


def read_processing(text: str) -> Told:
    """Read what a user says of a model's processing: one of `SCALES`, a JSON file, or a folder of ``edge-sdk train``.

    Raises
    ------
    InputError
        It is neither, or the file cannot be read.
    ProcessingError
        The file is no specification.
    """
    if text in get_args(Scale):
        return text  # type: ignore[return-value]
    path = Path(text)
    if of_training(path):
        return loop.load_trained(path).processing
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(
            f"processing is {text!r}; it should be {', '.join(SCALES)} or a JSON file: {error.strerror or error}"
        ) from error
    try:
        return ProcessingSpec.from_json(canonical.loads(content)).without_quantize()
    except InputError as error:
        raise InputError(f"{path}: {error}") from error


def open_model(
    source: keras.Model | str | Path, splits: Splits, *, processing: Told | None = None, size: int | None = None
) -> loop.Trained:
    """Take in a model with layers to work on.

    Parameters
    ----------
    source
        A folder of ``edge-sdk train``; or what `ingest.ingest` takes, whose logits or probabilities are of the data's
        classes in their order.
    splits
        What it was trained on; images, but for a folder's.
    processing
        Not of a folder of ``edge-sdk train``, which knows.
    size
        Side of its input, where the model leaves it open.

    Returns
    -------
    Trained
        In float32, but for a folder's, which is as it was trained.

    Raises
    ------
    InputError
        There is no such model, it has no layers, or nothing says what its processing is.
    CompressionError
        It cannot be used: see `ingest.ingest`; or does not fit the data.
    """
    if of_training(source):
        return _of_folder(source, processing)
    if not splits.train.pictures:
        raise DataError(
            f"{splits.spec} are no images; compress takes models of other inputs as 'edge-sdk train' leaves them "
            "(its --model takes one of your own), and the steps in Python any"
        )
    name = _called(source)
    if isinstance(source, str | Path) and of_training(Path(source).parent) and Path(source).name == MODEL_FILE:
        raise InputError(f"{name} has its processing in it; name its folder, {Path(source).parent}")
    shape = _shape(source, name, size)
    spec = _spec(name, shape, processing)
    _check_seen(name, spec, splits.train)
    some = splits.validation.take(np.arange(min(COMPARED, len(splits.validation))))
    inputs = data.processed(some, spec)
    if shape is not None and any(a not in (None, b) for a, b in zip(shape, inputs.shape[1:], strict=True)):
        raise CompressionError(f"{name} takes {_sides(shape)}, and its processing gives {list(inputs.shape[1:])}")
    taken = ingest(source, inputs, shape=tuple(inputs.shape[1:]))
    model = taken.model
    if tuple(model.outputs[0].shape[1:]) != (len(splits.classes),):
        raise CompressionError(
            f"{name} answers {list(model.outputs[0].shape[1:])} and the data have {len(splits.classes)} classes: "
            "it should give one number for each"
        )
    found = evaluate.accuracy(evaluate.logits_of(model, inputs), some.labels)
    if found["low"] <= 1.0 / len(splits.classes):
        logger.warning(
            "%s is right about %.0f %% of %d validation images, no better than guessing. If it is trained: is its "
            "processing %s, and are its answers in the order %s?",
            *(name, 100 * found["value"], len(some)),
            *(processing if isinstance(processing, str) else "as in the file", ", ".join(splits.classes[:4])),
        )
    body = keras.Model(model.inputs, model.outputs, name="body")
    policy = ", ".join(taken.policies) or "float32"
    lineage = {"source": taken.source, "agreement": taken.agreement.to_dict()}
    return loop.Trained(loop.assemble(body, spec, splits.train), spec, splits.classes, policy, {}, {}, lineage)


def new_student(splits: Splits, processing: ProcessingSpec, *, seed: int = 0) -> loop.Trained:
    """Return a small network of random weights, for a teacher that has no layers."""
    keras.utils.set_random_seed(seed)
    body = student(processing.output_shape[1:], len(splits.classes))
    return loop.Trained(loop.assemble(body, processing, splits.train), processing, splits.classes, "float32", {}, {})


def open_guide(source: str | Path, splits: Splits, *, processing: Told | None = None) -> loop.Trained | Prepared:
    """Open who teaches: of all that `open_model` takes, and ONNX, TFLite and SavedModels of any origin.

    Raises
    ------
    InputError, CompressionError
        As `open_model`.
    """
    if of_training(source):
        return _of_folder(source, processing)
    archive = archives.inspect(Path(source))
    if archive.kind in ("keras", "legacy"):
        opened = open_model(source, splits, processing=processing)
        return Prepared(opened.body, opened.processing)
    spec = _spec(str(source), _shape(source, str(source), None), processing)
    _check_seen(str(source), spec, splits.train)
    return Prepared(archive.path, spec)


def of_training(source: object) -> bool:
    """Whether it is a folder of ``edge-sdk train``."""
    return isinstance(source, str | Path) and (Path(source) / RECORD_FILE).exists()


def can_only_teach(source: str | Path) -> bool:
    """Whether a file has no layers to work on.

    Raises
    ------
    InputError, CompressionError
        There is no such model, or it holds code.
    """
    return not of_training(source) and archives.inspect(Path(source)).kind in ("onnx", "litert")


def _of_folder(source: object, processing: Told | None) -> loop.Trained:
    if processing is not None:
        raise InputError(f"{source} knows its processing; leave that option out")
    return loop.load_trained(str(source))


def _called(source: object) -> str:
    return str(source) if isinstance(source, str | Path) else f"the model {getattr(source, 'name', '')!r}"


def _shape(source: object, name: str, size: int | None) -> tuple[int | None, ...] | None:
    """Return what a model takes, ``(height, width, channels)``; None where nobody can know."""
    found: tuple[int | None, ...] | None
    if not isinstance(source, str | Path):
        inputs = getattr(source, "inputs", None)
        found = tuple(inputs[0].shape[1:]) if inputs else None
    else:
        archive = archives.inspect(Path(source))
        if archive.kind in ("onnx", "litert"):
            session = open_session(archive.path, archive.kind)
            found = tuple(None if side < 0 else side for side in session.inputs[0].shape[1:])
            session.close()
            if len(found) == 3 and found[0] in (1, 3) and found[2] not in (1, 3):
                found = (*found[1:], found[0])
        elif archive.kind == "saved_model":
            found = tuple(None if side < 0 else side for side in SavedModel(archive.path).inputs[0].shape[1:])
        else:
            found = archives.taken(archive)
    if found is not None and len(found) != 3:
        raise CompressionError(f"{name} takes {_sides(found)}; it should take images [height, width, channels]")
    if found is not None and size is not None:
        return tuple(size if side is None else side for side in found[:2]) + found[2:]
    return found


def _spec(name: str, shape: tuple[int | None, ...] | None, told: Told | None) -> ProcessingSpec:
    """Return the whole specification."""
    if told is None:
        raise InputError(
            f"{name} does not say what is done to an image before it; tell it by --processing (processing=): pixels "
            "(0 to 255: the model scales them itself), unit (0 to 1), signed (-1 to 1) or a JSON file"
        )
    if isinstance(told, ProcessingSpec):
        return told.without_quantize()
    if shape is None or None in shape or shape[2] not in (1, 3):
        raise CompressionError(
            f"{name} takes {_sides(shape)}, which leaves open what images are resized to; tell it by --size (size=), "
            "or by a JSON file as processing"
        )
    height, width, channels = (side or 0 for side in shape)
    return ProcessingSpec.image(height, width, channels, *SCALES[told])


def _sides(shape: tuple[int | None, ...] | None) -> str:
    return "something" if shape is None else f"[{', '.join('?' if side is None else str(side) for side in shape)}]"


def _check_seen(name: str, spec: ProcessingSpec, dataset: Dataset) -> None:
    """Refuse a processing that frames of the data cannot go through."""
    if spec.modality != "image" or not spec.accepts(dataset.channels) or spec.order != "NHWC":
        raise CompressionError(
            f"the processing of {name} is of {spec.frame_text if spec.modality == 'image' else spec.modality}, "
            f"channels {'last' if spec.order == 'NHWC' else 'first'}; the data are images of {dataset.channels} "
            "channels, and models of Keras have them last"
        )
    plain = all(isinstance(step, Color | Resize | Normalize | Layout) for step in spec.steps)
    if not dataset.uniform and not plain:
        raise CompressionError(
            f"the processing of {name} crops or letterboxes, for which the images should have one size; they differ"
        )
