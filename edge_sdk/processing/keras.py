"""The Keras executor of a processing specification: a layer of graph ops, for training.

It needs Keras, so nothing else in ``edge_sdk`` imports it. Put it in front of a model: the same
specification then trains the model and feeds it on the device.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
from keras import ops

from edge_sdk.errors import ProcessingError
from edge_sdk.ext.pure.audio import cosines, hann
from edge_sdk.ext.pure.image import LUMA
from edge_sdk.processing.audio import PCM, weights_of
from edge_sdk.processing.audio_shapes import spectral_of
from edge_sdk.processing.audio_steps import Mfcc
from edge_sdk.processing.geometry import place
from edge_sdk.processing.spec import ProcessingSpec
from edge_sdk.processing.steps import Color, Crop, Layout, Letterbox, Normalize, Resize, Standardize
from edge_sdk.processing.tables import fold_table

__all__ = ["ProcessingLayer"]


@keras.saving.register_keras_serializable(package="edge_sdk")
class ProcessingLayer(keras.layers.Layer):  # type: ignore[misc]
    """Run a specification on batches of inputs, without its quantize or cast step.

    Computes in float32 whatever the global precision policy is: bfloat16 does not hold the 256
    levels of a frame. Deterministic, without weights, and the same in training and inference.

    Parameters
    ----------
    spec
        The specification, or its JSON.
    **kwargs
        Of `keras.layers.Layer`; `dtype` may only be float32.

    Raises
    ------
    ProcessingError
        JSON that is not a specification.

    Notes
    -----
    Steps `crop` and `letterbox` need batches of a known height and width.

    Input: uint8 or float grey levels 0 to 255, shape (N, H, W, C), with C as `DeviceProcessor`
    takes it. Output: float32 of shape (N, h, w, c) or (N, c, h, w).

    Audio is float or int16 of shape (N, samples). Tables are float of shape
    (N, columns) or (N, length, columns); a missing value for which nothing is put stays NaN.
    """

    def __init__(self, spec: ProcessingSpec | Mapping[str, Any], **kwargs: Any) -> None:
        kwargs["dtype"] = "float32"
        kwargs.setdefault("trainable", False)
        super().__init__(**kwargs)
        self.spec = spec if isinstance(spec, ProcessingSpec) else ProcessingSpec.from_json(spec)

    def call(self, inputs: Any) -> Any:
        """Return the processed batch."""
        if self.spec.modality == "audio":
            return _audio(inputs, self.spec)
        if self.spec.modality == "table":
            return _table(inputs, self.spec)
        x = ops.cast(inputs, "float32")
        for step in self.spec.steps:
            match step:
                case Color(mode="rgb"):
                    x = ops.repeat(x, 3, axis=-1) if x.shape[-1] == 1 else x[..., :3]
                case Color():
                    x = x if x.shape[-1] == 1 else ops.sum(x[..., :3] * LUMA.astype("float32"), axis=-1, keepdims=True)
                case Crop():
                    window = place(step, self.spec.target, *_size(x.shape, step.op)).window
                    x = x[:, window.top : window.top + window.height, window.left : window.left + window.width]
                case Resize(method="nearest"):
                    x = ops.take(x, _nearest(ops.shape(x)[1], step.height), axis=1)
                    x = ops.take(x, _nearest(ops.shape(x)[2], step.width), axis=2)
                case Resize():
                    x = _bilinear(x, step.height, step.width, step.antialias)
                case Letterbox():
                    x = _letterboxed(x, step)
                case Normalize():
                    mean = ops.convert_to_tensor(step.mean, dtype="float32")
                    std = ops.convert_to_tensor(step.std, dtype="float32")
                    x = (x - mean) / std
                case Layout(order="NCHW"):
                    x = ops.transpose(x, (0, 3, 1, 2))
                case _:
                    pass  # the other layout; a layer does not round
        return x

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        """Return the shape of the processed batch."""
        for step in self.spec.steps:
            if isinstance(step, (Crop, Letterbox)):
                _size(input_shape, step.op)
        return (input_shape[0], *self.spec.output_shape[1:])

    def get_config(self) -> dict[str, Any]:
        """Return what rebuilds the layer."""
        return {**super().get_config(), "spec": self.spec.to_json()}


def _audio(clips: Any, spec: ProcessingSpec) -> Any:
    step = spectral_of(spec)
    x = ops.cast(clips, "float32")
    if keras.backend.standardize_dtype(clips.dtype) == "int16":
        x = x * PCM
    if step.pad:
        x = ops.pad(x, ((0, 0), (0, step.samples)))[:, : step.samples]
    places = np.arange(step.frames)[:, None] * step.frame_step + np.arange(step.frame_length)
    frames = ops.take(x, places, axis=1) * ops.cast(hann(step.frame_length), "float32")
    real, imaginary = ops.rfft(frames, fft_length=step.fft_length)
    spectrum = ops.square(real) + ops.square(imaginary)
    if step.power == 1.0:
        spectrum = ops.sqrt(spectrum)
    x = ops.log(ops.matmul(spectrum, ops.cast(weights_of(step), "float32")) + step.floor)
    if isinstance(step, Mfcc):
        x = ops.matmul(x, ops.cast(cosines(step.mels, step.coefficients), "float32"))
    x = _standardized(x, spec.find(Standardize))
    layout = spec.find(Layout)
    return x if layout is None else ops.expand_dims(x, 1 if layout.order == "NCHW" else -1)


def _table(rows: Any, spec: ProcessingSpec) -> Any:
    folded = fold_table(spec)
    x = ops.cast(rows, "float32")
    numbers = ops.take(x, folded.numbers, axis=-1) if folded.lookups else x
    if folded.impute is not None:
        numbers = ops.where(ops.isnan(numbers), ops.cast(folded.impute, "float32"), numbers)
    if folded.low is not None and folded.high is not None:
        low, high = ops.cast(folded.low, "float32"), ops.cast(folded.high, "float32")
        numbers = ops.minimum(ops.maximum(numbers, low), high)
    numbers = _standardized(numbers, spec.find(Standardize))
    if not folded.lookups:
        return numbers
    parts, features = [numbers], [folded.features]
    for lookup in folded.lookups:
        known = ops.cast(ops.equal(x[..., lookup.column, None], ops.convert_to_tensor(lookup.codes)), "float32")
        unknown = 1.0 - ops.max(known, axis=-1, keepdims=True)
        if lookup.one_hot:
            parts += [unknown, known]
        else:
            place = ops.cast(ops.argmax(known, axis=-1), "float32")[..., None]
            parts.append((1.0 + place) * (1.0 - unknown))
        features.append(np.arange(lookup.feature, lookup.feature + lookup.width))
    return ops.take(ops.concatenate(parts, axis=-1), np.argsort(np.concatenate(features)), axis=-1)


def _standardized(x: Any, step: Standardize | None) -> Any:
    if step is None:
        return x
    mean, std = (ops.convert_to_tensor(values, dtype="float32") for values in (step.mean, step.std))
    return (x - mean) / std


def _bilinear(x: Any, height: int, width: int, antialias: bool = False) -> Any:
    return ops.image.resize(
        x, (height, width), interpolation="bilinear", antialias=antialias, data_format="channels_last"
    )


def _letterboxed(x: Any, step: Letterbox) -> Any:
    inner = place(None, step, *_size(x.shape, step.op)).inner
    below, right = step.height - inner.top - inner.height, step.width - inner.left - inner.width
    return ops.pad(
        _bilinear(x, inner.height, inner.width),
        ((0, 0), (inner.top, below), (inner.left, right), (0, 0)),
        constant_values=step.fill,
    )


def _nearest(size: Any, count: int) -> Any:
    """Return the pixels that are nearest to half-pixel centres, in integers."""
    return (2 * ops.arange(count, dtype="int32") + 1) * size // (2 * count)


def _size(shape: tuple[int | None, ...], op: str) -> tuple[int, int]:
    height, width = shape[1:3]
    if height is None or width is None:
        raise ProcessingError(f"processing step {op}: a Keras layer needs frames of a known height and width")
    return height, width
