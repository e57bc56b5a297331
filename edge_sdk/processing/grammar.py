"""Which steps go together, and in what order: one grammar for images, one for audio, one for tables."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import MISSING, fields
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeAlias

from edge_sdk.errors import ProcessingError
from edge_sdk.processing.fields import MAX_COLUMNS, shown, step_error

if TYPE_CHECKING:
    from edge_sdk.processing.audio_steps import LogMel, Mfcc
    from edge_sdk.processing.steps import Cast, Color, Crop, Layout, Letterbox, Normalize, Quantize, Resize, Standardize
    from edge_sdk.processing.table_steps import Categories, Clip, Columns, Impute, Window

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

Step: TypeAlias = (
    "Color | Crop | Resize | Letterbox | Normalize | Layout | Quantize | Cast | LogMel | Mfcc | Standardize"
    " | Columns | Categories | Impute | Clip | Window"
)

# where the steps are; those of a modality are loaded with the first that is read
_SHARED, _AUDIO_ONLY, _TABLE_ONLY = (f"edge_sdk.processing.{name}steps" for name in ("", "audio_", "table_"))
_HOMES = {
    **dict.fromkeys(("color", "crop", "resize", "letterbox", "normalize", "layout", "quantize", "cast"), _SHARED),
    "standardize": _SHARED,
    **dict.fromkeys(("log_mel", "mfcc"), _AUDIO_ONLY),
    **dict.fromkeys(("columns", "categories", "impute", "clip", "window"), _TABLE_ONLY),
}

MAX_STEPS = len(_HOMES) + MAX_COLUMNS
"""More steps than this are in no specification."""


class Grammar(NamedTuple):
    """The steps of one modality, by the names of their kinds.

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
    ranks: tuple[tuple[str, ...], ...]
    needed: tuple[str, ...]
    why: str

    @property
    def kinds(self) -> tuple[str, ...]:
        """All kinds of step, in their order."""
        return tuple(kind for kinds in self.ranks for kind in kinds)

    @property
    def text(self) -> str:
        """The allowed order in words."""
        return ", ".join(" or ".join(kinds) for kinds in self.ranks)

    def check(self, steps: Sequence[Step]) -> None:
        """Refuse steps that are foreign, repeated or out of order, and the lack of what is needed.

        Raises
        ------
        ProcessingError
            Which step is wrong, and why.
        """
        once = [step for step in steps if step.op != "categories"]
        if len(once) > len(self.ranks):
            raise ProcessingError(f"processing: {len(steps)} steps are too many, the order is {self.text}")
        for index, step in enumerate(steps):
            if step.op not in self.kinds:
                raise step_error(index, step.op, f"is no step of {self.modality} inputs: the order is {self.text}")
        for index, (before, step) in enumerate(pairwise(steps), start=1):
            if step.op == before.op:
                if step.op == "categories":
                    continue
                raise step_error(index, step.op, "this step is there twice")
            if self._rank(step) == self._rank(before):
                raise step_error(index, step.op, f"stands in place of {before.op}, there is only one of them")
            if self._rank(step) < self._rank(before):
                raise step_error(index, step.op, f"must come before {before.op}: the order is {self.text}")
        if not any(step.op in self.needed for step in steps):
            names = " or ".join(self.needed)
            raise ProcessingError(f"processing: a {names} step is required, {self.why}")

    def _rank(self, step: Step) -> int:
        return next(rank for rank, kinds in enumerate(self.ranks) if step.op in kinds)


_IMAGE = Grammar(
    "image",
    (("color",), ("crop",), ("resize", "letterbox"), ("normalize",), ("layout",), ("quantize", "cast")),
    ("resize", "letterbox"),
    "it fixes the shape of the model's input",
)
_AUDIO = Grammar(
    "audio",
    (("log_mel", "mfcc"), ("standardize",), ("layout",), ("quantize", "cast")),
    ("log_mel", "mfcc"),
    "it fixes the shape of the model's input",
)
_TABLE = Grammar(
    "table",
    (("columns",), ("categories",), ("impute",), ("clip",), ("standardize",), ("window",), ("quantize", "cast")),
    ("columns",),
    "it names what the model takes",
)
_MARKS = {_AUDIO_ONLY: _AUDIO, _TABLE_ONLY: _TABLE}


def grammar_of(steps: Iterable[Step]) -> Grammar:
    """Return the grammar that steps are to obey: that of the first step that only one has; else of images."""
    for step in steps:
        grammar = _MARKS.get(_HOMES[step.op])
        if grammar is not None:
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
    if op not in _HOMES:
        known = "; ".join(grammar.text for grammar in (_IMAGE, _AUDIO, _TABLE))
        raise ProcessingError(f"processing step {index}: unknown step {shown(op)}; there are {known}")
    kind = next(kind for kind in _checks(op) if kind.op == op)
    names = {field.name for field in fields(kind)}
    required = {field.name for field in fields(kind) if field.default is MISSING}
    given = set(value) - {"op"}
    if given - names:
        raise step_error(index, op, f"unknown key {shown(min(map(str, given - names)))}")
    if required - given:
        raise step_error(index, op, f"key {min(required - given)!r} is missing")
    step: Step = kind(**{key: value[key] for key in given})
    return step


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
    check = _checks(getattr(step, "op", None)).get(type(step))
    if check is None:
        raise ProcessingError(f"processing step {index}: {type(step).__name__} is not a step")
    checked: Step = check(index, step)
    return checked


def _checks(op: object) -> dict[type[Any], Callable[[int, Any], Any]]:
    """Return the checks of the steps that live where those of a name do, by kind; none where no step has the name."""
    if not isinstance(op, str) or op not in _HOMES:
        return {}
    checks: dict[type[Any], Callable[[int, Any], Any]] = importlib.import_module(_HOMES[op]).CHECKS
    return checks
