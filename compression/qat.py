"""Training that knows of int8: the model computes on the grid of its file while it learns.

Convolutions and dense layers get weights on a grid, with the BatchNormalization that follows folded into
them; every tensor between layers gets 256 levels of a range. Zeros stay zero, and shared values
become as many integers; weights may change theirs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

import keras
import numpy as np
import numpy.typing as npt

from edge_sdk.cloud.training.evaluate import logits_of
from edge_sdk.compression.fakequant import FakeQuant, QuantizedKernel
from edge_sdk.compression.fitting import Fitting, FittingData, Progress, fit, options_of
from edge_sdk.compression.networks import LINEAR, Call, Network, norm_factors
from edge_sdk.compression.prune import unmatched
from edge_sdk.compression.weights import shared
from edge_sdk.errors import CompressionError

__all__ = ["QuantizedTraining", "Sensitivity", "quantize_aware", "sensitivities", "with_levels"]

BATCH = 64
LEVEL = 1 / 256

# of these, output and input have one range
PASSING = (
    *(keras.layers.Dropout, keras.layers.SpatialDropout1D, keras.layers.SpatialDropout2D, keras.layers.GaussianNoise),
    *(keras.layers.Flatten, keras.layers.Reshape, keras.layers.Permute, keras.layers.RepeatVector),
    *(keras.layers.MaxPooling1D, keras.layers.MaxPooling2D, keras.layers.AveragePooling1D),
    *(keras.layers.AveragePooling2D, keras.layers.GlobalMaxPooling1D, keras.layers.GlobalMaxPooling2D),
    *(keras.layers.ZeroPadding1D, keras.layers.ZeroPadding2D, keras.layers.Cropping1D, keras.layers.Cropping2D),
    *(keras.layers.UpSampling1D, keras.layers.UpSampling2D, keras.layers.Identity),
)
COMPUTING = (
    *(keras.layers.Add, keras.layers.Subtract, keras.layers.Multiply, keras.layers.Maximum, keras.layers.Minimum),
    *(keras.layers.Concatenate, keras.layers.GlobalAveragePooling1D, keras.layers.GlobalAveragePooling2D),
    *(keras.layers.LeakyReLU, keras.layers.ReLU),
)
OPERATIONS = {"Add", "Subtract", "Multiply", "Maximum", "Minimum"}  # x + y and its like, which are no layers
FUSED = {keras.activations.relu: "relu", keras.activations.relu6: "relu6", keras.activations.linear: "linear"}
RANGES = {
    keras.activations.sigmoid: (0.0, 1.0 - LEVEL),
    keras.activations.softmax: (0.0, 1.0 - LEVEL),
    keras.activations.tanh: (-1.0, 1.0 - 2 * LEVEL),
}


@dataclass(frozen=True, slots=True)
class QuantizedTraining:
    """How to train for int8.

    Attributes
    ----------
    float_layers
        Convolutions and dense layers that stay in float32: names, or patterns as of a shell.
    fallback
        As many of the most sensitive layers stay in float32, too; see `sensitivities`.
    full
        Whether a model with a layer that has no int8 form is refused. Else such layers stay in float32.
    calibration
        Inputs that the first ranges are those of.
    fitting
        The training.

    Raises
    ------
    CompressionError
        A value out of range.
    """

    float_layers: tuple[str, ...] = ()
    fallback: int = 0
    full: bool = True
    calibration: int = 256
    fitting: Fitting = field(default_factory=lambda: Fitting(rate=3e-4))

    def __post_init__(self) -> None:
        if self.fallback < 0 or self.calibration < 1:
            raise CompressionError(
                f"fallback is {self.fallback} and calibration is {self.calibration}; they must be at least 0 and 1"
            )


@dataclass(frozen=True, slots=True)
class Sensitivity:
    """What quantizing one layer alone does.

    Attributes
    ----------
    layer
        Its name.
    noise
        Mean square of the change of the outputs, divided by their variance.
    """

    layer: str
    noise: float


def quantize_aware(
    model: keras.Model, data: FittingData, *, on_progress: Progress | None = None, **options: Any
) -> keras.Model:
    """Return a model of the grid of int8, trained on it; `quantize.to_int8_tflite` makes integers of it.

    Parameters
    ----------
    model
        In float32; it is not changed. Its zeros stay, and its kernels keep as few values; which weight has which
        is learned.
    data
        To train on, with labels, or with `Fitting.learning`.
    on_progress
        Of stages ``sensitivity`` and ``quantize``.
    **options
        Fields of `QuantizedTraining`.

    Raises
    ------
    CompressionError
        An option is out of range or names no layer, a layer has no int8 form, or the data do not fit.
    """
    wanted = options_of(QuantizedTraining, options)
    wanted.fitting.check(data, model)
    keras.utils.set_random_seed(wanted.fitting.seed)
    kept = list(wanted.float_layers)
    if wanted.fallback:
        kept += [one.layer for one in sensitivities(model, data, on_progress=on_progress)[: wanted.fallback]]
    quantized, left = with_levels(model, data.taken(wanted.calibration), float_layers=kept)
    if wanted.full and left:
        raise CompressionError(
            f"{', '.join(left)}: no int8 form of these layers is trained here; replace them, or let them stay in "
            "float32 by full=False (edge-sdk compress --float NAME)"
        )
    fit(quantized, data, wanted.fitting, stage="quantize", on_progress=on_progress)
    return quantized


def sensitivities(
    model: keras.Model, data: FittingData, *, count: int = 256, on_progress: Progress | None = None
) -> tuple[Sensitivity, ...]:
    """Quantize each convolution and dense layer alone, and order them by what that does; the worst first.

    Parameters
    ----------
    model
        In float32.
    data
        Labels are not needed.
    count
        Inputs to look at.
    on_progress
        Of stage ``sensitivity``.
    """
    inputs = data.taken(count)
    expected = logits_of(model, inputs)
    names = [call.layer.name for call in Network(model).calls if isinstance(call.layer, LINEAR)]
    found = []
    for at, name in enumerate(names):
        changed, _ = with_levels(model, inputs, only=name)
        noise = float(np.mean((logits_of(changed, inputs) - expected) ** 2) / max(float(expected.var()), 1e-12))
        found.append(Sensitivity(name, noise))
        if on_progress is not None:
            on_progress("sensitivity", at + 1, len(names))
    return tuple(sorted(found, key=lambda one: -one.noise))


def with_levels(
    model: keras.Model,
    inputs: npt.NDArray[np.float32],
    *,
    float_layers: Sequence[str] = (),
    only: str | None = None,
) -> tuple[keras.Model, tuple[str, ...]]:
    """Return a copy of a model that computes on the grid of int8, and the layers that have no such form.

    Parameters
    ----------
    model
        In float32; it is not changed.
    inputs
        ``[n, ...]`` as the model takes them: ranges are theirs.
    float_layers
        Names or patterns of layers that stay in float32.
    only
        The one layer that does not.

    Raises
    ------
    CompressionError
        There are no inputs, a pattern matches no layer, or the model is not in float32.
    """
    if not len(inputs):
        raise CompressionError("quantization needs inputs to find ranges, and got none")
    network = Network(model)
    low = next((layer for layer in network.model.layers if layer.compute_dtype in ("bfloat16", "float16")), None)
    if low is not None:
        raise CompressionError(f"the layer {low.name!r} computes in {low.compute_dtype}; ingest.to_float32 goes before")
    unmatched(float_layers, (call.layer.name for call in network.calls if isinstance(call.layer, LINEAR)))
    builder = _Builder(network, tuple(float_layers), only)
    made = network.rebuilt(builder.visit, first=lambda x: builder.levels(x, "processed"))
    levels = [layer for layer in made.layers if isinstance(layer, FakeQuant)]
    for layer in levels:
        layer.observe()
    for at in range(0, len(inputs), BATCH):
        made(inputs[at : at + BATCH], training=False)
    for layer in levels:
        layer.settle()
    return made, tuple(builder.left)


class _Builder:
    """Makes of each call what computes it on the grid."""

    def __init__(self, network: Network, float_layers: tuple[str, ...], only: str | None) -> None:
        self.network, self.only, self.left = network, only, list[str]()
        self.float_layers = float_layers
        self.done: set[int] = set()  # calls that an earlier one has taken in

    def levels(self, x: Any, name: str, fixed: tuple[float, float] | None = None) -> Any:
        """Put a range after a tensor."""
        if self.only is not None and name != self.only:
            return x
        low, high = fixed or (-1.0, 1.0)
        return FakeQuant(low, high, fixed=fixed is not None, name=f"{name}_levels")(x)

    def visit(self, call: Call, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Compute a call."""
        layer = call.layer
        if id(call) in self.done:
            return args[0]
        if self.only is not None and layer.name != self.only:
            return layer(*args, **kwargs)
        if isinstance(layer, LINEAR):
            return self._linear(call, args[0])
        if isinstance(layer, _AFFINE) and _per_channel(layer) and id(layer) not in self.network.reused:
            return self._affine(call, args[0])
        plain = layer(*args, **kwargs)
        if isinstance(layer, PASSING):
            return plain
        activation = _activation(layer)
        if activation is keras.activations.silu:
            gate = self.levels(keras.ops.sigmoid(args[0]), f"{layer.name}_gate", (0.0, 1.0 - LEVEL))
            return self.levels(args[0] * gate, layer.name)
        if activation in FUSED or activation in RANGES:
            return self.levels(plain, layer.name, RANGES.get(activation))
        if not isinstance(layer, COMPUTING) and type(layer).__name__ not in OPERATIONS:
            self.left.append(layer.name)
        after = self.network.next(call)
        if after is not None and _activation(after.layer) in FUSED:
            return plain  # the kernel computes both: the levels are those of the activation
        return self.levels(plain, layer.name)

    def _linear(self, call: Call, x: Any) -> Any:
        layer, network = call.layer, self.network
        norm = network.norm_after(call)
        activation, last = layer.activation, norm or call
        after = network.next(last)
        if activation is keras.activations.linear and after is not None and _activation(after.layer) in FUSED:
            activation, last = _activation(after.layer), after
        supported = (
            getattr(layer, "data_format", "channels_last") == "channels_last" and getattr(layer, "groups", 1) == 1
        )
        kept = any(fnmatchcase(layer.name, pattern) for pattern in self.float_layers)
        if not supported or id(layer) in network.reused:
            self.left.append(layer.name)
            return self.levels(layer(x), layer.name)
        self.done |= {id(part) for part in (norm, last) if part is not None and part is not call}
        factor, summand = (1.0, 0.0) if norm is None else norm_factors(norm.layer)
        bias = keras.ops.convert_to_numpy(layer.bias) if layer.use_bias else 0.0
        y = self._kernel(
            layer,
            keras.ops.convert_to_numpy(layer.kernel),
            np.asarray(factor),
            np.asarray(bias * factor + summand),
            FUSED.get(activation, "linear"),
            rounded=not kept,
        )(x)
        if activation in FUSED:
            return self.levels(y, layer.name)
        y = self.levels(y, layer.name)
        if activation in RANGES:
            return self.levels(activation(y), f"{layer.name}_activation", RANGES[activation])
        if activation is keras.activations.silu:
            gate = self.levels(keras.ops.sigmoid(y), f"{layer.name}_gate", (0.0, 1.0 - LEVEL))
            return self.levels(y * gate, f"{layer.name}_activation")
        self.left.append(layer.name)
        return self.levels(activation(y), f"{layer.name}_activation")

    def _kernel(self, layer: Any, kernel: Any, factor: Any, bias: Any, activation: str, *, rounded: bool) -> Any:
        """Return a layer on the grid, with its weights."""
        kind = "depthwise" if isinstance(layer, keras.layers.DepthwiseConv2D) else "conv"
        kind = "dense" if isinstance(layer, keras.layers.Dense) else kind
        few = kind != "depthwise" and shared(kernel)
        if few and factor.ndim:  # the factors are 0 or more: else they would mirror the shared values
            kernel, factor = kernel * np.where(factor < 0.0, -1.0, 1.0), np.abs(factor)
        values = np.unique(kernel[kernel != 0.0]) if few else ()
        options: dict[str, Any] = {}
        if kind != "dense":
            one = layer.rank == 1
            options = {"strides": layer.strides, "dilation": layer.dilation_rate, "padding": layer.padding}
            if one:
                kernel = kernel[None]
                options |= {name: (1, *options[name]) for name in ("strides", "dilation")}
        made = QuantizedKernel(
            kind,  # type: ignore[arg-type]
            kernel.shape,
            activation=activation,
            folded=factor.ndim > 0,
            values=len(values),
            rounded=rounded,
            name=layer.name,
            **options,
        )
        made.build(())
        made.kernel.assign(kernel)
        if made.values is not None:
            made.values.assign(values)
        made.scale.assign(np.broadcast_to(factor, made.scale.shape).astype(np.float32))
        made.bias.assign(np.broadcast_to(bias, made.bias.shape).astype(np.float32))
        return made

    def _affine(self, call: Call, x: Any) -> Any:
        """Compute a factor and a summand of each channel, as a convolution of one pixel."""
        layer, channels = call.layer, int(x.shape[-1])
        if isinstance(layer, keras.layers.BatchNormalization):
            factor, summand = norm_factors(layer)
        else:
            factor, summand = np.asarray(layer.scale), np.asarray(layer.offset)
        activation, after = "linear", self.network.next(call)
        if after is not None and _activation(after.layer) in FUSED:
            activation = FUSED[_activation(after.layer)]
            self.done.add(id(after))
        made = QuantizedKernel("depthwise", (1, 1, channels, 1), activation=activation, name=layer.name)
        made.build(())
        made.kernel.assign(np.broadcast_to(factor, (1, 1, channels)).reshape(1, 1, channels, 1).astype(np.float32))
        made.bias.assign(np.broadcast_to(summand, (channels,)).astype(np.float32))
        shape = tuple(x.shape[1:])
        if len(shape) == 3:
            return self.levels(made(x), layer.name)
        pixels = keras.layers.Reshape((int(np.prod(shape[:-1])), 1, channels))(x)
        return self.levels(keras.layers.Reshape(shape)(made(pixels)), layer.name)


_AFFINE = (keras.layers.BatchNormalization, keras.layers.Rescaling)


def _per_channel(layer: Any) -> bool:
    if isinstance(layer, keras.layers.BatchNormalization):
        return bool(layer.axis == -1 or layer.axis == layer.input_spec.ndim - 1)
    return all(np.ndim(value) <= 1 for value in (layer.scale, layer.offset))


def _activation(layer: Any) -> Any:
    """Return the function of a layer that is an activation; None of any other."""
    if isinstance(layer, keras.layers.ReLU):
        if layer.negative_slope == 0 and layer.threshold == 0 and layer.max_value in (None, 6):
            return keras.activations.relu6 if layer.max_value else keras.activations.relu
        return None
    if type(layer).__name__ == "Relu":  # keras.ops.relu, which is no layer
        return keras.activations.relu
    if isinstance(layer, keras.layers.Softmax):
        return keras.activations.softmax
    return layer.activation if isinstance(layer, keras.layers.Activation) else None
