"""What data are like, in a record of numbers: ranges, faults, classes, and what training and tests share."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edge_sdk.datasets import Dataset, Splits

__all__ = ["Profile", "profile"]

GRID = 8  # near copies are found on so many means to a side
NEAR = 0.999  # correlation of those means
COMPARED = 5_000  # evaluation inputs that are compared, at most
ROWS = 1_000  # of them at a time


@dataclass(frozen=True, slots=True)
class Profile:
    """What data are like.

    Attributes
    ----------
    classes
        Names, in order.
    dtype
        Of one input.
    shape
        Of one input; None where a side varies.
    images
        Number of inputs in all splits.
    least, greatest
        Range of all values that are numbers.
    means, deviations
        Of the values of each channel, over the training split.
    missing
        Share of values that are NaN or infinite.
    blank
        Share of inputs whose values are all the same: a lens cap, a dead sensor.
    shares
        Share of each class in the training split.
    duplicates
        Share of training inputs that repeat another one exactly.
    conflicts
        Number of inputs that occur under two labels.
    leaks
        Inputs outside the training split that occur in it exactly.
    near
        Share of inputs outside the training split (of at most 5,000) that are nearly one in it:
        another size or quality of the same picture.
    """

    classes: tuple[str, ...]
    dtype: str
    shape: tuple[int | None, ...]
    images: int
    least: float
    greatest: float
    means: tuple[float, ...]
    deviations: tuple[float, ...]
    missing: float
    blank: float
    shares: tuple[float, ...]
    duplicates: float
    conflicts: int
    leaks: int
    near: float


def profile(splits: Splits) -> Profile:
    """Measure data that are dealt."""
    parts = (splits.train, splits.validation, splits.calibration, splits.test)
    inputs = [np.asarray(image) for part in parts for image in part.images]
    sides = [{image.shape[axis] for image in inputs} for axis in range(inputs[0].ndim)]
    finite = [image if image.dtype.kind in "iu" else image[np.isfinite(image)] for image in inputs]
    sizes = sum(image.size for image in inputs)
    some = [image for image in finite if image.size]
    means, deviations = _channels(splits.train)
    rest = [content for part in parts[1:] for content in part.hashes]
    trained = frozenset(splits.train.hashes)
    counts = np.bincount(splits.train.labels, minlength=len(splits.classes))
    return Profile(
        classes=splits.classes,
        dtype=str(inputs[0].dtype),
        shape=tuple(next(iter(side)) if len(side) == 1 else None for side in sides),
        images=len(inputs),
        least=float(min((image.min() for image in some), default=math.nan)),
        greatest=float(max((image.max() for image in some), default=math.nan)),
        means=means,
        deviations=deviations,
        missing=1.0 - sum(image.size for image in finite) / sizes,
        blank=sum(not image.size or bool((image == image.flat[0]).all()) for image in finite) / len(inputs),
        shares=tuple(float(count) / len(splits.train) for count in counts),
        duplicates=1.0 - len(trained) / len(splits.train),
        conflicts=_conflicts(parts),
        leaks=sum(content in trained for content in rest),
        near=_near(splits),
    )


def _channels(dataset: Dataset) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and deviation of each channel, of what is finite."""
    width = dataset.images[0].shape[-1]
    count, total, squares = np.zeros(width), np.zeros(width), np.zeros(width)
    for image in dataset.images:
        flat = image.reshape(-1, width).astype(np.float64)
        there = np.isfinite(flat)
        flat = np.where(there, flat, 0.0)
        count, total, squares = count + there.sum(axis=0), total + flat.sum(axis=0), squares + (flat**2).sum(axis=0)
    mean = total / np.maximum(count, 1)
    deviation = np.sqrt(np.maximum(squares / np.maximum(count, 1) - mean**2, 0.0))
    return tuple(map(float, mean)), tuple(map(float, deviation))


def _conflicts(parts: Sequence[Dataset]) -> int:
    labels: dict[bytes, set[int]] = {}
    for part in parts:
        for content, label in zip(part.hashes, part.labels, strict=True):
            labels.setdefault(content, set()).add(int(label))
    return sum(len(found) > 1 for found in labels.values())


def _near(splits: Splits) -> float:
    """Share of inputs outside training whose coarse picture is one of training's, whatever its brightness."""
    if not splits.train.pictures:
        return 0.0
    known = _coarse(splits.train)
    rest = np.concatenate([_coarse(part) for part in (splits.validation, splits.calibration, splits.test)])
    if len(rest) > COMPARED:
        rest = rest[np.random.default_rng(splits.seed).permutation(len(rest))[:COMPARED]]
    hits = sum(int(((rest[at : at + ROWS] @ known.T).max(axis=1) > NEAR).sum()) for at in range(0, len(rest), ROWS))
    return hits / len(rest)


def _coarse(dataset: Dataset) -> npt.NDArray[np.float32]:
    """Means on a grid, without their mean and of length 1, float32 ``[n, 64]``; of blank images zeros."""
    found = np.empty((len(dataset), GRID * GRID), np.float32)
    for i, image in enumerate(dataset.images):
        grey = np.asarray(image, np.float32).mean(axis=-1)
        rows, columns = (_edges(side) for side in grey.shape)
        sums = np.add.reduceat(np.add.reduceat(grey, rows[:-1], axis=0), columns[:-1], axis=1)
        means = sums / np.outer(np.diff(rows), np.diff(columns))
        found[i] = np.resize(means, (GRID, GRID)).reshape(-1)
    found -= found.mean(axis=1, keepdims=True)
    found /= np.maximum(np.linalg.norm(found, axis=1, keepdims=True), 1e-6)
    return found


def _edges(side: int) -> npt.NDArray[np.int64]:
    """Edges of the grid's cells; a side shorter than the grid has fewer."""
    return np.unique(np.linspace(0, side, GRID + 1).astype(np.int64))
