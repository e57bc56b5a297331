"""What kernels and their twins return."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["Summary"]


class Summary(NamedTuple):
    """What is to be known of scores; arrays have a first axis of n where the logits had one.

    Attributes
    ----------
    probabilities : ndarray of float32, shape ([n,] C)
    indices : ndarray of int64, shape ([n,] top)
        The most probable classes, most probable first and of equal ones the lower first.
    margin : float, or ndarray of float32 of shape (n,)
        Between the two most probable; 1 where there is one class only.
    entropy : float, or ndarray of float32 of shape (n,)
        In nats.
    energy : float, or ndarray of float32 of shape (n,)
        ``-temperature * log(sum(exp(x / temperature)))``.
    """

    probabilities: NDArray[np.float32]
    indices: NDArray[np.int64]
    margin: NDArray[np.float32] | float
    entropy: NDArray[np.float32] | float
    energy: NDArray[np.float32] | float
