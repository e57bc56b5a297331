"""How long a message may take to arrive: the shorter, the less room is left for those of others."""

from __future__ import annotations

from edge_sdk.cloud.server.http2 import Budget, Stream

__all__ = ["REQUEST_SECONDS", "patience"]

REQUEST_SECONDS = 60.0
"""That a message may take where there is room."""

_LEAST_SECONDS = 2.0  # that it has in any case


def patience(budget: Budget, stream: Stream) -> float:
    """Return how many seconds a message of a call may take to arrive.

    Who sends all but the end of a message holds what others need. So where more than half of the room is taken, a
    message has the less time the less is left, and those that have been on their way for longest go first. What a call
    may hold in any case is not needed by others.
    """
    if stream.held <= budget.each:
        return REQUEST_SECONDS
    left = 2 * (1 - budget.held / budget.most)
    return min(REQUEST_SECONDS, max(_LEAST_SECONDS, REQUEST_SECONDS * left))
