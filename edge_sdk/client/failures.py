"""Why calls to the cloud fail: as a reason, in words that say what to do, and in the log without a flood."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from edge_sdk.client.outcomes import Outcome
from edge_sdk.types import Reason

__all__ = ["Complaints", "Failed"]

_log = logging.getLogger("edge_sdk.client")

_QUIET_SECONDS = 60.0
_MOST_TEXT = 1000  # characters of what may be a server's words


class Failed(Exception):  # noqa: N818 - never leaves the link
    """Carries an outcome without an answer out of what was tried."""

    def __init__(self, reason: Reason, detail: str) -> None:
        detail = _one_line(detail)
        super().__init__(detail)
        self.outcome = Outcome(None, reason, detail=detail)


class Complaints:
    """Warnings, at most one a minute of each kind; thread-safe.

    Parameters
    ----------
    clock
        Monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._kinds: dict[str, tuple[float, int]] = {}  # when it may be said again, and how often it was not

    def say(self, kind: str, text: str) -> None:
        """Log a text, unless one of its kind was logged a moment ago.

        Parameters
        ----------
        kind
            One of few.
        text
            What is wrong, and what to do; logged as one line.
        """
        with self._lock:
            now = self._clock()
            again_at, unsaid = self._kinds.get(kind, (now, 0))
            if now < again_at:
                self._kinds[kind] = (again_at, unsaid + 1)
                return
            self._kinds[kind] = (now + _QUIET_SECONDS, 0)
        _log.warning("%s%s", _one_line(text), f" (and {unsaid} times more since it was last said)" if unsaid else "")


def _one_line(text: str) -> str:
    """Return a text without what could pass for another line of a log, and of bounded length."""
    text = text if len(text) <= _MOST_TEXT else f"{text[:_MOST_TEXT]} …"
    return text if text.isprintable() else "".join(one if one.isprintable() else "\ufffd" for one in text)
