from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["Summary", "softmax", "summarize"]

class Summary(NamedTuple):
    probabilities: NDArray[np.float32]
    indices: NDArray[np.int64]
    margin: NDArray[np.float32] | float
    entropy: NDArray[np.float32] | float
    energy: NDArray[np.float32] | float

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
