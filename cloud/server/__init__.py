"""The fallback server: bundles and plain model files over the Open Inference Protocol v2.

`core` is independent of the transport, `grpc_front` is the transport, `service` is the process.
"""

from __future__ import annotations

from edge_sdk.cloud.server.service import ServerConfig, run

__all__ = ["ServerConfig", "run"]
