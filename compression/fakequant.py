"""Layers that compute in float32 what int8 will compute: every value lies on the grid that the file will have.

Jacob et al., "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only
Inference" (2018). TensorFlow's converter makes integer operations of them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Literal

import keras
import numpy as np
import tensorflow as tf
from keras import ops

__all__ = ["FakeQuant", "Kind", "QuantizedKernel", "constants", "on_grid"]

Kind = Literal["conv", "depthwise", "dense"]

STEPS = 127  # of a symmetric grid, to either side of zero
LEAST = 1e-6  # a channel of zeros needs a grid, too

_constant: ContextVar[bool] = ContextVar("constant", default=False)


@contextmanager
def constants() -> Iterator[None]:
    """Trace ranges and weights as constants: the converter reads them only so."""
    before = _constant.set(True)
    try:
        yield
    finally:
        _constant.reset(before)


def on_grid(model: keras.Model) -> bool:
    """Whether a model was made for int8, and brings its ranges."""
    return any(isinstance(layer, FakeQuant) for layer in model.layers)


@keras.saving.register_keras_serializable(package="edge_sdk")
class FakeQuant(keras.layers.Layer):  # type: ignore[misc]
    """Round activations to 256 levels of a range, which trains with the weights.

    Parameters
    ----------
    low, high
        The range; it always holds zero.
    fixed
        Whether it stays: a softmax and its like have ranges that kernels prescribe.
    **kwargs
        Of `keras.layers.Layer`.
    """

    def __init__(self, low: float = -1.0, high: float = 1.0, *, fixed: bool = False, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.first, self.fixed = (float(low), float(high)), fixed
        self.observed: list[tuple[float, float]] | None = None

    def build(self, input_shape: Sequence[int | None]) -> None:
        """Make the range."""
        for name, value in zip(("low", "high"), self.first, strict=True):
            start = keras.initializers.Constant(value)
            setattr(self, name, self.add_weight(name=name, shape=(), initializer=start, trainable=not self.fixed))

    def observe(self) -> None:
        """From now on pass eager values through, and note their ranges; until `settle`."""
        self.observed = []

    def settle(self) -> None:
        """Take the mean range of the batches that were seen."""
        if self.observed and not self.fixed:
            low, high = np.mean(self.observed, axis=0)
            self.low.assign(min(float(low), 0.0))
            self.high.assign(max(float(high), float(low) + LEAST, LEAST))
        self.observed = None

    def call(self, inputs: Any) -> Any:
        """Round."""
        if self.observed is not None:
            values = ops.convert_to_numpy(inputs)
            self.observed.append((float(values.min()), float(values.max())))
            return inputs
        low, high = (_numpy(self.low), _numpy(self.high)) if _constant.get() else (self.low, self.high)
        return tf.quantization.fake_quant_with_min_max_vars(inputs, low, high, num_bits=8)

    def get_config(self) -> dict[str, Any]:
        """Return the arguments."""
        return {**super().get_config(), "low": self.first[0], "high": self.first[1], "fixed": self.fixed}


@keras.saving.register_keras_serializable(package="edge_sdk")
class QuantizedKernel(keras.layers.Layer):  # type: ignore[misc]
    """A convolution or dense layer with weights on a grid of int8, and a folded BatchNormalization.

    It computes ``activation(op(x, round(kernel · scale)) + bias)``. The grid is one for each channel, or one for
    all of a dense layer without a factor.

    Parameters
    ----------
    kind
        What it computes.
    shape
        Of the kernel: ``[h, w, in, out]``, ``[h, w, in, multiplier]`` of ``depthwise``, ``[in, out]`` of ``dense``.
    strides, dilation
        Of a convolution.
    padding
        ``same`` or ``valid``; ``causal`` in one dimension.
    activation
        ``linear``, ``relu`` or ``relu6``, which the kernels fuse.
    folded
        Whether channels have a factor of their own.
    values
        How many values weights share, zero aside; 0: each has its own. Where they share, every weight but zeros is seen
        as the value nearest to it. Values and weights learn, so weights change their value; see `settle`. The grid is
        that of the whole kernel before the factors, so that one value is one integer in every channel.
    rounded
        Whether there is a grid. Without, weights stay in float32, in the file, too.
    **kwargs
        Of `keras.layers.Layer`.
    """

    def __init__(
        self,
        kind: Kind,
        shape: Sequence[int],
        *,
        strides: Sequence[int] = (1, 1),
        dilation: Sequence[int] = (1, 1),
        padding: str = "valid",
        activation: str = "linear",
        folded: bool = False,
        values: int = 0,
        rounded: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.kind, self.shape, self.padding = kind, tuple(shape), padding
        self.strides, self.dilation = tuple(strides), tuple(dilation)
        self.activation, self.folded, self.count, self.rounded = activation, folded, values, rounded
        self.channels = math.prod(self.shape[-2:]) if kind == "depthwise" else self.shape[-1]

    def build(self, input_shape: Sequence[int | None]) -> None:
        """Make the weights."""
        positive = keras.constraints.NonNeg() if self.count else None
        self.kernel = self.add_weight(name="kernel", shape=self.shape)
        self.scale = self.add_weight(
            name="scale", shape=(self.channels,), initializer="ones", constraint=positive, trainable=self.folded
        )
        self.bias = self.add_weight(name="bias", shape=(self.channels,), initializer="zeros")
        self.values = self.add_weight(name="values", shape=(self.count,)) if self.count else None

    def settle(self) -> None:
        """Let the kernel be what it is seen as."""
        if self.values is not None:
            self.kernel.assign(self._seen())

    @property
    def per_channel(self) -> bool:
        """Whether every channel has a grid of its own."""
        return self.kind != "dense" or self.folded

    def weights_on_grid(self) -> tuple[Any, Any]:
        """Return the folded kernel, channels last, and the largest weight of its grids (``[channels]`` or scalar)."""
        kernel = self._seen()
        if self.kind == "depthwise":
            kernel = ops.reshape(kernel, (*self.shape[:2], self.channels))
        elif self.kind == "dense" and self.folded:  # it is computed as a convolution of one pixel
            kernel = ops.reshape(kernel, (1, 1, *self.shape))
        everywhere = ops.maximum(ops.max(ops.abs(kernel)), LEAST)
        if self.count and self.rounded:
            # first on the common grid, or a value halfway between two integers would be one here and the other there
            kernel = tf.quantization.fake_quant_with_min_max_vars(kernel, -everywhere, everywhere, narrow_range=True)
            limit = everywhere * self.scale if self.per_channel else everywhere
            return kernel * self.scale, ops.maximum(limit, LEAST)
        kernel = kernel * self.scale
        axes = tuple(range(len(kernel.shape) - 1)) if self.per_channel else None
        limit = ops.max(ops.abs(kernel), axis=axes)
        return kernel, ops.maximum(limit, LEAST)

    def call(self, inputs: Any) -> Any:
        """Compute."""
        bias = self.bias
        if _constant.get():
            with tf.init_scope():
                kernel, limit = (tf.constant(_numpy(value)) for value in self.weights_on_grid())
                bias = tf.constant(_numpy(self.bias))
        else:
            kernel, limit = self.weights_on_grid()
        if self.rounded:
            by_channel, whole = (
                tf.quantization.fake_quant_with_min_max_vars_per_channel,
                tf.quantization.fake_quant_with_min_max_vars,
            )
            kernel = (by_channel if self.per_channel else whole)(kernel, -limit, limit, num_bits=8, narrow_range=True)
            outputs = self._apply(inputs, kernel) + bias
        else:  # between two ranges the converter would quantize it after all, but it has no integers for a negation
            outputs = -(self._apply(inputs, -kernel) - bias)
        return {"relu": tf.nn.relu, "relu6": tf.nn.relu6}.get(self.activation, tf.identity)(outputs)

    def _seen(self) -> Any:
        """Return the kernel with each weight as the value nearest to it; both have the gradient of that."""
        if self.values is None:
            return self.kernel
        kernel, values = ops.convert_to_tensor(self.kernel), ops.sort(ops.convert_to_tensor(self.values))
        at = tf.searchsorted((values[1:] + values[:-1]) / 2, ops.reshape(tf.stop_gradient(kernel), (-1,)))
        nearest = ops.reshape(ops.take(values, at), self.shape)
        return ops.where(kernel == 0.0, 0.0, nearest + (kernel - tf.stop_gradient(kernel)))

    def _apply(self, inputs: Any, kernel: Any) -> Any:
        if self.kind == "dense" and not self.folded:
            return ops.matmul(inputs, kernel)
        options = {"strides": self.strides, "dilation_rate": self.dilation}
        if self.kind == "depthwise":
            return ops.depthwise_conv(inputs, ops.reshape(kernel, self.shape), padding=self.padding, **options)
        # in two dimensions whatever the input: there alone the converter knows grids by channel
        rank, pixels = len(inputs.shape), inputs
        if self.kind == "dense":
            pixels = ops.reshape(inputs, (-1, 1, math.prod(inputs.shape[1:-1]), inputs.shape[-1]))
        elif rank == 3:
            if self.padding == "causal":
                inputs = ops.pad(inputs, ((0, 0), ((self.shape[1] - 1) * self.dilation[1], 0), (0, 0)))
            pixels = ops.expand_dims(inputs, 1)
        padding = "valid" if self.padding == "causal" else self.padding
        outputs = ops.conv(pixels, kernel, padding=padding, **options)
        if self.kind == "dense":
            return ops.reshape(outputs, (-1, *inputs.shape[1:-1], self.shape[-1]))
        return ops.squeeze(outputs, 1) if rank == 3 else outputs

    def get_config(self) -> dict[str, Any]:
        """Return the arguments."""
        names = ("kind", "shape", "strides", "dilation", "padding", "activation", "folded", "rounded")
        return {**super().get_config(), **{name: getattr(self, name) for name in names}, "values": self.count}


def _numpy(value: Any) -> Any:
    with tf.init_scope():
        return ops.convert_to_numpy(value)
