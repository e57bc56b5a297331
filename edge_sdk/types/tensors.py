"""The signature of a tensor."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["TensorSpec"]


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """Signature of one tensor of a model.

    Attributes
    ----------
    name
        Name in the model file.
    dtype
        NumPy name of the element type, such as ``"int8"``.
    shape
        Extents; -1 is a dynamic one.
    scale, zero_point
        Per-tensor affine quantization, ``real = scale * (q - zero_point)``; None where the
        tensor is not quantized.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    scale: float | None = None
    zero_point: int | None = None
