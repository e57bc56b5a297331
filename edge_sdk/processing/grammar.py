"""Which steps go together, and in what order: one grammar for images, one for audio, one for tables."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import MISSING, dataclass, fields
from itertools import pairwise
from typing import Any, Literal

from edge_sdk.errors import ProcessingError
from edge_sdk.processing import audio_steps, steps, table_steps
from edge_sdk.processing.audio_steps import LogMel, Mfcc
from edge_sdk.processing.fields import shown, step_error
from edge_sdk.processing.steps import (
    Cast,
    Color,
    Crop,
    Layout,
    Letterbox,
    Normalize,
    Quantize,
    Resize,
    Standardize,
)
from edge_sdk.processing.table_steps import MAX_COLUMNS, Categories, Clip, Columns, Impute, Window

__all__ = [
    "MAX_STEPS",
    "Grammar",
    "Modality",
    "Step",
    "checked_step",
    "grammar_of",
    "step_from_json",
    "step_to_json",
]

Modality = Literal["image", "audio", "table"]
"""What a specification takes; a table is one row of columns, or a window of rows of a sensor."""

Step = (
    Color
    | Crop
    | Resize
    | Letterbox
    | Normalize
    | Layout
    | Quantize
    | Cast
    | LogMel
    | Mfcc
    | Standardize
    | Columns
    | Categories
    | Impute
    | Clip
    | Window
)

_CHECKS = steps.CHECKS | audio_steps.CHECKS | table_steps.CHECKS
_BY_OP: dict[str, type[Step]] = {kind.op: kind for kind in _CHECKS}

MAX_STEPS = len(_BY_OP) + MAX_COLUMNS
"""More steps than this are in no specification."""


@dataclass(frozen=True, slots=True)
class Grammar:
    """The steps of one modality.

    Attributes
    ----------
    modality
        What it is of.
    ranks
        Kinds of step in their order; of those in one place, a specification has at most one.
    needed
        One of these kinds must be there,
    why
        because of this.
    """

    modality: Modality
    ranks: tuple[tuple[type[Step], ...], ...]
    needed: tuple[type[Step], ...]
    why: str

    @property
    def kinds(self) -> tuple[type[Step], ...]:
        """All kinds of step, in their order."""
        return tuple(kind for kinds in self.ranks for kind in kinds)

    @property
    def text(self) -> str:
        """The allowed order in words."""
        return ", ".join(" or ".join(kind.op for kind in kinds) for kinds in self.ranks)

    def check(self, steps: Sequence[Step]) -> None:
        """Refuse steps that are foreign, repeated or out of order, and the lack of what is needed.

        Raises
        ------
        ProcessingError
            Which step is wrong, and why.
        """
        once = [step for step in steps if not isinstance(step, Categories)]
        if len(once) > len(self.ranks):
            raise ProcessingError(f"processing: {len(steps)} steps are too many, the order is {self.text}")
        for index, step in enumerate(steps):
            if type(step) not in self.kinds:
                raise step_error(index, step.op, f"is no step of {self.modality} inputs: the order is {self.text}")
        for index, (before, step) in enumerate(pairwise(steps), start=1):
            if type(step) is type(before):
                if isinstance(step, Categories):
                    continue
                raise step_error(index, step.op, "this step is there twice")
            if self._rank(step) == self._rank(before):
                raise step_error(index, step.op, f"stands in place of {before.op}, there is only one of them")
            if self._rank(step) < self._rank(before):
                raise step_error(index, step.op, f"must come before {before.op}: the order is {self.text}")
        if not any(isinstance(step, self.needed) for step in steps):
            names = " or ".join(kind.op for kind in self.needed)
            raise ProcessingError(f"processing: a {names} step is required, {self.why}")

    def _rank(self, step: Step) -> int:
        return next(rank for rank, kinds in enumerate(self.ranks) if type(step) in kinds)


_IMAGE = Grammar(
    "image",
    ((Color,), (Crop,), (Resize, Letterbox), (Normalize,), (Layout,), (Quantize, Cast)),
    (Resize, Letterbox),
    "it fixes the shape of the model's input",
)
_AUDIO = Grammar(
    "audio",
    ((LogMel, Mfcc), (Standardize,), (Layout,), (Quantize, Cast)),
    (LogMel, Mfcc),
    "it fixes the shape of the model's input",
)
_TABLE = Grammar(
    "table",
    ((Columns,), (Categories,), (Impute,), (Clip,), (Standardize,), (Window,), (Quantize, Cast)),
    (Columns,),
    "it names what the model takes",
)
_MARKS: tuple[tuple[Grammar, tuple[type[Step], ...]], ...] = (
    (_AUDIO, tuple(audio_steps.CHECKS)),
    (_TABLE, tuple(table_steps.CHECKS)),
)


def grammar_of(steps: Iterable[Step]) -> Grammar:
    """Return the grammar that steps are to obey: that of the first step that only one has; else of images."""
    for step in steps:
        for grammar, marks in _MARKS:
            if isinstance(step, marks):
                return grammar
    return _IMAGE


def step_from_json(index: int, value: object) -> Step:
    """Return the step that a JSON object describes; its values are not checked yet.

    Raises
    ------
    ProcessingError
        Not an object, an unknown step, or an unknown or missing key.
    """
    if not isinstance(value, Mapping) or not isinstance(value.get("op"), str):
        raise ProcessingError(f'processing step {index}: need a JSON object with a text "op"')
    op = value["op"]
    if op not in _BY_OP:
        known = "; ".join(grammar.text for grammar in (_IMAGE, _AUDIO, _TABLE))
        raise ProcessingError(f"processing step {index}: unknown step {shown(op)}; there are {known}")
    kind = _BY_OP[op]
    names = {field.name for field in fields(kind)}
    required = {field.name for field in fields(kind) if field.default is MISSING}
    given = set(value) - {"op"}
    if given - names:
        raise step_error(index, op, f"unknown key {shown(min(map(str, given - names)))}")
    if required - given:
        raise step_error(index, op, f"key {min(required - given)!r} is missing")
    return kind(**{key: value[key] for key in given})


def step_to_json(step: Step) -> dict[str, Any]:
    """Return a step as JSON values."""
    values = {field.name: getattr(step, field.name) for field in fields(step)}
    return {"op": step.op} | {name: list(v) if isinstance(v, tuple) else v for name, v in values.items()}


def checked_step(index: int, step: object) -> Step:
    """Return a step with its values checked and brought to one form (floats are floats).

    Raises
    ------
    ProcessingError
        Not a step, or a value of the wrong type or range.
    """
    if type(step) not in _CHECKS:
        raise ProcessingError(f"processing step {index}: {type(step).__name__} is not a step")
    checked: Step = _CHECKS[type(step)](index, step)
    return checked
