"""Tables and sensors: a row of columns, or a window of rows, to a model's input tensor."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_sdk.errors import InputError, ProcessingError
from edge_sdk.processing.arrays import describe
from edge_sdk.processing.spec import ProcessingSpec
from edge_sdk.processing.steps import RANGES, Cast, Quantize, Standardize
from edge_sdk.processing.table_steps import Categories, Clip, Columns, Impute, Window

__all__ = ["FoldedTable", "Lookup", "TableProcessor", "fold_table", "table_reference", "table_sample", "table_slack"]

_LARGEST = float(np.finfo(np.float32).max)

_Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Lookup:
    """One column that is looked up: where it is, what is known of it, and where its places go."""

    column: int
    codes: NDArray[np.float32]
    one_hot: bool
    feature: int
    width: int


@dataclass(frozen=True, slots=True, eq=False)
class FoldedTable:
    """A specification as constants.

    Attributes
    ----------
    names
        Of the columns.
    shape
        Of an input: (columns,) or (length, columns).
    numbers, features
        The columns that are not looked up, and which features of the output they become.
    lookups
        The others.
    width
        Features of the output.
    impute, low, high, mean, std
        Of the number columns, one value for all or one each; None where the step is not there.
    """

    names: tuple[str, ...]
    shape: tuple[int, ...]
    numbers: NDArray[np.intp]
    features: NDArray[np.intp]
    lookups: tuple[Lookup, ...]
    width: int
    impute: _Floats | None
    low: _Floats | None
    high: _Floats | None
    mean: _Floats | None
    std: _Floats | None


def fold_table(spec: ProcessingSpec) -> FoldedTable:
    """Return the constants of a specification.

    Raises
    ------
    ProcessingError
        It is not of tables.
    """
    columns, window = spec.find(Columns), spec.find(Window)
    if columns is None:
        raise ProcessingError(f"processing: has no columns, it is of {spec.modality} inputs")
    categories = {step.column: step for step in spec.steps if isinstance(step, Categories)}
    numbers, features, lookups, feature = [], [], [], 0
    for index, name in enumerate(columns.names):
        step = categories.get(name)
        if step is None:
            numbers.append(index)
            features.append(feature)
            feature += 1
        else:
            one_hot = step.encoding == "one_hot"
            lookups.append(Lookup(index, np.array(step.codes, np.float32), one_hot, feature, step.width))
            feature += step.width
    impute, clip, standardize = spec.find(Impute), spec.find(Clip), spec.find(Standardize)
    return FoldedTable(
        names=columns.names,
        shape=(len(columns.names),) if window is None else (window.length, len(columns.names)),
        numbers=np.array(numbers, np.intp),
        features=np.array(features, np.intp),
        lookups=tuple(lookups),
        width=feature,
        impute=None if impute is None else np.array(impute.values),
        low=None if clip is None else np.array(clip.low),
        high=None if clip is None else np.array(clip.high),
        mean=None if standardize is None else np.array(standardize.mean),
        std=None if standardize is None else np.array(standardize.std),
    )


class TableProcessor:
    """The device executor: NumPy in float64, rounded once at the end.

    Holds no state but constants, so threads may share one.

    Parameters
    ----------
    spec
        What to do.
    """

    def __init__(self, spec: ProcessingSpec) -> None:
        self._folded = folded = fold_table(spec)
        self._quantize, self._cast = spec.find(Quantize), spec.find(Cast)
        self._scale = 1.0 if self._quantize is None else 1.0 / self._quantize.scale
        gain = self._scale if folded.std is None else self._scale / folded.std
        self._gain = None if np.all(gain == 1.0) else gain

    def __call__(self, x: object, tensor: NDArray[Any]) -> None:
        """Process one row or window into a tensor without its batch axis.

        Parameters
        ----------
        x : ndarray of float32 or float64, shape (columns,) or (length, columns)
            Missing values are NaN. A column of words holds their places among the known ones, from 0.
        tensor
            Filled.

        Raises
        ------
        InputError
            Wrong dtype or shape; an infinity; a NaN where nothing is put in its place.
        """
        folded = self._folded
        table = _checked(folded, x)
        numbers = table[..., folded.numbers] if folded.lookups else table
        if folded.impute is not None:
            missing = np.isnan(numbers)
            if missing.any():
                numbers = np.where(missing, folded.impute, numbers)
        if folded.low is not None and folded.high is not None:
            numbers = np.minimum(np.maximum(numbers, folded.low), folded.high)
        if folded.mean is not None:
            numbers = numbers - folded.mean
        if self._gain is not None:
            numbers = numbers * self._gain
        if not folded.lookups:
            self._store(numbers, tensor)
            return
        values = np.zeros(tensor.shape)
        values[..., folded.features] = numbers
        for lookup in folded.lookups:
            found = table[..., lookup.column, None].astype(np.float32) == lookup.codes
            if lookup.one_hot:
                values[..., lookup.feature] = ~found.any(axis=-1)
                values[..., lookup.feature + 1 : lookup.feature + lookup.width] = found
            else:
                values[..., lookup.feature] = np.where(found.any(axis=-1), 1 + found.argmax(axis=-1), 0)
            values[..., lookup.feature : lookup.feature + lookup.width] *= self._scale
        self._store(values, tensor)

    def _store(self, values: _Floats, tensor: NDArray[Any]) -> None:
        if self._quantize is not None:
            rounded = np.rint(values) + self._quantize.zero_point
            tensor[...] = np.minimum(np.maximum(rounded, self._low), self._high)
            return
        if not np.abs(values).max() <= _LARGEST:
            raise InputError("table: a value is too large for float32 after processing; clip it")
        with np.errstate(over="ignore"):  # a float16 may become infinite
            tensor[...] = values

    @property
    def _low(self) -> int:
        assert self._quantize is not None
        return RANGES[self._quantize.dtype][0]

    @property
    def _high(self) -> int:
        assert self._quantize is not None
        return RANGES[self._quantize.dtype][1]


def table_reference(spec: ProcessingSpec, x: object) -> _Floats:
    """Return the exact result of a specification on one row or window; see `edge_sdk.processing.reference`."""
    folded = fold_table(spec)
    table = _checked(folded, x)
    columns = {name: table[..., index, None] for index, name in enumerate(folded.names)}
    numbers = [name for index, name in enumerate(folded.names) if index in folded.numbers]
    for step in spec.steps:
        match step:
            case Categories():
                columns[step.column] = _looked_up(step, columns[step.column])
            case Impute():
                for name, value in _each(numbers, step.values):
                    columns[name] = np.where(np.isnan(columns[name]), value, columns[name])
            case Clip():
                for (name, low), (_, high) in zip(_each(numbers, step.low), _each(numbers, step.high), strict=True):
                    columns[name] = np.clip(columns[name], low, high)
            case Standardize():
                for (name, mean), (_, std) in zip(_each(numbers, step.mean), _each(numbers, step.std), strict=True):
                    columns[name] = (columns[name] - mean) / std
            case Quantize():
                columns = {name: column / step.scale + step.zero_point for name, column in columns.items()}
            case _:
                pass  # names, checked already; a shape, checked already; rounds only
    return np.concatenate(list(columns.values()), axis=-1)[None]


def _each(names: list[str], values: tuple[float, ...]) -> list[tuple[str, float]]:
    return list(zip(names, values * len(names) if len(values) == 1 else values, strict=True))


def _looked_up(step: Categories, column: _Floats) -> _Floats:
    codes = [float(np.float32(code)) for code in step.codes]
    flat = [float(np.float32(value)) for value in column.ravel()]
    places = np.array([1 + codes.index(value) if value in codes else 0 for value in flat], np.float64)
    if step.encoding == "one_hot":
        return np.eye(step.width)[places.astype(np.intp)].reshape((*column.shape[:-1], step.width))
    return places.reshape(column.shape)


def _checked(folded: FoldedTable, x: object) -> _Floats:
    """Return an input as float64, with nothing missing or infinite that is not allowed to be."""
    if not isinstance(x, np.ndarray) or x.dtype.kind != "f" or x.shape != folded.shape:
        what = "a row" if len(folded.shape) == 1 else "a window of rows"
        raise InputError(f"table: need {what}, float32 or float64 of shape {folded.shape}, not {describe(x)}")
    table: _Floats = x.astype(np.float64, copy=False)
    if not np.isfinite(table).all():
        wrong = np.isinf(table)
        if folded.impute is None:
            wrong[..., folded.numbers] |= np.isnan(table[..., folded.numbers])
        if wrong.any():
            *row, column = (int(index) for index in np.argwhere(wrong)[0])
            where = f" in row {row[0]}" if row else ""
            value = "infinite" if np.isinf(table[(*row, column)]) else "missing (NaN), and there is no impute step"
            raise InputError(f"table: column {folded.names[column]!r} is {value}{where}")
    return table


def table_slack(spec: ProcessingSpec, expected: _Floats, *, keras: bool) -> _Floats:
    """Return what an executor may differ from the reference by, in units of the output before rounding.

    The device computes in float64; Keras layers in float32, so what is standardised loses the digits
    that its mean has.
    """
    folded, quantize = fold_table(spec), spec.find(Quantize)
    scale, zero_point = (1.0, 0) if quantize is None else (quantize.scale, quantize.zero_point)
    size = np.abs(expected - zero_point) * scale
    if folded.mean is not None and folded.std is not None:
        size[..., folded.features] += 2 * np.abs(folded.mean) / folded.std
    slack: _Floats = (size * (2.0**-21 if keras else 2.0**-45) + 1e-30) / scale
    return slack


def table_sample(spec: ProcessingSpec, rng: np.random.Generator) -> NDArray[np.float32]:
    """Return a row or window as the specification expects one: spread by its mean and std, some of it missing."""
    folded = fold_table(spec)
    table = np.zeros(folded.shape)
    shape = (*folded.shape[:-1], len(folded.numbers))
    mean, std = (0.0, 1.0) if folded.mean is None or folded.std is None else (folded.mean, folded.std)
    numbers = mean + std * rng.normal(size=shape)
    if folded.impute is not None:
        numbers[rng.random(shape) < 0.1] = np.nan
    table[..., folded.numbers] = numbers
    for lookup in folded.lookups:
        places = rng.integers(0, len(lookup.codes) + 1, folded.shape[:-1])
        table[..., lookup.column] = np.append(lookup.codes, np.nan)[places]  # the last one is not known
    return table.astype(np.float32)
