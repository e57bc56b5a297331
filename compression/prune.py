"""Magnitude pruning: the smallest weights become zero, gradually, and stay zero.

Zhu and Gupta, "To prune, or not to prune" (2017): sparsity rises as a cubic polynomial while the
network trains on. Zeros shrink what is *transferred* (the compressed file), neither the file itself
nor its latency.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

import keras
import numpy as np
import numpy.typing as npt

from edge_sdk.compression.fitting import Fitting, FittingData, Progress, copied, fit, options_of
from edge_sdk.compression.weights import Holding, prunable
from edge_sdk.errors import CompressionError

__all__ = ["MagnitudePruning", "Pruning", "Sparsity", "polynomial", "prune", "shares", "sparsity", "unmatched"]

Mask = npt.NDArray[np.bool_]

_PATTERN = re.compile(r"(?P<kept>[1-9]\d?):(?P<of>[1-9]\d?)|(?P<rows>[1-9]\d?)x(?P<columns>[1-9]\d?)")


@dataclass(frozen=True, slots=True)
class Sparsity:
    """Exact numbers of zeros.

    Attributes
    ----------
    zeros, weights
        In all kernels that can be pruned.
    by_layer
        Share of zeros of each.
    """

    zeros: int
    weights: int
    by_layer: dict[str, float]

    @property
    def share(self) -> float:
        """Zeros among the weights of all kernels."""
        return self.zeros / self.weights if self.weights else 0.0


@dataclass(frozen=True, slots=True)
class Pruning:
    """How much to prune, and in which form.

    Attributes
    ----------
    share
        Of zeros in each kernel, from 0 to below 1.
    layers
        Another share for some layers: names, or patterns as of a shell such as ``conv2d_*``; the first
        that matches counts. 0 leaves a layer as it is.
    pattern
        ``any``: the smallest weights wherever they are. ``2:4`` (any N:M): of each 4 consecutive inputs
        of an output at most 2 are kept, which is what sparse matrix units run; the share is 1 - N/M then,
        and layers whose inputs are no multiple of M stay as they are. ``4x1`` (any RxC): whole
        blocks of R inputs and C outputs.
    ramp
        Share of the steps in which sparsity rises; the rest is fine-tuning with final masks.
    every
        Steps between two choices of masks.
    fitting
        The training.

    Raises
    ------
    CompressionError
        A value out of range.
    """

    share: float = 0.5
    layers: Mapping[str, float] = field(default_factory=dict)
    pattern: str = "any"
    ramp: float = 0.5
    every: int = 8
    fitting: Fitting = field(default_factory=Fitting)

    def __post_init__(self) -> None:
        for name, share in (("prune", self.share), *self.layers.items()):
            if not 0.0 <= share < 1.0:
                raise CompressionError(f"{name} is {share}; it must be at least 0 and less than 1")
        if not 0.0 <= self.ramp <= 1.0 or self.every < 1:
            raise CompressionError(f"ramp is {self.ramp} and every is {self.every}; they must be 0 to 1, and 1 or more")
        found = _PATTERN.fullmatch(self.pattern)
        if self.pattern != "any" and (not found or (found["of"] and int(found["kept"]) >= int(found["of"]))):
            raise CompressionError(
                f"pattern is {self.pattern!r}; it must be 'any', N:M such as 2:4, or RxC such as 4x1"
            )
        if found and found["of"]:
            fixed = 1.0 - int(found["kept"]) / int(found["of"])
            for name, share in (("share", self.share), *self.layers.items()):
                if share not in (fixed, 0.0):
                    raise CompressionError(
                        f"{name} is {share}, and pattern {self.pattern} zeroes {fixed:g}; give that, or 0"
                    )

    def of(self, layer: str) -> float:
        """Return the share of a layer by its name."""
        return next((share for name, share in self.layers.items() if fnmatchcase(layer, name)), self.share)


def prune(model: keras.Model, data: FittingData, *, on_progress: Progress | None = None, **options: Any) -> keras.Model:
    """Return a model whose kernels have the wanted shares of zeros, trained on with them.

    Parameters
    ----------
    model
        In float32; it is not changed.
    data
        To train on, with labels, or with `Fitting.learning`.
    on_progress
        Of stage ``prune``.
    **options
        Fields of `Pruning`.

    Raises
    ------
    CompressionError
        An option is out of range or names no layer, no layer can be pruned, or the data do not fit.
    """
    wanted = options_of(Pruning, options)
    wanted.fitting.check(data, model)
    keras.utils.set_random_seed(wanted.fitting.seed)
    pruned = copied(model)
    pruning = MagnitudePruning(pruned, wanted, steps=wanted.fitting.steps(len(data)))
    callbacks = (Holding(pruned, values=False), pruning)  # zeros stay while more of them come
    fit(pruned, data, wanted.fitting, stage="prune", on_progress=on_progress, callbacks=callbacks, hold=False)
    return pruned


class MagnitudePruning(keras.callbacks.Callback):  # type: ignore[misc]
    """Prunes a model while it is fitted, by anything that takes callbacks of Keras.

    The masks are chosen anew every few steps while sparsity rises; then they
    are final, and fine-tuning goes on with them. They are applied after each step, because
    momentum moves weights whose gradient is gone.

    Parameters
    ----------
    model
        Whose kernels to prune; it may be a part of the model that is fitted.
    wanted
        How much.
    steps
        Steps of the whole fit.

    Raises
    ------
    CompressionError
        A layer is named that there is not, or none can be pruned.
    """

    def __init__(self, model: keras.Model, wanted: Pruning, *, steps: int) -> None:
        super().__init__()
        kernels = prunable(model)
        unmatched(wanted.layers, (name for name, _ in kernels))
        self.pattern = wanted.pattern
        self.kernels = [(kernel, wanted.of(name)) for name, kernel in kernels if wanted.of(name) and self._fits(kernel)]
        if not self.kernels and wanted.share:
            raise CompressionError(
                f"no layer of {model.name!r} can be pruned by pattern {wanted.pattern}: it needs Conv or Dense layers, "
                "and for N:M a number of inputs that M divides"
            )
        self.every = wanted.every
        self.end = max(int(steps * wanted.ramp), 1)
        self.step = 0
        self.masks: list[Mask] = []
        self.final = False

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Apply the masks, chosen anew where it is time."""
        self.step += 1
        if not self.final and (self.step % self.every == 0 or self.step >= self.end):
            self._choose(polynomial(self.step, self.end, 1.0))
        self._apply()

    def on_train_end(self, logs: Any = None) -> None:
        """Make sure that the target is reached even by a fit that ended early."""
        if not self.final:
            self._choose(1.0)
        self._apply()

    def _fits(self, kernel: Any) -> bool:
        found = _PATTERN.fullmatch(self.pattern)
        return not (found and found["of"]) or int(kernel.shape[-2]) % int(found["of"]) == 0

    def _choose(self, progress: float) -> None:
        """Choose masks for a share of the target."""
        self.masks = [
            _mask(keras.ops.convert_to_numpy(kernel), share, self.pattern, progress) for kernel, share in self.kernels
        ]
        self.final = progress >= 1.0

    def _apply(self) -> None:
        for (kernel, _), mask in zip(self.kernels, self.masks, strict=False):
            kernel.assign(kernel * mask)


