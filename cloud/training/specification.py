"""Which processing goes before a network: chosen by the form of the data, with constants of the training split."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from edge_sdk.datasets import Dataset, Splits
from edge_sdk.errors import DataError
from edge_sdk.processing import (
    Categories,
    Clip,
    Columns,
    DeviceProcessor,
    Impute,
    ProcessingSpec,
    Standardize,
    Step,
    Window,
)

__all__ = ["check_values", "column_names", "processing_for"]

LARGEST_SIDE = 96  # images beyond this are resized by the default specification
TAILS = (0.001, 0.999)  # numbers are clipped to these quantiles, or one outlier would take the whole grid of int8
LARGEST = 1e30  # as processing takes in its constants: well within float32
KNOWN = 10  # times that a text must occur in training to be known; rarer ones teach what an unknown one is
FRAME, HOP = 0.025, 0.01  # seconds, of sound
CLIPS = 500  # of which the mean spectrum is taken, at most


def processing_for(dataset: Dataset, *, size: int | None = None, impute: bool | None = None) -> ProcessingSpec:
    """Choose a specification for a data set.

    Images keep their own size or are resized, and get their own mean and spread; sound becomes
    log-mel spectra of 40 bands; rows and windows are clipped to what is usual, and standardised by
    column, their texts become one column each.

    Parameters
    ----------
    dataset
        The training split; no other one may decide a preprocessing constant.
    size
        Side in pixels to resize images to. By default small images of one size keep it, others become
        squares of at most 96.
    impute
        Whether the mean is put where a number of a row is missing; None: if one is in ``dataset``.

    Raises
    ------
    DataError
        The data are none of these; a size of what are no images; a column without a number.
    """
    if dataset.pictures:
        return _image(dataset, size)
    if size is not None:
        raise DataError(f"a size of {size} pixels is for images; these data are {_told(dataset)}")
    if dataset.sample_rate is not None:
        return _sound(dataset, dataset.sample_rate)
    values = dataset.images
    if not isinstance(values, np.ndarray) or values.dtype.kind != "f" or values.ndim not in (2, 3):
        raise DataError(
            f"the data are {_told(dataset)}; training takes images (uint8), rows [n, columns] and windows "
            "[n, rows, columns] of floats, and clips of sound [n, samples] with a sample_rate"
        )
    return _rows(dataset, values, impute)


def check_values(splits: Splits, spec: ProcessingSpec) -> None:
    """Refuse rows that no device would take: infinite numbers, and missing ones where nothing is put.

    Raises
    ------
    DataError
        Naming column and split.
    """
    if spec.modality != "table":
        return
    numbers = [at for at, name in enumerate(column_names(splits.train)) if name not in splits.train.words]
    for name in splits.digests:
        values = np.asarray(getattr(splits, name).images).reshape(-1, splits.train.channels)[:, numbers]
        values = np.where(np.abs(values) > LARGEST, np.inf, values)
        wrong = np.isinf(values) if spec.find(Impute) is not None else ~np.isfinite(values)
        if wrong.any():
            row, at = (int(place) for place in np.argwhere(wrong)[0])
            what = "infinite" if np.isinf(values[row, at]) else "missing, and the teacher to start from puts nothing"
            raise DataError(
                f"{splits.spec}: column {column_names(splits.train)[numbers[at]]!r} has {wrong[:, at].sum()} values "
                f"in {name} that are {what}"
            )


def column_names(dataset: Dataset) -> tuple[str, ...]:
    """Return the names of columns; ``x0`` and so on where the data name none."""
    return dataset.columns or tuple(f"x{at}" for at in range(dataset.channels))


# ---- one for each form


def _image(dataset: Dataset, size: int | None) -> ProcessingSpec:
    shapes = np.array([image.shape[:2] for image in dataset.images])
    if size is not None:
        height = width = size
    elif dataset.uniform and shapes.max() <= LARGEST_SIDE:
        height, width = (int(side) for side in shapes[0])
    else:
        height = width = int(min(LARGEST_SIDE, shapes.min(axis=1).max()))
    count, total, squares = 0, np.zeros(dataset.channels), np.zeros(dataset.channels)
    for image in dataset.images:
        flat = image.reshape(-1, dataset.channels).astype(np.float64)
        count, total, squares = count + len(flat), total + flat.sum(axis=0), squares + (flat**2).sum(axis=0)
    mean = total / count
    std = np.sqrt(np.maximum(squares / count - mean**2, 1.0))
    return ProcessingSpec.image(
        height,
        width,
        dataset.channels,
        mean=[round(float(value), 3) for value in mean],
        std=[round(float(value), 3) for value in std],
    )


def _sound(dataset: Dataset, rate: int) -> ProcessingSpec:
    samples, frame, hop = dataset.images[0].shape[-1], round(FRAME * rate), round(HOP * rate)
    if frame < 4 or samples < frame:
        raise DataError(f"clips of {samples} samples at {rate} Hz are shorter than one frame of 25 ms")
    bare = ProcessingSpec.audio(
        samples,
        sample_rate=rate,
        frame_length=frame,
        frame_step=hop,
        fft_length=1 << (frame - 1).bit_length(),
        low_hz=min(20.0, rate / 8),
    )
    process = DeviceProcessor(bare)
    some = np.linspace(0, len(dataset) - 1, min(CLIPS, len(dataset))).astype(np.int64)
    spectra = np.concatenate([process(dataset.images[at]) for at in some])
    mean, std = round(float(spectra.mean()), 3), max(round(float(spectra.std()), 3), 1e-3)
    first, *rest = bare.steps
    return ProcessingSpec((first, Standardize((mean,), (std,)), *rest))


def _rows(dataset: Dataset, values: npt.NDArray[np.float64], impute: bool | None) -> ProcessingSpec:
    names = column_names(dataset)
    flat = values.reshape(-1, values.shape[-1])
    steps: list[Step] = [Columns(names)]
    numbers = []
    for at, name in enumerate(names):
        words = dataset.words.get(name)
        if words is None:
            numbers.append(_number(flat[:, at], f"column {name!r}"))
            continue
        counts = np.bincount(flat[~np.isnan(flat[:, at]), at].astype(np.int64), minlength=len(words))
        known = tuple(word for word, count in zip(words, counts, strict=True) if count >= KNOWN)
        if not known:
            raise DataError(f"column {name!r} has no text that occurs {KNOWN} times in training; leave it out")
        steps.append(Categories(name, known, "one_hot"))
    if numbers:
        fill, low, high, mean, std = (tuple(found) for found in zip(*numbers, strict=True))
        columns = [at for at, name in enumerate(names) if name not in dataset.words]
        if np.isnan(flat[:, columns]).any() if impute is None else impute:
            steps.append(Impute(fill))
        steps += [Clip(low, high), Standardize(mean, std)]
    if values.ndim == 3:
        steps.append(Window(values.shape[1]))
    return ProcessingSpec(tuple(steps))


def _number(column: npt.NDArray[np.float64], where: str) -> tuple[float, float, float, float, float]:
    """Return what a column's missing values become, its bounds, and its mean and deviation within them."""
    there = column[np.isfinite(column)].astype(np.float64)
    if not len(there):
        raise DataError(f"{where} has no number in training; leave it out")
    if np.abs(there).max() > LARGEST:
        raise DataError(f"{where} has numbers beyond {LARGEST:.0e}, too large for float32; scale them, or leave it out")
    low, high = np.quantile(there, TAILS)
    if low == high:  # rare values may be what matters
        low, high = there.min(), there.max()
    there = np.clip(there, low, high)
    mean, std = float(there.mean()), float(there.std())
    return mean, float(low), float(high), mean, std if std > 1e-9 * max(abs(mean), 1.0) else 1.0


def _told(dataset: Dataset) -> str:
    first = np.asarray(dataset.images[0])
    return f"{first.dtype} [{', '.join(('n', *map(str, first.shape)))}]"
