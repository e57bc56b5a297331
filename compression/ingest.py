"""Bring a model of any dtype policy into float32, and prove that it still says the same.

Converters to TFLite and ONNX know nothing of mixed precision. The model's configuration is
rewritten, the model rebuilt and its weights copied; then both are run on real inputs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import numpy.typing as npt

from edge_sdk.cloud.training.evaluate import logits_of
from edge_sdk.errors import CompressionError

__all__ = ["Agreement", "agreement", "to_float32"]

REDUCED = frozenset({"mixed_bfloat16", "mixed_float16", "bfloat16", "float16"})

# Seen in practice: a largest change of 0.05 in logits that span 30, no changed answer.
LEAST_AGREEMENT = 0.98
LARGEST_DELTA = 0.1  # of the span of the logits


@dataclass(frozen=True, slots=True)
class Agreement:
    """How close two models are on the same inputs.

    Attributes
    ----------
    logit_delta
        Largest difference of a logit.
    logit_span
        Largest minus smallest logit of the first model.
    argmax
        Share of inputs with the same answer.
    n
        Number of inputs.
    """

    logit_delta: float
    logit_span: float
    argmax: float
    n: int

    def to_dict(self) -> dict[str, float]:
        """Return the fields as a plain dictionary."""
        return {
            "logit_delta": self.logit_delta,
            "logit_span": self.logit_span,
            "argmax": self.argmax,
            "n": self.n,
        }


def to_float32(model: keras.Model, inputs: npt.NDArray[Any]) -> tuple[keras.Model, Agreement]:
    """Return a float32 copy of a model and how well it agrees with the original.

    Parameters
    ----------
    model
        Any Keras 3 model with one output of logits; it is not changed.
    inputs
        ``[n, ...]`` real inputs to compare on.

    Raises
    ------
    CompressionError
        If the copy cannot be built, or disagrees by more than rounding explains.
    """
    try:
        config = keras.saving.serialize_keras_object(model)
        copy: keras.Model = keras.saving.deserialize_keras_object(_float32(config))
    except (TypeError, ValueError) as error:
        raise CompressionError(f"the model {model.name!r} cannot be rebuilt in float32: {error}") from error
    weights = model.get_weights()
    if [value.shape for value in weights] != [value.shape for value in copy.get_weights()]:
        raise CompressionError(f"the float32 copy of {model.name!r} has other weights than the original")
    copy.set_weights([np.asarray(value, dtype=_storable(value.dtype)) for value in weights])
    for layer in copy._flatten_layers(include_self=False):  # noqa: SLF001 (nested models included)
        if layer.compute_dtype in ("bfloat16", "float16"):
            raise CompressionError(f"the layer {layer.name!r} still computes in {layer.compute_dtype}")
    found = agreement(logits_of(model, inputs), logits_of(copy, inputs))
    if found.argmax < LEAST_AGREEMENT or not found.logit_delta <= LARGEST_DELTA * found.logit_span:
        raise CompressionError(
            f"the float32 copy of {model.name!r} disagrees with it: {found.argmax:.1%} same answers, "
            f"logits differ by up to {found.logit_delta:.3g}"
        )
    return copy, found


def agreement(first: npt.NDArray[np.float32], second: npt.NDArray[np.float32]) -> Agreement:
    """Compare two arrays of logits ``[n, classes]``."""
    return Agreement(
        logit_delta=float(np.abs(first - second).max()),
        logit_span=float(first.max() - first.min()),
        argmax=float(np.mean(first.argmax(axis=1) == second.argmax(axis=1))),
        n=len(first),
    )


def _float32(value: Any, key: str = "") -> Any:
    """Rewrite every reduced dtype policy in a serialised model, however deep."""
    if isinstance(value, dict):
        inside_policy = value.get("class_name") == "DTypePolicy"
        return {
            name: _float32(item, "dtype" if inside_policy and name == "config" else name)
            if not (key == "dtype" and name == "name" and item in REDUCED)
            else "float32"
            for name, item in value.items()
        }
    if isinstance(value, list | tuple):
        return type(value)(_float32(item, key) for item in value)
    return "float32" if key == "dtype" and isinstance(value, str) and value in REDUCED else value


def _storable(dtype: Any) -> Any:
    return dtype if np.dtype(dtype).kind in "iub" else np.float32
