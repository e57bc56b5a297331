from collections.abc import Sequence
from typing import Any, final

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["TablePlan"]

@final
class TablePlan:
    features: int
    def __init__(
        self,
        rows: int,
        columns: Sequence[tuple[float, float, float, float, float] | tuple[ArrayLike, bool, float]],
        zero_point: int = 0,
    ) -> None: ...
    def __call__(self, x: NDArray[np.floating[Any]], out: NDArray[Any]) -> int: ...
