"""The steps of a processing specification: one frozen record a kind, checked strictly."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np

from edge_sdk.errors import ProcessingError

__all__ = [
    "MAX_STEPS",
    "RANGES",
    "STEP_ORDER",
    "Cast",
    "Color",
    "ColorMode",
    "Crop",
    "Layout",
    "Letterbox",
    "Method",
    "Normalize",
    "Order",
    "Quantize",
    "QuantizedType",
    "Resize",
    "Step",
    "checked_step",
    "order_text",
    "rank_of",
    "shown",
    "step_error",
    "step_from_json",
    "step_to_json",
]

ColorMode = Literal["rgb", "grey"]
Order = Literal["NHWC", "NCHW"]
QuantizedType = Literal["int8", "uint8"]
Method = Literal["bilinear", "nearest"]

MAX_SIDE = 8192
"""Largest height or width a specification may ask for, in pixels."""

RANGES = {"int8": (-128, 127), "uint8": (0, 255)}


@dataclass(frozen=True, slots=True)
class Color:
    """Convert to RGB (grey is repeated, alpha dropped) or to grey (BT.601 luma, not rounded)."""

    op: ClassVar[str] = "color"
    mode: ColorMode

    @property
    def channels(self) -> int:
        """Number of channels it produces."""
        return 3 if self.mode == "rgb" else 1


@dataclass(frozen=True, slots=True)
class Crop:
    """Keep the largest centred part with the shape of the tensor, or a `fraction` of its sides."""

    op: ClassVar[str] = "crop"
    fraction: float = 1.0


@dataclass(frozen=True, slots=True)
class Resize:
    """Half-pixel centres, edges clamped, nothing rounded; bilinear or the nearest pixel.

    With `antialias`, a side that shrinks is averaged over a triangle that reaches as far as the
    sampled pixels are apart, cut off and made to sum to one at the edges.
    """

    op: ClassVar[str] = "resize"
    height: int
    width: int
    method: Method = "bilinear"
    antialias: bool = False


@dataclass(frozen=True, slots=True)
class Letterbox:
    """Resize as large as fits with the frame's shape kept, centred; `fill` (a grey level) around it."""

    op: ClassVar[str] = "letterbox"
    height: int
    width: int
    fill: float = 114.0


@dataclass(frozen=True, slots=True)
class Normalize:
    """``(level - mean[c]) / std[c]`` per channel; both are in grey levels, 0 to 255."""

    op: ClassVar[str] = "normalize"
    mean: tuple[float, ...]
    std: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Layout:
    """Order of the axes of the tensor."""

    op: ClassVar[str] = "layout"
    order: Order


@dataclass(frozen=True, slots=True)
class Quantize:
    """``saturate(round_half_even(value / scale) + zero_point)``."""

    op: ClassVar[str] = "quantize"
    dtype: QuantizedType
    scale: float
    zero_point: int


@dataclass(frozen=True, slots=True)
class Cast:
    """Round to float16, half to even; too large becomes infinite."""

    op: ClassVar[str] = "cast"
    dtype: Literal["float16"]


Step = Color | Crop | Resize | Letterbox | Normalize | Layout | Quantize | Cast

_RANKS: tuple[tuple[type[Step], ...], ...] = (
    (Color,),
    (Crop,),
    (Resize, Letterbox),
    (Normalize,),
    (Layout,),
    (Quantize, Cast),
)
STEP_ORDER: tuple[type[Step], ...] = tuple(kind for kinds in _RANKS for kind in kinds)
MAX_STEPS = len(_RANKS)
_BY_OP: dict[str, type[Step]] = {kind.op: kind for kind in STEP_ORDER}


def rank_of(kind: type[Step]) -> int:
    """Return the place of a kind of step; of those that share one, a specification has at most one."""
    return next(rank for rank, kinds in enumerate(_RANKS) if kind in kinds)


def order_text() -> str:
    """Return the allowed order in words."""
    return ", ".join(" or ".join(kind.op for kind in kinds) for kinds in _RANKS)


def shown(value: object) -> str:
    """Return a value for an error message: on one line, and short whatever a file holds."""
    if isinstance(value, int) and abs(value) >= 10**20:
        return "a huge integer"
    text = repr(value) if isinstance(value, (str, int, float, type(None))) else type(value).__name__
    return text if len(text) <= 60 else text[:57] + "..."


def step_error(index: int, op: object, message: str) -> ProcessingError:
    """Return the error of one step, named by position and kind."""
    return ProcessingError(f"processing step {index} ({op}): {message}")


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
        raise ProcessingError(f"processing step {index}: unknown step {shown(op)}; there are {order_text()}")
    kind = _BY_OP[op]
    fields = set(kind.__dataclass_fields__) - {"op"}
    optional = {"method", "antialias", "fraction", "fill"}
    given = set(value) - {"op"}
    if given - fields:
        raise step_error(index, op, f"unknown key {shown(min(map(str, given - fields)))}")
    if fields - given - optional:
        raise step_error(index, op, f"key {min(fields - given - optional)!r} is missing")
    return kind(**{key: value[key] for key in given})


