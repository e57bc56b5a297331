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


class Failed(Exception):  # noqa: N818 - never leaves the link
    """Carries an outcome without an answer out of what was tried."""

    def __init__(self, reason: Reason, detail: str) -> None:
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
            One line: what is wrong, and what to do.
        """
        with self._lock:
            now = self._clock()
            again_at, unsaid = self._kinds.get(kind, (now, 0))
            if now < again_at:
                self._kinds[kind] = (again_at, unsaid + 1)
                return
            self._kinds[kind] = (now + _QUIET_SECONDS, 0)
        _log.warning("%s%s", text, f" (and {unsaid} times more since it was last said)" if unsaid else "")
