"""Full int8 quantization: weights, activations, input and output, by TensorFlow's converter."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from edge_sdk.errors import CompressionError

__all__ = ["to_int8_tflite"]


def to_int8_tflite(model: keras.Model, representative: npt.NDArray[np.float32]) -> bytes:
    """Convert a float32 model to a TFLite file of int8 operations only.

    Parameters
    ----------
    model
        One input, float32 ``[n, ...]``; one output.
    representative
        ``[n, ...]`` real inputs, from the training split: activation ranges are theirs.

    Returns
    -------
    bytes
        The file; batch size 1, int8 input and output with scale and zero point.

    Raises
    ------
    CompressionError
        If an operation has no int8 form, or conversion fails otherwise.
    """
    if not len(representative):
        raise CompressionError("quantization needs representative inputs and got none")
    signature = [tf.TensorSpec((1, *representative.shape[1:]), tf.float32, name="processed")]

    def inputs() -> Iterator[list[npt.NDArray[np.float32]]]:
        for at in range(len(representative)):
            yield [representative[at : at + 1]]

    def serve(processed: Any) -> Any:
        return model(processed, training=False)

    # by way of a SavedModel: the converter's own Keras road keeps a dynamic batch, and its road
    # from a traced function keeps variables that calibration cannot read
    with tempfile.TemporaryDirectory(prefix="edge-sdk-") as folder:
        archive = keras.export.ExportArchive()
        archive.track(model)
        archive.add_endpoint("serve", serve, input_signature=signature)
        archive.write_out(folder, verbose=False)
        converter = tf.lite.TFLiteConverter.from_saved_model(folder)
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.representative_dataset = inputs
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
        converter.inference_input_type = tf.int8
        converter.inference_output_type = tf.int8
        try:
            return bytes(converter.convert())
        except Exception as error:
            raise CompressionError(f"{model.name!r} cannot be converted to int8: {error}") from error
