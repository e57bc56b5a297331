"""One served model: a bundle or a plain model file, its description, and a request run through it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from edge_sdk import canonical
from edge_sdk.bundle import Bundle
from edge_sdk.errors import InputError
from edge_sdk.frames import as_frame, decode_image
from edge_sdk.processing import DeviceProcessor, ProcessingSpec
from edge_sdk.processing.resizing import second_half
from edge_sdk.processing.tables import fold_table
from edge_sdk.protocol import datatype_of
from edge_sdk.protocol.names import (
    DIGEST_PROPERTY,
    ENCODINGS_PROPERTY,
    LABELS_PROPERTY,
    MAX_IMAGE_PIXELS,
    MAX_ITEMS,
    OUTPUTS_PROPERTY,
    PROCESSING_PROPERTY,
    QUANTIZATION_PROPERTY,
)
from edge_sdk.runtime import Session, open_session
from edge_sdk.types import TensorSpec
from edge_sdk.verification import verify

__all__ = ["ServedModel", "TensorMetadata", "load_model"]

Array = np.ndarray[Any, Any]
_RUNTIMES = {".onnx": "onnx", ".tflite": "litert"}
_PLATFORMS = {"onnx": "onnx_onnxv1", "litert": "tensorflow_lite"}


@dataclass(frozen=True, slots=True)
class TensorMetadata:
    """Name, protocol datatype and shape (-1: any extent) of a tensor."""

    name: str
    datatype: str
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class ServedModel:
    """A loaded model and what the server says about it.

    Not thread-safe: `edge_sdk.cloud.server.core.Core` gives each model a thread of its own.

    Attributes
    ----------
    name, version
        What requests ask for.
    platform
        Name of the model format, as Triton calls it.
    digest
        Model digest of the bundle, or digest of the plain file.
    inputs, outputs
        The model's own tensors.
    properties
        What ``ModelMetadata`` says beyond the protocol; see ``docs/protocol.md``.
    """

    name: str
    version: str
    platform: str
    digest: str
    inputs: tuple[TensorMetadata, ...]
    outputs: tuple[TensorMetadata, ...]
    properties: dict[str, str]
    _session: Session = field(repr=False)
    _processor: DeviceProcessor | None = field(repr=False, default=None)
    _finisher: DeviceProcessor | None = field(repr=False, default=None)  # of pictures that come resized

    def run(self, inputs: dict[str, Array], encoding: str, check_deadline: Callable[[], None]) -> dict[str, Array]:
        """Run what is left of the processing and the model on one request.

        Parameters
        ----------
        inputs
            The request's tensors by name.
        encoding
            One of `edge_sdk.protocol.ENCODINGS`; what the tensor holds.
        check_deadline
            Called before each step that costs time; raises when there is none left.

        Returns
        -------
        dict
            The model's own output tensors by name, in its order.

        Raises
        ------
        InputError
            The tensors do not fit the model or the encoding.
        ProcessingError
            An image cannot be processed.
        ModelError
            The runtime failed.
        """
        expected = self.inputs[0].name
        if list(inputs) != [expected]:
            raise InputError(f"model {self.name} takes one input named {expected!r}, not {sorted(inputs)}")
        if encoding == "tensor":
            return self._run_tensor(inputs[expected], check_deadline)
        if self._processor is None:
            raise InputError(f"model {self.name} has no processing, so it takes the encoding tensor only")
        if encoding == "captured":
            frames: Iterable[Array] = _captured(self._processor.spec, inputs[expected])
        elif encoding == "jpeg" and self._processor.spec.modality == "image":
            frames = _jpeg_frames(inputs[expected])
        elif encoding == "resized" and self._finisher is not None:
            frames = _resized_frames(inputs[expected], self._finisher.spec)
        else:
            raise InputError(f"encoding {encoding[:40]!r} is not offered; see {ENCODINGS_PROPERTY} in the metadata")
        process = self._finisher if encoding == "resized" and self._finisher is not None else self._processor
        tensors = []
        for frame in frames:  # decoded one by one
            check_deadline()
            tensors.append(process(frame))
        return self._run_tensor(np.concatenate(tensors), check_deadline)

    def close(self) -> None:
        """Release the runtime."""
        self._session.close()

    def _run_tensor(self, x: Array, check_deadline: Callable[[], None]) -> dict[str, Array]:
        want = self._session.inputs[0]
        if x.dtype != np.dtype(want.dtype):
            raise InputError(f"input {want.name} is {datatype_of(want.dtype)}, not {datatype_of(x.dtype)}")
        if x.size == 0 or (x.ndim and x.shape[0] > MAX_ITEMS):
            raise InputError(f"input {want.name}: shape {list(x.shape)} is empty or over {MAX_ITEMS} items")
        # a model of batch 1 takes several items in turn
        in_turn = x.ndim > 0 and len(want.shape) > 0 and want.shape[0] == 1 and x.shape[0] > 1
        item_shape = (1, *x.shape[1:]) if in_turn else x.shape
        if not _fits(item_shape, want.shape):
            raise InputError(f"input {want.name} has shape {list(want.shape)}, not {list(x.shape)}")
        parts = [x[i : i + 1] for i in range(len(x))] if in_turn else [x]
        results = []
        for part in parts:
            check_deadline()
            results.append(self._session.run(part))
        names = [spec.name for spec in self._session.outputs]
        return {
            name: np.concatenate(arrays) if in_turn else arrays[0]
            for name, arrays in zip(names, zip(*results, strict=True), strict=True)
        }


def _fits(shape: tuple[int, ...], want: tuple[int, ...]) -> bool:
    return len(shape) == len(want) and all(w in (-1, s) for s, w in zip(shape, want, strict=True))


def _captured(spec: ProcessingSpec, x: Array) -> Iterable[Array]:
    if spec.modality == "image":
        return _captured_frames(x)
    rank = len(fold_table(spec).shape) if spec.modality == "table" else 1  # of one clip, row or window
    if x.ndim != rank + 1:
        return (x,)  # the processor looks at it
    if not 0 < len(x) <= MAX_ITEMS:
        raise InputError(f"a captured input of shape {list(x.shape)} is empty or over {MAX_ITEMS} items")
    return x


def _captured_frames(x: Array) -> Iterable[Array]:
    if x.dtype != np.uint8 or x.ndim not in (3, 4):
        raise InputError(f"a captured input is UINT8 [H,W,C] or [N,H,W,C], not {datatype_of(x.dtype)}{list(x.shape)}")
    frames = x if x.ndim == 4 else x[np.newaxis]
    if not 0 < len(frames) <= MAX_ITEMS or frames.shape[1] * frames.shape[2] > MAX_IMAGE_PIXELS:
        raise InputError(f"a captured input of shape {list(x.shape)} is empty or over the limits")
    return (as_frame(frame) for frame in frames)


def _resized_frames(x: Array, spec: ProcessingSpec) -> Iterable[Array]:
    shape = (spec.target.height, spec.target.width, spec.channels)
    if x.shape[-3:] != shape:
        raise InputError(f"a resized input is UINT8 {list(shape)} or {['N', *shape]}, not {list(x.shape)}")
    return _captured_frames(x)


def _jpeg_frames(x: Array) -> Iterable[Array]:
    if x.dtype != object or not 0 < x.size <= MAX_ITEMS:
        raise InputError(f"a jpeg input is BYTES with 1 to {MAX_ITEMS} elements, not {list(x.shape)}")
    items: list[bytes] = list(x.ravel())
    if not all(item.startswith(b"\xff\xd8\xff") for item in items):
        raise InputError("a jpeg input holds something that is not JPEG")  # nothing else reaches the decoder
    return (decode_image(item, "the jpeg input", max_pixels=MAX_IMAGE_PIXELS) for item in items)


def load_model(path: Path, *, threads: int = 1) -> ServedModel:
    """Load a bundle (``.edge`` file or unpacked folder), or a plain ``.onnx`` or ``.tflite`` file.

    A bundle's golden outputs and processing are checked on this machine first.

    Raises
    ------
    InputError
        There is no such file, or it is of none of these kinds.
    BundleError, GoldenError, SkewError
        The bundle is damaged, or does not compute here what it should.
    ModelError
        The runtime cannot load the model.
    """
    if path.suffix in _RUNTIMES:
        if not path.is_file():
            raise InputError(f"there is no model at {path}")
        return _load_plain(path, threads)
    if path.suffix != ".edge" and not path.is_dir():
        raise InputError(f"{path} is not a bundle (.edge), .onnx or .tflite file")
    return _load_bundle(path, threads)


def _load_plain(path: Path, threads: int) -> ServedModel:
    runtime = _RUNTIMES[path.suffix]
    session = open_session(path, runtime, threads=threads)
    digest = canonical.sha256(path.read_bytes())
    return ServedModel(
        name=path.stem,
        version="1",
        platform=_PLATFORMS[runtime],
        digest=digest,
        inputs=_metadata(session.inputs),
        outputs=_metadata(session.outputs),
        properties={DIGEST_PROPERTY: digest, ENCODINGS_PROPERTY: "tensor"},
        _session=session,
    )


def _load_bundle(path: Path, threads: int) -> ServedModel:
    bundle = Bundle.open(path)
    manifest = bundle.manifest
    manifest.require_task("classification", "the server")
    verify(bundle)
    artifact = manifest.artifacts[0]
    session = open_session(bundle.file(artifact.file) or bundle.read(artifact.file), artifact.runtime, threads=threads)
    output, processing = session.outputs[0], ProcessingSpec.from_json(manifest.processing)
    is_image = processing.modality == "image"
    quantization = {"scale": output.scale, "zero_point": output.zero_point}
    return ServedModel(
        name=manifest.name,
        version=manifest.version,
        platform=_PLATFORMS.get(artifact.runtime, artifact.runtime),
        digest=manifest.model_digest,
        inputs=_metadata(session.inputs),
        outputs=_metadata(session.outputs),
        properties={
            DIGEST_PROPERTY: manifest.model_digest,
            ENCODINGS_PROPERTY: "captured,jpeg,resized,tensor" if is_image else "captured,tensor",
            LABELS_PROPERTY: json.dumps(list(manifest.labels), ensure_ascii=False),
            OUTPUTS_PROPERTY: manifest.outputs,
            PROCESSING_PROPERTY: json.dumps(manifest.processing),
            **({} if output.scale is None else {QUANTIZATION_PROPERTY: json.dumps(quantization)}),
        },
        _session=session,
        _processor=DeviceProcessor(processing),
        _finisher=DeviceProcessor(second_half(processing)) if is_image else None,
    )


def _metadata(specs: Sequence[TensorSpec]) -> tuple[TensorMetadata, ...]:
    return tuple(TensorMetadata(spec.name, datatype_of(spec.dtype), tuple(spec.shape)) for spec in specs)
