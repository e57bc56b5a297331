"""Runtimes: what loads a model file and runs it. Each is imported only when a model needs it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edge_sdk._lazy import loader
from edge_sdk.runtime.opening import Threads, open_session

if TYPE_CHECKING:
    from edge_sdk.runtime.base import Session

__all__ = ["Session", "Threads", "open_session"]

if not TYPE_CHECKING:  # or any name would pass for one that is there
    __getattr__ = loader(__name__, {"Session": f"{__name__}.base"})  # brings NumPy
