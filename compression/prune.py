"""Magnitude pruning: the smallest weights become zero, gradually, and stay zero.

Zhu and Gupta, "To prune, or not to prune" (2017): sparsity rises as a cubic polynomial while the
network trains on. Unstructured zeros shrink what is *transferred* (the compressed file), neither
the file itself nor its latency.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import numpy.typing as npt

from edge_sdk.errors import CompressionError

__all__ = ["MagnitudePruning", "Sparsity", "polynomial", "prunable", "sparsity"]


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


class MagnitudePruning(keras.callbacks.Callback):  # type: ignore[misc]
    """Prunes a model while it is fitted.

    The masks are chosen anew every ``every`` steps until ``ramp`` of the steps are done; then they
    are final, and fine-tuning goes on with them. They are applied after each step, because
    momentum moves weights whose gradient is gone.

    Parameters
    ----------
    model
        Whose kernels to prune; it may be a part of the model that is fitted.
    target
        Share of zeros to reach in each kernel, from 0 (nothing happens) up to but not including 1.
    steps
        Steps of the whole fit.
    ramp
        Share of the steps in which sparsity rises.
    every
        Steps between two choices of masks.

    Raises
    ------
    CompressionError
        If ``target`` is out of range.
    """

    def __init__(self, model: keras.Model, target: float, *, steps: int, ramp: float = 0.5, every: int = 8) -> None:
        super().__init__()
        if not 0.0 <= target < 1.0:
            raise CompressionError(f"prune is {target}; it must be at least 0 and less than 1")
        self.kernels = prunable(model)
        self.target, self.every = target, every
        self.end = max(int(steps * ramp), 1)
        self.step = 0
        self.masks: list[npt.NDArray[np.bool_]] = []

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Apply the masks, chosen anew where it is time."""
        self.step += 1
        if self.step >= self.end and self.final:
            self._apply()
            return
        if self.step % self.every == 0 or self.step >= self.end:
            self._choose(polynomial(self.step, self.end, self.target))
        self._apply()

    def on_train_end(self, logs: Any = None) -> None:
        """Make sure that the target is reached even by a fit that ended early."""
        if not self.final:
            self._choose(self.target)
        self._apply()

    @property
    def final(self) -> bool:
        """Whether the masks have reached the target."""
        return bool(self.masks) and all(int(np.sum(~mask)) == _zeros(self.target, mask.size) for mask in self.masks)

    def _choose(self, share: float) -> None:
        self.masks = []
        for _, kernel in self.kernels:
            value = keras.ops.convert_to_numpy(kernel)
            mask = np.ones(value.size, dtype=np.bool_)
            mask[np.argsort(np.abs(value), axis=None, kind="stable")[: _zeros(share, value.size)]] = False
            self.masks.append(mask.reshape(value.shape))

    def _apply(self) -> None:
        for (_, kernel), mask in zip(self.kernels, self.masks, strict=False):
            kernel.assign(kernel * mask)


def polynomial(step: int, end: int, target: float) -> float:
    """Sparsity at a step: ``target · (1 - (1 - step/end)³)``, and ``target`` from ``end`` on."""
    return target * (1.0 - (1.0 - min(step / end, 1.0)) ** 3)


def prunable(model: keras.Model) -> list[tuple[str, Any]]:
    """Names and kernel variables of all convolution and dense layers, nested models included."""
    kinds = (keras.layers.Conv1D, keras.layers.Conv2D, keras.layers.Conv3D, keras.layers.Dense)
    found: list[tuple[str, Any]] = []
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            found += prunable(layer)
        elif isinstance(layer, kinds):
            found.append((layer.name, layer.kernel))
    return found


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


def _zeros(share: float, size: int) -> int:
    return round(share * size)
