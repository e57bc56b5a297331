"""Artifacts out of models, and what each artifact answers in the runtime that will run it.

Nothing counts as exported that was not loaded and compared on a device's runtime: converters give
files that do not load, and files that answer something else.
"""

from __future__ import annotations

import sys
import time
import zlib
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import keras
import numpy as np
import numpy.typing as npt

from edge_sdk.compression.exportable import exportable
from edge_sdk.compression.fakequant import on_grid
from edge_sdk.compression.ingest import Agreement, agreement
from edge_sdk.compression.onnx_files import to_float32_onnx, to_int8_onnx
from edge_sdk.compression.tflite import CALIBRATED, PRECISIONS, check_representative, convert, saved
from edge_sdk.datasets import Dataset
from edge_sdk.errors import CompressionError, EdgeSdkError, InputError
from edge_sdk.ext.quantization import dequantize, quantize
from edge_sdk.processing import DeviceProcessor, ProcessingSpec
from edge_sdk.runtime import Session, open_session
from edge_sdk.runtime.trial import try_out
from edge_sdk.tabular import as_known

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

__all__ = [
    "FORMS",
    "Exported",
    "Exports",
    "device_logits",
    "export",
    "session_logits",
    "to_onnx",
    "transfer_bytes",
    "zstd_bytes",
]

ONNX_TOLERANCE = 1e-3  # of the span of the logits: both compute in float32, in another order
ZSTD_LEVEL = 19

FORMS: tuple[str, ...] = (*(f"litert:{precision}" for precision in PRECISIONS), "onnx:float32", "onnx:int8")
"""Every ``runtime:precision`` that a model can be exported to."""

LEAST = {"float32": 0.995, "float16": 0.995, "int8": 0.97, "int16x8": 0.97, "dynamic": 0.97, "int4": 0.8}
"""Least share of same answers by precision; 4 bits are for models that were made for them."""

_REPEATS = 50
_AT_ONCE = 256


@dataclass(frozen=True, slots=True)
class Exported:
    """One artifact that a device's runtime has loaded and run.

    Attributes
    ----------
    runtime, precision
        What runs it, and what its weights are.
    data
        The file.
    raw, zstd
        Bytes of the file, and of it compressed: what it takes on the device, and on the way there.
    agreement
        With the float32 model, on the inputs given.
    latency
        Seconds of one inference of one input, the median of 50, with one thread.
    notes
        What had to be done to the model to convert it.
    """

    runtime: str
    precision: str
    data: bytes
    raw: int
    zstd: int
    agreement: Agreement
    latency: float
    notes: tuple[str, ...] = ()

    @property
    def form(self) -> str:
        """``runtime:precision``."""
        return f"{self.runtime}:{self.precision}"

    def to_dict(self) -> dict[str, Any]:
        """Return all but the file as JSON-compatible values."""
        fields = {name: value for name, value in asdict(self).items() if name != "data"}
        return fields | {"notes": list(self.notes)}


@dataclass(frozen=True, slots=True)
class Exports:
    """What came of an export.

    Attributes
    ----------
    artifacts
        Those that count, in the order asked for.
    refused
        By form: why there is none.
    """

    artifacts: tuple[Exported, ...]
    refused: dict[str, str]

    def __getitem__(self, form: str) -> Exported:
        for artifact in self.artifacts:
            if artifact.form == form:
                return artifact
        raise CompressionError(f"there is no {form}: {self.refused.get(form, 'it was not asked for')}")

    def to_dict(self) -> dict[str, Any]:
        """Return all but the files as JSON-compatible values."""
        return {"artifacts": [artifact.to_dict() for artifact in self.artifacts], "refused": dict(self.refused)}


