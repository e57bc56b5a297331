"""The steps of tables and sensors: one frozen record a kind, checked strictly."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np

from edge_sdk.processing.fields import MAX_COLUMNS, choice, integer, number, numbers, shown, step_error

__all__ = ["CHECKS", "MAX_VALUES", "Categories", "Clip", "Columns", "Encoding", "Impute", "Window"]

MAX_VALUES = 4096
"""Most values that are known of a column."""

MAX_ROWS = 1_000_000

Encoding = Literal["index", "one_hot"]


@dataclass(frozen=True, slots=True)
class Columns:
    """What a row holds, by name and in order."""

    op: ClassVar[str] = "columns"
    names: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Categories:
    """Replace a column by the place of its value: 0 for one that is not known, else 1 and up; or one column a place."""

    op: ClassVar[str] = "categories"
    column: str
    values: tuple[str, ...] | tuple[float, ...]
    encoding: Encoding = "index"

    @property
    def width(self) -> int:
        """Number of columns it makes."""
        return 1 if self.encoding == "index" else 1 + len(self.values)

    @property
    def codes(self) -> tuple[float, ...]:
        """What stands for the values in an array of numbers: themselves, or the places of words from 0."""
        values: tuple[str | float, ...] = self.values
        return tuple(float(place) if isinstance(value, str) else value for place, value in enumerate(values))


@dataclass(frozen=True, slots=True)
class Impute:
    """Put a value where a number is missing (NaN)."""

    op: ClassVar[str] = "impute"
    values: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Clip:
    """Bound every number from below and from above."""

    op: ClassVar[str] = "clip"
    low: tuple[float, ...]
    high: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Window:
    """Take so many rows at once, the oldest first."""

    op: ClassVar[str] = "window"
    length: int


def _checked_columns(index: int, step: Columns) -> Columns:
    names = step.names
    if not isinstance(names, (list, tuple)) or not all(isinstance(name, str) and name for name in names):
        raise step_error(index, step.op, "names must be a list of texts, none of them empty")
    if not 0 < len(names) <= MAX_COLUMNS:
        raise step_error(index, step.op, f"need 1 to {MAX_COLUMNS} names, not {len(names)}")
    if len(set(names)) != len(names):
        twice = next(name for place, name in enumerate(names) if name in names[:place])
        raise step_error(index, step.op, f"column {shown(twice)} is there twice")
    return Columns(tuple(names))


def _checked_categories(index: int, step: Categories) -> Categories:
    if not isinstance(step.column, str):
        raise step_error(index, step.op, f"column must be a text, not {shown(step.column)}")
    values = step.values
    if not isinstance(values, (list, tuple)) or not 0 < len(values) <= MAX_VALUES:
        raise step_error(index, step.op, f"values must be a list of 1 to {MAX_VALUES} texts or numbers")
    if all(isinstance(value, str) for value in values):
        checked: tuple[Any, ...] = tuple(values)
        distinct = len(set(checked))
    else:
        if any(isinstance(value, str) for value in values):
            raise step_error(index, step.op, "values must be all texts or all numbers")
        checked = tuple(number(index, step, "values", value) for value in values)
        if max(map(abs, checked)) > 1e30:
            raise step_error(index, step.op, "its values leave the range of float32")
        distinct = len(set(np.array(checked, np.float32).tolist()))
    if distinct != len(checked):
        raise step_error(index, step.op, "values holds one twice (numbers are compared as float32)")
    return Categories(step.column, checked, choice(index, step, "encoding", ("index", "one_hot")))


def _checked_impute(index: int, step: Impute) -> Impute:
    return Impute(_bounded(index, step, "values"))


def _checked_clip(index: int, step: Clip) -> Clip:
    low, high = _bounded(index, step, "low"), _bounded(index, step, "high")
    if len(low) != len(high):
        raise step_error(index, step.op, f"need as many values of low as of high, not {len(low)} and {len(high)}")
    if not all(least <= most for least, most in zip(low, high, strict=True)):
        raise step_error(index, step.op, "low must not be above high")
    return Clip(low, high)


def _checked_window(index: int, step: Window) -> Window:
    return Window(integer(index, step, "length", 1, MAX_ROWS))


def _bounded(index: int, step: Impute | Clip, name: str) -> tuple[float, ...]:
    values = numbers(index, step, name)
    if not values:
        raise step_error(index, step.op, f"{name} needs one number for all columns, or one a column")
    if max(map(abs, values)) > 1e30:
        raise step_error(index, step.op, f"{name} leaves the range of float32")
    return values


CHECKS: dict[type[Any], Callable[[int, Any], Any]] = {
    Columns: _checked_columns,
    Categories: _checked_categories,
    Impute: _checked_impute,
    Clip: _checked_clip,
    Window: _checked_window,
}
"""Kind of step to what checks its values and brings them to one form."""