def polynomial(step: int, end: int, target: float) -> float:
    """Sparsity at a step: ``target · (1 - (1 - step/end)³)``, and ``target`` from ``end`` on."""
    return target * (1.0 - (1.0 - min(step / end, 1.0)) ** 3)


def shares(model: keras.Model, share: float) -> dict[str, float]:
    """Spread a share of zeros over all kernels, for ``prune(layers=...)``: large kernels lose more of their weights.

    What is kept of a kernel goes with the square root of its size; kernels that are too small for that stay whole.

    Parameters
    ----------
    model
        Whose kernels to look at.
    share
        Of zeros among all of their weights, from 0 to below 1.

    Returns
    -------
    dict
        The share of each, by the name of its layer.

    Raises
    ------
    CompressionError
        The share is out of range.
    """
    wanted = Pruning(share).share
    sizes = {name: int(np.prod(kernel.shape)) for name, kernel in prunable(model)}
    whole: set[str] = set()
    while True:
        rest = {name: size for name, size in sizes.items() if name not in whole}
        kept = (1.0 - wanted) * sum(sizes.values()) - sum(sizes[name] for name in whole)
        each = kept / sum(size**0.5 for size in rest.values()) if rest else 0.0
        small = {name for name, size in rest.items() if each >= size**0.5}
        if not small:
            return {name: 1.0 - each / size**0.5 if name in rest else 0.0 for name, size in sizes.items()}
        whole |= small


