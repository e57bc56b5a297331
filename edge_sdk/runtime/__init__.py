"""Runtimes: what loads a model file and runs it. Each is imported only when a model needs it."""

from edge_sdk.runtime.base import Session
from edge_sdk.runtime.opening import Threads, open_session

__all__ = ["Session", "Threads", "open_session"]
