"""Check the fields of steps: every fault is one line that names the step, by position and kind."""

from __future__ import annotations

import math
from typing import Any, Protocol

import numpy as np

from edge_sdk.errors import ProcessingError

__all__ = ["MAX_COLUMNS", "MAX_SIDE", "choice", "integer", "number", "numbers", "shown", "sides", "step_error"]

MAX_SIDE = 8192
"""Largest height or width a specification may ask for, in pixels."""

MAX_COLUMNS = 4096
"""Most columns of a table."""


class Named(Protocol):
    """A step, by what it is called."""

    @property
    def op(self) -> str:
        """Name of its kind."""


def shown(value: object) -> str:
    """Return a value for an error message: on one line, and short whatever a file holds."""
    if isinstance(value, int) and abs(value) >= 10**20:
        return "a huge integer"
    text = repr(value) if isinstance(value, (str, int, float, type(None))) else type(value).__name__
    return text if len(text) <= 60 else text[:57] + "..."


def step_error(index: int, op: object, message: str) -> ProcessingError:
    """Return the error of one step, named by position and kind."""
    return ProcessingError(f"processing step {index} ({op}): {message}")


def choice(index: int, step: Named, name: str, choices: tuple[str, ...]) -> Any:
    """Return a field that is one of a few words."""
    value = getattr(step, name)
    if not isinstance(value, str) or value not in choices:
        raise step_error(index, step.op, f"{name} must be {' or '.join(choices)}, not {shown(value)}")
    return value


def sides(index: int, step: Named) -> tuple[int, int]:
    """Return height and width."""
    return integer(index, step, "height", 1, MAX_SIDE), integer(index, step, "width", 1, MAX_SIDE)


def integer(index: int, step: Named, name: str, low: int, high: int) -> int:
    """Return a field that is a whole number in a range, both ends included."""
    value = getattr(step, name)
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, (int, np.integer)) or not low <= value <= high:
        raise step_error(index, step.op, f"{name} must be an integer from {low} to {high}, not {shown(value)}")
    return int(value)


def number(index: int, step: Named, name: str, value: object) -> float:
    """Return a value that is a finite number, as a float."""
    number = isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, (bool, np.bool_))
    try:
        as_float = float(value) if number else math.nan  # type: ignore[arg-type]
    except OverflowError:
        as_float = math.inf
    if not math.isfinite(as_float):
        raise step_error(index, step.op, f"{name} must be a finite number, not {shown(value)}")
    return as_float + 0.0  # -0.0 would give another digest than 0.0


def numbers(index: int, step: Named, name: str) -> tuple[float, ...]:
    """Return a field that is a list of finite numbers."""
    value = getattr(step, name)
    if not isinstance(value, (list, tuple)):
        raise step_error(index, step.op, f"{name} must be a list of numbers, not {shown(value)}")
    return tuple(number(index, step, name, item) for item in value)
