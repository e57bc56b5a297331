"""Which of gRPC's threads reads its sockets; to be said before gRPC is loaded.

Its library reads with threads of an event engine, which then wake the one that Python's events come from. In the older
way, which its versions so far have, too, that one reads. A small request costs up to a quarter less so.
"""

from __future__ import annotations

import os
from importlib.metadata import version

__all__ = ["read_where_events_come_from"]

_LAST = (1, 85)  # version of gRPC's library that is known to have both ways: one that has not writes an error


def read_where_events_come_from() -> None:
    """Choose the older way for servers of this process and those it starts, unless ``GRPC_EXPERIMENTS`` chooses."""
    major, minor = version("grpcio").split(".")[:2]
    if (int(major), int(minor)) <= _LAST:
        os.environ.setdefault("GRPC_EXPERIMENTS", "-event_engine_listener")
