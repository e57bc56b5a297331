"""Model files of fewer bits, by TensorFlow's converter."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any, Literal, get_args

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter

from edge_sdk.compression.fakequant import FakeQuant, constants
from edge_sdk.compression.samples import check_model
from edge_sdk.errors import CompressionError

__all__ = ["Precision", "float_tensors", "to_int8_tflite", "to_tflite"]

Precision = Literal["float32", "float16", "dynamic", "int8", "int16x8"]
"""``float16`` weights; ``dynamic``: int8 weights, activations rounded as they come; ``int8`` all of it, by channel;
``int16x8``: int16 activations and int8 weights, which few processors have fast kernels for."""


MESSAGE = 400  # characters; the converter prints whole programs


def to_int8_tflite(model: keras.Model, representative: npt.NDArray[np.float32]) -> bytes:
    """Convert a float32 model to a TFLite file of int8 operations only; as `to_tflite` with ``int8``."""
    return to_tflite(model, "int8", representative)


def to_tflite(model: keras.Model, precision: Precision, representative: npt.NDArray[np.float32] | None = None) -> bytes:
    """Convert a model to a TFLite file.

    Parameters
    ----------
    model
        One input, float32 ``[n, ...]``; one output. Of a model that `qat.quantize_aware` trained, the grid
        is taken as it is.
    precision
        Of weights and activations.
    representative
        ``[n, ...]`` real inputs, from the training split: activation ranges of ``int8`` and ``int16x8`` are theirs.

    Returns
    -------
    bytes
        The file; batch size 1. The input and output of ``int8`` are int8 and of ``int16x8`` int16, with scale
        and zero point, of the others float32.

    Raises
    ------
    CompressionError
        The model cannot be used, inputs are missing or of another shape, an operation has no form of
        this precision, or conversion fails otherwise.
    """
    if precision not in get_args(Precision):
        raise CompressionError(f"precision is {precision!r}; it must be one of {', '.join(get_args(Precision))}")
    check_model(model)
    aware = any(isinstance(layer, FakeQuant) for layer in model.layers)
    if aware and precision != "int8":
        raise CompressionError(f"{model.name!r} was trained for int8; convert the model before that training")
    if precision in ("int8", "int16x8") and not aware:
        _check_representative(model, representative)
    shape = (1, *model.inputs[0].shape[1:])
    signature = [tf.TensorSpec(shape, tf.float32, name="processed")]

    def inputs() -> Iterator[list[npt.NDArray[np.float32]]]:
        assert representative is not None
        for at in range(len(representative)):
            yield [representative[at : at + 1]]

    def serve(processed: Any) -> Any:
        return model(processed, training=False)

    # by way of a SavedModel: the converter's own Keras road keeps a dynamic batch, and its road
    # from a traced function keeps variables that calibration cannot read
    with tempfile.TemporaryDirectory(prefix="edge-sdk-") as folder, constants() if aware else nullcontext():
        try:
            archive = keras.export.ExportArchive()
            archive.track(model)
            archive.add_endpoint("serve", serve, input_signature=signature)
            archive.write_out(folder, verbose=False)
            converter = tf.lite.TFLiteConverter.from_saved_model(folder)
            _configure(converter, precision, None if aware else inputs)
            return bytes(converter.convert())
        except OSError as error:
            raise CompressionError(f"{folder} cannot be written: {error.strerror or error}; set TMPDIR") from error
        except Exception as error:
            raise CompressionError(f"{model.name!r} cannot be converted to {precision}: {_short(error)}") from error


def _configure(converter: Any, precision: Precision, inputs: Any) -> None:
    """Tell the converter; without ``inputs`` the ranges are in the model."""
    if precision != "float32":
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if precision == "float16":
        converter.target_spec.supported_types = [tf.float16]
    elif precision in ("int8", "int16x8"):
        ends = tf.int8 if precision == "int8" else tf.int16
        converter.inference_input_type = converter.inference_output_type = ends
        sets = tf.lite.OpsSet
        wide = sets.EXPERIMENTAL_TFLITE_BUILTINS_ACTIVATIONS_INT16_WEIGHTS_INT8
        if inputs is not None:
            converter.representative_dataset = inputs
            converter.target_spec.supported_ops = [sets.TFLITE_BUILTINS_INT8 if precision == "int8" else wide]


def float_tensors(tflite: bytes) -> tuple[str, ...]:
    """Return the names of a file's tensors that are not integers: none, where all of it is quantized."""
    interpreter = Interpreter(model_content=tflite)
    return tuple(one["name"] for one in interpreter.get_tensor_details() if one["dtype"] in (np.float32, np.float16))


def _short(error: Exception) -> str:
    text = " ".join(str(error).split())
    return text if len(text) <= MESSAGE else f"{text[:MESSAGE]}…"


def _check_representative(model: keras.Model, representative: npt.NDArray[np.float32] | None) -> None:
    if representative is None or not len(representative):
        raise CompressionError("quantization needs representative inputs and got none")
    wanted = tuple(model.inputs[0].shape[1:])
    if tuple(representative.shape[1:]) != wanted:
        raise CompressionError(
            f"the representative inputs are of shape {list(representative.shape[1:])} and {model.name!r} takes "
            f"{list(wanted)}; give them as the model takes them"
        )
    if not np.isfinite(representative).all():
        raise CompressionError("the representative inputs have NaN or infinity; drop those samples")
