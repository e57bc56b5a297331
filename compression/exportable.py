"""What a model is made into before it is converted: the same function, of operations that converters know.

- Recurrent layers run as loops over lists of tensors, which neither quantizers nor small runtimes take;
  over a fixed number of steps they are unrolled.
- Grouped convolutions are compiled by XLA on a CPU, which ONNX cannot express; they become one
  convolution a group, and a concatenation.
"""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from edge_sdk.compression.rebuild import leaves, rebuild
from edge_sdk.errors import CompressionError

__all__ = ["MOST_STEPS", "exportable"]

MOST_STEPS = 256
"""Steps up to which a recurrent layer is unrolled; each step is operations of its own in the file."""

_RECURRENT = frozenset({"LSTM", "GRU", "SimpleRNN"})
_PACKAGE = "edge_sdk"


class _Grouped:
    """Computes each group of a convolution by itself."""

    def call(self: Any, inputs: Any) -> Any:
        """Convolve, and add bias and activation as the layer does."""
        axis, padding = (-1 if self.data_format == "channels_last" else 1), self.padding
        if padding == "causal":
            inputs, padding = ops.pad(inputs, self._compute_causal_padding()), "valid"
        parts = zip(
            ops.split(inputs, self.groups, axis=axis), ops.split(self.kernel, self.groups, axis=-1), strict=True
        )
        made = [
            ops.conv(
                x,
                kernel,
                strides=list(self.strides),
                padding=padding,
                dilation_rate=self.dilation_rate,
                data_format=self.data_format,
            )
            for x, kernel in parts
        ]
        outputs = ops.concatenate(made, axis=axis)
        if self.use_bias:
            extents = [1] * len(outputs.shape)
            extents[axis] = self.filters
            outputs = outputs + ops.reshape(self.bias, extents)
        return outputs if self.activation is None else self.activation(outputs)


@keras.saving.register_keras_serializable(_PACKAGE)
class GroupedConv1D(_Grouped, keras.layers.Conv1D):  # type: ignore[misc]
    """A one-dimensional convolution, group by group."""


@keras.saving.register_keras_serializable(_PACKAGE)
class GroupedConv2D(_Grouped, keras.layers.Conv2D):  # type: ignore[misc]
    """A two-dimensional convolution, group by group."""


def exportable(model: keras.Model) -> tuple[keras.Model, tuple[str, ...]]:
    """Return a model that converters take, and what was done to it; the model itself where nothing was.

    Raises
    ------
    CompressionError
        A recurrent layer runs over too many steps, or over an open number.
    """
    notes = []
    for layer in leaves(model):
        kind = type(layer).__name__
        if kind in _RECURRENT and not layer.unroll:
            notes.append(f"{layer.name}: unrolled over {_steps(layer)} steps")
        elif kind in ("Conv1D", "Conv2D") and layer.groups > 1:
            notes.append(f"{layer.name}: {layer.groups} groups computed one by one")
    return (rebuild(model, _changed), tuple(notes)) if notes else (model, ())


def _changed(value: dict[str, Any]) -> dict[str, Any]:
    kind, config = value.get("class_name"), value.get("config")
    if not isinstance(config, dict):
        return value
    if kind in _RECURRENT:
        return value | {"config": config | {"unroll": True}}
    if kind in ("Conv1D", "Conv2D") and config.get("groups", 1) > 1:
        name = f"Grouped{kind}"
        return value | {"class_name": name, "module": None, "registered_name": f"{_PACKAGE}>{name}"}
    return value


def _steps(layer: Any) -> int:
    spec = getattr(layer, "input_spec", None)
    config = layer.get_build_config() or {}
    shape = config.get("input_shape") or (config.get("shapes_dict") or {}).get("sequences_shape")
    if shape is None and spec:
        shape = spec[0].shape
    steps = shape[1] if shape is not None and len(shape) > 1 else None
    if not isinstance(steps, int) or steps > MOST_STEPS:
        raise CompressionError(
            f"the layer {layer.name!r} runs over {steps or 'an open number of'} steps; "
            f"give its input a fixed length of at most {MOST_STEPS}"
        )
    return steps
