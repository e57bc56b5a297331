"""Weight sharing: the weights of a kernel get few values, the centres of their clusters.

Han, Mao, Dally, "Deep Compression" (2016). A clustered kernel shrinks what is *transferred* (the
compressed file), neither the file itself nor its latency. How much depends on how often each value occurs as
well: Chou, Lookabaugh, Gray, "Entropy-constrained vector quantization" (1989).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any, Literal, get_args

import keras
import numpy as np
import numpy.typing as npt

from edge_sdk.compression.fitting import Fitting, FittingData, Progress, copied, fit, options_of
from edge_sdk.compression.networks import Network
from edge_sdk.compression.prune import unmatched
from edge_sdk.compression.weights import MOST_SHARED, Holding, prunable
from edge_sdk.errors import CompressionError

__all__ = ["Clustering", "Start", "cells", "centres", "cluster"]

Start = Literal["kmeans++", "density", "linear"]

ROUNDS = 100
SETTLING = 20  # rounds; training goes on with them
COMPARED = 64  # borders
EVERY = 3  # steps: weights move little in one, and sharing in each took a tenth of a small network's training


@dataclass(frozen=True, slots=True)
class Clustering:
    """How many values the weights of a kernel may have.

    Attributes
    ----------
    clusters
        Values of each kernel, from 2 to 256, at most. Where a kernel has zeros, as pruning leaves them,
        zero is one of the values, and they stay; a few more may come.
    layers
        Another number for some layers: names, or patterns as of a shell; the first that matches counts. 0
        leaves a layer as it is.
    start
        Centres to begin with: ``kmeans++`` draws them far from each other, ``density`` takes quantiles,
        ``linear`` equal distances from the smallest weight to the largest (which keeps the large ones).
    thrift
        How far a weight may be from a value for the sake of a smaller file, at least 0. 0: every weight gets the
        nearest value. Otherwise one that occurs often is preferred, zero among them where there are zeros: each
        bit that this saves may cost so many times the mean squared error of the nearest values.
    fitting
        The training: each weight goes on learning, gets the nearest centre for its value every third step and in the
        end, and may so change its cluster; centres follow their weights.

    Raises
    ------
    CompressionError
        A value out of range.
    """

    clusters: int = 16
    layers: Mapping[str, int] = field(default_factory=dict)
    start: Start = "kmeans++"
    thrift: float = 4.0
    fitting: Fitting = field(default_factory=Fitting)

    def __post_init__(self) -> None:
        for name, count in (("clusters", self.clusters), *self.layers.items()):
            if not (2 <= count <= MOST_SHARED or (count == 0 and name in self.layers)):
                raise CompressionError(f"{name} is {count}; it must be from 2 to {MOST_SHARED}")
        if self.start not in get_args(Start):
            raise CompressionError(f"start is {self.start!r}; it must be one of {', '.join(get_args(Start))}")
        if not 0.0 <= self.thrift < math.inf:
            raise CompressionError(f"thrift is {self.thrift}; it must be at least 0")

    def of(self, layer: str) -> int:
        """Return the number of a layer by its name."""
        return next((count for name, count in self.layers.items() if fnmatchcase(layer, name)), self.clusters)


def cluster(
    model: keras.Model, data: FittingData, *, on_progress: Progress | None = None, **options: Any
) -> keras.Model:
    """Return a model whose kernels have few values each, trained on with them.

    Parameters
    ----------
    model
        In float32; it is not changed.
    data
        To train on, with labels, or with `Fitting.learning`.
    on_progress
        Of stage ``cluster``.
    **options
        Fields of `Clustering`.

    Raises
    ------
    CompressionError
        An option is out of range or names no layer, there is no kernel, or the data do not fit.
    """
    wanted = options_of(Clustering, options)
    wanted.fitting.check(data, model)
    keras.utils.set_random_seed(wanted.fitting.seed)
    clustered = copied(model)
    kernels = prunable(clustered)
    unmatched(wanted.layers, (name for name, _ in kernels))
    if not kernels:
        raise CompressionError(f"no layer of {model.name!r} can be clustered: it needs Conv or Dense layers")
    _turn_positive(clustered)
    following = []
    for at, (name, kernel) in enumerate(kernels):
        if count := wanted.of(name):
            rng = np.random.default_rng([wanted.fitting.seed, at])
            following.append(_Following(kernel, count, wanted, rng))
    fit(
        *(clustered, data, wanted.fitting),
        stage="cluster",
        on_progress=on_progress,
        callbacks=tuple(following),
        hold=Holding(clustered, free=[one.kernel for one in following]),
    )
    return clustered


def centres(values: npt.NDArray[Any], count: int, start: Start, rng: np.random.Generator) -> npt.NDArray[np.float64]:
    """Find at most ``count`` centres of numbers, so that the squares of their distances are small.

    Parameters
    ----------
    values
        ``[n]``, at least one.
    count
        At least 1.
    start
        See `Clustering`.
    rng
        For ``kmeans++``.

    Returns
    -------
    numpy.ndarray
        float64 ``[k]``, sorted; k is less than ``count`` where there are fewer numbers.
    """
    ordered = np.sort(np.asarray(values, dtype=np.float64))
    if len(np.unique(ordered)) <= count:
        return np.unique(ordered)
    if start == "linear":
        found = np.linspace(ordered[0], ordered[-1], count)
    elif start == "density":
        found = np.quantile(ordered, (np.arange(count) + 0.5) / count)
    else:
        found = np.array([rng.choice(ordered)])
        for _ in range(count - 1):
            distance = (ordered - found[_nearest(ordered, np.sort(found), found)]) ** 2
            found = np.append(found, rng.choice(ordered, p=distance / distance.sum()))
    found = np.unique(found)
    sums = np.concatenate([[0.0], np.cumsum(ordered)])
    for _ in range(ROUNDS):  # in one dimension, clusters are runs of the sorted numbers
        ends = np.searchsorted(ordered, (found[1:] + found[:-1]) / 2)
        ends = np.concatenate([[0], ends, [len(ordered)]])
        sizes = np.diff(ends)
        moved = np.where(sizes > 0, np.diff(sums[ends]) / np.maximum(sizes, 1), found)
        if np.allclose(moved, found, rtol=0, atol=1e-9 * (abs(ordered[0]) + abs(ordered[-1]))):
            break
        found = np.sort(moved)
    return found


def _nearest(values: npt.NDArray[Any], ordered: npt.NDArray[Any], original: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
    """Return for each value the position in ``original`` of the nearest centre."""
    at = np.searchsorted((ordered[1:] + ordered[:-1]) / 2, values)
    return np.argsort(original, kind="stable")[at]


def _not_zero(found: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    return np.where(found == 0.0, np.finfo(np.float32).tiny, found)  # zero means pruned


class _Following(keras.callbacks.Callback):  # type: ignore[misc]
    """A kernel of few values while it trains, and the weights that it would have without.

    Parameters
    ----------
    kernel
        It gets its values at once.
    count
        Of its values, zero included.
    wanted
        How they are chosen.
    rng
        To begin with.
    """

    def __init__(self, kernel: Any, count: int, wanted: Clustering, rng: np.random.Generator) -> None:
        super().__init__()
        self.kernel = kernel
        self.steps = 0
        value = keras.ops.convert_to_numpy(kernel)
        self.shape = value.shape
        self.free = np.flatnonzero(value)
        self.zeros = value.size - len(self.free)
        self.weights = self._of(value).astype(np.float32)
        if not len(self.weights):
            return
        found = _not_zero(centres(self.weights, count - bool(self.zeros), wanted.start, rng))
        self.found = np.sort(np.append(found, [0.0] * bool(self.zeros)))
        self.sizes = np.ones(len(self.found))  # as if all were as frequent: the nearest
        self.slope = 0.0
        values = self._shared()
        self.slope = wanted.thrift * float(np.mean((self.weights - values) ** 2))
        for _ in range(SETTLING if wanted.thrift else 0):
            before, values = values, self._shared()
            if np.array_equal(before, values):
                break
        self._assign(values)

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Let the weights take the steps that the kernel took, and the kernel be their centres again."""
        self.steps += 1
        if self.steps % EVERY == 0:
            self._follow()

    def on_train_end(self, logs: Any = None) -> None:
        """Share the weights as they are in the end."""
        self._follow()

    def _follow(self) -> None:
        if not len(self.weights):
            return
        self.weights += self._of(self.kernel.value.numpy()) - self.seen
        self._assign(self._shared())

    def _of(self, kernel: npt.NDArray[Any]) -> npt.NDArray[Any]:
        return kernel.reshape(-1)[self.free] if self.zeros else kernel.reshape(-1)

    def _shared(self) -> npt.NDArray[np.float32]:
        """Give each weight a centre, and move the centres to the means of their weights; return each weight's."""
        bits = -np.log2(np.maximum(self.sizes, 1.0) / self.sizes.sum())
        used, borders = cells(self.found, self.slope * bits)
        at, counts = _position(borders.astype(np.float32), self.weights)
        sizes, sums = np.zeros(len(self.found)), np.zeros(len(self.found))
        sizes[used] = counts
        sums[used] = np.bincount(at, weights=self.weights, minlength=len(used))
        moved = _not_zero(np.where(sizes > 0, sums / np.maximum(sizes, 1), self.found))
        if self.zeros:
            moved[self.found == 0.0] = 0.0
            sizes[self.found == 0.0] += self.zeros
        order = np.argsort(moved, kind="stable")  # unused ones stay, and may be overtaken
        self.found, self.sizes = moved[order], sizes[order]
        return np.take(moved[used].astype(np.float32), at)

    def _assign(self, values: npt.NDArray[np.float32]) -> None:
        kernel = self.seen = values
        if self.zeros:
            kernel = np.zeros(math.prod(self.shape), np.float32)
            kernel[self.free] = values
        self.kernel.value.assign(kernel.reshape(self.shape), read_value=False)


