"""Tables and sensors: a row of columns, or a window of rows, to a model's input tensor."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from edge_sdk.errors import InputError, ProcessingError
from edge_sdk.ext.tables import TablePlan
from edge_sdk.processing.arrays import describe
from edge_sdk.processing.spec import ProcessingSpec
from edge_sdk.processing.steps import Quantize, Standardize
from edge_sdk.processing.table_steps import Categories, Clip, Columns, Impute, Window

__all__ = ["FoldedTable", "Lookup", "TableProcessor", "fold_table", "table_reference", "table_sample", "table_slack"]

_FLOATS = (np.float32, np.float64)
_DONE = -1  # of the kernel

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
    """The device executor: one pass of the kernel, in float64, rounded once at the end.

    Holds no state but constants, so threads may share one.

    Parameters
    ----------
    spec
        What to do.
    """

    def __init__(self, spec: ProcessingSpec) -> None:
        self._folded = folded = fold_table(spec)
        quantize = spec.find(Quantize)
        scale = 1.0 if quantize is None else 1.0 / quantize.scale
        numbers = _per_number(folded, scale)
        lookups = {lookup.column: (lookup.codes, lookup.one_hot, scale) for lookup in folded.lookups}
        self._plan = TablePlan(
            folded.shape[0] if len(folded.shape) == 2 else 1,
            [lookups[at] if at in lookups else next(numbers) for at in range(len(folded.names))],
            0 if quantize is None else quantize.zero_point,
        )

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
        table = _shaped(self._folded, x)
        direct = tensor.dtype != np.float16 and tensor.flags.c_contiguous
        out = tensor if direct else np.empty(tensor.shape, np.float32 if tensor.dtype == np.float16 else tensor.dtype)
        result = self._plan(table if table.flags.c_contiguous else np.ascontiguousarray(table), out)
        if result >= 0:
            _refuse(self._folded, table, result)
        if result < _DONE:
            raise InputError("table: a value is too large for float32 after processing; clip it")
        if not direct:
            with np.errstate(over="ignore"):  # a float16 may become infinite
                tensor[...] = out


def _per_number(folded: FoldedTable, scale: float) -> Iterator[tuple[float, float, float, float, float]]:
    """Give fill, low, high, mean and gain of each number column."""
    nothing = np.array([np.nan]), np.array([-np.inf]), np.array([np.inf]), np.zeros(1), np.ones(1)
    given = folded.impute, folded.low, folded.high, folded.mean, folded.std
    values = [default if value is None else value for value, default in zip(given, nothing, strict=True)]
    count = len(folded.numbers)
    for fill, low, high, mean, std in zip(*(np.broadcast_to(v, count) for v in values), strict=True):
        yield float(fill), float(low), float(high), float(mean), scale / float(std)


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


def _shaped(folded: FoldedTable, x: object) -> NDArray[Any]:
    if not isinstance(x, np.ndarray) or x.dtype not in _FLOATS or x.shape != folded.shape:
        what = "a row" if len(folded.shape) == 1 else "a window of rows"
        raise InputError(f"table: need {what}, float32 or float64 of shape {folded.shape}, not {describe(x)}")
    return x


def _checked(folded: FoldedTable, x: object) -> _Floats:
    """Return an input as float64, with nothing missing or infinite that is not allowed to be."""
    table: _Floats = _shaped(folded, x).astype(np.float64, copy=False)
    wrong = np.isinf(table)
    if folded.impute is None:
        wrong[..., folded.numbers] |= np.isnan(table[..., folded.numbers])
    if wrong.any():
        _refuse(folded, table, int(np.flatnonzero(wrong)[0]))
    return table


def _refuse(folded: FoldedTable, table: NDArray[Any], element: int) -> NoReturn:
    row, column = divmod(element, len(folded.names))
    where = f" in row {row}" if table.ndim == 2 else ""
    value = "infinite" if np.isinf(table.flat[element]) else "missing (NaN), and there is no impute step"
    raise InputError(f"table: column {folded.names[column]!r} is {value}{where}")


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
