"""The ``.edge`` bundle: one file that holds a model and everything a device must know of it."""

from edge_sdk.bundle.arrays import read_array, save_array
from edge_sdk.bundle.bundle import Bundle, build_bundle, write_bundle
from edge_sdk.bundle.detector import DECODERS, Detector
from edge_sdk.bundle.golden import GoldenSet, thinned
from edge_sdk.bundle.manifest import FORMAT, OUTPUTS, TASKS, Artifact, Golden, Manifest

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
