"""What the steps of audio make, and whether they fit each other."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edge_sdk.errors import ProcessingError
from edge_sdk.processing.audio_steps import LogMel, Mfcc, Spectral
from edge_sdk.processing.shapes import check_count, check_gain, check_size
from edge_sdk.processing.steps import Layout, Quantize, Standardize

if TYPE_CHECKING:
    from edge_sdk.processing.spec import ProcessingSpec

__all__ = ["audio_shape", "audio_takes", "spectral_of"]


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
    check_size(spec, spectral.frames * spectral.bands)
    if standardize is not None:
        check_count(spec, standardize, len(standardize.mean), spectral.bands, "bands")
        check_gain(spec, standardize, spec.find(Quantize))
    if layout is None:
        return 1, spectral.frames, spectral.bands
    channel_first = layout.order == "NCHW"
    return (1, 1, spectral.frames, spectral.bands) if channel_first else (1, spectral.frames, spectral.bands, 1)


def audio_takes(spec: ProcessingSpec) -> tuple[object, ...]:
    """Return what an array of samples means: their rate."""
    return (spectral_of(spec).sample_rate,)
