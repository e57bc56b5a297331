"""What is done to an input before a model sees it: one specification, three executors.

`DeviceProcessor` runs the Cython kernels, `reference` is the float64 oracle, and
``edge_sdk.processing.keras`` (imported only by those who train) is a Keras layer. `check_skew`
holds them together.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from edge_sdk._lazy import loader
from edge_sdk.processing.device import DeviceProcessor
from edge_sdk.processing.grammar import Modality, Step
from edge_sdk.processing.spec import ProcessingSpec
from edge_sdk.processing.steps import Cast, Color, Crop, Layout, Letterbox, Normalize, Quantize, Resize, Standardize

if TYPE_CHECKING:
    from edge_sdk.processing.audio_steps import LogMel, Mfcc
    from edge_sdk.processing.geometry import Box, Placement
    from edge_sdk.processing.oracle import reference
    from edge_sdk.processing.sampling import samples
    from edge_sdk.processing.skew import SkewReport, check_skew
    from edge_sdk.processing.table_steps import Categories, Clip, Columns, Impute, Window

__all__ = [
    "Box",
    "Cast",
    "Categories",
    "Clip",
    "Color",
    "Columns",
    "Crop",
    "DeviceProcessor",
    "Impute",
    "Layout",
    "Letterbox",
    "LogMel",
    "Mfcc",
    "Modality",
    "Normalize",
    "Placement",
    "ProcessingSpec",
    "Quantize",
    "Resize",
    "SkewReport",
    "Standardize",
    "Step",
    "Window",
    "check_skew",
    "reference",
    "samples",
]

# what loads the model of pictures does without
_HOMES = {
    "geometry": ("Box", "Placement"),
    "audio_steps": ("LogMel", "Mfcc"),
    "oracle": ("reference",),
    "sampling": ("samples",),
    "skew": ("SkewReport", "check_skew"),
    "table_steps": ("Categories", "Clip", "Columns", "Impute", "Window"),
}
if not TYPE_CHECKING:  # or any name would pass for one that is there
    __getattr__ = loader(__name__, {name: f"{__name__}.{home}" for home, names in _HOMES.items() for name in names})
