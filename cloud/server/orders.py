"""What a supervisor tells a worker when it starts it."""

from __future__ import annotations

from dataclasses import dataclass

from edge_sdk.cloud.server.config import ServerConfig

__all__ = ["Orders"]


@dataclass(frozen=True, slots=True)
class Orders:
    """Sent through the worker's standard input, pickled: both are of one installation.

    Attributes
    ----------
    config
        How to serve; all ports are known, and shared.
    number
        Which worker it is, for the log.
    log_level
        Of the log.
    rates
        Descriptor of the file of `SharedRates`.
    """

    config: ServerConfig
    number: int
    log_level: int
    rates: int
