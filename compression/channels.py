"""Structured pruning: whole channels go, and what is left is a smaller network of the same kind.

Zeros in a kernel cost as much time as other weights; fewer channels do not. Channels that are tied
to each other (`coupling`) are ranked and removed together, their slices are cut out of every
weight that has them, and the narrow network is fitted on.

Li et al., "Pruning Filters for Efficient ConvNets" (2017); Liu et al., "Learning Efficient
Convolutional Networks through Network Slimming" (2017) for ranking by BatchNorm's gamma.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

import keras
import numpy as np
import numpy.typing as npt
from keras import layers

from edge_sdk.compression.coupling import Coupling, Group, couple, is_transposed, makes_channels
from edge_sdk.compression.fitting import Fitting, FittingData, Progress, check_model, fit, options_of
from edge_sdk.errors import CompressionError

__all__ = ["Narrowing", "Plan", "narrow", "narrowed", "plan"]

Indices: TypeAlias = npt.NDArray[np.int64]

IMPORTANCES = ("l1", "l2", "gamma")


@dataclass(frozen=True, slots=True)
class Narrowing:
    """Which channels to remove.

    Attributes
    ----------
    ratio
        Share of channels to remove, from 0 to below 1, where ``ratios`` says nothing else.
    ratios
        By name of layer; layers whose channels are tied together take one ratio.
    across
        Whether channels of all groups are ranked against each other, so that a group may lose
        more or less than ``ratio``; by default each loses its share.
    importance
        ``l1`` or ``l2``: norm of the kernel's slice; ``gamma``: size of BatchNorm's factor, and l2
        where there is none. Each layer's are divided by their mean, and summed over a group.
    tied
        Whether channels may go that several layers make together, as those of a residual sum. Without them
        accuracy comes back sooner, and less time is saved.
    multiple
        Channels that are left are a multiple of this; XNNPACK computes 4 or 8 at once. A group of
        so few channels or fewer is left whole.
    keep
        Names of layers whose inputs and outputs stay whole, layers of unknown types among them.
    fitting
        How long to fit the narrow model on; None: not at all, because `distill` comes next.

    Raises
    ------
    CompressionError
        A value out of range.
    """

    ratio: float = 0.5
    ratios: Mapping[str, float] = field(default_factory=dict)
    across: bool = False
    importance: Literal["l1", "l2", "gamma"] = "l2"
    tied: bool = True
    multiple: int = 8
    keep: tuple[str, ...] = ()
    fitting: Fitting | None = field(default_factory=Fitting)

    def __post_init__(self) -> None:
        for name, ratio in {"ratio": self.ratio, **self.ratios}.items():
            if not 0.0 <= ratio < 1.0:
                raise CompressionError(
                    f"{name}: {ratio} of the channels cannot go; it must be at least 0 and less than 1"
                )
        if self.importance not in IMPORTANCES:
            raise CompressionError(f"importance is {self.importance!r}; it must be one of {', '.join(IMPORTANCES)}")
        if self.multiple < 1:
            raise CompressionError(f"multiple is {self.multiple}; it must be at least 1")


@dataclass(frozen=True, slots=True, eq=False)
class Plan:
    """Which channels stay.

    Attributes
    ----------
    takes, gives
        By name of layer: indices of the input and output channels that stay, ascending int64. A
        layer that is in neither keeps all.
    widths
        By name of each layer whose channels may go: (channels before, channels after).
    """

    takes: Mapping[str, Indices]
    gives: Mapping[str, Indices]
    widths: Mapping[str, tuple[int, int]]

    @property
    def removed(self) -> float:
        """Share of channels that go, of those that may."""
        before = sum(width for width, _ in self.widths.values())
        return 1.0 - sum(width for _, width in self.widths.values()) / before if before else 0.0


def narrow(
    model: keras.Model, data: FittingData, *, on_progress: Progress | None = None, **options: Any
) -> keras.Model:
    """Remove channels and fit what is left; a step of compression.

    Parameters
    ----------
    model
        Functional or sequential. It is not changed.
    data
        To fit on.
    on_progress
        Called with (``narrow``, steps done, steps in all).
    **options
        Fields of `Narrowing`.

    Raises
    ------
    CompressionError
        See `plan` and `fitting.fit`.
    """
    chosen = options_of(Narrowing, options)
    check_model(model)
    result = narrowed(model, plan(model, chosen))
    if chosen.fitting is not None:
        fit(result, data, chosen.fitting, stage="narrow", on_progress=on_progress)
    return result


def plan(model: keras.Model, options: Narrowing | None = None) -> Plan:
    """Choose the channels that stay.

    Parameters
    ----------
    model
        Functional or sequential, with finite weights; it is not changed.
    options
        By default half of each group goes.

    Raises
    ------
    CompressionError
        If a layer is not known, a name is none of the model's, coupled layers are given different
        ratios, or weights are not finite.
    """
    options = options or Narrowing()
    coupling = couple(model, keep=options.keep)
    groups = [group for group in coupling.groups if options.tied or len(group.layers) == 1]
    named = {name for group in groups for name in group.layers}
    for name in options.ratios:
        if name not in named:
            raise CompressionError(
                f"ratios names {name!r}, which has no channels that may go; these have: {', '.join(sorted(named))}"
            )
    scores = [_scores(model, coupling, group, options.importance) for group in groups]
    shares = [_share(group, options) for group in groups]
    if options.across and scores:
        least = np.quantile(np.concatenate(scores), options.ratio)
        for index, group in enumerate(groups):
            if options.ratios.keys().isdisjoint(group.layers):
                shares[index] = float(np.mean(scores[index] < least))
    gone: set[int] = set()
    for group, score, share in zip(groups, scores, shares, strict=True):
        order = np.argsort(-score, kind="stable")
        gone.update(group.units[index] for index in order[_left(len(score), share, options.multiple) :])
    going = np.array(sorted(gone), dtype=np.int64)
    takes = {name: np.flatnonzero(~np.isin(units, going)) for name, units in coupling.takes.items()}
    gives = {name: np.flatnonzero(~np.isin(units, going)) for name, units in coupling.gives.items()}
    return Plan(takes, gives, {name: (len(coupling.gives[name]), len(gives[name])) for name in sorted(named)})


def narrowed(model: keras.Model, chosen: Plan) -> keras.Model:
    """Build the network that has only the channels that stay, with their weights.

    Parameters
    ----------
    model
        The model that `plan` was given; it is not changed.
    chosen
        What stays.

    Returns
    -------
    keras.Model
        A functional model with the same names of layers; not compiled.

    Raises
    ------
    CompressionError
        If the plan is of another model.
    """

    def smaller(layer: Any) -> Any:
        config = layer.get_config()
        stays = chosen.gives.get(layer.name)
        if stays is not None and makes_channels(layer):
            config["units" if type(layer) is layers.Dense else "filters"] = len(stays)
        if stays is not None and type(layer) is layers.Reshape and config["target_shape"][-1] != -1:
            config["target_shape"] = (*config["target_shape"][:-1], len(stays))
        return type(layer).from_config(config)

    try:
        graph = keras.Model(model.inputs, model.outputs, name=model.name)
        result: keras.Model = keras.models.clone_model(graph, clone_function=smaller)
        for layer in (layer for layer in graph.layers if layer.weights):
            result.get_layer(layer.name).set_weights(
                [
                    _cut(layer, name, value, chosen)
                    for name, value in zip(_names(layer), layer.get_weights(), strict=True)
                ]
            )
    except (IndexError, ValueError) as error:
        raise CompressionError(f"the plan does not fit the model {model.name!r}: {error}") from error
    return result


def _share(group: Group, options: Narrowing) -> float:
    wanted = {options.ratios[name] for name in group.layers if name in options.ratios}
    if len(wanted) > 1:
        raise CompressionError(
            f"the channels of {', '.join(group.layers)} are tied together; ratios gives them {sorted(wanted)}"
        )
    return wanted.pop() if wanted else options.ratio


def _left(count: int, share: float, multiple: int) -> int:
    """Channels that stay of ``count``."""
    return min(max(round(count * (1.0 - share) / multiple), 1) * multiple, count)


def _scores(model: keras.Model, coupling: Coupling, group: Group, importance: str) -> npt.NDArray[np.float64]:
    """Return how important each unit of a group is, float64 ``[units]``; 1 is the mean of a layer."""
    numbers = np.array(group.units)
    total = np.zeros(len(numbers))
    norms = [_norms(model.get_layer(name), importance) for name in group.layers]
    of = [coupling.gives[name] for name in group.layers]
    if importance == "gamma":
        factors = [
            (layer, units)
            for layer in model.layers
            if type(layer) is layers.BatchNormalization and layer.scale
            for units in [coupling.takes.get(layer.name)]
            if units is not None and np.isin(numbers, units).all()
        ]
        if factors:
            norms = [np.abs(np.asarray(layer.gamma, dtype=np.float64)) for layer, _ in factors]
            of = [units for _, units in factors]
    for norm, units in zip(norms, of, strict=True):
        if not np.isfinite(norm).all():
            raise CompressionError(f"weights of {', '.join(group.layers)} are not finite: the model did not train well")
        each = np.array([norm[units == number].sum() for number in group.units])
        total += each / max(float(each.mean()), np.finfo(np.float64).tiny)
    return total / len(norms)


def _norms(layer: Any, importance: str) -> npt.NDArray[np.float64]:
    """Return the norm of what each output channel of a layer is made with, float64 ``[channels]``."""
    kernel = layer.pointwise_kernel if hasattr(layer, "pointwise_kernel") else layer.kernel
    value = np.asarray(keras.ops.convert_to_numpy(kernel), dtype=np.float64)
    value = np.moveaxis(value, -2 if is_transposed(layer) else -1, 0)
    return np.asarray(np.linalg.norm(value.reshape(len(value), -1), ord=1 if importance == "l1" else 2, axis=1))


def _names(layer: Any) -> list[str]:
    return [variable.name for variable in layer.weights]


def _cut(layer: Any, name: str, value: npt.NDArray[Any], chosen: Plan) -> npt.NDArray[Any]:
    """Cut the slices that stay out of one weight."""
    gives, takes = chosen.gives.get(layer.name), chosen.takes.get(layer.name)
    if takes is None or gives is None:
        return value
    if name == "kernel":
        into, out = (-1, -2) if is_transposed(layer) else (-2, -1)
        if not makes_channels(layer):  # depthwise: the last axis counts filters of one channel
            return np.take(value, takes, axis=into)
        return np.take(np.take(value, takes, axis=into), gives, axis=out)
    if name == "depthwise_kernel":
        return np.take(value, takes, axis=-2)
    if name == "pointwise_kernel":
        inner = (takes[:, None] * layer.depth_multiplier + np.arange(layer.depth_multiplier)).reshape(-1)
        return np.take(np.take(value, inner, axis=-2), gives, axis=-1)
    if type(layer) is layers.PReLU and value.shape[-1] == 1:
        return value
    return np.take(value, gives, axis=-1)  # one number for each channel that is given
