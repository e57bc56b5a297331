import numpy as np
from numpy.typing import NDArray

from edge_sdk.ext.records import Summary

__all__ = ["Summary", "softmax", "summarize"]

def softmax(
    x: NDArray[np.float32],
    out: NDArray[np.float32] | None = None,
    temperature: float = 1.0,
) -> NDArray[np.float32]: ...
def summarize(
    x: NDArray[np.float32],
    *,
    top: int = 5,
    temperature: float = 1.0,
    out: NDArray[np.float32] | None = None,
) -> Summary: ...
