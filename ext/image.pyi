from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

__all__ = ["image_to_tensor"]

_T = TypeVar("_T", np.float32, np.int8, np.uint8)

def image_to_tensor(
    frame: NDArray[np.uint8],
    out: NDArray[_T],
    *,
    mean: NDArray[np.float32],
    gain: NDArray[np.float32],
    planar: bool = False,
    zero_point: int = 0,
) -> NDArray[_T]: ...
