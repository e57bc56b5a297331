"""The hybrid client: the edge answers, the cloud is asked when the rule says so, and always in time."""

from __future__ import annotations

from edge_sdk.client.hybrid import MODES, HybridModel, Mode, connect

__all__ = ["MODES", "HybridModel", "Mode", "connect"]
