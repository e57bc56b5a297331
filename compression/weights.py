"""What a model's weights look like, and training that keeps it: exact zeros, and values that are shared.

Neither needs a record beside the model: a kernel that trained freely has no zero and no two equal
values. So a model that was saved, and loaded by somebody else, keeps its masks and clusters too.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
from keras import ops

from edge_sdk.compression.fakequant import QuantizedKernel
from edge_sdk.compression.rebuild import leaves

__all__ = ["Holding", "Tied", "distinct", "prunable", "shared"]

MOST_SHARED = 256  # different values; more of them save nothing against int8


class Holding(keras.callbacks.Callback):  # type: ignore[misc]
    """Keeps the zeros and the shared values of kernels through training, exactly.

    After each step, what was zero is zero again, and weights that had one value get the mean
    of what the step made of them; see `Tied`. A `QuantizedKernel` keeps its own, and settles at the end.

    Parameters
    ----------
    model
        As it is now; it may be a part of the model that is fitted.
    values
        Whether shared values are kept, too, or zeros only.
    free
        Kernels that somebody else holds.
    """

    def __init__(self, model: keras.Model, *, values: bool = True, free: Sequence[Any] = ()) -> None:
        super().__init__()
        self._zeros: list[tuple[Any, npt.NDArray[np.float32]]] = []
        self._shared: list[tuple[Any, npt.NDArray[Any], npt.NDArray[Any], int]] = []
        self._learning = [
            layer for layer in leaves(model) if isinstance(layer, QuantizedKernel) and layer.values is not None
        ]
        others = {id(kernel) for kernel in (*free, *(layer.kernel for layer in self._learning))}
        for kernel in (kernel for _, kernel in prunable(model) if id(kernel) not in others):
            value = keras.ops.convert_to_numpy(kernel)
            if not value.any():  # made so and not trained yet: no step leaves a kernel without any weight
                continue
            if values and shared(value):
                found, at = np.unique(value, return_inverse=True)
                zero = int(np.searchsorted(found, 0.0)) if 0.0 in found else -1
                self._shared.append((kernel, at.reshape(-1), np.bincount(at.reshape(-1)), zero))
            elif not value.all():
                self._zeros.append((kernel, (value != 0.0).astype(np.float32)))
        # a factor that changes its sign mirrors the shared values of its channel once it is folded into them
        self._factors = [
            layer.gamma
            for layer in leaves(model)
            if (self._shared or others) and isinstance(layer, keras.layers.BatchNormalization) and layer.scale
            if (keras.ops.convert_to_numpy(layer.gamma) >= 0.0).all()
        ]

    def tied(self, gradients: Sequence[Any], variables: Sequence[Any]) -> list[Any]:
        """Return gradients in which each weight has that of its value: the sum of all that share it, and 0 of zero."""
        known = {id(kernel): (at, counts, zero) for kernel, at, counts, zero in self._shared}
        found = list(gradients)
        for place, (gradient, variable) in enumerate(zip(gradients, variables, strict=True)):
            if gradient is not None and id(variable) in known:
                at, counts, zero = known[id(variable)]
                sums = ops.segment_sum(ops.reshape(gradient, (-1,)), at, num_segments=len(counts))
                sums = ops.where(np.arange(len(counts)) == zero, 0.0, sums)
                found[place] = ops.reshape(ops.take(sums, at), gradient.shape)
        return found

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Put them back."""
        for kernel, mask in self._zeros:
            kernel.assign(kernel * mask)
        for kernel, at, counts, zero in self._shared:
            means = np.bincount(at, weights=keras.ops.convert_to_numpy(kernel).reshape(-1)) / counts
            if zero >= 0:
                means[zero] = 0.0
            kernel.assign(means.astype(np.float32)[at].reshape(kernel.shape))
        for factor in self._factors:
            value = keras.ops.convert_to_numpy(factor)
            if (value < 0.0).any():  # an assignment takes ten times as long as to look
                factor.assign(np.maximum(value, 0.0))

    def on_train_end(self, logs: Any = None) -> None:
        """Settle the kernels that learn which weight has which value."""
        for layer in self._learning:
            layer.settle()


class Tied(keras.optimizers.Adam):  # type: ignore[misc]
    """Adam, whose steps are those of shared values.

    Adam divides each gradient by its size. Had each weight its own, those that share a value would step up and
    down alike, and the mean of their steps would be next to nothing.

    Parameters
    ----------
    rate
        As of Adam.
    holding
        Knows what is shared.
    """

    def __init__(self, rate: Any, holding: Holding) -> None:
        super().__init__(rate)
        self._holding = holding

    def apply(self, grads: Sequence[Any], trainable_variables: Sequence[Any] | None = None) -> None:
        """Take a step."""
        variables = self._trainable_variables if trainable_variables is None else list(trainable_variables)
        super().apply(self._holding.tied(grads, variables), trainable_variables)


def shared(kernel: npt.NDArray[Any]) -> bool:
    """Whether the weights of a kernel, but for zeros, have fewer values than there are weights."""
    return len(np.unique(kernel[kernel != 0.0])) < min(int(np.count_nonzero(kernel)), MOST_SHARED + 1)


def distinct(model: keras.Model) -> dict[str, int]:
    """Return the number of different values in each kernel, zero included."""
    return {name: len(np.unique(keras.ops.convert_to_numpy(kernel))) for name, kernel in prunable(model)}


def prunable(model: keras.Model) -> list[tuple[str, Any]]:
    """Names and kernel variables of all convolution and dense layers, nested models included."""
    kinds = (keras.layers.Conv1D, keras.layers.Conv2D, keras.layers.Conv3D, keras.layers.Dense)
    return [
        (layer.name, layer.kernel)
        for layer in leaves(model)
        if isinstance(layer, kinds) or (isinstance(layer, QuantizedKernel) and layer.kind != "depthwise")
    ]
