"""The usual steps of a modality, from the few numbers that differ."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import numpy as np

from edge_sdk.processing.grammar import Step
from edge_sdk.processing.steps import Standardize
from edge_sdk.processing.table_steps import Categories, Clip, Columns, Encoding, Impute

__all__ = ["evened", "per_channel", "tabular"]


def tabular(
    columns: Sequence[str],
    categories: Mapping[str, Sequence[str] | Sequence[float]],
    encoding: Encoding,
    impute: float | Sequence[float] | None,
    clip: tuple[float, float] | None,
    mean: float | Sequence[float],
    std: float | Sequence[float],
) -> tuple[Step, ...]:
    """Return the steps of a model of rows; see `ProcessingSpec.table`."""
    steps: list[Step] = [Columns(tuple(columns))]
    steps += [Categories(name, cast("Any", tuple(values)), encoding) for name, values in categories.items()]
    if impute is not None:
        steps.append(Impute(per_channel(impute, 1)))
    if clip is not None:
        steps.append(Clip((clip[0],), (clip[1],)))
    steps += evened(Standardize(per_channel(mean, 1), per_channel(std, 1)))
    return tuple(steps)


def evened(step: Standardize) -> tuple[Standardize, ...]:
    """Give mean and std as many values as the longer has; none where nothing is standardised."""
    if set(step.mean) == {0.0} and set(step.std) == {1.0}:
        return ()
    count = max(len(step.mean), len(step.std))
    return (Standardize(per_channel(step.mean, count), per_channel(step.std, count)),)


def per_channel(value: float | Sequence[float], channels: int) -> tuple[float, ...]:
    """Return values as a tuple; one stands for every channel."""
    values = tuple(np.ravel(value).tolist())
    return values * channels if len(values) == 1 else values
