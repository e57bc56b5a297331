"""How many connections a process has room for: each takes one of the descriptors that the system lets it have."""

from __future__ import annotations

import contextlib
import logging
import resource

from edge_sdk.cloud.server.config import ServerConfig

__all__ = ["MOST_OF_METRICS", "make_room", "room_for"]

MOST_OF_METRICS = 128
"""Connections to metrics, whose scrapers are few."""

_USUAL = 10_000
_OTHERS = 256  # descriptors for files, libraries, and what else there is
_log = logging.getLogger("edge_sdk.cloud.server")


def make_room(config: ServerConfig) -> None:
    """Raise the limit of descriptors as far as connections need it, and may; log it where fewer than asked for fit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = config.max_connections or _USUAL
    needed = _fronts(config) * wanted + MOST_OF_METRICS + _OTHERS
    if soft < needed and soft != resource.RLIM_INFINITY:
        raised = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
        with contextlib.suppress(ValueError, OSError):  # macOS has limits beyond that one
            resource.setrlimit(resource.RLIMIT_NOFILE, (raised, hard))
    if config.max_connections is not None and (room := room_for(config)) < wanted:
        _log.warning(
            "the system's limit of open files leaves room for %d connections of each front, not %d: "
            "raise it (ulimit -n), or give --max-connections",
            room,
            wanted,
        )


def room_for(config: ServerConfig) -> int:
    """Return how many connections each front may have."""
    limit, wanted = resource.getrlimit(resource.RLIMIT_NOFILE)[0], config.max_connections or _USUAL
    if limit == resource.RLIM_INFINITY:
        return wanted
    return min(wanted, max(1, (limit - MOST_OF_METRICS - _OTHERS) // _fronts(config)))


def _fronts(config: ServerConfig) -> int:
    return 1 + (config.http_port is not None)