def export(
    model: keras.Model,
    inputs: npt.NDArray[Any],
    *,
    forms: Sequence[str] = ("litert:float32", "litert:int8", "onnx:float32", "onnx:int8"),
    representative: npt.NDArray[Any] | None = None,
    least: float | None = None,
    slowest: float | None = None,
    isolated: bool = True,
    on_progress: Callable[[str, int, int], None] | None = None,
) -> Exports:
    """Convert a float32 model to files, and load, compare and time each on the device's runtime.

    Parameters
    ----------
    model
        Of `ingest.ingest`; one input, one output ``[n, classes]``. It is not changed.
    inputs
        ``[n, ...]`` real inputs to compare on, float32 or int32 tokens; not those to calibrate with.
    forms
        Of `FORMS`.
    representative
        ``[n, ...]`` real inputs of the training split, where a form is quantized.
    least
        Least share of same answers; by default by precision, see `LEAST`.
    slowest
        Most that a form may take, as a multiple of the time of float32 on its runtime; by default
        it is only reported. int16x8 has no fast kernels and may be 100 times slower.
    isolated
        Whether each file is tried out in a process of its own first: one that crashes its runtime is
        refused, then, and does not end this process.
    on_progress
        Called with (form, done, number of forms).

    Returns
    -------
    Exports
        What counts, and why the rest does not: one form that fails does not stop the others.

    Raises
    ------
    InputError
        A form is none of `FORMS`, or there are no inputs.
    CompressionError
        The representative inputs cannot be the model's, or the model has an open extent.
    """
    _check(model, inputs, forms, representative)
    ready, notes = exportable(model)
    expected = keras.ops.convert_to_numpy(model.predict(inputs, batch_size=_AT_ONCE, verbose=0))
    done: dict[str, Exported] = {}
    refused: dict[str, str] = {}
    # what others are made of or measured by comes first
    plain = [f"{runtime}:float32" for runtime in ("litert", "onnx") if any(one.startswith(runtime) for one in forms)]
    needed = plain if slowest is not None else []
    order = dict.fromkeys([*needed, *forms])
    with saved(ready, inputs) as folder:
        float32_onnx: bytes | None = None
        for at, form in enumerate(order):
            if on_progress is not None:
                on_progress(form, at, len(order))
            runtime, _, precision = form.partition(":")
            try:
                if runtime == "litert":
                    data = convert(folder, precision, representative, trained=on_grid(ready))
                else:
                    float32_onnx = float32_onnx or to_float32_onnx(ready, inputs)
                    data = float32_onnx
                    if precision == "int8":
                        data = to_int8_onnx(float32_onnx, inputs[:0] if representative is None else representative)
                artifact = _measured(data, runtime, precision, inputs, expected, notes, isolated=isolated)
                _gate(artifact, done.get(f"{runtime}:float32"), LEAST[precision] if least is None else least, slowest)
                done[form] = artifact
            except EdgeSdkError as error:
                refused[form] = str(error)
    if on_progress is not None:
        on_progress("done", len(order), len(order))
    return Exports(
        tuple(done[form] for form in dict.fromkeys(forms) if form in done),
        {form: why for form, why in refused.items() if form in forms},
    )


def to_onnx(model: keras.Model, samples: npt.NDArray[np.float32]) -> bytes:
    """Convert a float32 model to ONNX with a dynamic batch, and compare it with Keras.

    Parameters
    ----------
    model
        One input, float32 ``[n, ...]``; one output of logits.
    samples
        ``[n, ...]`` real inputs to compare on, in onnxruntime.

    Raises
    ------
    CompressionError
        If the model cannot be converted, or answers differently afterwards.
    """
    data = to_float32_onnx(model, samples)
    session = open_session(data, "onnx")
    try:
        found = agreement(np.asarray(model(samples, training=False)), session.run(samples)[0])
    finally:
        session.close()
    if not found.logit_delta <= ONNX_TOLERANCE * max(found.logit_span, 1.0):
        raise CompressionError(f"the ONNX form of {model.name!r} differs from it by {found.logit_delta:.3g} in a logit")
    return data


