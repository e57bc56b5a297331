"""The processing specification: what is done to a frame before a model sees it, as data.

A specification is a short tuple of frozen steps in one fixed order, each at most once::

    color?  crop?  resize|letterbox  normalize?  layout?  quantize?|cast?

It is stored in a bundle as JSON, named by its digest, and executed by the device kernels, by a
Keras layer and by a float64 reference. ``docs/processing.md`` defines what each step computes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any, Literal, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from edge_sdk.canonical import digest_of
from edge_sdk.errors import ProcessingError
from edge_sdk.processing.geometry import Placement, place
from edge_sdk.processing.steps import (
    MAX_STEPS,
    Cast,
    Color,
    ColorMode,
    Crop,
    Layout,
    Letterbox,
    Normalize,
    Order,
    Quantize,
    QuantizedType,
    Resize,
    Step,
    checked_step,
    order_text,
    rank_of,
    shown,
    step_error,
    step_from_json,
    step_to_json,
)

__all__ = ["FoldedSteps", "Modality", "ProcessingSpec"]

Modality = Literal["image", "audio", "table"]
"""What a specification takes; a table is one row of columns, or a window of rows of a sensor."""

_S = TypeVar("_S", Color, Crop, Resize, Letterbox, Normalize, Layout, Quantize, Cast)


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
    nearest: bool
    antialias: bool
    fill: float


@dataclass(frozen=True)
class ProcessingSpec:
    """A checked sequence of steps.

    Parameters
    ----------
    steps
        In the order of the module's docstring, each kind at most once, with a resize or letterbox.

    Raises
    ------
    ProcessingError
        A step is malformed, repeated, out of order, or does not fit the others. The message
        names the step by position and kind.
    """

    steps: tuple[Step, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "steps", tuple(self.steps))
        steps = tuple(checked_step(index, step) for index, step in enumerate(self.steps))
        object.__setattr__(self, "steps", steps)
        for index, (before, step) in enumerate(pairwise(steps), start=1):
            if type(step) is type(before):
                raise step_error(index, step.op, "this step is there twice")
            if rank_of(type(step)) == rank_of(type(before)):
                raise step_error(index, step.op, f"stands in place of {before.op}, there is only one of them")
            if rank_of(type(step)) < rank_of(type(before)):
                raise step_error(index, step.op, f"must come before {before.op}: the order is {order_text()}")
        if self.find(Resize) is None and self.find(Letterbox) is None:
            raise ProcessingError(
                "processing: a resize or letterbox step is required, it fixes the shape of the model's input"
            )
        self._check_channels()
        self._check_gain()

    def _check_channels(self) -> None:
        color, normalize = self.find(Color), self.find(Normalize)
        if normalize is None:
            if color is None:
                raise ProcessingError("processing: a color step is required where no normalize step fixes the channels")
            return
        if color is not None and len(normalize.mean) != color.channels:
            raise step_error(
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
                if not (largest < 1e37 and gain > 1e-30 and abs(mean) < 1e30):
                    raise step_error(self.steps.index(step), step.op, "its constants leave the range of float32")

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
            raise ProcessingError(f"processing: channels must be 1 or 3, not {shown(channels)}")
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
        if len(steps) > MAX_STEPS:
            raise ProcessingError(f"processing: {len(steps)} steps are too many, the order is {order_text()}")
        return cls(tuple(step_from_json(index, step) for index, step in enumerate(steps)))

    def to_json(self) -> dict[str, Any]:
        """Return the specification as JSON values; equal specifications give equal JSON."""
        return {"steps": [step_to_json(step) for step in self.steps]}

    @cached_property
    def digest(self) -> str:
        """``sha256:…`` of the canonical JSON."""
        return digest_of(self.to_json())

    @property
    def modality(self) -> Modality:
        """What it takes: images, audio or tables."""
        return "image"

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
    def output_shape(self) -> tuple[int, ...]:
        """Shape of one processed input; of images (1, h, w, c) or (1, c, h, w)."""
        height, width = self.target.height, self.target.width
        return (1, self.channels, height, width) if self.order == "NCHW" else (1, height, width, self.channels)

    @cached_property
    def target(self) -> Resize | Letterbox:
        """The step that fixes height and width of the output."""
        target = self.find(Resize) or self.find(Letterbox)
        assert target is not None  # __post_init__
        return target

    def place(self, height: int, width: int, roi: tuple[int, int, int, int] | None = None) -> Placement:
        """Return which part of a frame becomes which part of the tensor, and the way back for boxes.

        Parameters
        ----------
        height, width
            Of the frame, in pixels.
        roi
            Region of interest (top, left, height, width), as given to `DeviceProcessor`.

        Raises
        ------
        InputError
            The region is not within the frame.
        """
        return place(self.find(Crop), self.target, height, width, roi)

    @cached_property
    def output_dtype(self) -> np.dtype[Any]:
        """Element type: float32, or that of the quantize or cast step."""
        last = self.find(Quantize) or self.find(Cast)
        return np.dtype(np.float32 if last is None else last.dtype)

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
        return ProcessingSpec(
            (*self.without_quantize().steps, Quantize(cast("QuantizedType", dtype), scale, zero_point))
        )

    def without_quantize(self) -> ProcessingSpec:
        """Return the specification without its quantize or cast step: float32 out."""
        return ProcessingSpec(tuple(step for step in self.steps if not isinstance(step, (Quantize, Cast))))

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
        quantize, target = self.find(Quantize), self.target
        mean, gain = self._constants()
        return FoldedSteps(
            height=target.height,
            width=target.width,
            channels=self.channels,
            planar=self.order == "NCHW",
            dtype=self.output_dtype,
            mean=np.array(mean, np.float32),
            gain=np.array(gain, np.float32),
            zero_point=0 if quantize is None else quantize.zero_point,
            nearest=isinstance(target, Resize) and target.method == "nearest",
            antialias=isinstance(target, Resize) and target.antialias,
            fill=target.fill if isinstance(target, Letterbox) else 0.0,
        )


def _per_channel(value: float | Sequence[float], channels: int) -> tuple[float, ...]:
    values = tuple(np.ravel(value).tolist())
    return values * channels if len(values) == 1 else values
