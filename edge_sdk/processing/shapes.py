"""What the steps of a specification make, and whether they fit each other."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from edge_sdk.errors import ProcessingError
from edge_sdk.processing.audio_steps import LogMel, Mfcc, Spectral
from edge_sdk.processing.fields import shown, step_error
from edge_sdk.processing.folding import constants
from edge_sdk.processing.grammar import Step
from edge_sdk.processing.steps import Color, Layout, Normalize, Quantize, Standardize
from edge_sdk.processing.table_steps import Categories, Clip, Columns, Impute, Window

if TYPE_CHECKING:
    from edge_sdk.processing.spec import ProcessingSpec

__all__ = ["MAX_ELEMENTS", "audio_shape", "image_shape", "spectral_of", "table_shape"]

MAX_ELEMENTS = 1 << 26
"""Largest tensor a specification may make, in elements."""

_NUMBERS = "columns that are not looked up"


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


def spectral_of(spec: ProcessingSpec) -> Spectral:
    """Return the step that makes a spectrum.

    Raises
    ------
    ProcessingError
        The specification is not of audio.
    """
    found = spec.find(LogMel) or spec.find(Mfcc)
    if found is None:
        raise ProcessingError(f"processing: has no spectrum, it is of {spec.modality} inputs")
    return found


def audio_shape(spec: ProcessingSpec) -> tuple[int, ...]:
    """Return the shape of one processed clip, checked: (1, frames, bands), and the channel that a layout adds."""
    spectral, standardize, layout = spectral_of(spec), spec.find(Standardize), spec.find(Layout)
    _check_size(spec, spectral.frames * spectral.bands)
    if standardize is not None:
        _check_count(spec, standardize, len(standardize.mean), spectral.bands, "bands")
        _check_gain(spec, standardize, spec.find(Quantize))
    if layout is None:
        return 1, spectral.frames, spectral.bands
    channel_first = layout.order == "NCHW"
    return (1, 1, spectral.frames, spectral.bands) if channel_first else (1, spectral.frames, spectral.bands, 1)


def table_shape(spec: ProcessingSpec) -> tuple[int, ...]:
    """Return the shape of one processed row (1, features) or window (1, length, features), checked."""
    columns, window = spec.find(Columns), spec.find(Window)
    assert columns is not None  # the grammar
    looked_up: dict[str, Categories] = {}
    for index, step in enumerate(spec.steps):
        if isinstance(step, Categories):
            if step.column not in columns.names:
                raise step_error(index, step.op, f"there is no column {shown(step.column)}")
            if step.column in looked_up:
                raise step_error(index, step.op, f"column {shown(step.column)} is looked up twice")
            looked_up[step.column] = step
    numbers = len(columns.names) - len(looked_up)
    impute, clip, standardize = spec.find(Impute), spec.find(Clip), spec.find(Standardize)
    if impute is not None:
        _check_count(spec, impute, len(impute.values), numbers, _NUMBERS)
    if clip is not None:
        _check_count(spec, clip, len(clip.low), numbers, _NUMBERS)
    if standardize is not None:
        _check_count(spec, standardize, len(standardize.mean), numbers, _NUMBERS)
        _check_gain(spec, standardize, spec.find(Quantize))
    features = numbers + sum(step.width for step in looked_up.values())
    _check_size(spec, features * (1 if window is None else window.length))
    return (1, features) if window is None else (1, window.length, features)


def _check_count(spec: ProcessingSpec, step: Step, count: int, wanted: int, what: str) -> None:
    if count not in (1, wanted):
        raise step_error(
            spec.steps.index(step), step.op, f"has {count} values for {wanted} {what}; need one, or as many"
        )


def _check_gain(spec: ProcessingSpec, standardize: Standardize, quantize: Quantize | None) -> None:
    scale = 1.0 if quantize is None else quantize.scale
    for mean, std in zip(standardize.mean, standardize.std, strict=True):
        gain = 1.0 / std / scale
        if not (math.isfinite(gain) and gain > 1e-30 and abs(mean) * gain < 1e37):
            raise step_error(spec.steps.index(standardize), standardize.op, "its constants leave the range of float32")


def _check_size(spec: ProcessingSpec, elements: int) -> None:
    if elements > MAX_ELEMENTS:
        raise ProcessingError(f"processing: a tensor of {elements} elements is over the limit of {MAX_ELEMENTS}")
