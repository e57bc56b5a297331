"""A specification of images in two halves: uint8 pixels at the model's size, made here, and the rest, done elsewhere.

The first half takes colours, crop and resize or letterbox, and rounds grey levels to integers, half to
even; the second normalises, lays out and quantizes. Together they differ from the whole by at most half a
grey level, and by nothing where `rounds` says so.
"""

from __future__ import annotations

from functools import lru_cache

from edge_sdk.processing.spec import ProcessingSpec
from edge_sdk.processing.steps import Color, Crop, Letterbox, Normalize, Quantize, Resize

__all__ = ["first_half", "rounds", "second_half"]


@lru_cache(maxsize=16)
def first_half(spec: ProcessingSpec) -> ProcessingSpec:
    """Return what makes uint8 [1, height, width, channels] at the model's size of a frame."""
    steps = [step for step in spec.steps if isinstance(step, (Color, Crop, Resize, Letterbox))]
    levels = Normalize((0.0,) * spec.channels, (1.0,) * spec.channels)
    return ProcessingSpec((*steps, levels, Quantize("uint8", 1.0, 0)))


@lru_cache(maxsize=16)
def second_half(spec: ProcessingSpec) -> ProcessingSpec:
    """Return what makes the model's tensor of what `first_half` gives."""
    same = Resize(spec.target.height, spec.target.width, "nearest")
    steps = [same if isinstance(step, (Resize, Letterbox)) else step for step in spec.steps]
    return ProcessingSpec(tuple(step for step in steps if not isinstance(step, Crop)))


def rounds(spec: ProcessingSpec, shape: tuple[int, ...]) -> bool:
    """Tell whether the first half rounds levels of a frame of this shape, [height, width(, channels)].

    It does not where pixels are only picked: by the nearest method, or of a part that has the model's size.
    """
    color, target = spec.find(Color), spec.target
    if color is not None and color.mode == "grey" and len(shape) == 3 and shape[2] != 1:
        return True  # luma
    if isinstance(target, Resize) and target.method == "nearest":
        return False
    place = spec.place(shape[0], shape[1])
    if place.window[2:] != place.inner[2:]:
        return True
    fills = place.inner[2:] != (target.height, target.width)
    return isinstance(target, Letterbox) and fills and not float(target.fill).is_integer()
