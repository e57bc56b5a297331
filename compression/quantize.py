"""TFLite files of models, of every precision; int8 means weights, activations, input and output."""

from __future__ import annotations

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter

from edge_sdk.compression.exportable import exportable
from edge_sdk.compression.fakequant import on_grid
from edge_sdk.compression.samples import check_model
from edge_sdk.compression.tflite import CALIBRATED, check_representative, convert, saved
from edge_sdk.errors import CompressionError, StorageError

__all__ = ["float_tensors", "to_int8_tflite", "to_tflite"]


def to_int8_tflite(model: keras.Model, representative: npt.NDArray[np.float32] | None = None) -> bytes:
    """Convert a model to a TFLite file of int8 operations only.

    Parameters
    ----------
    model
        One input, float32 ``[n, ...]``; one output. Of a model that `qat.quantize_aware` trained, the grid is
        taken as it is; layers that it left in float32 stay so.
    representative
        ``[n, ...]`` real inputs, from the training split: activation ranges are theirs. Not needed
        where the model brings its grid.

    Returns
    -------
    bytes
        The file; batch size 1, int8 input and output with scale and zero point.

    Raises
    ------
    CompressionError
        The model cannot be used, inputs are missing or of another shape, an operation has no int8 form, or
        conversion fails otherwise.
    StorageError
        There is no room for the converter's files.
    """
    return to_tflite(model, "int8", representative)


def to_tflite(model: keras.Model, precision: str, representative: npt.NDArray[np.float32] | None = None) -> bytes:
    """Convert a model to a TFLite file of batch 1; see `to_int8_tflite`.

    Parameters
    ----------
    model, representative
        As of `to_int8_tflite`; only ``int8`` and ``int16x8`` need representative inputs.
    precision
        Of `tflite.PRECISIONS`.
    """
    check_model(model)
    sample = np.zeros((1, *model.inputs[0].shape[1:]), np.float32)
    trained = on_grid(model)
    if precision in CALIBRATED and not trained:
        check_representative(sample[:0] if representative is None else representative, sample)
    ready = model if trained else exportable(model)[0]
    try:
        with saved(ready, sample) as folder:
            return convert(folder, precision, representative, trained=trained)
    except CompressionError as error:
        raise CompressionError(f"{model.name!r} {error}") from error
    except (OSError, tf.errors.OpError) as error:
        raise StorageError(
            f"the converter cannot write its files: {error}; let TMPDIR name a folder with room"
        ) from error


def float_tensors(tflite: bytes) -> tuple[str, ...]:
    """Return the names of a file's tensors that are not integers: none, where all of it is quantized."""
    details = Interpreter(model_content=tflite).get_tensor_details()
    return tuple(one["name"] for one in details if one["dtype"] in (np.float32, np.float16))
