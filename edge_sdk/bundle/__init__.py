"""The ``.edge`` bundle: one file that holds a model and everything a device must know of it."""

from edge_sdk.bundle.bundle import Bundle, build_bundle, write_bundle
from edge_sdk.bundle.golden import GoldenSet
from edge_sdk.bundle.manifest import FORMAT, OUTPUTS, RUNTIMES, TASKS, Artifact, Golden, Manifest

__all__ = [
    "FORMAT",
    "OUTPUTS",
    "RUNTIMES",
    "TASKS",
    "Artifact",
    "Bundle",
    "Golden",
    "GoldenSet",
    "Manifest",
    "build_bundle",
    "write_bundle",
]
