"""The fallback server: bundles and plain model files over the Open Inference Protocol v2.

`core` is independent of the transport, `grpc_front` has the methods of the protocol, `fast_front` or gRPC's own library
brings their calls, `service` is the process, and `supervisor` keeps several of them. Names are loaded when they are
first used: a supervisor needs neither gRPC nor a runtime.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from edge_sdk._lazy import loader

if TYPE_CHECKING:
    from edge_sdk.cloud.server.config import ServerConfig
    from edge_sdk.cloud.server.start import run

__all__ = ["ServerConfig", "run"]

_HOMES = {"ServerConfig": "edge_sdk.cloud.server.config", "run": "edge_sdk.cloud.server.start"}

if not TYPE_CHECKING:  # or any name would pass for one that is there
    _load = loader(__name__, _HOMES)

    def __getattr__(name: str) -> Any:
        return _load(name)
