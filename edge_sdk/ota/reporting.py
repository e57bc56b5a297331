"""Events become reports: stored first, then told to the app, then sent until the broker has them."""

from __future__ import annotations

import logging
import math
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

from edge_sdk import canonical
from edge_sdk.errors import InputError, StorageError
from edge_sdk.ota.outbox import Outbox
from edge_sdk.ota.records import Event
from edge_sdk.ota.topics import REPORT_BURST, REPORT_RATE

__all__ = ["Pace", "Reporter", "now"]

log = logging.getLogger("edge_sdk.ota.agent")


@dataclass(frozen=True, slots=True)
class Pace:
    """How fast stored reports leave, so that the repository service, which bounds each device, keeps all of them.

    Attributes
    ----------
    rate
        Reports a second for long.
    burst
        Reports at once after a start. Small, for an agent that is started again and again has it each time.

    Raises
    ------
    InputError
        The rate is not positive and finite, or the burst below one.
    """

    rate: float = REPORT_RATE
    burst: int = REPORT_BURST

    def __post_init__(self) -> None:
        if not (0 < self.rate < math.inf and self.burst >= 1):
            raise InputError(f"{self.rate} reports a second, {self.burst} at once: say numbers above 0")


class Reporter:
    """Owns the outbox; used by one thread.

    Parameters
    ----------
    outbox
        Where reports wait.
    send
        Publishes a report and returns the message's id, or None while nobody is connected.
    on_event
        The app's callback.
    pace
        How fast reports leave.
    """

    def __init__(
        self,
        outbox: Outbox,
        send: Callable[[bytes], int | None],
        on_event: Callable[[Event], None] | None,
        pace: Pace,
    ) -> None:
        self._outbox = outbox
        self._send = send
        self._on_event = on_event
        self._in_flight: dict[int, int] = {}
        self._sent = 0
        self._pace = pace
        self._free = float(pace.burst)
        self._since = time.monotonic()

    def __len__(self) -> int:
        return len(self._outbox)

    def say(self, event: Event, key: str | None = None, *, best_effort: bool = False) -> None:
        """Store, tell and send an event; one whose ``key`` was said before is not said again.

        Raises
        ------
        StorageError
            It cannot be stored; with ``best_effort`` it is told to the app all the same.
        """
        identity = uuid.uuid4().hex
        try:
            if not self._outbox.put(key or identity, canonical.dumps({"id": identity, **event.to_dict()})):
                return
        except StorageError as error:
            if not best_effort:
                raise
            log.warning("%s", error)
        log.info("%s %s-%s %s", event.state, event.name, event.version, event.reason)
        self.pump()
        if self._on_event is not None:
            self._on_event(event)

    def pump(self) -> None:
        """Send what this process has not sent yet, as far as its pace allows."""
        now = time.monotonic()
        self._free = min(self._pace.burst, self._free + (now - self._since) * self._pace.rate)
        self._since = now
        if self._free < 1:
            return
        try:
            waiting = self._outbox.pending(after=self._sent, limit=int(self._free))
        except StorageError as error:  # they wait for the disk, and updates go on
            log.warning("%s", error)
            return
        for pending in waiting:
            # the client repeats these itself after a reconnection; after a crash the outbox does
            message = self._send(pending.payload)
            if message is None:
                return
            self._in_flight[message] = pending.number
            self._sent = pending.number
            self._free -= 1

    def acknowledged(self, message: int) -> None:
        """Remove the report that the broker acknowledged; ids of other messages are ignored."""
        number = self._in_flight.pop(message, None)
        if number is not None:
            self._outbox.done(number)

    def close(self) -> None:
        """Close the outbox; what was not acknowledged stays in it."""
        self._outbox.close()


def now() -> str:
    """Return the time, UTC, as events say it."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")
