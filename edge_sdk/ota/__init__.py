"""Over-the-air updates: the device's side.

`OtaAgent` keeps a state folder at the version its fleet assigned to it; `follow` keeps a model in
an app at the version in that folder; `active` says where that version is. The agent needs the
extra ``ota``; `follow` and `active` do not.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from edge_sdk.errors import MissingExtraError

if TYPE_CHECKING:
    from edge_sdk.ota.agent import OtaAgent as OtaAgent
    from edge_sdk.ota.follower import Follower as Follower
    from edge_sdk.ota.follower import follow as follow
    from edge_sdk.ota.health import Limits as Limits
    from edge_sdk.ota.ranges import Ranges as Ranges
    from edge_sdk.ota.records import Event as Event
    from edge_sdk.ota.reporting import Pace as Pace
    from edge_sdk.ota.rules import Hours as Hours
    from edge_sdk.ota.rules import Rules as Rules
    from edge_sdk.ota.slots import active as active
    from edge_sdk.ota.soak import Soak as Soak
    from edge_sdk.ota.soak import Vitals as Vitals

__all__ = [
    "Event",
    "Follower",
    "Hours",
    "Limits",
    "OtaAgent",
    "Pace",
    "Ranges",
    "Rules",
    "Soak",
    "Vitals",
    "active",
    "follow",
]

_HOME = {
    "Event": "records",
    "Follower": "follower",
    "Hours": "rules",
    "Limits": "health",
    "OtaAgent": "agent",
    "Pace": "reporting",
    "Ranges": "ranges",
    "Rules": "rules",
    "Soak": "soak",
    "Vitals": "soak",
    "active": "slots",
    "follow": "follower",
}
_OF_THE_EXTRA = ("paho", "securesystemslib", "tuf")


if not TYPE_CHECKING:  # or any name would pass for one that is there

    def __getattr__(name: str) -> Any:
        if name not in _HOME:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        try:
            return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
        except ModuleNotFoundError as error:
            package = (error.name or "").split(".")[0]
            if package not in _OF_THE_EXTRA:
                raise
            raise MissingExtraError(package, "ota") from error
