"""One message of several requests: its rows, what becomes of each, and how they are put together and taken apart."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import grpc
import numpy as np
from numpy.typing import NDArray

from edge_sdk.client.answers import read_all_probabilities
from edge_sdk.client.drafts import Kind, Message, merge
from edge_sdk.client.endpoint import Endpoint, remaining
from edge_sdk.client.failures import Failed
from edge_sdk.client.fleet import Fleet
from edge_sdk.client.outcomes import Gate
from edge_sdk.client.payload import Contract
from edge_sdk.client.sending import Reply, Sending
from edge_sdk.errors import InputError

__all__ = ["Item", "Make", "Owner", "Wave", "outcome_of"]

# what one row may be to blame for
_OF_CONTENT = (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN)
# of those who wait for a wave, so many are woken at once, and each wakes another: all of them would wait for the GIL,
# and one alone would hold up the others where the system lets it wait
_WOKEN = 3

Make = Callable[[Contract], Message]


class Owner(Protocol):
    """Who sends items: see `edge_sdk.client.coalescing.Coalescer`."""

    def send_alone(self, item: Item) -> None:
        """Send a message of one request; raise `Failed` where that cannot be."""

    def hurry(self, item: Item) -> None:
        """Send what has waited for others long enough, and those others with it."""

    def learn_limit(self, contract: Contract, most: int) -> None:
        """Send no more requests at once to this model from now on."""


class Item:
    """A request on its way, by itself or in a wave: what callers need of a `Sending`."""

    __slots__ = (
        "back", "deadline", "first", "gate", "given", "kind", "leaves_at", "make", "message", "own", "owner", "row",
        "size", "waits", "wave", "withdrawn",
    )  # fmt: skip

    def __init__(
        self,
        owner: Owner,
        first: tuple[Endpoint, Contract],
        message: Message,
        deadline: float | None,
        make: Make | None,
        gate: Gate | None,
    ) -> None:
        self.owner, self.first, self.message, self.deadline = owner, first, message, deadline
        self.make, self.gate = make, gate
        self.size = message.size
        self.kind: Kind = ()
        self.leaves_at = 0.0
        self.own: Sending | None = None
        self.wave: Wave | None = None
        self.row = 0
        self.withdrawn = self.given = self.waits = False
        self.back = threading.Lock()
        self.back.acquire()

    @property
    def bytes(self) -> int:
        """What was sent for it: of a wave, its share."""
        return (0 if self.wave is None else self.wave.share(self)) + (0 if self.own is None else self.own.bytes)

    @property
    def calls(self) -> int:
        """Copies that were sent; those of a wave count for its first row."""
        shared = 0 if self.wave is None else self.wave.calls if self.row == 0 else min(1, self.wave.calls)
        return shared + (0 if self.own is None else self.own.calls)

    def next_reply(self) -> Reply:
        """Return what came back and was not returned before; see `Sending.next_reply`."""
        if self.own is not None:
            return self.own.next_reply()
        if self.given:
            raise Failed("rejected", "the answer to several inputs was of no use for this one")
        if self.wave is None and not self._is_back(self.leaves_at):
            self.owner.hurry(self)
        wave = self.wave
        if wave is None:
            raise Failed("deadline", "no time was left to ask the cloud")
        if not self._is_back(self.deadline) and wave.leave():
            raise Failed("deadline", f"{self.first[0].target} did not answer in time")
        result = wave.result
        assert result is not None
        self.given = True
        try:
            if not isinstance(result, Failed):
                return wave.row(self, result)
        except InputError as error:  # the server does not answer row by row
            self.owner.learn_limit(self.first[1], 1)
            raise Failed("rejected", str(error)) from error
        refused = wave.sending is not None and wave.sending.code() in _OF_CONTENT
        if wave.n > 1 and refused:  # for another of them may have been to blame
            left = remaining(self.deadline)
            if left == 0.0:
                raise Failed("deadline", "no time was left to ask the cloud about this input alone") from result
            if self.gate is None or self.gate(self.size, left) is None:
                return self._ask_alone(wave)
        raise Failed(result.outcome.reason, result.outcome.detail) from result

    def close(self) -> None:
        """Cancel what is still under way for this alone."""
        if self.own is not None:
            self.own.close()

    def _is_back(self, ends: float | None) -> bool:
        if self.wave is not None and self.wave.result is not None:
            return True
        self.waits = True
        try:
            return self.back.acquire(timeout=-1 if ends is None else max(0.0, ends - time.perf_counter()))
        finally:
            self.waits = False
            if self.wave is not None:
                self.wave.pass_on()

    def _ask_alone(self, wave: Wave) -> Reply:
        """Ask again about one of a wave that was refused."""
        self.owner.send_alone(self)
        assert self.own is not None
        reply = self.own.next_reply()
        if wave.clear_one():  # none of them was: it was their number
            self.owner.learn_limit(self.first[1], wave.n // 2)
        return reply


class _Sheet:
    """What a response says to all items of a wave, read once; thread-safe."""

    __slots__ = ("_lock", "_probabilities", "_read_as", "outputs", "parameters")

    def __init__(self, reply: Reply, n: int) -> None:
        self.parameters, self.outputs = reply.parameters(), _rows(reply.outputs(), n)
        self._lock = threading.Lock()
        self._read_as: tuple[Contract, int] | None = None
        self._probabilities: NDArray[np.float32] | None = None

    def probabilities(self, contract: Contract, classes: int) -> NDArray[np.float32] | None:
        """Return float32 [n, classes]; None where each has to look at its own row."""
        with self._lock:
            if self._read_as is None:
                first = next(iter(self.outputs.values()), None)
                self._probabilities = None if first is None else read_all_probabilities(first, contract, classes)
                self._read_as = contract, classes
            known, same = self._read_as
            return self._probabilities if known is contract and same == classes else None


@dataclass(slots=True)  # not frozen: one is made for every request, in half the time
class _Row(Reply):
    """The answer to one item of a wave."""

    row: int
    sheet: _Sheet

    def parameters(self) -> Mapping[str, Any]:
        return self.sheet.parameters

    def outputs(self) -> Mapping[str, NDArray[Any]]:
        return {name: array[self.row : self.row + 1] for name, array in self.sheet.outputs.items()}

    def probabilities(self, contract: Contract, classes: int) -> NDArray[np.float32]:
        said = self.sheet.probabilities(contract, classes)
        return Reply.probabilities(self, contract, classes) if said is None else said[self.row]


class Wave:
    """The items of one message, and what became of it."""

    __slots__ = ("_asleep", "_awaited", "_cleared", "_lock", "_sheet", "deadline", "items", "n", "result", "sending")

    def __init__(self, items: list[Item]) -> None:
        self.items = items
        self._asleep: list[Item] = []
        self.n = self._awaited = len(items)
        ends = [item.deadline for item in items]
        self.deadline = None if None in ends else max(end for end in ends if end is not None)
        self.sending: Sending | None = None
        self.result: Reply | Failed | None = None
        self._sheet: _Sheet | None = None
        self._cleared = 0
        self._lock = threading.Lock()
        for row, item in enumerate(items):
            item.wave, item.row = self, row

    @property
    def calls(self) -> int:
        """Copies that were sent."""
        return 0 if self.sending is None else self.sending.calls

    def send(self, fleet: Fleet) -> Sending:
        """Send it; raise what `Sending` does."""
        first = self.items[0]
        message = Message(merge([item.message for item in self.items]), first.message.seen)
        make = first.make if self.n == 1 else None
        self.sending = Sending(fleet, first.first, message, self.deadline, make=make, gate=first.gate)
        return self.sending

    def share(self, item: Item, size: int | None = None) -> int:
        """Return an item's part of what was sent."""
        if size is None:
            size = 0 if self.sending is None else self.sending.bytes
        return size // self.n + (item.row < size % self.n)

    def land(self, result: Reply | Failed) -> None:
        """Let those go on who wait for the answer."""
        self.result = result
        self._asleep, self.items = self.items[::-1], []  # no circle for the collector
        for _ in range(_WOKEN):
            self.pass_on()

    def pass_on(self) -> None:
        """Let the next one go on who waits, and those before it who do not yet.

        Who goes on calls this first.
        """
        while self._asleep:
            try:
                item = self._asleep.pop()
            except IndexError:  # another was faster
                return
            item.back.release()
            if item.waits:
                return

    def row(self, item: Item, reply: Reply) -> Reply:
        """Return the answer to an item; raise `InputError` where the rows are not theirs."""
        if self.n == 1:
            return reply
        with self._lock:
            if self._sheet is None:
                self._sheet = _Sheet(reply, self.n)
        size = self.share(item, reply.size)
        return _Row(reply.response, item.message, reply.endpoint, reply.contract, size, item.row, self._sheet)

    def leave(self) -> bool:
        """Give up on the answer; False where it has come meanwhile."""
        with self._lock:
            if self.result is not None:
                return False
            self._awaited -= 1
            sending = self.sending if self._awaited == 0 else None
        if sending is not None:
            sending.cancel()  # nobody waits for it any more
        return True

    def clear_one(self) -> bool:
        """Note that one of a refused wave was answered by itself; tell whether all have been."""
        with self._lock:
            self._cleared += 1
            return self._cleared == self.n


def outcome_of(sending: Sending) -> Reply | Failed:
    """Return how one ended that has."""
    try:
        return sending.next_reply()
    except Failed as failed:
        return failed


def _rows(outputs: Mapping[str, NDArray[Any]], n: int) -> Mapping[str, NDArray[Any]]:
    """Return outputs that have ``n`` rows; else raise `InputError`."""
    for name, array in outputs.items():
        if array.shape[:1] != (n,):
            raise InputError(f"the cloud was asked about {n} inputs, and its output {name} is {list(array.shape)}")
    return outputs
