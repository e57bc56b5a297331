"""Which channels of a network can only go together.

A residual sum, a depthwise convolution or a concatenation ties channels of different layers: taking
one away means taking all away that it is tied to. Here each output channel of a convolution or
dense layer gets a number, the numbers are followed through the graph, and where two meet they
become one *unit*. Fang et al., "DepGraph: Towards Any Structural Pruning" (2023).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import keras
import numpy as np
import numpy.typing as npt
from keras import layers

from edge_sdk.errors import CompressionError

__all__ = ["Coupling", "Group", "couple", "is_transposed", "makes_channels"]

Units: TypeAlias = npt.NDArray[np.int64]

CONVOLUTIONS = (layers.Conv1D, layers.Conv2D, layers.Conv3D)
TRANSPOSED = (layers.Conv1DTranspose, layers.Conv2DTranspose, layers.Conv3DTranspose)
SEPARABLE = (layers.SeparableConv1D, layers.SeparableConv2D)
MAKERS = (*CONVOLUTIONS, *TRANSPOSED, *SEPARABLE, layers.Dense)
DEPTHWISE = (layers.DepthwiseConv1D, layers.DepthwiseConv2D)
ELEMENTWISE = (layers.Add, layers.Average, layers.Maximum, layers.Minimum, layers.Multiply, layers.Subtract)
PASSING = (
    layers.ActivityRegularization, layers.AlphaDropout, layers.Cropping1D, layers.Cropping2D, layers.Dropout,
    layers.ELU, layers.GaussianDropout, layers.GaussianNoise, layers.Identity, layers.LeakyReLU, layers.ReLU,
    layers.SpatialDropout1D, layers.SpatialDropout2D, layers.UpSampling1D, layers.UpSampling2D,
    layers.ZeroPadding1D, layers.ZeroPadding2D,
)  # fmt: skip
POOLING = (
    layers.AveragePooling1D, layers.AveragePooling2D, layers.AveragePooling3D, layers.GlobalAveragePooling1D,
    layers.GlobalAveragePooling2D, layers.GlobalAveragePooling3D, layers.GlobalMaxPooling1D,
    layers.GlobalMaxPooling2D, layers.GlobalMaxPooling3D, layers.MaxPooling1D, layers.MaxPooling2D,
    layers.MaxPooling3D,
)  # fmt: skip
BINDING = (layers.Normalization, layers.Softmax)  # known, but they need all channels
ACROSS_CHANNELS = frozenset({"softmax", "log_softmax", "sparsemax", "glu"})  # activations that mix channels


@dataclass(frozen=True, slots=True)
class Group:
    """Units that the same layers make: they are ranked among each other.

    Attributes
    ----------
    layers
        Names of those layers, in the order of the graph.
    units
        Numbers of the units.
    """

    layers: tuple[str, ...]
    units: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Coupling:
    """Units of a network.

    Attributes
    ----------
    takes, gives
        By layer: the unit of each input and of each output channel, int64 ``[channels]``. After a
        flattening one unit has many channels.
    groups
        What can be narrowed; units that touch the model's inputs or outputs are in none.
    """

    takes: Mapping[str, Units]
    gives: Mapping[str, Units]
    groups: tuple[Group, ...]


def makes_channels(layer: keras.layers.Layer) -> bool:
    """Whether a layer decides itself how many channels it gives."""
    return type(layer) in MAKERS


def is_transposed(layer: keras.layers.Layer) -> bool:
    """Whether a layer's kernel has its output channels before its input channels."""
    return type(layer) in TRANSPOSED


def couple(model: keras.Model, *, keep: Collection[str] = ()) -> Coupling:
    """Follow the channels of a functional or sequential model.

    Parameters
    ----------
    model
        It is not changed.
    keep
        Names of layers whose inputs and outputs stay whole. Such a layer may be of any type.

    Raises
    ------
    CompressionError
        If the model has no static graph, or a layer is not known here.
    """
    walk = _Walk(frozenset(keep))
    try:
        graph = keras.Model(model.inputs, model.outputs, name=model.name)
    except (AttributeError, TypeError, ValueError) as error:
        raise CompressionError(
            f"{model.name!r} is no functional or sequential model with inputs; channels are only followed through those"
        ) from error
    missing = sorted(walk.keep - {layer.name for layer in graph.layers})
    if missing:
        raise CompressionError(f"keep names {', '.join(missing)}, which {model.name!r} does not have")
    # a clone is called, so that the model itself gets no second graph
    clone = keras.models.clone_model(graph, call_function=walk.call)
    for output in clone.outputs:
        walk.fix(walk.units_of(output))
    return walk.coupling()


