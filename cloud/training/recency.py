"""Training on recent data: what to leave out because it is old, and how much the rest weighs."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from edge_sdk.datasets import Dataset
from edge_sdk.errors import DataError

__all__ = ["DAY", "recent"]

DAY = 86_400.0  # seconds


def recent(
    dataset: Dataset, *, window: float | None = None, half_life: float | None = None
) -> tuple[Dataset, npt.NDArray[np.float32] | None]:
    """Keep the recent part of a data set, and weigh it by age.

    Age is counted from the newest sample, not from today: the same data give the same weights.

    Parameters
    ----------
    dataset
        With ``times``, seconds since 1970.
    window
        Days; what is older is left out.
    half_life
        Days; a sample of that age weighs half as much as the newest.

    Returns
    -------
    tuple
        What is kept, and float32 weights ``[n]`` of mean 1; None where all weigh the same.

    Raises
    ------
    DataError
        The data have no times, or a class is not in the window.
    """
    if window is None and half_life is None:
        return dataset, None
    if dataset.times is None:
        raise DataError(
            "the data do not say when they were taken: an .npz file may, as an array 'times' in seconds, "
            "and a table, as a column 'times'"
        )
    kept = dataset
    age = (dataset.times.max() - dataset.times) / DAY
    if window is not None:
        kept, age = dataset.take(np.flatnonzero(age <= window)), age[age <= window]
        counts = np.bincount(kept.labels, minlength=len(kept.classes))
        if not counts.all():
            gone = kept.classes[int(np.argmin(counts))]
            raise DataError(f"a window of {window:g} days has no training sample of class {gone!r}; take a longer one")
    if half_life is None:
        return kept, None
    weights = np.exp2(-age / half_life)
    return kept, (weights / weights.mean()).astype(np.float32)
