"""Packing: a model file, its processing and its golden examples become one bundle.

Nothing is packed that was not run: the model is loaded in the runtime that devices use, the
processing is held against its reference, and the golden answers are that run's.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_sdk import canonical
from edge_sdk.bundle import (
    TASKS,
    Artifact,
    Bundle,
    Detector,
    Golden,
    GoldenSet,
    Manifest,
    build_bundle,
    save_array,
    write_bundle,
)
from edge_sdk.bundle import card as model_card
from edge_sdk.bundle.golden import MAX_GOLDEN
from edge_sdk.bundle.manifest import LABELLED, NAME, OUTPUTS, VERSION
from edge_sdk.cascade.policy import Policy
from edge_sdk.errors import CertificateError, InputError, ModelError
from edge_sdk.files import storage_errors
from edge_sdk.inputs import Input, as_input
from edge_sdk.model import EdgeModel
from edge_sdk.processing import ProcessingSpec, check_skew, samples
from edge_sdk.processing.skew import processed_tolerance
from edge_sdk.runtime import open_session
from edge_sdk.runtime.trial import try_out
from edge_sdk.types import TensorSpec
from edge_sdk.validity import not_certified_for
from edge_sdk.verification import verify

__all__ = ["SUFFIXES", "pack"]

SUFFIXES = {".tflite": "litert", ".onnx": "onnx"}
"""Model file suffix to runtime."""

_FILES = {"litert": "model.tflite", "onnx": "model.onnx"}
_LEAST_ATOL = 1e-6  # where every golden output is 0
_FLOAT_ATOL = 0.02  # what float answers differ by between instruction sets, with room
_INT8_ATOL = 0.15  # int8 kernels round otherwise from runtime to runtime: 0.1 between LiteRT 2.3 and tflite-runtime
_SCORE_SLACK = 0.01  # quantized scores of 1 may be a step above
_PROBABILITY_STEP = 1 / 64  # coarser quantized outputs reach far above 1: they hold something else
_ANCHORS = "anchors.npy"
_SAMPLES = 4
_FEW_SAMPLES = 2  # of large inputs: every golden example is stored
_LARGE = 1 << 18  # values of a processed tensor


def pack(
    model: Path | bytes,
    *,
    path: Path,
    name: str,
    version: str,
    labels: Sequence[str] = (),
    processing: ProcessingSpec,
    output: str | None = None,
    task: str = "classification",
    detection: Detector | None = None,
    anchors: NDArray[np.float32] | None = None,
    runtime: str | None = None,
    golden_inputs: Sequence[Input] | None = None,
    lineage: Mapping[str, Any] | None = None,
    metrics: Mapping[str, Any] | None = None,
    cascade: Mapping[str, Any] | None = None,
    precision: str | None = None,
) -> Bundle:
    """Wrap a model file as a ``.edge`` bundle.

    Parameters
    ----------
    model
        A ``.tflite`` or ``.onnx`` file, or its bytes; with one input.
    path
        The bundle to write.
    name, version
        Lower-case name and semantic version.
    labels
        Class names by index; none for regression and embedding.
    processing
        From an input to the model's input. Where that is quantized and the specification does not
        end in a ``quantize`` step, the step is added from the model's own scale and zero point; one
        that is there must agree with them.
    output
        What the first output of a classifier holds: ``probabilities`` or ``logits``.
    task
        ``classification``, ``detection``, ``regression`` or ``embedding``.
    detection
        How the outputs of a detector are read. Where shapes tell an SSD's boxes from its scores, their
        positions are found.
    anchors
        Of an SSD-style detector whose boxes are offsets, float32 [anchors, 4].
    runtime
        ``litert``, ``onnx``, or that of another package; by default what the file's suffix says.
    golden_inputs
        Raw inputs, such as frames uint8 [height, width, channels], whose answers devices must
        reproduce; by default seeded samples.
    lineage, metrics, cascade
        See `edge_sdk.bundle.Manifest`.
    precision
        What the weights are; by default the dtype of the input tensor.

    Raises
    ------
    InputError
        An argument is not what it should be.
    ModelError
        The model cannot be loaded, does not fit the processing or the labels, or ends the process that
        runs it, which is not this one.
    CertificateError
        The policy is certified for another model, processing or runtime, or is from a newer version.
    SkewError
        The executors of the processing disagree.
    StorageError
        The bundle cannot be written.
    """
    _check_arguments(name, version, labels)
    _check_task(task, labels, output, detection)
    runtime = runtime or _runtime_of(model)
    data = model if isinstance(model, bytes) else _read(model)
    try_out(data, runtime)
    session = open_session(data, runtime)
    inputs, outputs = session.inputs, session.outputs
    session.close()
    spec = _with_quantization(processing, inputs)
    count = _SAMPLES if math.prod(spec.output_shape) < _LARGE else _FEW_SAMPLES
    given = samples(spec, count) if golden_inputs is None else golden_inputs
    raw_inputs = tuple(as_input(spec, value) for value in given)
    if not 0 < len(raw_inputs) <= MAX_GOLDEN:
        raise InputError(f"there are {len(raw_inputs)} golden inputs; there should be 1 to {MAX_GOLDEN}")
    check_skew(spec, raw_inputs)
    file = _FILES.get(runtime, f"model.{runtime}")
    members = {file: data}
    if detection is not None:
        detection = _with_positions(detection, len(labels), outputs)
    if anchors is not None:
        detection = _with_anchors(detection, anchors)
        members[_ANCHORS] = save_array(anchors)
    manifest = Manifest(
        name=name,
        version=version,
        task=task,
        labels=tuple(labels),
        processing=spec.to_json(),
        artifacts=(
            Artifact(file, runtime, precision or inputs[0].dtype, canonical.sha256(data), len(data), inputs, outputs),
        ),
        outputs=output or "tensors",
        golden=Golden(
            len(raw_inputs),
            processed_tolerance(spec, raw_inputs),
            *((_output_atol(outputs[0], output), ()) if output is not None else (0.0, (0.0,) * len(outputs))),
        ),
        files={member: canonical.sha256(content) for member, content in members.items()},  # the anchors are digested
        cascade=cascade,
        lineage=lineage or {},
        metrics=metrics or {},
        requirements={"runtime": runtime},
        detection=detection,
    )
    if cascade is not None:
        other = not_certified_for(Policy.from_json(cascade), manifest)
        if other:
            raise CertificateError(
                f"{name}: the policy is certified for another {' and '.join(other)}; certify this one"
            )
    members[model_card.CARD] = model_card.render(manifest).encode()
    golden = _golden(manifest, members, raw_inputs)
    if task != "classification":
        atols = tuple(_tensor_atol(one, values) for one, values in zip(outputs, golden.outputs, strict=True))
        manifest = replace(manifest, golden=replace(manifest.golden, output_atol=max(atols), output_atols=atols))
    members |= golden.to_members()
    verify(build_bundle(manifest, members))  # before it is written
    return write_bundle(path, manifest, members)


def _golden(manifest: Manifest, members: Mapping[str, bytes], raw_inputs: Sequence[NDArray[Any]]) -> GoldenSet:
    """Run the model as a device will, from a bundle that lacks only its golden examples."""
    with EdgeModel(build_bundle(manifest, members)) as model:
        processed, outputs = zip(*(model.golden(value) for value in raw_inputs), strict=True)
        tensors = [model.processor(value) for value in raw_inputs[:_SAMPLES]]
        raw = [model.run(tensor) for tensor in tensors]
        if any(len({row.shape for row in rows}) > 1 for rows in zip(*outputs, strict=True)):
            raise ModelError(f"{manifest.name}: an output has another shape for another input; it should have one")
    if manifest.task == "classification":
        _check_scores(manifest, [one[0] for one in raw])
    elif manifest.detection is not None:
        _check_boxes(manifest, manifest.detection, raw)
    return GoldenSet(
        tuple(raw_inputs), np.stack(processed), tuple(np.stack(rows) for rows in zip(*outputs, strict=True))
    )


def _check_scores(manifest: Manifest, raw: Sequence[NDArray[Any]]) -> None:
    """Refuse a classifier whose raw outputs are not what the manifest calls them.

    A second softmax over probabilities would leave the label as it is and every confidence far too low.
    """
    gives = manifest.artifacts[0].outputs[0]
    scores = np.concatenate([_dequantized(one.reshape(1, -1), gives) for one in raw])
    allowed = 0.05
    if gives.scale is not None:
        allowed += gives.scale / 2 * scores.shape[1]  # each was rounded
    totals = scores.sum(axis=1)
    worst = int(np.abs(totals - 1).argmax())
    fits = not (scores < 0).any() and bool(abs(totals[worst] - 1) <= allowed)
    if manifest.outputs == "logits" and fits and (gives.scale is None or gives.scale <= _PROBABILITY_STEP):
        raise ModelError(f"{manifest.name}: its outputs are probabilities (every row sums to 1); pack them as such")
    if manifest.outputs == "probabilities" and not fits:
        raise ModelError(
            f"{manifest.name}: its outputs are not probabilities (a row sums to {totals[worst]:.3g}); are they logits?"
        )


def _check_boxes(manifest: Manifest, detector: Detector, raw: Sequence[Sequence[NDArray[Any]]]) -> None:
    """Refuse a detector whose scores are no probabilities: every threshold would mean something else."""
    outputs = manifest.artifacts[0].outputs
    if detector.decoder == "yolo":
        rows = 4 + len(manifest.labels)
        planes = [_dequantized(one[0][0], outputs[0]) for one in raw]
        scores = np.concatenate([(plane if len(plane) == rows else plane.T)[4:].ravel() for plane in planes])
    else:
        scores = np.concatenate([_dequantized(one[detector.scores], outputs[detector.scores]).ravel() for one in raw])
    least, most = float(scores.min()), float(scores.max())
    if least < -_SCORE_SLACK or most > 1 + _SCORE_SLACK:
        raise ModelError(
            f"{manifest.name}: its scores reach from {least:.3g} to {most:.3g}, so they are no probabilities; "
            "end the model with a sigmoid or softmax"
        )


def _dequantized(raw: NDArray[Any], output: TensorSpec) -> NDArray[np.float64]:
    real = raw.astype(np.float64)
    if output.scale is None or output.zero_point is None:
        return real
    return output.scale * (real - output.zero_point)


def _output_atol(spec: TensorSpec, output: str) -> float:
    """Return what probabilities may differ by; two steps of a quantized output show (softmax's slope is ≤ 1/4)."""
    if spec.scale is None:
        return _FLOAT_ATOL
    return _INT8_ATOL + (spec.scale / 2 if output == "logits" else 2 * spec.scale)


def _tensor_atol(spec: TensorSpec, values: NDArray[np.float32]) -> float:
    """Return what an output that is no probability may differ by: the same share of its largest value."""
    largest = float(np.abs(values).max())
    if spec.scale is None:
        return _FLOAT_ATOL * largest + _LEAST_ATOL
    return _INT8_ATOL * largest + 2 * spec.scale


def _with_positions(detection: Detector, labels: int, outputs: tuple[TensorSpec, ...]) -> Detector:
    """Find the boxes and the scores of an SSD by their shapes, where those tell them apart and nobody said."""
    if detection.decoder != "ssd" or (detection.boxes, detection.scores) != (0, 1):
        return detection
    columns = [output.shape[2] if len(output.shape) == 3 else 0 for output in outputs]
    wanted = labels + detection.background
    if wanted == 4 or columns.count(4) != 1 or columns.count(wanted) != 1:
        return detection
    return replace(detection, boxes=columns.index(4), scores=columns.index(wanted))


def _with_anchors(detection: Detector | None, anchors: NDArray[np.float32]) -> Detector:
    if detection is None or detection.decoder != "ssd":
        raise InputError("anchors are for a detector whose decoder is ssd")
    if not isinstance(anchors, np.ndarray) or anchors.dtype != np.float32:
        raise InputError(f"anchors should be a float32 array, not {getattr(anchors, 'dtype', type(anchors).__name__)}")
    return replace(detection, anchors=_ANCHORS)


def _with_quantization(spec: ProcessingSpec, inputs: tuple[TensorSpec, ...]) -> ProcessingSpec:
    takes = inputs[0] if inputs else None
    if (
        takes is None
        or takes.scale is None
        or takes.zero_point is None
        or np.dtype(spec.output_dtype).name == takes.dtype
    ):
        return spec
    return spec.with_quantize(takes.dtype, takes.scale, takes.zero_point)


def _check_arguments(name: str, version: str, labels: Sequence[str]) -> None:
    if not NAME.fullmatch(name):
        raise InputError(f"name is {name!r}; it should be lower-case letters and digits, such as 'cifar10'")
    if not VERSION.fullmatch(version):
        raise InputError(f"version is {version!r}; it should be a semantic version such as 1.0.0")
    if len(set(labels)) != len(labels):
        raise InputError("labels hold a name twice")


def _check_task(task: str, labels: Sequence[str], output: str | None, detection: Detector | None) -> None:
    if task not in TASKS:
        raise InputError(f"task is {task!r}; it should be one of {', '.join(TASKS)}")
    if task in LABELLED and not labels:
        raise InputError("labels are empty; there should be one name a class")
    if task not in LABELLED and labels:
        raise InputError(f"there are {len(labels)} labels; a model for {task} has none")
    if task == "classification" and output not in OUTPUTS:
        raise InputError(f"output is {output!r}; it should be one of {', '.join(OUTPUTS)}")
    if task != "classification" and output is not None:
        raise InputError(f"output is {output!r}; only a classifier's outputs have such a name")
    if (task == "detection") != (detection is not None):
        raise InputError("detection should say how the outputs of a detector are read, and be left out for other tasks")


def _runtime_of(model: Path | bytes) -> str:
    if isinstance(model, bytes):
        raise InputError("say which runtime the model's bytes are for, such as 'litert' or 'onnx'")
    if model.suffix not in SUFFIXES:
        raise InputError(f"{model}: a model file should end in {' or '.join(SUFFIXES)}")
    return SUFFIXES[model.suffix]


def _read(path: Path) -> bytes:
    if not path.is_file():
        raise InputError(f"there is no model file at {path}")
    with storage_errors(path, "read"):
        return path.read_bytes()
