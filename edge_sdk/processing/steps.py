"""The steps of images, and those that others share: one frozen record a kind, checked strictly."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from edge_sdk.processing.fields import choice, integer, number, numbers, shown, sides, step_error

__all__ = [
    "CHECKS",
    "RANGES",
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
    "Standardize",
]

ColorMode = Literal["rgb", "grey"]
Order = Literal["NHWC", "NCHW"]
QuantizedType = Literal["int8", "uint8"]
Method = Literal["bilinear", "nearest"]

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


@dataclass(frozen=True, slots=True)
class Standardize:
    """``(value - mean) / std``: one number for all, or one a column of a table or a band of audio."""

    op: ClassVar[str] = "standardize"
    mean: tuple[float, ...]
    std: tuple[float, ...]


def _checked_color(index: int, step: Color) -> Color:
    return Color(choice(index, step, "mode", ("rgb", "grey")))


def _checked_resize(index: int, step: Resize) -> Resize:
    if not isinstance(step.antialias, bool):
        raise step_error(index, step.op, f"antialias must be true or false, not {shown(step.antialias)}")
    method = choice(index, step, "method", ("bilinear", "nearest"))
    if step.antialias and method == "nearest":
        raise step_error(index, step.op, "antialias needs the bilinear method")
    return Resize(*sides(index, step), method, step.antialias)


def _checked_crop(index: int, step: Crop) -> Crop:
    fraction = number(index, step, "fraction", step.fraction)
    if not 0.0 < fraction <= 1.0:
        raise step_error(index, step.op, f"fraction must be above 0 and at most 1, not {shown(fraction)}")
    return Crop(fraction)


def _checked_letterbox(index: int, step: Letterbox) -> Letterbox:
    fill = number(index, step, "fill", step.fill)
    if not 0.0 <= fill <= 255.0:
        raise step_error(index, step.op, f"fill must be a grey level from 0 to 255, not {shown(fill)}")
    return Letterbox(*sides(index, step), fill)


def _checked_normalize(index: int, step: Normalize) -> Normalize:
    mean, std = numbers(index, step, "mean"), numbers(index, step, "std")
    if len(mean) != len(std) or len(mean) not in (1, 3):
        raise step_error(index, step.op, f"need 1 or 3 values of mean and of std, not {len(mean)} and {len(std)}")
    if min(std) <= 0.0:
        raise step_error(index, step.op, "std must be above 0")
    return Normalize(mean, std)


def _checked_layout(index: int, step: Layout) -> Layout:
    return Layout(choice(index, step, "order", ("NHWC", "NCHW")))


def _checked_quantize(index: int, step: Quantize) -> Quantize:
    dtype = choice(index, step, "dtype", tuple(RANGES))
    scale = number(index, step, "scale", step.scale)
    if scale <= 0.0:
        raise step_error(index, step.op, "scale must be above 0")
    return Quantize(dtype, scale, integer(index, step, "zero_point", *RANGES[dtype]))


def _checked_cast(index: int, step: Cast) -> Cast:
    return Cast(choice(index, step, "dtype", ("float16",)))


def _checked_standardize(index: int, step: Standardize) -> Standardize:
    mean, std = numbers(index, step, "mean"), numbers(index, step, "std")
    if len(mean) != len(std) or not mean:
        raise step_error(index, step.op, f"need as many values of mean as of std, not {len(mean)} and {len(std)}")
    if not (min(std) > 1e-30 and max(map(abs, mean)) < 1e30 and max(std) < 1e30):
        raise step_error(index, step.op, "std must be above 0, and its constants within the range of float32")
    return Standardize(mean, std)


CHECKS: dict[type[Any], Callable[[int, Any], Any]] = {
    Color: _checked_color,
    Crop: _checked_crop,
    Resize: _checked_resize,
    Letterbox: _checked_letterbox,
    Normalize: _checked_normalize,
    Layout: _checked_layout,
    Quantize: _checked_quantize,
    Cast: _checked_cast,
    Standardize: _checked_standardize,
}
"""Kind of step to what checks its values and brings them to one form."""
