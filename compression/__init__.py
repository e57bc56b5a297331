"""From a trained model to a bundle: distillation, pruning, quantization, export.

`compress` does all of it for the device; `export_teacher` packs the teacher for the cloud.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from edge_sdk._lazy import loader

if TYPE_CHECKING:
    from edge_sdk.compression.pipeline import CompressionReport, compress, export_teacher

__all__ = ["CompressionReport", "compress", "export_teacher"]

if not TYPE_CHECKING:  # or any name would pass for one that is there
    __getattr__ = loader(__name__, dict.fromkeys(__all__, "edge_sdk.compression.pipeline"))
