"""When the next request to a repository may leave: as the link carries, and as often as the service answers."""

from __future__ import annotations

import random
import time

from edge_sdk.errors import TransferError
from edge_sdk.ota.topics import BLOCK_BYTES

__all__ = ["Pacer"]

_PAUSE = (0.1, 0.2)  # seconds after a refusal that does not say how long
_LONGEST = 5.0
_FIRST_WINDOW = 4.0
_EASING = 0.95  # of the time between two requests, with each that is answered: until the next refusal


class Pacer:
    """Spaces requests, and says how many may be under way; for one thread.

    More are let out at a time as answers come soon, fewer when they take half of the time after which a request is
    made again: on a slow link the answers to many would all be late, and sent twice.

    A service that was asked too often says in what time it answers one more request. From then on this much time
    lies between two of ours, a little less after each answer: so the device goes on at the service's rate, not in
    bursts that are refused.

    Parameters
    ----------
    window
        Requests under way at a time, at most.
    rate
        Bytes a second that replies may take up, on average; None: as many as come.
    timeout
        Seconds until a request is made again.
    patience
        Seconds of nothing but refusals after which `refused` raises.
    """

    def __init__(self, window: int, rate: float | None, timeout: float, patience: float) -> None:
        # at most a second's worth at once, or a block
        self._most = float(window if rate is None else max(1, min(window, int(rate // BLOCK_BYTES))))
        self._open = min(self._most, _FIRST_WINDOW)
        self._timeout = timeout
        self._rate = rate
        self._patience = patience
        self._gap = 0.0
        self._slowed = 0.0
        self._refused_since: float | None = None
        self.due = 0.0
        """When the next request may leave, on the monotonic clock."""

    @property
    def window(self) -> int:
        """How many requests may be under way now."""
        return int(self._open)

    def begin(self) -> None:
        """Begin another transfer: refusals of the one before are not held against it."""
        self._refused_since = None

    def sent(self) -> None:
        """Count a request that has just left."""
        if self._gap:
            self.due = max(self.due, time.monotonic()) + self._gap

    def received(self, size: int) -> None:
        """Count the bytes of a reply, of whatever kind."""
        if self._rate is not None:
            self.due = max(self.due, time.monotonic()) + size / self._rate

    def answered(self, took: float) -> None:
        """Count a request that was answered in ``took`` seconds."""
        if took < self._timeout / 4:
            self._open = min(self._most, self._open + 1)
        elif took > self._timeout / 2:
            self._open = max(1.0, self._open * 0.7)
        self._refused_since = None
        self._gap *= _EASING
        if self._gap < 1e-4:
            self._gap = 0.0

    def refused(self, sent: float, pause: float) -> None:
        """Slow down after the word that we ask too often.

        Parameters
        ----------
        sent
            When the request had left: of many that were under way, the first refusal counts.
        pause
            In how many seconds the service answers one more request; 0 where it did not say.

        Raises
        ------
        TransferError
            It has said nothing else for too long.
        """
        now = time.monotonic()
        again = self._refused_since is not None
        if self._refused_since is None:
            self._refused_since = now
        elif now - self._refused_since >= self._patience:
            raise TransferError(
                f"for {self._patience:.0f} s the repository answered only that this device asks too often; "
                "what does `edge-sdk ota serve --request-rate` say, and who else has this device's id?"
            )
        if sent < self._slowed:
            return
        self._slowed = now
        self._gap = min(
            _LONGEST, self._patience, max(pause or random.uniform(*_PAUSE), 2 * self._gap if again else 0.0)
        )
        self.due = max(self.due, now + self._gap * random.uniform(1.0, 1.5))
