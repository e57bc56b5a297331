"""What data are like, in a record of numbers: ranges, faults, classes, and what training and tests share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from edge_sdk.cloud.training.specification import column_names
from edge_sdk.datasets import Dataset, Splits

__all__ = ["Profile", "profile"]

GRID = 8  # near copies are found on so many means to a side
NEAR = 0.999  # correlation of those means
COMPARED = 5_000  # evaluation inputs that are compared, at most
ROWS = 1_000  # of them at a time
DIGITS = 2  # of a row's numbers in deviations of their columns: rows that agree in them are near copies


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
        Of the values of each channel, or column of numbers, over the training split.
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
        another size or quality of the same picture, a row written with fewer digits.
    columns
        Names, of rows and windows.
    lacking
        Of each column the share of values that are missing.
    ranges
        Of each column of numbers the least and the greatest.
    words
        Of each column of texts those that occur.
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
    columns: tuple[str, ...] = ()
    lacking: tuple[float, ...] = ()
    ranges: tuple[tuple[float, float], ...] = ()
    words: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


def profile(splits: Splits) -> Profile:
    """Measure data that are dealt."""
    parts = (splits.train, splits.validation, splits.calibration, splits.test)
    inputs = [np.asarray(image) for part in parts for image in part.images]
    sides = [{image.shape[axis] for image in inputs} for axis in range(inputs[0].ndim)]
    finite = [image if image.dtype.kind in "iu" else image[np.isfinite(image)] for image in inputs]
    sizes = sum(image.size for image in inputs)
    columns = _columns(parts)
    if columns is None:
        some = [image for image in finite if image.size]
        extents = [(float(image.min()), float(image.max())) for image in some]
    else:
        extents = list(columns.ranges)
    means, deviations = _channels(splits.train)
    rest = [content for part in parts[1:] for content in part.hashes]
    trained = frozenset(splits.train.hashes)
    counts = np.bincount(splits.train.labels, minlength=len(splits.classes))
    return Profile(
        classes=splits.classes,
        dtype=str(inputs[0].dtype),
        shape=tuple(next(iter(side)) if len(side) == 1 else None for side in sides),
        images=len(inputs),
        least=min((low for low, _ in extents), default=0.0),
        greatest=max((high for _, high in extents), default=0.0),
        means=means,
        deviations=deviations,
        missing=1.0 - sum(image.size for image in finite) / sizes,
        blank=sum(not image.size or bool((image == image.flat[0]).all()) for image in finite) / len(inputs),
        shares=tuple(float(count) / len(splits.train) for count in counts),
        duplicates=1.0 - len(trained) / len(splits.train),
        conflicts=_conflicts(parts),
        leaks=sum(content in trained for content in rest),
        near=_near(splits) if columns is None else _near_rows(splits, columns.numbers, means, deviations),
        **({} if columns is None else columns.fields),
    )


@dataclass(frozen=True, slots=True)
class _Columns:
    names: tuple[str, ...]
    numbers: list[int]
    lacking: tuple[float, ...]
    ranges: tuple[tuple[float, float], ...]
    words: Mapping[str, tuple[str, ...]]

    @property
    def fields(self) -> dict[str, Any]:
        return {"columns": self.names, "lacking": self.lacking, "ranges": self.ranges, "words": self.words}


def _columns(parts: Sequence[Dataset]) -> _Columns | None:
    """Look at rows and windows by column; None of all else."""
    first = parts[0]
    if not first.rows:
        return None
    values = np.concatenate([np.asarray(part.images).reshape(-1, first.channels) for part in parts])
    finite, names = np.isfinite(values), column_names(first)
    numbers, ranges, words = [], [], {}
    for at, name in enumerate(names):
        there = values[finite[:, at], at]
        if name in first.words:
            words[name] = tuple(first.words[name][int(place)] for place in np.unique(there))
        else:
            numbers.append(at)
            ranges.append((float(there.min()), float(there.max())) if len(there) else (0.0, 0.0))
    lacking = tuple(float(share) for share in 1.0 - finite.mean(axis=0))
    return _Columns(names, numbers, lacking, tuple(ranges), words)


def _channels(dataset: Dataset) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and deviation of each channel or column of numbers, of what is finite."""
    width = 1 if dataset.sample_rate else dataset.images[0].shape[-1]
    count, total, squares = np.zeros(width), np.zeros(width), np.zeros(width)
    for image in dataset.images:
        flat = image.reshape(-1, width).astype(np.float64)
        there = np.isfinite(flat)
        flat = np.where(there, flat, 0.0)
        count, total, squares = count + there.sum(axis=0), total + flat.sum(axis=0), squares + (flat**2).sum(axis=0)
    mean = total / np.maximum(count, 1)
    deviation = np.sqrt(np.maximum(squares / np.maximum(count, 1) - mean**2, 0.0))
    names = column_names(dataset) if dataset.rows else ()
    kept = [at for at in range(width) if not names or names[at] not in dataset.words]
    return tuple(map(float, mean[kept])), tuple(map(float, deviation[kept]))


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


def _near_rows(splits: Splits, numbers: list[int], means: Sequence[float], deviations: Sequence[float]) -> float:
    """Share of rows outside training that agree with one of it to a hundredth of each column's deviation."""
    centre, scale = np.zeros(splits.train.channels), np.ones(splits.train.channels)
    centre[numbers], scale[numbers] = means, np.maximum(deviations, 1e-12)

    def rounded(part: Dataset) -> list[bytes]:
        values = np.round((np.asarray(part.images, np.float64) - centre) / scale, DIGITS) + 0.0
        return [row.tobytes() for row in values]

    known = frozenset(rounded(splits.train))
    rest = [row for part in (splits.validation, splits.calibration, splits.test) for row in rounded(part)]
    return sum(row in known for row in rest) / len(rest)


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