def _position(
    borders: npt.NDArray[np.float32], values: npt.NDArray[np.float32]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Do what `numpy.searchsorted` does, and count; to compare all values with few borders is ten times faster."""
    if len(borders) > COMPARED:
        at = np.searchsorted(borders, values)
        return at, np.bincount(at, minlength=len(borders) + 1)
    places = np.zeros(len(values), np.uint8)
    above = [len(values)]
    for border in borders:
        greater = values > border
        above.append(int(np.count_nonzero(greater)))
        places += greater
    return places.astype(np.int64), -np.diff(above, append=0)


def cells(
    found: npt.NDArray[np.float64], penalties: npt.NDArray[np.float64]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """Say which centre has the smallest sum of squared distance and penalty, from -inf to inf.

    Parameters
    ----------
    found
        ``[k]``, ascending.
    penalties
        ``[k]``, of each.

    Returns
    -------
    used
        Positions of the centres that are best somewhere, ascending.
    borders
        Between them, one fewer.
    """
    used: list[int] = []
    borders: list[float] = []
    for at, (centre, penalty) in enumerate(zip(found.tolist(), penalties.tolist(), strict=True)):
        border = -math.inf
        while used:
            last = used[-1]
            gap = centre - found[last]
            if gap <= 0.0:
                border = -math.inf if penalty < penalties[last] else math.inf
            else:
                border = (centre + found[last] + (penalty - penalties[last]) / gap) / 2
            if border > (borders[-1] if borders else -math.inf):
                break
            used.pop()
            if borders:
                borders.pop()
        if border == math.inf:
            continue
        if used:
            borders.append(border)
        used.append(at)
    return np.array(used), np.array(borders)


def _turn_positive(model: keras.Model) -> None:
    """Negate channels of kernels instead of their factor in the BatchNormalization that follows.

    The model computes the same. But folding a negative factor would mirror the centres, and the
    quantized kernel would have twice as many values.
    """
    network = Network(model)
    for call in network.calls:
        after = network.norm_after(call)
        if after is None or not after.layer.scale or isinstance(call.layer, keras.layers.DepthwiseConv2D):
            continue
        linear, norm = network.original[id(call.layer)], network.original[id(after.layer)]
        sign = np.where(keras.ops.convert_to_numpy(norm.gamma) < 0.0, -1.0, 1.0).astype(np.float32)
        for weight in (linear.kernel, norm.gamma, norm.moving_mean, *((linear.bias,) if linear.use_bias else ())):
            weight.assign(weight * sign)
