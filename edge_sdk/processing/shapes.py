"""What the steps of a specification make, and whether they fit each other: of images, and what others share."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from edge_sdk.errors import ProcessingError
from edge_sdk.processing.fields import step_error
from edge_sdk.processing.folding import constants
from edge_sdk.processing.steps import Color, Normalize, Quantize, Standardize

if TYPE_CHECKING:
    from edge_sdk.processing.grammar import Step
    from edge_sdk.processing.spec import ProcessingSpec

__all__ = ["MAX_ELEMENTS", "check_count", "check_gain", "check_size", "image_shape"]

MAX_ELEMENTS = 1 << 26
"""Largest tensor a specification may make, in elements."""


def image_shape(spec: ProcessingSpec) -> tuple[int, ...]:
    """Return the shape of one processed frame, checked: (1, h, w, c) or (1, c, h, w)."""
    _check_channels(spec)
    _check_levels(spec)
    height, width = spec.target.height, spec.target.width
    return (1, spec.channels, height, width) if spec.order == "NCHW" else (1, height, width, spec.channels)


def _check_channels(spec: ProcessingSpec) -> None:
    color, normalize = spec.find(Color), spec.find(Normalize)
    if normalize is None:
        if color is None:
            raise ProcessingError("processing: a color step is required where no normalize step fixes the channels")
        return
    if color is not None and len(normalize.mean) != color.channels:
        raise step_error(
            spec.steps.index(normalize),
            normalize.op,
            f"mean and std have {len(normalize.mean)} values for {color.channels} {color.mode} channels",
        )


def _check_levels(spec: ProcessingSpec) -> None:
    # float32 kernels: constants that overflow or vanish there would make NaN or zeros.
    normalize, quantize = spec.find(Normalize), spec.find(Quantize)
    for step in (normalize, quantize):
        if step is None:
            continue
        for mean, gain in zip(*constants(spec, step is quantize), strict=True):
            largest = max(abs(0.0 - mean), abs(255.0 - mean)) * gain
            if not (largest < 1e37 and gain > 1e-30 and abs(mean) < 1e30):
                raise step_error(spec.steps.index(step), step.op, "its constants leave the range of float32")


def check_count(spec: ProcessingSpec, step: Step, count: int, wanted: int, what: str) -> None:
    """Refuse a step whose values are neither one nor as many as wanted."""
    if count not in (1, wanted):
        raise step_error(
            spec.steps.index(step), step.op, f"has {count} values for {wanted} {what}; need one, or as many"
        )


def check_gain(spec: ProcessingSpec, standardize: Standardize, quantize: Quantize | None) -> None:
    """Refuse constants that overflow or vanish in float32."""
    scale = 1.0 if quantize is None else quantize.scale
    for mean, std in zip(standardize.mean, standardize.std, strict=True):
        gain = 1.0 / std / scale
        if not (math.isfinite(gain) and gain > 1e-30 and abs(mean) * gain < 1e37):
            raise step_error(spec.steps.index(standardize), standardize.op, "its constants leave the range of float32")


def check_size(spec: ProcessingSpec, elements: int) -> None:
    """Refuse a tensor over `MAX_ELEMENTS`."""
    if elements > MAX_ELEMENTS:
        raise ProcessingError(f"processing: a tensor of {elements} elements is over the limit of {MAX_ELEMENTS}")
