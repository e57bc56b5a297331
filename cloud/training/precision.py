"""Mixed precision: which policy fits the machine, and the rule that logits are float32.

Layers get their policy one by one when a model is built; Keras' global policy is left alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal, get_args

import keras

from edge_sdk.errors import CompressionError

__all__ = ["Precision", "Wanted", "policy", "require_float32_output", "scaled", "used"]

Wanted = Literal["auto", "float32", "mixed_bfloat16", "mixed_float16"]
Precision = Literal["float32", "mixed_bfloat16", "mixed_float16"]


def policy(wanted: str, accelerator: str) -> Precision:
    """Name the Keras dtype policy to train with.

    Parameters
    ----------
    wanted
        A policy, or ``auto``: ``mixed_float16`` on a GPU (its tensor cores are made for it, Keras
        scales the loss), ``mixed_bfloat16`` on CPUs and TPUs (float16 is several times slower
        than float32 on a CPU, bfloat16 about twice as fast).
    accelerator
        ``cpu``, ``gpu`` or ``tpu``.

    Raises
    ------
    CompressionError
        If ``wanted`` is not a policy.
    """
    if wanted == "auto":
        return "mixed_float16" if accelerator == "gpu" else "mixed_bfloat16"
    for name in get_args(Precision):
        if wanted == name:
            return name  # type: ignore[no-any-return]
    raise CompressionError(f"unknown precision {wanted!r}: expected one of {', '.join(get_args(Wanted))}")


def used(model: keras.Model, wanted: str, planned: Precision) -> Precision:
    """Return in what a network computes: one of somebody's own may have chosen for itself.

    Raises
    ------
    CompressionError
        It is not what was asked for.
    """
    kinds = {str(layer.compute_dtype) for layer in _layers(model)}
    found: Precision = "mixed_float16" if "float16" in kinds else "mixed_bfloat16" if "bfloat16" in kinds else "float32"
    if wanted not in ("auto", found):
        raise CompressionError(f"the network computes in {found}, not in {planned}; leave the precision to it")
    return found


def scaled(optimizer: keras.optimizers.Optimizer, chosen: Precision) -> keras.optimizers.Optimizer:
    """Let an optimizer scale its losses where gradients are float16, which has no small numbers.

    The scale halves when a gradient overflows, and that step is left out; it doubles after
    2,000 steps without one.
    """
    return keras.optimizers.LossScaleOptimizer(optimizer) if chosen == "mixed_float16" else optimizer


def require_float32_output(model: keras.Model) -> None:
    """Refuse a model whose logits are computed in less than float32.

    Softmax and cross-entropy of 16-bit logits lose the small differences between classes that a
    deferral threshold is about.

    Raises
    ------
    CompressionError
        Naming the output layer and its policy.
    """
    for tensor in model.outputs:
        layer: Any = _producer(model, tensor)
        if layer.compute_dtype != "float32" or str(tensor.dtype) != "float32":
            raise CompressionError(
                f"the output layer {layer.name!r} computes in {layer.compute_dtype}; give it dtype='float32'"
            )


def _layers(model: keras.Model) -> Iterator[Any]:
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            yield from _layers(layer)
        else:
            yield layer


def _producer(model: keras.Model, tensor: Any) -> Any:
    """Return the layer that computes a tensor; inside nested models too."""
    layer = tensor._keras_history.operation  # noqa: SLF001 (Keras has no public way back from a tensor)
    if isinstance(layer, keras.Model):
        return _producer(layer, layer.outputs[0])
    return layer
