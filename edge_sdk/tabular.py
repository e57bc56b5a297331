"""Rows of named columns, from a CSV or Parquet file: numbers as they are, texts as places in a list of words.

`read_table` reads a file. `as_known` says rows in the words of a model: the place of a text in the
words of a file means nothing to a model that was trained on another one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from edge_sdk.errors import DataError, MissingExtraError, one_line
from edge_sdk.processing.spec import ProcessingSpec
from edge_sdk.processing.table_steps import Categories, Columns

if TYPE_CHECKING:
    from edge_sdk.datasets import Dataset

__all__ = ["LABEL", "MAX_WORDS", "Table", "as_known", "read_table"]

LABEL = "label"
TIMES, STRATA = "times", "strata"  # columns that are no features, as the arrays of an .npz file
INDEX = "__index_level_"  # what pandas calls the number of a row in Parquet, which is no feature
BLOCK = 1 << 20  # bytes of a CSV file that are read at a time; no row may have more
MAX_WORDS = 1000  # a column of more different texts is no category


@dataclass(frozen=True, eq=False)
class Table:
    """A file of rows.

    Attributes
    ----------
    columns
        Names of the features, in order.
    values
        float64 ``[n, columns]``; NaN where a value is missing, of texts the places in ``words``, from 0.
    words
        Of each column of texts what occurs in it, sorted.
    labels, classes
        int64 ``[n]``, and what they are places in.
    times, strata
        As of `edge_sdk.datasets.Dataset`.
    """

    columns: tuple[str, ...]
    values: npt.NDArray[np.float64]
    words: Mapping[str, tuple[str, ...]]
    labels: npt.NDArray[np.int64]
    classes: tuple[str, ...]
    times: npt.NDArray[np.float64] | None = field(default=None)
    strata: npt.NDArray[np.str_] | None = field(default=None)


def read_table(path: Path, *, label: str = LABEL, limit: int = 1 << 33, labelled: bool = True) -> Table:
    """Read a CSV file with a line of names, or a Parquet file.

    Parameters
    ----------
    path
        Ends in ``.csv`` or ``.parquet``.
    label
        The column of classes: texts, integers or booleans. Columns ``times`` and ``strata`` are no
        features either; all others are, and hold numbers, booleans or texts.
    limit
        Bytes that the file may have, unpacked.
    labelled
        Whether the labels are looked at; otherwise all rows are of one class.

    Raises
    ------
    DataError
        The file cannot be used; names it and the column at fault.
    MissingExtraError
        pyarrow is not installed.
    """
    try:
        import pyarrow as pa
    except ModuleNotFoundError as error:
        raise MissingExtraError("pyarrow", "compress") from error
    if path.exists() and not path.is_file():  # a device or a pipe may never end
        raise DataError(f"{path} is not a file")
    try:
        found = _read(path, limit)
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or one_line(error, 200)}") from error
    except (pa.ArrowException, UnicodeDecodeError, ValueError) as error:
        if "block" in str(error) and path.stat().st_size > BLOCK:  # how pyarrow says that a row does not end in one
            raise DataError(
                f"{path} has a row of more than {BLOCK >> 20} MiB: a quote is not closed, or it has too many columns; "
                "write such rows as .parquet or .npz"
            ) from error
        raise DataError(f"{path} is not a usable table: {_printable(one_line(error, 200))}") from error
    names = _checked_names(found.column_names, path)
    if labelled and label not in names:
        raise DataError(f"{path} has no column {label!r} of labels; say which one is, as table:{path}#COLUMN")
    features = tuple(name for name in names if name not in (label, TIMES, STRATA))
    if not features or not len(found):
        raise DataError(f"{path} has {len(found)} rows of {len(features)} columns beside {label!r}")
    values, words = np.empty((len(found), len(features))), {}
    for at, name in enumerate(features):
        values[:, at], known = _feature(found.column(name), f"{path}: column {name!r}")
        if known:
            words[name] = known
    labels, classes = np.zeros(len(found), np.int64), tuple[str, ...](("",))
    if labelled:
        labels, classes = _labels(found.column(label), f"{path}: column {label!r}")
    times = _times(found.column(TIMES), path) if TIMES in names else None
    strata = None
    if STRATA in names:
        strata = np.array([str(name) for name in found.column(STRATA).to_pylist()])
    return Table(features, values, words, labels, classes, times, strata)


def as_known(dataset: Dataset, spec: ProcessingSpec) -> Dataset:
    """Return rows as a specification reads them: texts by their places in its words; all else as it is.

    Parameters
    ----------
    dataset
        Of any kind; only rows that name their columns are looked at.
    spec
        Of the model that they are for.

    Raises
    ------
    DataError
        The rows have other columns than the specification.
    """
    columns = spec.find(Columns)
    if columns is None or not dataset.columns:
        return dataset
    if columns.names != dataset.columns:
        strange = sorted(set(columns.names) ^ set(dataset.columns))
        what = f"{strange[0]!r} is only in one of them" if strange else "their order differs"
        raise DataError(f"the columns of the data are not those of the model: {what}")
    known = {step.column: step.values for step in spec.steps if isinstance(step, Categories)}
    if differing := sorted(known.keys() ^ dataset.words.keys()):
        raise DataError(f"column {differing[0]!r} holds texts in the data and numbers in the model, or the reverse")
    if all(known[name] == words for name, words in dataset.words.items()):
        return dataset
    values = np.array(dataset.images)
    for name, words in dataset.words.items():
        places = {word: place for place, word in enumerate(known[name])}
        codes = np.array([places.get(word, np.nan) for word in words])
        column = values[..., dataset.columns.index(name)]
        there = ~np.isnan(column)
        column[there] = codes[column[there].astype(np.int64)]
    return replace(dataset, images=values, words={name: tuple(map(str, found)) for name, found in known.items()})


# ---- small parts


def _read(path: Path, limit: int) -> Any:
    if path.suffix.lower() == ".parquet":
        import pyarrow.parquet as pq

        with pq.ParquetFile(path) as file:
            groups = range(file.metadata.num_row_groups)
            _check_size(sum(file.metadata.row_group(group).total_byte_size for group in groups), limit)
            return file.read()
    if path.suffix.lower() == ".csv":
        from pyarrow import csv

        _check_size(path.stat().st_size, limit)
        return csv.read_csv(
            path,
            read_options=csv.ReadOptions(block_size=BLOCK),
            parse_options=csv.ParseOptions(newlines_in_values=True),
            convert_options=csv.ConvertOptions(strings_can_be_null=True),
        )
    raise ValueError("its name should end in .csv or .parquet")


def _check_size(size: int, limit: int) -> None:
    if size > limit:
        raise ValueError(f"{size} bytes unpacked are more than {limit >> 30} GiB")


def _checked_names(names: list[str], path: Path) -> list[str]:
    if index := [name for name in names if not name or name.startswith(INDEX)]:
        raise DataError(f"{path}: column {index[0]!r} has no name of its own; pandas writes none with index=False")
    if twice := sorted(name for name, count in Counter(names).items() if count > 1):
        raise DataError(f"{path}: two columns are called {twice[0]!r}")
    return names


def _feature(column: Any, where: str) -> tuple[npt.NDArray[np.float64], tuple[str, ...]]:
    """Return numbers, NaN where there is none, and the words that they are places in; no words: numbers as such."""
    import pyarrow as pa

    if column.null_count == len(column):
        raise DataError(f"{where} is empty; leave it out")
    kind = column.type
    if pa.types.is_boolean(kind) or pa.types.is_integer(kind) or pa.types.is_floating(kind):
        if pa.types.is_boolean(kind):
            column = column.cast(pa.int8())
        return np.asarray(column.cast(pa.float64(), safe=False).to_numpy(), np.float64), ()
    texts = _texts(column)
    if texts is None and pa.types.is_binary(kind):
        raise DataError(f"{where} holds bytes that are no UTF-8 text; write the file in UTF-8, or leave it out")
    if texts is None:
        raise DataError(f"{where} holds {kind}; make numbers or texts of it, or leave it out")
    words = tuple(sorted({text for text in texts if text is not None}))
    if len(words) > MAX_WORDS:
        raise DataError(f"{where} has {len(words):,} different texts, more than {MAX_WORDS:,}; leave it out")
    places: dict[str | None, float] = {word: float(place) for place, word in enumerate(words)}
    return np.array([places.get(text, np.nan) for text in texts]), words


def _texts(column: Any) -> list[str | None] | None:
    import pyarrow as pa

    kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    if not (pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)):
        return None
    return list(column.to_pylist())


def _labels(column: Any, where: str) -> tuple[npt.NDArray[np.int64], tuple[str, ...]]:
    import pyarrow as pa

    if column.null_count:
        raise DataError(f"{where} is empty in {column.null_count} of {len(column)} rows")
    values: list[Any] | None = _texts(column)
    if pa.types.is_integer(column.type) or pa.types.is_boolean(column.type):
        values = column.to_pylist()
    if values is None:
        raise DataError(f"{where} holds {column.type}; classes are texts, integers or booleans")
    classes = sorted(set(values))
    places = {value: place for place, value in enumerate(classes)}
    return np.array([places[value] for value in values], np.int64), tuple(map(str, classes))


def _times(column: Any, path: Path) -> npt.NDArray[np.float64]:
    import pyarrow as pa

    kind = column.type
    if pa.types.is_timestamp(kind) or pa.types.is_date64(kind):
        parts = {"s": 1.0, "ms": 1e3, "us": 1e6, "ns": 1e9}["ms" if pa.types.is_date64(kind) else kind.unit]
        seconds = np.asarray(column.cast(pa.int64()).to_numpy(), np.float64) / parts
    elif pa.types.is_date32(kind):
        seconds = np.asarray(column.cast(pa.int32()).to_numpy(), np.float64) * 86_400.0
    elif pa.types.is_integer(kind) or pa.types.is_floating(kind):
        seconds = np.asarray(column.to_numpy(), np.float64)
    else:
        raise DataError(f"{path}: column {TIMES!r} holds {kind}; expected times, or seconds since 1970")
    if not np.isfinite(seconds).all():
        raise DataError(f"{path}: column {TIMES!r} is empty in {int((~np.isfinite(seconds)).sum())} rows")
    return seconds


def _printable(text: str) -> str:
    """Return a text that a terminal can show: what is no text in a file may steer one."""
    return "".join(each if each.isprintable() else "\ufffd" for each in text)
