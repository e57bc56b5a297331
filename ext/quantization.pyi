from collections.abc import Sequence
from typing import TypeAlias, overload

import numpy as np
from numpy.typing import DTypeLike, NDArray

__all__ = ["dequantize", "quantize"]

_Scale: TypeAlias = float | Sequence[float] | NDArray[np.float32]
_ZeroPoint: TypeAlias = int | Sequence[int] | NDArray[np.integer]

@overload
def quantize(
    x: NDArray[np.float32],
    scale: _Scale,
    zero_point: _ZeroPoint,
    out: NDArray[np.int8],
    *,
    dtype: DTypeLike = ...,
    axis: int | None = None,
) -> NDArray[np.int8]: ...
@overload
def quantize(
    x: NDArray[np.float32],
    scale: _Scale,
    zero_point: _ZeroPoint,
    out: NDArray[np.uint8],
    *,
    dtype: DTypeLike = ...,
    axis: int | None = None,
) -> NDArray[np.uint8]: ...
@overload
def quantize(
    x: NDArray[np.float32],
    scale: _Scale,
    zero_point: _ZeroPoint,
    out: None = None,
    *,
    dtype: type[np.uint8],
    axis: int | None = None,
) -> NDArray[np.uint8]: ...
@overload
def quantize(
    x: NDArray[np.float32],
    scale: _Scale,
    zero_point: _ZeroPoint,
    out: None = None,
    *,
    dtype: type[np.int8] = ...,
    axis: int | None = None,
) -> NDArray[np.int8]: ...
def dequantize(
    x: NDArray[np.int8] | NDArray[np.uint8] | NDArray[np.int32],
    scale: _Scale,
    zero_point: _ZeroPoint,
    out: NDArray[np.float32] | None = None,
    *,
    axis: int | None = None,
) -> NDArray[np.float32]: ...
