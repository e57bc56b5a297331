"""What the steps of tables make, and whether they fit each other."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edge_sdk.processing.fields import shown, step_error
from edge_sdk.processing.shapes import check_count, check_gain, check_size
from edge_sdk.processing.steps import Quantize, Standardize
from edge_sdk.processing.table_steps import Categories, Clip, Columns, Impute, Window

if TYPE_CHECKING:
    from edge_sdk.processing.spec import ProcessingSpec

__all__ = ["table_shape", "table_takes"]

_NUMBERS = "columns that are not looked up"


def table_shape(spec: ProcessingSpec) -> tuple[int, ...]:
    """Return the shape of one processed row (1, features) or window (1, length, features), checked."""
    columns, window = spec.find(Columns), spec.find(Window)
    assert columns is not None  # the grammar
    looked_up: dict[str, Categories] = {}
    for index, step in enumerate(spec.steps):
        if isinstance(step, Categories):
            if step.column not in columns.names:
                raise step_error(index, step.op, f"there is no column {shown(step.column)}")
            if step.column in looked_up:
                raise step_error(index, step.op, f"column {shown(step.column)} is looked up twice")
            looked_up[step.column] = step
    numbers = len(columns.names) - len(looked_up)
    impute, clip, standardize = spec.find(Impute), spec.find(Clip), spec.find(Standardize)
    if impute is not None:
        check_count(spec, impute, len(impute.values), numbers, _NUMBERS)
    if clip is not None:
        check_count(spec, clip, len(clip.low), numbers, _NUMBERS)
    if standardize is not None:
        check_count(spec, standardize, len(standardize.mean), numbers, _NUMBERS)
        check_gain(spec, standardize, spec.find(Quantize))
    features = numbers + sum(step.width for step in looked_up.values())
    check_size(spec, features * (1 if window is None else window.length))
    return (1, features) if window is None else (1, window.length, features)


def table_takes(spec: ProcessingSpec) -> tuple[object, ...]:
    """Return what an array of numbers means: its columns, and what stands for words."""
    words = [step for step in spec.steps if isinstance(step, Categories) and isinstance(step.values[0], str)]
    named = sorted((step.column, step.values) for step in words)
    return spec.find(Columns), spec.find(Window), *named
