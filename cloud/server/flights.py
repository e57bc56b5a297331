"""Equal requests that are there at once: the first of them is run, the others wait for what it gets.

Nobody waits for one that may wait longer than itself: of lower priority, or with a later deadline.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from edge_sdk.cloud.server.runs import Run

__all__ = ["Flight", "Flights", "Outcome", "frozen"]

Array = np.ndarray[Any, Any]
Outcome = Sequence[Array] | Literal["failed", "gone"]
"""The outputs; or the request failed, which says little of the next; or its caller went, or its time was up."""


@dataclass(slots=True, eq=False)
class Flight:
    """A request under way.

    Attributes
    ----------
    urgency
        Its priority and deadline; less goes first.
    landed
        What became of it.
    waiting
        How many wait for it.
    """

    urgency: tuple[int, float]
    landed: asyncio.Future[Outcome]
    waiting: int = 0

    async def join(self, deadline: float | None) -> Outcome:
        """Wait for what becomes of it; raise `TimeoutError` at a deadline, a `time.monotonic` reading."""
        self.waiting += 1
        try:
            seconds = None if deadline is None else max(0.0, deadline - time.monotonic())
            await asyncio.wait((self.landed,), timeout=seconds)
        finally:
            self.waiting -= 1
        if not self.landed.done():
            raise TimeoutError("no time is left for this request")
        return self.landed.result()


class Flights:
    """The requests under way, by what they are known by; used on one event loop."""

    def __init__(self) -> None:
        self._flights: dict[bytes, Flight] = {}

    def find(self, key: bytes, urgency: tuple[int, float]) -> Flight | None:
        """Return an equal request that is at least as urgent; None where there is none."""
        flight = self._flights.get(key)
        return flight if flight is not None and flight.urgency <= urgency else None

    async def lead(
        self, key: bytes, urgency: tuple[int, float], run: Awaitable[Run], keep: Callable[[Run], Sequence[Array] | None]
    ) -> Run:
        """Run a request for which equal ones may wait; return what it gets, or raise what it raises.

        Parameters
        ----------
        key, urgency
            What it is known by, its priority and deadline.
        run
            Runs it.
        keep
            Is given what it got, and returns the outputs that others may have, too; None where there are none.
        """
        flight = self._flights[key] = Flight(urgency, asyncio.get_running_loop().create_future())
        outcome: Outcome = "gone"
        try:
            got = await run
            kept = keep(got)
            if flight.waiting:
                outcome = kept if kept is not None else frozen(got.outputs)
            return got
        except (asyncio.CancelledError, TimeoutError):
            raise
        except BaseException:
            outcome = "failed"
            raise
        finally:
            if self._flights.get(key) is flight:
                del self._flights[key]
            flight.landed.set_result(outcome)


def frozen(outputs: Sequence[Array]) -> tuple[Array, ...]:
    """Return a copy of outputs that nobody can change."""
    copies = tuple(output.copy() for output in outputs)
    for copy in copies:
        copy.flags.writeable = False
    return copies
