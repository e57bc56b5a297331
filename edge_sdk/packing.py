"""Packing: a model file, its processing and its golden examples become one bundle.

Nothing is packed that was not run: the model is loaded in the runtime that devices use, the
processing is held against its reference, and the golden answers are that run's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_sdk import canonical
from edge_sdk.bundle import RUNTIMES, Artifact, Bundle, Golden, GoldenSet, Manifest, build_bundle, write_bundle
from edge_sdk.bundle import card as model_card
from edge_sdk.bundle.golden import MAX_GOLDEN
from edge_sdk.bundle.manifest import NAME, OUTPUTS, VERSION
from edge_sdk.errors import InputError, ModelError
from edge_sdk.files import storage_errors
from edge_sdk.model import EdgeModel, verify
from edge_sdk.processing import ProcessingSpec, check_skew, samples
from edge_sdk.processing.skew import FLOAT_TOLERANCE
from edge_sdk.processing.steps import Quantize
from edge_sdk.runtime import open_session
from edge_sdk.types import TensorSpec

__all__ = ["SUFFIXES", "pack", "sample_frames"]

SUFFIXES = {".tflite": "litert", ".onnx": "onnx"}
"""Model file suffix to runtime."""

_FILES = {"litert": "model.tflite", "onnx": "model.onnx"}
_FLOAT_ATOL = 0.02  # what float answers differ by between instruction sets, with room
_INT8_ATOL = 0.15  # int8 kernels round otherwise from runtime to runtime: 0.1 between LiteRT 2.3 and tflite-runtime
_PROBABILITY_STEP = 1 / 64  # coarser quantized outputs reach far above 1: they hold something else
_SAMPLE_FRAMES = 4


def pack(
    model: Path | bytes,
    *,
    path: Path,
    name: str,
    version: str,
    labels: Sequence[str],
    processing: ProcessingSpec,
    output: str,
    runtime: str | None = None,
    golden_inputs: Sequence[NDArray[np.uint8]] | None = None,
    lineage: Mapping[str, Any] | None = None,
    metrics: Mapping[str, Any] | None = None,
    cascade: Mapping[str, Any] | None = None,
    precision: str | None = None,
) -> Bundle:
    """Wrap a model file as a ``.edge`` bundle.

    Parameters
    ----------
    model
        A ``.tflite`` or ``.onnx`` file, or its bytes. One input, the class scores as first output.
    path
        The bundle to write.
    name, version
        Lower-case name and semantic version.
    labels
        Class names by index.
    processing
        From a frame to the model's input. Where that is quantized and the specification does not
        end in a ``quantize`` step, the step is added from the model's own scale and zero point; one
        that is there must agree with them.
    output
        What the first output holds: ``probabilities`` or ``logits``.
    runtime
        ``litert`` or ``onnx``; by default what the file's suffix says.
    golden_inputs
        Frames, uint8 [height, width, channels], whose answers devices must reproduce; by default
        seeded noise and gradients.
    lineage, metrics, cascade
        See `edge_sdk.bundle.Manifest`.
    precision
        What the weights are; by default the dtype of the input tensor.

    Raises
    ------
    InputError
        An argument is not what it should be.
    ModelError
        The model cannot be loaded, or does not fit the processing or the labels.
    SkewError
        The executors of the processing disagree.
    StorageError
        The bundle cannot be written.
    """
    _check_arguments(name, version, labels, output)
    runtime = runtime or _runtime_of(model)
    if runtime not in RUNTIMES:
        raise InputError(f"runtime is {runtime!r}; it should be one of {', '.join(RUNTIMES)}")
    data = model if isinstance(model, bytes) else _read(model)
    session = open_session(data, runtime)
    inputs, outputs = session.inputs, session.outputs
    session.close()
    spec = _with_quantization(processing, inputs)
    frames = tuple(golden_inputs) if golden_inputs is not None else sample_frames(spec)
    if not 0 < len(frames) <= MAX_GOLDEN:
        raise InputError(f"there are {len(frames)} golden inputs; there should be 1 to {MAX_GOLDEN}")
    check_skew(spec, frames)
    file = _FILES[runtime]
    manifest = Manifest(
        name=name,
        version=version,
        task="classification",
        labels=tuple(labels),
        processing=spec.to_json(),
        artifacts=(
            Artifact(file, runtime, precision or inputs[0].dtype, canonical.sha256(data), len(data), inputs, outputs),
        ),
        outputs=output,
        golden=Golden(len(frames), _processed_atol(spec), _output_atol(outputs[0], output)),
        files={},
        cascade=cascade,
        lineage=lineage or {},
        metrics=metrics or {},
        requirements={"runtime": runtime},
    )
    card = model_card.render(manifest).encode()
    members = {file: data, model_card.CARD: card}
    members |= _golden(manifest, members, frames).to_members()
    verify(build_bundle(manifest, members))  # before it is written
    return write_bundle(path, manifest, members)


def sample_frames(spec: ProcessingSpec, *, count: int = _SAMPLE_FRAMES, seed: int = 0) -> tuple[NDArray[np.uint8], ...]:
    """Return frames to pack a model with when there are no real ones: gradients and noise, seeded."""
    return samples(spec, count, seed)


def _golden(manifest: Manifest, members: Mapping[str, bytes], frames: Sequence[NDArray[np.uint8]]) -> GoldenSet:
    """Run the model as a device will, from a bundle that lacks only its golden examples."""
    with EdgeModel(build_bundle(manifest, members)) as model:
        processed = np.concatenate([model.processor(frame) for frame in frames])
        outputs = np.stack([model.infer(frame).probabilities for frame in frames])
    _check_outputs(manifest, members, processed)
    return GoldenSet(tuple(np.asarray(frame, dtype=np.uint8) for frame in frames), processed, outputs)


def _check_outputs(manifest: Manifest, members: Mapping[str, bytes], processed: NDArray[Any]) -> None:
    """Refuse a model whose raw outputs are not what the manifest calls them.

    A second softmax over probabilities would leave the label as it is and every confidence far too low.
    """
    artifact = manifest.artifacts[0]
    session = open_session(members[artifact.file], artifact.runtime)
    raw = np.concatenate([session.run(processed[n : n + 1])[0].reshape(1, -1) for n in range(len(processed))])
    session.close()
    scores, gives = raw.astype(np.float64), artifact.outputs[0]
    allowed = 0.05
    if gives.scale is not None and gives.zero_point is not None:
        scores = gives.scale * (scores - gives.zero_point)
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


def _processed_atol(spec: ProcessingSpec) -> float:
    """One step of a quantized tensor; of a float one, what the skew check allows."""
    if spec.find(Quantize) is not None:
        return 1.0
    return FLOAT_TOLERANCE * float(spec.fold().gain.max())


def _output_atol(spec: TensorSpec, output: str) -> float:
    """Return what probabilities may differ by; two steps of a quantized output show (softmax's slope is ≤ 1/4)."""
    if spec.scale is None:
        return _FLOAT_ATOL
    return _INT8_ATOL + (spec.scale / 2 if output == "logits" else 2 * spec.scale)


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


def _check_arguments(name: str, version: str, labels: Sequence[str], output: str) -> None:
    if not NAME.fullmatch(name):
        raise InputError(f"name is {name!r}; it should be lower-case letters and digits, such as 'cifar10'")
    if not VERSION.fullmatch(version):
        raise InputError(f"version is {version!r}; it should be a semantic version such as 1.0.0")
    if output not in OUTPUTS:
        raise InputError(f"output is {output!r}; it should be one of {', '.join(OUTPUTS)}")
    if not labels:
        raise InputError("labels are empty; there should be one name a class")
    if len(set(labels)) != len(labels):
        raise InputError("labels hold a name twice")


def _runtime_of(model: Path | bytes) -> str:
    if isinstance(model, bytes):
        raise InputError("say which runtime the model's bytes are for: 'litert' or 'onnx'")
    if model.suffix not in SUFFIXES:
        raise InputError(f"{model}: a model file should end in {' or '.join(SUFFIXES)}")
    return SUFFIXES[model.suffix]


def _read(path: Path) -> bytes:
    if not path.is_file():
        raise InputError(f"there is no model file at {path}")
    with storage_errors(path, "read"):
        return path.read_bytes()
