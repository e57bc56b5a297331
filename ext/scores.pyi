from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from edge_sdk.ext.records import Summary

__all__ = ["Summary", "softmax", "summarize"]

_Logits: TypeAlias = NDArray[np.float32] | NDArray[np.int8] | NDArray[np.uint8]

def softmax(
    x: _Logits,
    out: NDArray[np.float32] | None = None,
    temperature: float = 1.0,
    *,
    quantization: tuple[float, int] | None = None,
) -> NDArray[np.float32]: ...
def summarize(
    x: _Logits,
    *,
    top: int = 5,
    temperature: float = 1.0,
    out: NDArray[np.float32] | None = None,
    quantization: tuple[float, int] | None = None,
) -> Summary: ...
