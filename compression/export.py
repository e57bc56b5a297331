"""Artifacts out of models, and what each artifact answers in the runtime that will run it."""

from __future__ import annotations

import zlib
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf
import tf2onnx

from edge_sdk.compression.ingest import agreement
from edge_sdk.datasets import Dataset
from edge_sdk.errors import CompressionError
from edge_sdk.ext.quantization import dequantize
from edge_sdk.processing import DeviceProcessor, ProcessingSpec
from edge_sdk.runtime import open_session

__all__ = ["ONNX_OPSET", "device_logits", "to_onnx", "transfer_bytes"]

ONNX_OPSET = 17
ONNX_TOLERANCE = 1e-3  # of the span of the logits: both compute in float32, in another order


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
    signature = [tf.TensorSpec((None, *samples.shape[1:]), tf.float32, name="processed")]

    @tf.function(input_signature=signature)  # type: ignore[untyped-decorator, unused-ignore]
    def serve(processed: Any) -> Any:
        return model(processed, training=False)

    try:
        proto, _ = tf2onnx.convert.from_function(serve, input_signature=signature, opset=ONNX_OPSET)
    except Exception as error:
        raise CompressionError(f"{model.name!r} cannot be converted to ONNX: {error}") from error
    data = bytes(proto.SerializeToString())
    session = open_session(data, "onnx")
    try:
        found = agreement(np.asarray(serve(samples)), session.run(samples)[0])
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
        rows = [session.run(processor(frame))[0] for frame in dataset.images]
    finally:
        session.close()
    raw = np.concatenate(rows)
    if gives.scale is None or gives.zero_point is None:
        return raw.astype(np.float32, copy=False)
    return np.asarray(dequantize(raw, gives.scale, gives.zero_point), dtype=np.float32)


def transfer_bytes(data: bytes) -> int:
    """Size after DEFLATE at its strongest: what zeros are worth on the wire."""
    return len(zlib.compress(data, 9))
