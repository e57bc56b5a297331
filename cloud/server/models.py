"""One served model: a bundle or a plain model file, its description, and how its requests are read and run."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from edge_sdk import canonical
from edge_sdk.bundle import Bundle
from edge_sdk.cloud import saved_model
from edge_sdk.cloud.server.bounded import is_bounded
from edge_sdk.cloud.server.engines import Engine, Providers, open_engine
from edge_sdk.cloud.server.payloads import Batching, Reader, batching_of
from edge_sdk.cloud.server.table_files import open_table
from edge_sdk.cloud.server.tables import Answers, Table
from edge_sdk.errors import InputError
from edge_sdk.processing import ProcessingSpec, samples
from edge_sdk.protocol import datatype_of
from edge_sdk.protocol.names import (
    DIGEST_PROPERTY,
    ENCODINGS_PROPERTY,
    LABELS_PROPERTY,
    OUTPUTS_PROPERTY,
    PROCESSING_PROPERTY,
    QUANTIZATION_PROPERTY,
    TASK_PROPERTY,
)
from edge_sdk.types import TensorSpec
from edge_sdk.verification import verify

__all__ = ["RUNTIMES", "ServedModel", "TensorMetadata", "load_model", "name_of"]

Array = np.ndarray[Any, Any]
RUNTIMES = {".onnx": "onnx", ".tflite": "litert"}
_PLATFORMS = {"onnx": "onnx_onnxv1", "litert": "tensorflow_lite", "tensorflow": "tensorflow_savedmodel"}


@dataclass(frozen=True, slots=True)
class TensorMetadata:
    """Name, protocol datatype and shape (-1: any extent) of a tensor."""

    name: str
    datatype: str
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class ServedModel:
    """A loaded model and what the server says about it.

    Attributes
    ----------
    name, version
        What requests ask for.
    platform
        Name of the model format, as Triton calls it.
    digest
        Model digest of the bundle, or digest of the plain file or of the files of a SavedModel.
    inputs, outputs
        The model's own tensors.
    properties
        What ``ModelMetadata`` says beyond the protocol; see ``docs/protocol.md``.
    batching
        How it takes several items.
    reader
        Reads requests.
    engine
        Runs it, for one thread.
    example
        Tensors of one item for warm-up, or None where their shapes are not known.
    bounded
        A run takes as long as the shapes of its inputs say, whatever is in them.
    table
        Answers that were worked out before, or None.
    """

    name: str
    version: str
    platform: str
    digest: str
    inputs: tuple[TensorMetadata, ...]
    outputs: tuple[TensorMetadata, ...]
    properties: dict[str, str]
    batching: Batching
    reader: Reader = field(repr=False)
    engine: Engine = field(repr=False)
    example: dict[str, Array] | None = field(repr=False)
    bounded: bool = False
    table: Table | None = field(default=None, repr=False)


def load_model(
    path: Path,
    *,
    threads: int = 1,
    providers: Providers = (),
    name: str | None = None,
    version: str | None = None,
    table: Path | None = None,
) -> ServedModel:
    """Load a bundle (``.edge`` file or unpacked folder), a plain ``.onnx`` or ``.tflite`` file, or a SavedModel folder.

    A bundle's golden outputs and processing are checked on this machine first.

    Parameters
    ----------
    path
        The model.
    threads, providers
        As for `edge_sdk.cloud.server.engines.open_engine`.
    name, version
        In place of the bundle's own, or those of a plain model: `name_of` and ``1``.
    table
        Parquet file of answers that were worked out before; of another model it is not used.

    Raises
    ------
    InputError
        There is no such file, or it is of none of these kinds; or the table cannot be used.
    StorageError
        There is no room for what is made of the table.
    BundleError, GoldenError, SkewError
        The bundle is damaged, or does not compute here what it should.
    ModelError
        The runtime cannot load the model.
    MissingExtraError
        The runtime is not installed.
    """
    if path.suffix in RUNTIMES and not path.is_file():
        raise InputError(f"there is no model at {path}")
    if path.suffix in RUNTIMES or saved_model.is_saved_model(path):
        model = _load_plain(path, name or name_of(path), version or "1", threads, providers)
        return _with_table(model, table)
    if path.suffix != ".edge" and not path.is_dir():
        raise InputError(f"{path} is not a bundle (.edge), .onnx or .tflite file, nor a SavedModel folder")
    return _with_table(_load_bundle(path, name, version, threads, providers), table)


def _with_table(model: ServedModel, path: Path | None) -> ServedModel:
    if path is None:
        return model
    engine = model.engine
    whole = model.batching == "whole"
    return replace(
        model, table=open_table(path, Answers(model.name, model.digest, engine.inputs, engine.outputs, whole))
    )


def name_of(path: Path) -> str:
    """Return what a model is called where nothing else is said: a file by its stem, a SavedModel by its folder."""
    return saved_model.name_of(path) if saved_model.is_saved_model(path) else path.stem


def _load_plain(path: Path, name: str, version: str, threads: int, providers: Providers) -> ServedModel:
    runtime = RUNTIMES.get(path.suffix, "tensorflow")
    data = b"" if runtime == "tensorflow" else path.read_bytes()
    digest = saved_model.digest_of(path) if runtime == "tensorflow" else canonical.sha256(data)
    # the file may be replaced while it is served; ONNX Runtime reads it whole, and finds files beside it by its path
    source = data if runtime == "litert" else path
    engine = open_engine(source, runtime, threads=threads, providers=providers)
    batching = batching_of(engine.inputs, engine.outputs)
    return ServedModel(
        name=name,
        version=version,
        platform=_PLATFORMS[runtime],
        digest=digest,
        inputs=_metadata(engine.inputs),
        outputs=_metadata(engine.outputs),
        properties={DIGEST_PROPERTY: digest, ENCODINGS_PROPERTY: "tensor"},
        batching=batching,
        reader=Reader(name, engine.inputs, batching, None, texts=runtime == "onnx"),
        engine=engine,
        example=_example(engine.inputs),
        bounded=runtime == "onnx" and is_bounded(data),
    )


def _load_bundle(path: Path, name: str | None, version: str | None, threads: int, providers: Providers) -> ServedModel:
    bundle = Bundle.open(path)
    manifest = bundle.manifest
    verify(bundle)
    artifact = manifest.artifacts[0]
    data = bundle.read(artifact.file)  # as the folder of an unpacked one may be replaced while it is served
    engine = open_engine(data, artifact.runtime, threads=threads, providers=providers)
    output, processing = engine.outputs[0], ProcessingSpec.from_json(manifest.processing)
    quantization = {"scale": output.scale, "zero_point": output.zero_point}
    batching = batching_of(engine.inputs, engine.outputs)
    reader = Reader(name or manifest.name, engine.inputs, batching, processing)
    example = reader.read({engine.inputs[0].name: samples(processing, 1)[0]}, "captured").tensors(lambda: None)
    return ServedModel(
        name=name or manifest.name,
        version=version or manifest.version,
        platform=_PLATFORMS.get(artifact.runtime, artifact.runtime),
        digest=manifest.model_digest,
        inputs=_metadata(engine.inputs),
        outputs=_metadata(engine.outputs),
        properties={
            DIGEST_PROPERTY: manifest.model_digest,
            ENCODINGS_PROPERTY: ",".join(reader.encodings),
            LABELS_PROPERTY: json.dumps(list(manifest.labels), ensure_ascii=False),
            OUTPUTS_PROPERTY: manifest.outputs,
            PROCESSING_PROPERTY: json.dumps(manifest.processing),
            TASK_PROPERTY: manifest.task,
            **({} if output.scale is None else {QUANTIZATION_PROPERTY: json.dumps(quantization)}),
        },
        batching=batching,
        reader=reader,
        engine=engine,
        example=dict(example),
        bounded=artifact.runtime == "onnx" and is_bounded(data),
    )


def _metadata(specs: Sequence[TensorSpec]) -> tuple[TensorMetadata, ...]:
    return tuple(TensorMetadata(spec.name, datatype_of(spec.dtype), tuple(spec.shape)) for spec in specs)


def _example(specs: Sequence[TensorSpec]) -> dict[str, Array] | None:
    """Return tensors of one item: noise, and zeros where numbers may be places in a table."""
    rng, example = np.random.default_rng(0), {}
    for spec in specs:
        shape = (1, *spec.shape[1:]) if spec.shape and spec.shape[0] == -1 else spec.shape
        dtype = np.dtype(spec.dtype)
        if -1 in shape or dtype.kind == "O":  # nobody knows which texts a model takes
            return None
        example[spec.name] = rng.normal(size=shape).astype(dtype) if dtype.kind == "f" else np.zeros(shape, dtype)
    return example