class _Walk:
    """Passes through the layers in the order of the graph."""

    def __init__(self, keep: frozenset[str]) -> None:
        self.keep = keep
        self.parents: list[int] = []
        self.fixed: set[int] = set()
        # by id; the tensors are kept alive beside, or ids would come again
        self.tensors: dict[int, tuple[Any, Units]] = {}
        self.takes: dict[str, Units] = {}
        self.gives: dict[str, Units] = {}
        self.makers: list[str] = []

    def call(self, layer: Any, *args: Any, **kwargs: Any) -> Any:
        """Call a layer of the clone, and number what it gives."""
        given = [value for value in keras.tree.flatten((args, kwargs)) if isinstance(value, keras.KerasTensor)]
        outputs = layer(*args, **kwargs)
        units = [self.units_of(tensor) for tensor in given]
        if layer.name in self.keep:
            for taken in units:
                self.fix(taken)
            for output in keras.tree.flatten(outputs):
                self.tensors[id(output)] = output, self.new(_width(output), fixed=True)
            return outputs
        made = self._through(layer, given, units, outputs)
        if getattr(getattr(layer, "activation", None), "__name__", "") in ACROSS_CHANNELS:
            self.fix(made)
        self.gives[layer.name] = made
        self.tensors[id(outputs)] = outputs, made
        return outputs

    def units_of(self, tensor: Any) -> Units:
        """Units of a tensor's channels; those of the model's inputs are fixed."""
        if id(tensor) not in self.tensors:
            self.tensors[id(tensor)] = tensor, self.new(_width(tensor), fixed=True)
        return self.tensors[id(tensor)][1]

    def new(self, count: int, *, fixed: bool = False) -> Units:
        """Return ``count`` new units."""
        first = len(self.parents)
        self.parents += range(first, first + count)
        numbers = np.arange(first, first + count)
        if fixed:
            self.fix(numbers)
        return numbers

    def fix(self, units: Units) -> None:
        """Let these stay."""
        self.fixed.update(units.tolist())

    def join(self, first: Units, second: Units) -> Units:
        """Make one unit of each pair."""
        for one, other in zip(first.tolist(), second.tolist(), strict=True):
            self.parents[self._root(other)] = self._root(one)
        return first

    def coupling(self) -> Coupling:
        """Return what is left of the units, in groups."""
        fixed = {self._root(unit) for unit in self.fixed}
        takes = {name: self._roots(units) for name, units in self.takes.items()}
        gives = {name: self._roots(units) for name, units in self.gives.items()}
        makers: dict[int, list[str]] = {}
        for name in self.makers:
            for unit in np.unique(gives[name]).tolist():
                makers.setdefault(unit, []).append(name)
        groups: dict[tuple[str, ...], list[int]] = {}
        for unit, names in makers.items():
            if unit not in fixed:
                groups.setdefault(tuple(names), []).append(unit)
        return Coupling(takes, gives, tuple(Group(names, tuple(units)) for names, units in groups.items()))

    def _through(self, layer: Any, tensors: list[Any], units: list[Units], output: Any) -> Units:
        kind, first = type(layer), units[0] if units else None
        if getattr(layer, "data_format", None) == "channels_first":
            raise CompressionError(f"the layer {layer.name!r} has its channels first; build the model channels_last")
        if first is None or not _known(layer, tensors):
            raise CompressionError(
                f"the layer {layer.name!r} ({kind.__name__}) is not known to channel pruning: "
                f"name it in keep=, and the channels that it takes and gives stay whole"
            )
        if kind in ELEMENTWISE:
            return self._elementwise(units)
        if kind is layers.Concatenate:
            if layer.axis in (-1, len(output.shape) - 1):
                return np.concatenate(units)
            return self._elementwise(units)
        if kind in (layers.Flatten, layers.Reshape):
            return self._reshaped(layer, first, output)
        if kind in BINDING:
            self.fix(first)
            return first
        if kind not in (*PASSING, *POOLING, layers.Activation):
            first = self._taken(layer.name, first)
        if kind in MAKERS:
            if layer.name not in self.gives:
                self.makers.append(layer.name)
                return self.new(_width(output))
            return self.gives[layer.name]
        return np.repeat(first, layer.depth_multiplier) if kind in DEPTHWISE else first

    def _taken(self, name: str, units: Units) -> Units:
        """Units that a layer with weights takes; a layer that is called twice takes the same both times."""
        if name in self.takes:
            return self.join(self.takes[name], units)
        self.takes[name] = units
        return units

    def _elementwise(self, units: list[Units]) -> Units:
        widest = max(units, key=len)
        for other in units:
            if len(other) == len(widest) and other is not widest:  # one channel is spread over all
                self.join(widest, other)
        return widest

    def _reshaped(self, layer: Any, units: Units, output: Any) -> Units:
        width = output.shape[-1]
        if width is None:
            raise CompressionError(f"the layer {layer.name!r} flattens sides of open length; give the input a shape")
        if width % len(units) == 0:  # channels stay last, or places are put side by side
            return np.tile(units, width // len(units))
        if len(units) % width == 0:  # a row becomes places with channels
            rows = units.reshape(-1, width)
            for row in rows[1:]:
                self.join(rows[0], row)
            places: Units = rows[0]
            return places
        raise CompressionError(
            f"the layer {layer.name!r} reshapes {len(units)} channels to {width}: name it in keep=, and they stay whole"
        )

    def _roots(self, units: Units) -> Units:
        return np.array([self._root(unit) for unit in units.tolist()], dtype=np.int64)

    def _root(self, unit: int) -> int:
        while self.parents[unit] != unit:
            self.parents[unit] = self.parents[self.parents[unit]]
            unit = self.parents[unit]
        return unit


def _width(tensor: Any) -> int:
    width = tensor.shape[-1] if len(tensor.shape) > 1 else 1
    if width is None:
        raise CompressionError(f"the tensor {tensor.name!r} has an open number of channels; give the input a shape")
    return int(width)


def _known(layer: Any, tensors: list[Any]) -> bool:
    """Whether channels can be followed through a layer as it is set."""
    kind = type(layer)
    if kind is layers.BatchNormalization:
        return layer.axis in (-1, len(tensors[0].shape) - 1)
    if kind in (layers.Rescaling, layers.Activation):
        return kind is layers.Activation or np.ndim(layer.scale) == np.ndim(layer.offset) == 0
    if kind in CONVOLUTIONS:
        return bool(layer.groups == 1)
    known = (*MAKERS, *DEPTHWISE, *ELEMENTWISE, *PASSING, *POOLING, *BINDING)
    return kind in known or kind in (layers.Concatenate, layers.Flatten, layers.PReLU, layers.Reshape)
