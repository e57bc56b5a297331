"""The processing specification: what is done to an input before a model sees it, as data.

A specification is a short tuple of frozen steps in the order of what it takes, each at most once::

    image:  color?  crop?  resize|letterbox  normalize?  layout?  quantize?|cast?
    audio:  log_mel|mfcc  standardize?  layout?  quantize?|cast?
    table:  columns  categories*  impute?  clip?  standardize?  window?  quantize?|cast?

It is stored in a bundle as JSON, named by its digest, and executed by the device kernels, by a
Keras layer and by a float64 reference. ``docs/processing.md`` defines what each step computes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar, cast

import numpy as np

from edge_sdk.canonical import digest_of
from edge_sdk.errors import ProcessingError
from edge_sdk.processing.fields import shown
from edge_sdk.processing.folding import FoldedSteps, fold
from edge_sdk.processing.grammar import (
    MAX_STEPS,
    Modality,
    Step,
    checked_step,
    grammar_of,
    step_from_json,
    step_to_json,
)
from edge_sdk.processing.shapes import image_shape
from edge_sdk.processing.steps import (
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
    Standardize,
)

if TYPE_CHECKING:
    from edge_sdk.processing.geometry import Placement
    from edge_sdk.processing.table_steps import Encoding

__all__ = ["FoldedSteps", "ProcessingSpec"]

_S = TypeVar("_S", bound="Step")


@dataclass(frozen=True)
class ProcessingSpec:
    """A checked sequence of steps.

    Parameters
    ----------
    steps
        In the order of the module's docstring, each kind at most once, but for `categories`: once a column.

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
        grammar_of(steps).check(steps)
        _ = self.output_shape  # whether the steps fit each other

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
        from edge_sdk.processing.usual import per_channel

        if channels not in (1, 3):
            raise ProcessingError(f"processing: channels must be 1 or 3, not {shown(channels)}")
        mode: ColorMode = "rgb" if channels == 3 else "grey"
        normalize = Normalize(per_channel(mean, channels), per_channel(std, channels))
        return cls((Color(mode), Resize(height, width), normalize, Layout(order)))

    @classmethod
    def audio(
        cls,
        samples: int,
        *,
        sample_rate: int = 16_000,
        frame_length: int = 400,
        frame_step: int = 160,
        fft_length: int = 512,
        mels: int = 40,
        low_hz: float = 20.0,
        high_hz: float | None = None,
        coefficients: int = 0,
        floor: float = 1e-6,
        power: float = 2.0,
        pad: bool = False,
        mean: float | Sequence[float] = 0.0,
        std: float | Sequence[float] = 1.0,
        order: Order | None = "NHWC",
    ) -> ProcessingSpec:
        """Return the usual specification of an audio model: log-mel spectrum or MFCC, standardised.

        Parameters
        ----------
        samples
            Of a clip.
        sample_rate, frame_length, frame_step, fft_length, mels, low_hz, high_hz, floor, power, pad
            Of the spectrum, in hertz and samples; see `LogMel`. `high_hz` is half the rate by default.
        coefficients
            How many cepstral coefficients to take; 0 is the spectrum itself.
        mean, std
            One number, or one a band.
        order
            Where the tensor's one channel is: last, first, or nowhere (None).

        Raises
        ------
        ProcessingError
            An argument is out of range.
        """
        from edge_sdk.processing.audio_steps import LogMel, Mfcc
        from edge_sdk.processing.usual import evened, per_channel

        fields: dict[str, Any] = {
            "sample_rate": sample_rate,
            "samples": samples,
            "frame_length": frame_length,
            "frame_step": frame_step,
            "fft_length": fft_length,
            "mels": mels,
            "low_hz": low_hz,
            "high_hz": sample_rate / 2 if high_hz is None else high_hz,
            "floor": floor,
            "power": power,
            "pad": pad,
        }
        spectral = Mfcc(**fields, coefficients=coefficients) if coefficients else LogMel(**fields)
        standardize = Standardize(per_channel(mean, 1), per_channel(std, 1))
        return cls((spectral, *evened(standardize), *(() if order is None else (Layout(order),))))

    @classmethod
    def table(
        cls,
        columns: Sequence[str],
        *,
        categories: Mapping[str, Sequence[str] | Sequence[float]] | None = None,
        encoding: Encoding = "one_hot",
        impute: float | Sequence[float] | None = None,
        clip: tuple[float, float] | None = None,
        mean: float | Sequence[float] = 0.0,
        std: float | Sequence[float] = 1.0,
    ) -> ProcessingSpec:
        """Return the usual specification of a model of rows.

        Parameters
        ----------
        columns
            Names, in order.
        categories, encoding
            Known values of columns that are looked up, and what a place becomes; see `Categories`.
        impute
            Put where a number is missing; one for all, or one a column that is not looked up, as are the others.
        clip
            Bounds of all numbers.
        mean, std
            Of the numbers.

        Raises
        ------
        ProcessingError
            An argument is out of range.
        """
        from edge_sdk.processing.usual import tabular

        return cls(tabular(columns, categories or {}, encoding, impute, clip, mean, std))

    @classmethod
    def sensor(
        cls,
        channels: Sequence[str],
        length: int,
        *,
        impute: float | Sequence[float] | None = None,
        clip: tuple[float, float] | None = None,
        mean: float | Sequence[float] = 0.0,
        std: float | Sequence[float] = 1.0,
    ) -> ProcessingSpec:
        """Return the usual specification of a model of windows of a sensor, [length, channels].

        Parameters
        ----------
        channels
            Names, in order.
        length
            Rows of a window.
        impute, clip, mean, std
            As for `table`.

        Raises
        ------
        ProcessingError
            An argument is out of range.
        """
        from edge_sdk.processing.table_steps import Window
        from edge_sdk.processing.usual import tabular

        return cls((*tabular(channels, {}, "index", impute, clip, mean, std), Window(length)))

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
            raise ProcessingError(f"processing: {len(steps)} steps are too many, at most {MAX_STEPS} can be read")
        return cls(tuple(step_from_json(index, step) for index, step in enumerate(steps)))

    def to_json(self) -> dict[str, Any]:
        """Return the specification as JSON values; equal specifications give equal JSON."""
        return {"steps": [step_to_json(step) for step in self.steps]}

    @cached_property
    def digest(self) -> str:
        """``sha256:…`` of the canonical JSON."""
        return digest_of(self.to_json())

    @cached_property
    def modality(self) -> Modality:
        """What it takes: images, audio or tables."""
        return grammar_of(self.steps).modality

    @cached_property
    def takes(self) -> tuple[object, ...]:
        """What an array of raw input means; specifications with equal ones read the same array alike."""
        return self.modality, *_TAKES[self.modality](self)

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
        if normalize is None:
            raise ProcessingError(f"processing: has no channels, it is of {self.modality} inputs")
        return len(normalize.mean)

    @cached_property
    def order(self) -> Order:
        """Axis order of the output; NHWC unless a layout step says otherwise."""
        layout = self.find(Layout)
        return "NHWC" if layout is None else layout.order

    @cached_property
    def output_shape(self) -> tuple[int, ...]:
        """Shape of one processed input; of images (1, h, w, c) or (1, c, h, w)."""
        return _SHAPES[self.modality](self)

    @cached_property
    def target(self) -> Resize | Letterbox:
        """The step that fixes height and width of the output."""
        target = self.find(Resize) or self.find(Letterbox)
        if target is None:
            raise ProcessingError(f"processing: has no height and width, it is of {self.modality} inputs")
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
        from edge_sdk.processing.geometry import place

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
        return fold(self)


# loaded where they are needed: most devices look at pictures
def _audio_shape(spec: ProcessingSpec) -> tuple[int, ...]:
    from edge_sdk.processing.audio_shapes import audio_shape

    return audio_shape(spec)


def _audio_takes(spec: ProcessingSpec) -> tuple[object, ...]:
    from edge_sdk.processing.audio_shapes import audio_takes

    return audio_takes(spec)


def _table_shape(spec: ProcessingSpec) -> tuple[int, ...]:
    from edge_sdk.processing.table_shapes import table_shape

    return table_shape(spec)


def _table_takes(spec: ProcessingSpec) -> tuple[object, ...]:
    from edge_sdk.processing.table_shapes import table_takes

    return table_takes(spec)


_SHAPES: dict[Modality, Callable[[ProcessingSpec], tuple[int, ...]]] = {
    "image": image_shape,
    "audio": _audio_shape,
    "table": _table_shape,
}
_TAKES: dict[Modality, Callable[[ProcessingSpec], tuple[object, ...]]] = {
    "image": lambda _: (),
    "audio": _audio_takes,
    "table": _table_takes,
}