def sparsity(model: keras.Model) -> Sparsity:
    """Count the weights that are exactly zero."""
    counts = {}
    for name, kernel in prunable(model):
        value = keras.ops.convert_to_numpy(kernel)
        counts[name] = (int(np.sum(value == 0.0)), int(value.size))
    return Sparsity(
        zeros=sum(zeros for zeros, _ in counts.values()),
        weights=sum(size for _, size in counts.values()),
        by_layer={name: zeros / size for name, (zeros, size) in counts.items()},
    )


def unmatched(patterns: Iterable[str], names: Iterable[str]) -> None:
    """Refuse a pattern that no name matches.

    Raises
    ------
    CompressionError
        Naming it, and the names there are.
    """
    there = list(names)
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in there):
            raise CompressionError(
                f"no layer is named {pattern!r}; those with kernels are {', '.join(there) or 'none'}"
            )


def _mask(value: npt.NDArray[Any], share: float, pattern: str, progress: float) -> Mask:
    """Say which weights stay, where ``progress`` (0 to 1) of the target is to be reached."""
    size = np.abs(value)
    found = _PATTERN.fullmatch(pattern)
    if found is None:
        return _without_smallest(size, round(progress * share * value.size))
    matrix = size.reshape(-1, size.shape[-1])
    if found["of"]:
        of = int(found["of"])
        groups = matrix.reshape(-1, of, matrix.shape[1])
        ranks = np.argsort(np.argsort(groups, axis=1, kind="stable"), axis=1)
        doomed = (ranks < of - int(found["kept"])).reshape(matrix.shape)
        # of those that will go, the smallest go first
        mask = _without_smallest(np.where(doomed, matrix, np.inf), round(progress * int(doomed.sum())))
        return mask.reshape(value.shape)
    rows, columns = int(found["rows"]), int(found["columns"])
    high, wide = -(-matrix.shape[0] // rows), -(-matrix.shape[1] // columns)
    padded = np.zeros((high * rows, wide * columns))
    count = padded.copy()
    padded[: matrix.shape[0], : matrix.shape[1]] = matrix
    count[: matrix.shape[0], : matrix.shape[1]] = 1.0
    sums, counts = (part.reshape(high, rows, wide, columns).sum(axis=(1, 3)) for part in (padded, count))
    blocks = _without_smallest(sums / counts, round(progress * share * high * wide))
    mask = np.repeat(np.repeat(blocks, rows, axis=0), columns, axis=1)
    return mask[: matrix.shape[0], : matrix.shape[1]].reshape(value.shape)


def _without_smallest(size: npt.NDArray[Any], zeros: int) -> Mask:
    mask = np.ones(size.size, dtype=np.bool_)
    # one stays: a layer without any weight answers nothing
    mask[np.argsort(size, axis=None, kind="stable")[: min(zeros, size.size - 1)]] = False
    return mask.reshape(size.shape)
