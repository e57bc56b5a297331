import numpy as np
from numpy.typing import NDArray

__all__ = ["softmax"]

def softmax(
    x: NDArray[np.float32],
    out: NDArray[np.float32] | None = None,
    temperature: float = 1.0,
) -> NDArray[np.float32]: ...
