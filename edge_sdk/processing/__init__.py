"""What is done to a frame before a model sees it: one specification, three executors.

`DeviceProcessor` runs the Cython kernels, `reference` is the float64 oracle, and
``edge_sdk.processing.keras`` (imported only by those who train) is a Keras layer. `check_skew`
holds them together.
"""

from __future__ import annotations

from edge_sdk.processing.device import DeviceProcessor
from edge_sdk.processing.reference import reference
from edge_sdk.processing.skew import SkewReport, check_skew
from edge_sdk.processing.spec import ProcessingSpec
from edge_sdk.processing.steps import Color, Layout, Normalize, Quantize, Resize, Step

__all__ = [
    "Color",
    "DeviceProcessor",
    "Layout",
    "Normalize",
    "ProcessingSpec",
    "Quantize",
    "Resize",
    "SkewReport",
    "Step",
    "check_skew",
    "reference",
]
