"""How long before its deadline an answer has to be ready: what it then takes to be on its way, learned.

A caller's time ends when the answer is there, not when the model has said it. Between lie turns of the event loop and
the transport's writing, which take little on an idle server and many milliseconds on one that is asked for more than it
can do. There a queue in order of deadlines fills up to them, and without a margin each answer would come just late.
"""

from __future__ import annotations

__all__ = ["Margin"]

_UP, _DOWN = 0.2, 0.005  # how much a longer and a shorter time correct what is learned: it stays near the longest
_FRESH_SECONDS = 0.25  # after which what was learned says nothing: were everything refused for it, it would stay


class Margin:
    """Learns from answers; used on the event loop."""

    __slots__ = ("_learned", "_seconds")

    def __init__(self) -> None:
        self._seconds, self._learned = 0.0, float("-inf")

    def learn(self, ready: float, written: float) -> None:
        """Take into account when an answer was ready, and when it was written, as `time.monotonic` has it."""
        if written - self._learned > _FRESH_SECONDS:
            self._seconds = 0.0
        more = written - ready - self._seconds
        self._seconds += (_UP if more > 0 else _DOWN) * more
        self._learned = written

    def seconds(self, now: float) -> float:
        """Return how long before a deadline an answer has to be ready."""
        return self._seconds if now - self._learned < _FRESH_SECONDS else 0.0
