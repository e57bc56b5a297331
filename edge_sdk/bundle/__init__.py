"""The ``.edge`` bundle: one file that holds a model and everything a device must know of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edge_sdk._lazy import loader
from edge_sdk.bundle.bundle import Bundle, build_bundle, write_bundle
from edge_sdk.bundle.manifest import FORMAT, OUTPUTS, TASKS, Artifact, Golden, Manifest

if TYPE_CHECKING:
    from edge_sdk.bundle.arrays import read_array, save_array
    from edge_sdk.bundle.detector import DECODERS, Detector
    from edge_sdk.bundle.golden import GoldenSet, thinned

__all__ = [
    "DECODERS",
    "FORMAT",
    "OUTPUTS",
    "TASKS",
    "Artifact",
    "Bundle",
    "Detector",
    "Golden",
    "GoldenSet",
    "Manifest",
    "build_bundle",
    "read_array",
    "save_array",
    "thinned",
    "write_bundle",
]

# what loads a classifier does without
_HOMES = {
    "arrays": ("read_array", "save_array"),
    "detector": ("DECODERS", "Detector"),
    "golden": ("GoldenSet", "thinned"),
}
if not TYPE_CHECKING:  # or any name would pass for one that is there
    __getattr__ = loader(__name__, {name: f"{__name__}.{home}" for home, names in _HOMES.items() for name in names})
