"""edge-sdk: edge-and-cloud hybrid inference with certified deferral.

::

    import edge_sdk

    with edge_sdk.load("digits-1.0.0.edge") as model:  # on this device only
        print(model.predict("seven.png").label)

    with edge_sdk.connect("digits-1.0.0.edge", cloud="host:8001", deadline=0.150) as model:
        print(model.predict("seven.png").source)  # edge or cloud, always in time

Names are loaded when they are first used, so that importing the package costs next to nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from edge_sdk._lazy import loader

if TYPE_CHECKING:
    from edge_sdk.bundle import Bundle
    from edge_sdk.client import HybridModel, connect
    from edge_sdk.errors import EdgeSdkError
    from edge_sdk.model import EdgeModel, load
    from edge_sdk.packing import pack
    from edge_sdk.processing import ProcessingSpec
    from edge_sdk.types import Classification, Detection, Detections, Prediction, Tensors, Timing

    __version__: str

__all__ = [
    "Bundle",
    "Classification",
    "Detection",
    "Detections",
    "EdgeModel",
    "EdgeSdkError",
    "HybridModel",
    "Prediction",
    "ProcessingSpec",
    "Tensors",
    "Timing",
    "__version__",
    "connect",
    "load",
    "pack",
]

_HOMES = {
    "Bundle": "edge_sdk.bundle",
    "Classification": "edge_sdk.types",
    "Detection": "edge_sdk.types",
    "Detections": "edge_sdk.types",
    "EdgeModel": "edge_sdk.model",
    "EdgeSdkError": "edge_sdk.errors",
    "HybridModel": "edge_sdk.client",
    "Prediction": "edge_sdk.types",
    "ProcessingSpec": "edge_sdk.processing",
    "Tensors": "edge_sdk.types",
    "Timing": "edge_sdk.types",
    "connect": "edge_sdk.client",
    "load": "edge_sdk.model",
    "pack": "edge_sdk.packing",
}


if not TYPE_CHECKING:  # or any name would pass for one that is there
    _load = loader(__name__, _HOMES)

    def __getattr__(name: str) -> Any:
        if name == "__version__":
            from importlib import metadata

            return metadata.version("edge-sdk")
        return _load(name)


def __dir__() -> list[str]:
    return sorted(__all__)