def device_logits(data: bytes, runtime: str, processing: ProcessingSpec, dataset: Dataset) -> npt.NDArray[np.float32]:
    """Answer a data set as a device does: its kernels, its runtime.

    Parameters
    ----------
    data
        A model file.
    runtime
        ``litert`` or ``onnx``.
    processing
        Without a quantize step; it is added where the model's input is quantized.
    dataset
        Frames.

    Returns
    -------
    numpy.ndarray
        float32 ``[n, classes]``, dequantized.
    """
    session = open_session(data, runtime)
    try:
        takes, gives = session.inputs[0], session.outputs[0]
        spec = processing
        if takes.scale is not None and takes.zero_point is not None:
            spec = processing.with_quantize("int8" if takes.dtype == "int8" else "uint8", takes.scale, takes.zero_point)
        processor = DeviceProcessor(spec)
        rows = [session.run(processor(frame))[0] for frame in as_known(dataset, processing).images]
    finally:
        session.close()
    raw = np.concatenate(rows)
    if gives.scale is None or gives.zero_point is None:
        return raw.astype(np.float32, copy=False)
    return np.asarray(dequantize(raw, gives.scale, gives.zero_point), dtype=np.float32)


def session_logits(session: Session, inputs: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    """Answer processed inputs ``[n, ...]`` in a runtime; float32 ``[n, classes]``, dequantized."""
    takes, gives = session.inputs[0], session.outputs[0]
    x = inputs.astype(takes.dtype, copy=False)
    if takes.scale is not None and takes.zero_point is not None:
        x = quantize(inputs, takes.scale, takes.zero_point, dtype=np.dtype(takes.dtype).type)
    size = _AT_ONCE if takes.shape[0] == -1 else takes.shape[0]
    raw = np.concatenate([session.run(x[at : at + size])[0] for at in range(0, len(x), size)])
    if gives.scale is None or gives.zero_point is None:
        return raw.astype(np.float32, copy=False)
    return np.asarray(dequantize(raw, gives.scale, gives.zero_point), dtype=np.float32)


def transfer_bytes(data: bytes) -> int:
    """Size after DEFLATE at its strongest: what zeros are worth on the wire."""
    return len(zlib.compress(data, 9))


def zstd_bytes(data: bytes) -> int:
    """Size after zstd at level 19: what zeros and shared weights are worth on the way to a device."""
    return len(zstd.compress(data, ZSTD_LEVEL))


def _measured(
    data: bytes,
    runtime: str,
    precision: str,
    inputs: npt.NDArray[Any],
    expected: npt.NDArray[np.float32],
    notes: tuple[str, ...],
    *,
    isolated: bool,
) -> Exported:
    if isolated:
        try_out(data, runtime)
    session = open_session(data, runtime)
    try:
        found = agreement(expected, session_logits(session, inputs))
        one = inputs[:1].astype(session.inputs[0].dtype)
        times = []
        for _ in range(_REPEATS):
            started = time.perf_counter()
            session.run(one)
            times.append(time.perf_counter() - started)
    finally:
        session.close()
    return Exported(runtime, precision, data, len(data), zstd_bytes(data), found, float(np.median(times)), notes)


def _gate(artifact: Exported, float32: Exported | None, least: float, slowest: float | None) -> None:
    found = artifact.agreement
    if not found.argmax >= least:
        raise CompressionError(
            f"{artifact.form} gives the float32 model's answer to {found.argmax:.1%} of {found.n} inputs; "
            f"at least {least:.1%} are asked for"
        )
    if slowest is not None and float32 is not None and artifact.latency > slowest * float32.latency:
        raise CompressionError(
            f"{artifact.form} takes {artifact.latency * 1e6:.0f} µs and float32 {float32.latency * 1e6:.0f} µs; "
            f"at most {slowest:g} times as long is asked for"
        )


def _check(
    model: keras.Model, inputs: npt.NDArray[Any], forms: Sequence[str], representative: npt.NDArray[Any] | None
) -> None:
    unknown = [form for form in forms if form not in FORMS]
    if unknown or not forms:
        raise InputError(f"forms are {', '.join(unknown) or 'none'}; they should be of {', '.join(FORMS)}")
    if not len(inputs):
        raise InputError("there are no inputs to compare on")
    if len(model.inputs) != 1 or len(model.outputs) != 1:
        raise CompressionError(
            f"{model.name!r} has {len(model.inputs)} inputs and {len(model.outputs)} outputs; it should have one each"
        )
    if any(form.partition(":")[2] in CALIBRATED for form in forms):
        check_representative(np.empty((0,)) if representative is None else representative, inputs)
