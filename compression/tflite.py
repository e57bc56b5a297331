"""TFLite files of every precision, by TensorFlow's converter and litert-quantizer's recipes.

| precision | weights | activations | input and output |
|---|---|---|---|
| float32 | float32 | float32 | float32 |
| float16 | float16 | float32 | float32 |
| dynamic | int8 per channel | quantized while it runs | float32 |
| int8 | int8 per channel | int8 | int8 |
| int16x8 | int8 per channel | int16 | float32 |
| int4 | int4 per channel, of large kernels | float32 | float32 |
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, get_args

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from edge_sdk.compression.fakequant import constants
from edge_sdk.errors import CompressionError, MissingExtraError, one_line

__all__ = ["CALIBRATED", "PRECISIONS", "Precision", "check_representative", "convert", "saved"]

Precision = Literal["float32", "float16", "dynamic", "int8", "int16x8", "int4"]
PRECISIONS: tuple[str, ...] = get_args(Precision)
CALIBRATED = frozenset({"int8", "int16x8"})
"""What needs representative inputs."""


@contextmanager
def saved(model: keras.Model, inputs: npt.NDArray[Any]) -> Iterator[Path]:
    """Write a model as a SavedModel of batch 1 into a folder that lives as long as the context.

    By way of a SavedModel, because the converter's own Keras road keeps a dynamic batch, and its road
    from a traced function keeps variables that calibration cannot read.
    """
    signature = [tf.TensorSpec((1, *inputs.shape[1:]), inputs.dtype, name="processed")]

    def serve(processed: Any) -> Any:
        return model(processed, training=False)

    with tempfile.TemporaryDirectory(prefix="edge-sdk-") as folder, constants():
        archive = keras.export.ExportArchive()
        archive.track(model)
        archive.add_endpoint("serve", serve, input_signature=signature)
        archive.write_out(folder, verbose=False)
        yield Path(folder)


def convert(
    folder: Path, precision: str, representative: npt.NDArray[Any] | None = None, *, trained: bool = False
) -> bytes:
    """Convert a SavedModel of batch 1 to a TFLite file.

    Parameters
    ----------
    folder
        From `saved`.
    precision
        One of `PRECISIONS`.
    representative
        ``[n, ...]`` real inputs from the training split, for ``int8`` and ``int16x8``: activation
        ranges are theirs.
    trained
        Whether the model was trained for ``int8`` and brings its ranges; see `fakequant`.

    Raises
    ------
    CompressionError
        If an operation has no such form, or there are no inputs to calibrate with.
    MissingExtraError
        ``int4`` without litert-quantizer.
    """
    if precision not in PRECISIONS:
        raise CompressionError(f"precision is {precision!r}; it should be one of {', '.join(PRECISIONS)}")
    if trained and precision != "int8":
        raise CompressionError(f"was trained for int8, not for {precision}; convert what it was before that training")
    if precision == "int4":
        return _int4(convert(folder, "float32"))
    converter = tf.lite.TFLiteConverter.from_saved_model(str(folder))
    if precision != "float32":
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if precision == "float16":
        converter.target_spec.supported_types = [tf.float16]
    if trained:
        converter.inference_input_type = converter.inference_output_type = tf.int8
    elif precision in CALIBRATED:
        _calibrate(converter, precision, representative)
    try:
        return bytes(converter.convert())
    except Exception as error:  # of the converter, of MLIR, of the calibrator's interpreter
        raise CompressionError(f"cannot be converted to TFLite {precision}: {_named(error)}") from error


def _calibrate(converter: Any, precision: str, values: npt.NDArray[Any] | None) -> None:
    """Let the converter find ranges; of int8 the ends are integers, too."""
    if values is None or not len(values):
        raise CompressionError("quantization needs representative inputs and got none")

    def inputs() -> Iterator[list[npt.NDArray[Any]]]:
        for at in range(len(values)):
            yield [values[at : at + 1]]

    converter.representative_dataset = inputs
    ops = tf.lite.OpsSet
    if precision == "int8":
        converter.target_spec.supported_ops = [ops.TFLITE_BUILTINS_INT8]
        converter.inference_output_type = tf.int8
        if values.dtype.kind == "f":  # tokens stay int32
            converter.inference_input_type = tf.int8
    else:
        wide = ops.EXPERIMENTAL_TFLITE_BUILTINS_ACTIVATIONS_INT16_WEIGHTS_INT8
        converter.target_spec.supported_ops = [wide, ops.TFLITE_BUILTINS]


def check_representative(representative: npt.NDArray[Any], inputs: npt.NDArray[Any]) -> None:
    """Refuse inputs to calibrate with that are none, shaped otherwise than the model's, or not finite."""
    if not len(representative):
        raise CompressionError("quantization needs representative inputs and got none")
    if representative.shape[1:] != inputs.shape[1:] or representative.dtype != inputs.dtype:
        raise CompressionError(
            f"representative inputs are {representative.dtype}{list(representative.shape[1:])}; "
            f"the model takes {inputs.dtype}{list(inputs.shape[1:])}"
        )
    if representative.dtype.kind == "f" and not np.isfinite(representative).all():
        raise CompressionError("representative inputs hold NaN or infinity; leave those rows out")


def _int4(float32: bytes) -> bytes:
    """Give large kernels 4 bits and dequantize them before use: activations stay as they are."""
    try:
        from litert_quantizer import quantizer, recipe
    except ModuleNotFoundError as error:
        raise MissingExtraError("litert-quantizer", "compress") from error
    try:
        result = quantizer.Quantizer(bytearray(float32), recipe.weight_only_wi4_afp32()).quantize(
            enable_progress_bar=False, enable_progress_report=False
        )
    except Exception as error:  # of a package that names no errors of its own
        raise CompressionError(f"cannot be converted to TFLite int4: {one_line(error, 300)}") from error
    return bytes(result.quantized_model)


def _named(error: Exception) -> str:
    """Name the operations that have no form, and the layer of the first, where the converter says them."""
    text = str(error)
    kinds = re.search(r"(?:Custom ops|TF Select ops): ([\w, ]+)", text)
    if kinds is None:
        return one_line(error, 300)
    place = re.search(r'fused\["\w+:", "([^"@]+)/\w+@', text)
    where = f" of {place[1]!r}" if place else ""
    return f"{kinds[1]}{where} has no form there; replace the layer, or write it as other operations of keras.ops"
