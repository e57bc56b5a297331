"""Requests that are made at once travel in one message.

A request goes out at once while few are under way. Those that come meanwhile wait until one of them is
back, or for a moment at most; then those that are alike leave as the rows of one tensor: a wave. So an
idle link gets no slower, and a busy one makes few calls of many rows instead of many calls.

Who has just had an answer in a wave often asks again at once. So when a wave is back, others wait for a
moment for those who were in it, until as many are there as are away: one half of a crowd gathers while the
other half is under way, and the server works while the client does.

Each request keeps its own deadline, its own row of the answer and its own failure. Where the server
refuses a wave for what is in it, each is asked again by itself, so that one bad row takes no other with it.
No thread is started here: waves are sent by those who ask, and by gRPC's thread when a call is back.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from edge_sdk.client.drafts import Kind, Message
from edge_sdk.client.endpoint import Endpoint
from edge_sdk.client.failures import Failed
from edge_sdk.client.fleet import Fleet
from edge_sdk.client.outcomes import Gate
from edge_sdk.client.payload import Contract
from edge_sdk.client.sending import Sending
from edge_sdk.client.waves import Item, Make, Wave, outcome_of
from edge_sdk.protocol.names import MAX_ITEMS

__all__ = ["Coalescer"]

_LINGER_SHARE = 0.1  # of the time that a request has, spent on waiting for others at most
# a call costs little beside a message of this size, and rows would wait for other rows to arrive
_MOST_BYTES = 2**20
_MOST_LIMITS = 16
_FEW = 8  # while more inputs than these are under way, others had better gather: a call costs more than a row
_CROWD = 32  # who have their answers at once and ask again; fewer do so sooner


class Coalescer:
    """Sends requests, those that are made at once in one message; thread-safe.

    Parameters
    ----------
    fleet
        The endpoints.
    on_sent
        Called with the number of requests in each message that is sent.
    at_once
        While fewer calls are under way, and no more than 8 inputs in them, a request does not wait.
    linger
        Seconds that a request waits for others at most.
    gather
        Seconds within which a crowd that has its answers asks again, if it does.
    most_items
        In one message; 1 sends each by itself.
    """

    def __init__(
        self,
        fleet: Fleet,
        *,
        on_sent: Callable[[int], None] = lambda items: None,
        at_once: int = 2,
        linger: float = 0.020,
        gather: float = 0.003,
        most_items: int = MAX_ITEMS,
    ) -> None:
        self._fleet, self._on_sent = fleet, on_sent
        self._at_once, self._linger, self._gather, self._most_items = at_once, linger, gather, most_items
        self._lock = threading.Lock()
        self._waiting: dict[Kind, list[Item]] = {}
        self._waits = 0  # inputs that wait
        self._under_way = self._inputs = 0  # calls, and inputs in them
        self._returning, self._returned_at = 0, 0.0  # who may ask again presently, and until when
        self._pumping = self._is_timed = False
        self._limits: dict[int, tuple[Contract, int]] = {}

    def begin(
        self,
        first: tuple[Endpoint, Contract],
        message: Message,
        deadline: float | None,
        *,
        make: Make | None = None,
        gate: Gate | None = None,
    ) -> Item:
        """Send a request about one input, now or with others; see `Sending` for the parameters.

        Raises
        ------
        Failed
            It cannot be sent now.
        """
        item = Item(self, first, message, deadline, make, gate)
        contract = first[1]
        small = item.size * 2 <= min(_MOST_BYTES, contract.most_bytes)
        if small and self._limit(contract) > 1 and message.stacks(contract):
            item.kind = first[0], id(contract), *message.kind
            now = time.perf_counter()
            with self._lock:
                self._returning = max(0, self._returning - 1)
                queues = bool(self._waits) or not self._may_leave(1, now)
                if queues:
                    patience = self._linger
                    if deadline is not None:
                        patience = min(patience, _LINGER_SHARE * (deadline - now))
                    item.leaves_at = now + patience
                    self._waiting.setdefault(item.kind, []).append(item)
                    self._waits += 1
                    wave = self._next(now)
            if queues:
                if wave is not None:
                    self._launch(wave)
                    self._pump()
                return item
        self.send_alone(item)
        return item

    def send_alone(self, item: Item) -> None:
        """Send a message of one request; raise `Failed` where that cannot be."""
        with self._lock:
            self._under_way += 1
            self._inputs += 1
        try:
            item.own = Sending(self._fleet, item.first, item.message, item.deadline, make=item.make, gate=item.gate)
        except BaseException:
            self._one_is_back(1)
            raise
        self._on_sent(1)
        item.own.add_done_callback(lambda _: self._one_is_back(1))

    def hurry(self, item: Item) -> None:
        """Send what has waited for others long enough, and those others with it."""
        while True:
            with self._lock:
                if item.wave is not None or item.withdrawn:
                    return
                wave = self._board(item.kind)
            self._launch(wave)

    def learn_limit(self, contract: Contract, most: int) -> None:
        """Send no more requests at once to this model from now on."""
        with self._lock:
            if len(self._limits) >= _MOST_LIMITS:
                self._limits.clear()
            self._limits[id(contract)] = contract, most  # kept with it, so that no other gets its id

    def _limit(self, contract: Contract) -> int:
        known = self._limits.get(id(contract))
        return self._most_items if known is None else known[1]

    def _may_leave(self, waits: int, now: float) -> bool:
        """Tell whether so many that wait may leave now, or had better wait for those who may ask again presently.

        The lock is held.
        """
        if self._under_way >= self._at_once:
            return False
        returning = self._returning if now < self._returned_at else 0
        return waits >= self._inputs + returning or (not returning and self._inputs <= _FEW)

    def _next(self, now: float) -> Wave | None:
        """Take those out of the queue who are to leave now, if any; the lock is held."""
        while self._waits and self._may_leave(self._waits, now):
            wave = self._board(next(iter(self._waiting)))
            if wave is not None:
                return wave
        if self._waits and not self._is_timed and self._may_leave(self._waits, self._returned_at):
            # they wait only for others to come back, who may never do
            self._is_timed = self._fleet.alarm.after(self._returned_at - now, self._time_is_up)
        return None

    def _time_is_up(self) -> None:
        with self._lock:
            self._is_timed = False
        self._pump()

    def _one_is_back(self, inputs: int) -> None:
        """Send what waits, while few are under way."""
        with self._lock:
            self._under_way -= 1
            self._inputs -= inputs
            if inputs > 1:
                self._returning += inputs
                self._returned_at = time.perf_counter() + self._gather * min(1.0, self._returning / _CROWD)
        self._pump()

    def _pump(self) -> None:
        with self._lock:
            if self._pumping:  # by this thread, in a call that failed at once, or by another: it looks again
                return
            self._pumping = True
        while True:
            with self._lock:
                wave = self._next(time.perf_counter())
                if wave is None:
                    self._pumping = False
                    return
            self._launch(wave)

    def _board(self, kind: Kind) -> Wave | None:
        """Take those of a kind that have waited longest, and still have time, out of the queue; the lock is held."""
        now, group = time.perf_counter(), []
        waiting = self._waiting.pop(kind)
        self._waits -= len(waiting)
        for item in waiting:
            item.withdrawn = item.deadline is not None and item.deadline <= now
            if not item.withdrawn:
                group.append(item)
        if not group:
            return None
        contract = group[0].first[1]
        n, size, most_bytes = 0, 0, min(_MOST_BYTES, contract.most_bytes)
        for item in group[: self._limit(contract)]:
            if n and size + item.size > most_bytes:
                break
            n, size = n + 1, size + item.size
        if n < len(group):
            self._waiting[kind] = group[n:]  # behind the other kinds
            self._waits += len(group) - n
        self._under_way += 1
        self._inputs += n
        return Wave(group[:n])

    def _launch(self, wave: Wave | None) -> None:
        if wave is None:
            return
        try:
            sending = wave.send(self._fleet)
        except Exception as error:  # noqa: BLE001 - somebody waits for every one of them
            self._one_is_back(wave.n)
            wave.land(error if isinstance(error, Failed) else Failed("rejected", f"it cannot be sent: {error}"))
            return
        self._on_sent(wave.n)

        def land(sending: Sending) -> None:
            self._one_is_back(wave.n)
            wave.land(outcome_of(sending))

        sending.add_done_callback(land)
