"""How the outputs of a detector are read: a frozen record, and its strict form as JSON."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal

from edge_sdk.errors import InputError

__all__ = ["DECODERS", "MAX_DETECTIONS", "Detector"]

DECODERS = ("yolo", "ssd")
MAX_DETECTIONS = 100_000
_OF_SSD = ("boxes", "scores", "anchors", "variances", "order", "background")


@dataclass(frozen=True, slots=True)
class Detector:
    """What a detector's outputs hold, and which of its boxes are kept; `edge_sdk.ext.detection` says how.

    Attributes
    ----------
    decoder
        ``yolo``: the first output is [1, 4 + classes, anchors], or with its last two axes swapped.
        ``ssd``: one output is boxes [1, anchors, 4], another class scores [1, anchors, classes].
    score_threshold, iou_threshold, max_detections
        Boxes below the score, or that overlap a surer one of their class by more, are left out.
    normalized
        Whether boxes are fractions of the model's input; otherwise they are in its pixels.
    boxes, scores
        ``ssd``: which outputs of the model they are, by position.
    anchors
        ``ssd``: the member of the bundle that holds them, float32 [anchors, 4]; None where the model
        gives corners.
    variances, order, background
        ``ssd``: as `edge_sdk.ext.detection.decode_ssd`; the background has no label.

    Raises
    ------
    InputError
        A value is impossible; the message names it.
    """

    decoder: Literal["yolo", "ssd"]
    score_threshold: float = 0.25
    iou_threshold: float = 0.45
    max_detections: int = 300
    normalized: bool = False
    boxes: int = 0
    scores: int = 1
    anchors: str | None = None
    variances: tuple[float, float] = (0.1, 0.2)
    order: Literal["xy", "yx"] = "xy"
    background: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "variances", _pair(self.variances))
        _check("decoder", self.decoder in DECODERS, self.decoder, " or ".join(DECODERS))
        for name in ("score_threshold", "iou_threshold"):
            value = getattr(self, name)
            _check(name, _is_number(value) and 0 <= value <= 1, value, "a number from 0 to 1")
            object.__setattr__(self, name, float(value))
        limit = self.max_detections
        _check("max_detections", _is_count(limit) and 1 <= limit <= MAX_DETECTIONS, limit, f"1 to {MAX_DETECTIONS}")
        for name in ("normalized", "background"):
            _check(name, isinstance(getattr(self, name), bool), getattr(self, name), "true or false")
        for name in ("boxes", "scores"):
            position = getattr(self, name)
            _check(name, _is_count(position) and 0 <= position < 256, position, "the position of an output")
        _check("scores", self.boxes != self.scores, self.scores, "another output than boxes")
        _check("anchors", self.anchors is None or isinstance(self.anchors, str), self.anchors, "a member's name")
        _check("order", self.order in ("xy", "yx"), self.order, "xy or yx")
        if self.decoder == "yolo":
            given = [one for one in fields(self) if one.name in _OF_SSD and getattr(self, one.name) != one.default]
            if given:
                raise InputError(f"detection.{given[0].name} is for the decoder ssd, not for yolo")

    def to_json(self) -> dict[str, Any]:
        """Return the record as JSON values; what is for SSD alone is left out for others."""
        values = {one.name: getattr(self, one.name) for one in fields(self)}
        values["variances"] = list(self.variances)
        return {name: value for name, value in values.items() if self.decoder == "ssd" or name not in _OF_SSD}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Detector:
        """Read a record from untrusted JSON values; every key must be known, for each changes the answers.

        Raises
        ------
        InputError
            A key is unknown or missing, or a value is impossible.
        """
        names = {one.name for one in fields(cls)}
        unknown = sorted(set(value) - names)
        if unknown:
            raise InputError(f"detection.{unknown[0][:40]} is unknown to this SDK: is it too old?")
        if "decoder" not in value:
            raise InputError("detection.decoder is missing")
        return cls(**value)


def _check(name: str, possible: bool, value: object, wanted: str) -> None:
    if not possible:
        raise InputError(f"detection.{name} is {str(value)[:40]!r}; it should be {wanted}")


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _pair(value: Any) -> tuple[float, float]:
    pair = isinstance(value, tuple | list) and len(value) == 2 and all(map(_is_number, value))
    if not pair or not all(0 < number <= sys.float_info.max for number in value):
        raise InputError("detection.variances should be two finite numbers above 0")
    return float(value[0]), float(value[1])
