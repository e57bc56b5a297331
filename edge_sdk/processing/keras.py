"""The Keras executor of a processing specification: a layer of graph ops, for training.

It needs Keras, so nothing else in ``edge_sdk`` imports it. Put it in front of a model: the same
specification then trains the model and feeds it on the device.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras
from keras import ops

from edge_sdk.processing.reference import LUMA
from edge_sdk.processing.spec import ProcessingSpec
from edge_sdk.processing.steps import Color, Layout, Normalize, Quantize, Resize

__all__ = ["ProcessingLayer"]


@keras.saving.register_keras_serializable(package="edge_sdk")
class ProcessingLayer(keras.layers.Layer):  # type: ignore[misc]
    """Run a specification on batches of frames, without its quantize step.

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
    Input: uint8 or float grey levels 0 to 255, shape (N, H, W, C), with C as `DeviceProcessor`
    takes it. Output: float32 of shape (N, h, w, c) or (N, c, h, w).
    """

    def __init__(self, spec: ProcessingSpec | Mapping[str, Any], **kwargs: Any) -> None:
        kwargs["dtype"] = "float32"
        kwargs.setdefault("trainable", False)
        super().__init__(**kwargs)
        self.spec = spec if isinstance(spec, ProcessingSpec) else ProcessingSpec.from_json(spec)

    def call(self, frames: Any) -> Any:
        """Return the processed batch."""
        x = ops.cast(frames, "float32")
        for step in self.spec.steps:
            match step:
                case Color(mode="rgb"):
                    x = ops.repeat(x, 3, axis=-1) if x.shape[-1] == 1 else x[..., :3]
                case Color():
                    x = x if x.shape[-1] == 1 else ops.sum(x[..., :3] * LUMA.astype("float32"), axis=-1, keepdims=True)
                case Resize():
                    x = ops.image.resize(
                        x,
                        (step.height, step.width),
                        interpolation="bilinear",
                        antialias=False,
                        data_format="channels_last",
                    )
                case Normalize():
                    mean = ops.convert_to_tensor(step.mean, dtype="float32")
                    std = ops.convert_to_tensor(step.std, dtype="float32")
                    x = (x - mean) / std
                case Layout(order="NCHW"):
                    x = ops.transpose(x, (0, 3, 1, 2))
                case Layout() | Quantize():
                    pass
        return x

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        """Return the shape of the processed batch."""
        return (input_shape[0], *self.spec.output_shape[1:])

    def get_config(self) -> dict[str, Any]:
        """Return what rebuilds the layer."""
        return {**super().get_config(), "spec": self.spec.to_json()}
