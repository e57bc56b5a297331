"""The processing specification: what is done to a frame before a model sees it, as data.

A specification is a short tuple of frozen steps in one fixed order, each at most once::

    color?  resize  normalize?  layout?  quantize?

It is stored in a bundle as JSON, named by its digest, and executed by the device kernels, by a
Keras layer and by a float64 reference. ``docs/processing.md`` defines what each step computes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Literal, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from edge_sdk.canonical import digest_of
from edge_sdk.errors import ProcessingError

__all__ = [
    "Color",
    "FoldedSteps",
    "Layout",
    "Normalize",
    "ProcessingSpec",
    "Quantize",
    "Resize",
    "Step",
]

ColorMode = Literal["rgb", "grey"]
Order = Literal["NHWC", "NCHW"]
QuantizedType = Literal["int8", "uint8"]

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
class Resize:
    """Bilinear with half-pixel centres, edges clamped, no antialias, nothing rounded."""

    op: ClassVar[str] = "resize"
    height: int
    width: int
    method: Literal["bilinear"] = "bilinear"
    antialias: Literal[False] = False


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


Step = Color | Resize | Normalize | Layout | Quantize
_S = TypeVar("_S", Color, Resize, Normalize, Layout, Quantize)

STEP_ORDER: tuple[type[Step], ...] = (Color, Resize, Normalize, Layout, Quantize)
_BY_OP: dict[str, type[Step]] = {kind.op: kind for kind in STEP_ORDER}


@dataclass(frozen=True, slots=True, eq=False)
class FoldedSteps:
    """A specification folded into the constants of one fused pass.

    A value of channel ``c`` is ``(level - mean[c]) * gain[c]``; with an integer `dtype` that is
    rounded half to even, `zero_point` is added, and the sum saturates.
    """

    height: int
    width: int
    channels: int
    planar: bool
    dtype: np.dtype[Any]
    mean: NDArray[np.float32]
    gain: NDArray[np.float32]
    zero_point: int


@dataclass(frozen=True)
class ProcessingSpec:
    """A checked sequence of steps.

    Parameters
    ----------
    steps
        In the order of the module's docstring, each kind at most once, with a resize.

    Raises
    ------
    ProcessingError
        A step is malformed, repeated, out of order, or does not fit the others. The message
        names the step by position and kind.
    """

    steps: tuple[Step, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "steps", tuple(self.steps))
        steps = tuple(_checked(index, step) for index, step in enumerate(self.steps))
        object.__setattr__(self, "steps", steps)
        place = -1
        for index, step in enumerate(steps):
            rank = STEP_ORDER.index(type(step))
            if rank == place:
                raise _error(index, step.op, "this step is there twice")
            if rank < place:
                raise _error(index, step.op, f"must come before {STEP_ORDER[place].op}: the order is {_order_text()}")
            place = rank
        if self.find(Resize) is None:
            raise ProcessingError("processing: a resize step is required, it fixes the shape of the model's input")
        self._check_channels()
        self._check_gain()

    def _check_channels(self) -> None:
        color, normalize = self.find(Color), self.find(Normalize)
        if normalize is None:
            if color is None:
                raise ProcessingError("processing: a color step is required where no normalize step fixes the channels")
            return
        if color is not None and len(normalize.mean) != color.channels:
            raise _error(
                self.steps.index(normalize),
                normalize.op,
                f"mean and std have {len(normalize.mean)} values for {color.channels} {color.mode} channels",
            )

    def _check_gain(self) -> None:
        # float32 kernels: constants that overflow or vanish there would make NaN or zeros.
        normalize, quantize = self.find(Normalize), self.find(Quantize)
        for step in (normalize, quantize):
            if step is None:
                continue
            for mean, gain in zip(*self._constants(step is quantize), strict=True):
                largest = max(abs(0.0 - mean), abs(255.0 - mean)) * gain
                if not (largest < 1e37 and gain > 1e-37):
                    raise _error(self.steps.index(step), step.op, "its constants leave the range of float32")

    def _constants(self, quantized: bool = True) -> tuple[list[float], list[float]]:
        normalize, quantize = self.find(Normalize), self.find(Quantize)
        scale = quantize.scale if quantize is not None and quantized else 1.0
        if normalize is None:
            return [0.0] * self.channels, [1.0 / scale] * self.channels
        gains = [float(np.float64(1.0) / np.float64(std) / np.float64(scale)) for std in normalize.std]
        return list(normalize.mean), gains

    @classmethod
    def image(
        cls,
        height: int,
        width: int,
        channels: int,
        mean: float | Sequence[float] = 0.0,
        std: float | Sequence[float] = 255.0,
        *,
        order: Order = "NHWC",
    ) -> ProcessingSpec:
        """Return the usual specification of an image model: colour, resize, normalise, layout.

        Parameters
        ----------
        height, width
            Of the model's input, in pixels.
        channels
            1 (grey) or 3 (RGB).
        mean, std
            In grey levels; one number stands for every channel.
        order
            ``"NHWC"`` or ``"NCHW"``.

        Raises
        ------
        ProcessingError
            An argument is out of range.
        """
        if channels not in (1, 3):
            raise ProcessingError(f"processing: channels must be 1 or 3, not {channels!r}")
        mode: ColorMode = "rgb" if channels == 3 else "grey"
        normalize = Normalize(_per_channel(mean, channels), _per_channel(std, channels))
        return cls((Color(mode), Resize(height, width), normalize, Layout(order)))

    @classmethod
    def from_json(cls, value: object) -> ProcessingSpec:
        """Return the specification that a JSON object describes, checked strictly.

        Raises
        ------
        ProcessingError
            A key is unknown or missing, or a value has the wrong type or range.
        """
        if not isinstance(value, Mapping) or set(value) != {"steps"}:
            raise ProcessingError('processing: need a JSON object with the one key "steps"')
        steps = value["steps"]
        if not isinstance(steps, (list, tuple)):
            raise ProcessingError('processing: "steps" must be a list')
        if len(steps) > len(STEP_ORDER):
            raise ProcessingError(f"processing: {len(steps)} steps are too many, the order is {_order_text()}")
        return cls(tuple(_step_from_json(index, step) for index, step in enumerate(steps)))

    def to_json(self) -> dict[str, Any]:
        """Return the specification as JSON values; equal specifications give equal JSON."""
        return {"steps": [_step_to_json(step) for step in self.steps]}

    @cached_property
    def digest(self) -> str:
        """``sha256:…`` of the canonical JSON."""
        return digest_of(self.to_json())

    def find(self, kind: type[_S]) -> _S | None:
        """Return the step of a kind, or None."""
        return next((step for step in self.steps if isinstance(step, kind)), None)

    @cached_property
    def channels(self) -> int:
        """Channels of the output: 1 or 3."""
        color = self.find(Color)
        if color is not None:
            return color.channels
        normalize = self.find(Normalize)
        assert normalize is not None  # _check_channels
        return len(normalize.mean)

    @cached_property
    def order(self) -> Order:
        """Axis order of the output; NHWC unless a layout step says otherwise."""
        layout = self.find(Layout)
        return "NHWC" if layout is None else layout.order

    @cached_property
    def output_shape(self) -> tuple[int, int, int, int]:
        """Shape of one processed frame, (1, h, w, c) or (1, c, h, w)."""
        resize = self.find(Resize)
        assert resize is not None  # __post_init__
        if self.order == "NCHW":
            return (1, self.channels, resize.height, resize.width)
        return (1, resize.height, resize.width, self.channels)

    @cached_property
    def output_dtype(self) -> np.dtype[Any]:
        """Element type: float32, or that of the quantize step."""
        quantize = self.find(Quantize)
        return np.dtype(np.float32 if quantize is None else quantize.dtype)

    def with_quantize(self, dtype: str, scale: float, zero_point: int) -> ProcessingSpec:
        """Return the specification with this quantize step, in place of one it has.

        Parameters
        ----------
        dtype
            ``"int8"`` or ``"uint8"``.
        scale, zero_point
            ``real = scale * (q - zero_point)``.

        Raises
        ------
        ProcessingError
            A value is out of range.
        """
        return ProcessingSpec((*self.without_quantize().steps, Quantize(cast("QuantizedType", dtype), scale, zero_point)))

    def without_quantize(self) -> ProcessingSpec:
        """Return the specification without its quantize step: float32 out."""
        return ProcessingSpec(tuple(step for step in self.steps if not isinstance(step, Quantize)))

    def accepts(self, channels: int) -> bool:
        """Whether frames of so many channels can be processed: with a color step, 1, 3 or 4."""
        return channels in (1, 3, 4) if self.find(Color) is not None else channels == self.channels

    @property
    def frame_text(self) -> str:
        """What frames can be processed, in words for an error message."""
        channels = "1|3|4" if self.find(Color) is not None else str(self.channels)
        grey = "(H, W) or " if self.accepts(1) else ""
        return f"uint8 of shape {grey}(H, W, {channels}), not empty"

    def fold(self) -> FoldedSteps:
        """Return the constants of the fused pass."""
        resize, quantize = self.find(Resize), self.find(Quantize)
        assert resize is not None  # __post_init__
        mean, gain = self._constants()
        return FoldedSteps(
            height=resize.height,
            width=resize.width,
            channels=self.channels,
            planar=self.order == "NCHW",
            dtype=self.output_dtype,
            mean=np.array(mean, np.float32),
            gain=np.array(gain, np.float32),
            zero_point=0 if quantize is None else quantize.zero_point,
        )


def _order_text() -> str:
    return ", ".join(kind.op for kind in STEP_ORDER)


def _per_channel(value: float | Sequence[float], channels: int) -> tuple[float, ...]:
    values = tuple(np.ravel(value).tolist())
    return values * channels if len(values) == 1 else values


def _error(index: int, op: object, message: str) -> ProcessingError:
    return ProcessingError(f"processing step {index} ({op}): {message}")


def _step_from_json(index: int, value: object) -> Step:
    if not isinstance(value, Mapping) or not isinstance(value.get("op"), str):
        raise ProcessingError(f'processing step {index}: need a JSON object with a text "op"')
    op = value["op"]
    if op not in _BY_OP:
        raise _error(index, op, f"unknown step; there are {_order_text()}")
    kind = _BY_OP[op]
    fields = set(kind.__dataclass_fields__) - {"op"}
    optional = {"method", "antialias"}
    given = set(value) - {"op"}
    if given - fields:
        raise _error(index, op, f"unknown key {min(map(str, given - fields))!r}")
    if fields - given - optional:
        raise _error(index, op, f"key {min(fields - given - optional)!r} is missing")
    return kind(**{key: value[key] for key in given})


def _step_to_json(step: Step) -> dict[str, Any]:
    fields = {name: getattr(step, name) for name in step.__dataclass_fields__ if name != "op"}
    return {"op": step.op} | {name: list(v) if isinstance(v, tuple) else v for name, v in fields.items()}


def _checked(index: int, step: object) -> Step:
    """Return a step with its values checked and brought to one form (floats are floats)."""
    if not isinstance(step, STEP_ORDER):
        raise ProcessingError(f"processing step {index}: {type(step).__name__} is not a step")
    return _CHECKS[type(step)](index, step)


def _checked_color(index: int, step: Color) -> Color:
    return Color(_choice(index, step, "mode", ("rgb", "grey")))


def _checked_resize(index: int, step: Resize) -> Resize:
    if step.antialias is not False:
        raise _error(index, step.op, "antialias must be false")
    _choice(index, step, "method", ("bilinear",))
    sides = [_integer(index, step, name, 1, MAX_SIDE) for name in ("height", "width")]
    return Resize(sides[0], sides[1])


def _checked_normalize(index: int, step: Normalize) -> Normalize:
    mean, std = _numbers(index, step, "mean"), _numbers(index, step, "std")
    if len(mean) != len(std) or len(mean) not in (1, 3):
        raise _error(index, step.op, f"need 1 or 3 values of mean and of std, not {len(mean)} and {len(std)}")
    if min(std) <= 0.0:
        raise _error(index, step.op, "std must be above 0")
    return Normalize(mean, std)


def _checked_layout(index: int, step: Layout) -> Layout:
    return Layout(_choice(index, step, "order", ("NHWC", "NCHW")))


def _checked_quantize(index: int, step: Quantize) -> Quantize:
    dtype = _choice(index, step, "dtype", tuple(RANGES))
    scale = _number(index, step, "scale", step.scale)
    if scale <= 0.0:
        raise _error(index, step.op, "scale must be above 0")
    return Quantize(dtype, scale, _integer(index, step, "zero_point", *RANGES[dtype]))


_CHECKS: dict[type[Step], Callable[[int, Any], Step]] = {
    Color: _checked_color,
    Resize: _checked_resize,
    Normalize: _checked_normalize,
    Layout: _checked_layout,
    Quantize: _checked_quantize,
}


def _choice(index: int, step: Step, name: str, choices: tuple[str, ...]) -> Any:
    value = getattr(step, name)
    if not isinstance(value, str) or value not in choices:
        raise _error(index, step.op, f"{name} must be {' or '.join(choices)}, not {value!r}")
    return value


def _integer(index: int, step: Step, name: str, low: int, high: int) -> int:
    value = getattr(step, name)
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, (int, np.integer)) or not low <= value <= high:
        raise _error(index, step.op, f"{name} must be an integer from {low} to {high}, not {value!r}")
    return int(value)


def _number(index: int, step: Step, name: str, value: object) -> float:
    number = isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, (bool, np.bool_))
    try:
        as_float = float(value) if number else math.nan  # type: ignore[arg-type]
    except OverflowError:
        as_float = math.inf
    if not math.isfinite(as_float):
        raise _error(index, step.op, f"{name} must be a finite number, not {value!r}")
    return as_float + 0.0  # -0.0 would give another digest than 0.0


def _numbers(index: int, step: Step, name: str) -> tuple[float, ...]:
    value = getattr(step, name)
    if not isinstance(value, (list, tuple)):
        raise _error(index, step.op, f"{name} must be a list of numbers, not {value!r}")
    return tuple(_number(index, step, name, item) for item in value)
