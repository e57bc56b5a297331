from collections.abc import Sequence
from typing import final

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["KINDS", "MOST_CLASSES", "Signal", "check", "features"]

KINDS: tuple[str, ...]
MOST_CLASSES: int

@final
class Signal:
    def __init__(
        self,
        kind: str,
        temperature: float = 1.0,
        *,
        classes: int = 0,
        edge: Sequence[float] = (),
        cloud: Sequence[float] = (),
    ) -> None: ...
    def one(self, scores: ArrayLike) -> tuple[float, float]: ...
    def values(self, scores: ArrayLike, normalized: bool = True) -> NDArray[np.float64]: ...

def check(scores: ArrayLike, what: str = "scores") -> None: ...
def features(scores: ArrayLike) -> NDArray[np.float64]: ...