def step_to_json(step: Step) -> dict[str, Any]:
    """Return a step as JSON values."""
    fields = {name: getattr(step, name) for name in step.__dataclass_fields__ if name != "op"}
    return {"op": step.op} | {name: list(v) if isinstance(v, tuple) else v for name, v in fields.items()}


def checked_step(index: int, step: object) -> Step:
    """Return a step with its values checked and brought to one form (floats are floats).

    Raises
    ------
    ProcessingError
        Not a step, or a value of the wrong type or range.
    """
    if not isinstance(step, STEP_ORDER):
        raise ProcessingError(f"processing step {index}: {type(step).__name__} is not a step")
    return _CHECKS[type(step)](index, step)


def _checked_color(index: int, step: Color) -> Color:
    return Color(_choice(index, step, "mode", ("rgb", "grey")))


def _checked_resize(index: int, step: Resize) -> Resize:
    if not isinstance(step.antialias, bool):
        raise step_error(index, step.op, f"antialias must be true or false, not {shown(step.antialias)}")
    method = _choice(index, step, "method", ("bilinear", "nearest"))
    if step.antialias and method == "nearest":
        raise step_error(index, step.op, "antialias needs the bilinear method")
    return Resize(*_sides(index, step), method, step.antialias)


def _checked_crop(index: int, step: Crop) -> Crop:
    fraction = _number(index, step, "fraction", step.fraction)
    if not 0.0 < fraction <= 1.0:
        raise step_error(index, step.op, f"fraction must be above 0 and at most 1, not {shown(fraction)}")
    return Crop(fraction)


def _checked_letterbox(index: int, step: Letterbox) -> Letterbox:
    fill = _number(index, step, "fill", step.fill)
    if not 0.0 <= fill <= 255.0:
        raise step_error(index, step.op, f"fill must be a grey level from 0 to 255, not {shown(fill)}")
    return Letterbox(*_sides(index, step), fill)


def _checked_normalize(index: int, step: Normalize) -> Normalize:
    mean, std = _numbers(index, step, "mean"), _numbers(index, step, "std")
    if len(mean) != len(std) or len(mean) not in (1, 3):
        raise step_error(index, step.op, f"need 1 or 3 values of mean and of std, not {len(mean)} and {len(std)}")
    if min(std) <= 0.0:
        raise step_error(index, step.op, "std must be above 0")
    return Normalize(mean, std)


def _checked_layout(index: int, step: Layout) -> Layout:
    return Layout(_choice(index, step, "order", ("NHWC", "NCHW")))


def _checked_quantize(index: int, step: Quantize) -> Quantize:
    dtype = _choice(index, step, "dtype", tuple(RANGES))
    scale = _number(index, step, "scale", step.scale)
    if scale <= 0.0:
        raise step_error(index, step.op, "scale must be above 0")
    return Quantize(dtype, scale, _integer(index, step, "zero_point", *RANGES[dtype]))


def _checked_cast(index: int, step: Cast) -> Cast:
    return Cast(_choice(index, step, "dtype", ("float16",)))


_CHECKS: dict[type[Step], Callable[[int, Any], Step]] = {
    Color: _checked_color,
    Crop: _checked_crop,
    Resize: _checked_resize,
    Letterbox: _checked_letterbox,
    Normalize: _checked_normalize,
    Layout: _checked_layout,
    Quantize: _checked_quantize,
    Cast: _checked_cast,
}


def _choice(index: int, step: Step, name: str, choices: tuple[str, ...]) -> Any:
    value = getattr(step, name)
    if not isinstance(value, str) or value not in choices:
        raise step_error(index, step.op, f"{name} must be {' or '.join(choices)}, not {shown(value)}")
    return value


def _sides(index: int, step: Step) -> tuple[int, int]:
    return _integer(index, step, "height", 1, MAX_SIDE), _integer(index, step, "width", 1, MAX_SIDE)


def _integer(index: int, step: Step, name: str, low: int, high: int) -> int:
    value = getattr(step, name)
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, (int, np.integer)) or not low <= value <= high:
        raise step_error(index, step.op, f"{name} must be an integer from {low} to {high}, not {shown(value)}")
    return int(value)


def _number(index: int, step: Step, name: str, value: object) -> float:
    number = isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, (bool, np.bool_))
    try:
        as_float = float(value) if number else math.nan  # type: ignore[arg-type]
    except OverflowError:
        as_float = math.inf
    if not math.isfinite(as_float):
        raise step_error(index, step.op, f"{name} must be a finite number, not {shown(value)}")
    return as_float + 0.0  # -0.0 would give another digest than 0.0


def _numbers(index: int, step: Step, name: str) -> tuple[float, ...]:
    value = getattr(step, name)
    if not isinstance(value, (list, tuple)):
        raise step_error(index, step.op, f"{name} must be a list of numbers, not {shown(value)}")
    return tuple(_number(index, step, name, item) for item in value)
