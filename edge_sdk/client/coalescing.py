"""Requests that are made at once travel in one message.

A request goes out at once while few are under way. Those that come meanwhile wait until one of them is
back, or for a moment at most; then those that are alike leave as the rows of one tensor: a wave. So an
idle link gets no slower, and a busy one makes few calls of many rows instead of many calls.

Each request keeps its own deadline, its own row of the answer and its own failure. Where the server
refuses a wave for what is in it, each is asked again by itself, so that one bad row takes no other with it.
No thread is started here: waves are sent by those who ask, and by gRPC's thread when a call is back.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import grpc
from numpy.typing import NDArray

from edge_sdk.client.outcomes import Gate, Outcome
from edge_sdk.client.payload import Contract
from edge_sdk.errors import InputError
from edge_sdk.protocol import ENCODING_PARAMETER, messages, read_outputs, read_parameters
from edge_sdk.protocol.names import DECISION_PARAMETER, DIGEST_PARAMETER, MAX_ITEMS

__all__ = ["Call", "Coalescer", "Item", "Reply"]

_LINGER_SHARE = 0.05  # of the time that a request has, spent on waiting for others at most
# a call costs little beside a message of this size, and rows would wait for other rows to arrive
_MOST_BYTES = 2**20
# what one row may be to blame for
_OF_CONTENT = (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN)
_MOST_LIMITS = 16


@dataclass(frozen=True, slots=True)
class Reply:
    """What a server answered.

    Attributes
    ----------
    digest
        Of the model that answered; empty where the server does not say.
    outputs
        Its output tensors by name.
    """

    digest: str
    outputs: Mapping[str, NDArray[Any]]

    @classmethod
    def of(cls, response: Any) -> Reply:
        """Read a ``ModelInferResponse``; raise `InputError` where it makes no sense."""
        return cls(str(read_parameters(response.parameters).get(DIGEST_PARAMETER, "")), read_outputs(response))

    def rows(self, n: int) -> list[Reply]:
        """Return the answers to ``n`` rows; raise `InputError` where there are more or fewer of them."""
        for name, array in self.outputs.items():
            if array.shape[:1] != (n,):
                raise InputError(f"the cloud was asked about {n} inputs, and its output {name} is {list(array.shape)}")
        return [Reply(self.digest, {name: x[i : i + 1] for name, x in self.outputs.items()}) for i in range(n)]


class Call(Protocol):
    """A call under way, as gRPC's futures are."""

    def add_done_callback(self, fn: Callable[[Any], None], /) -> None:
        """Call ``fn`` with this when it has ended; now, where it has."""

    def cancel(self) -> bool:
        """End it."""

    def code(self) -> Any:
        """Return the status that it ended with."""


class Coalescer:
    """Sends requests to one server, those that are made at once in one message; thread-safe.

    Parameters
    ----------
    send
        Sends a request whose answer must be there at a ``time.perf_counter`` reading (None: whenever), and
        returns the call, or how it ended where it could not begin.
    settle
        Returns what a call that has ended was answered, or how it failed; called once a call.
    on_sent
        Called with the number of requests in each message that is sent.
    at_once
        While fewer calls are under way, a request does not wait.
    linger
        Seconds that a request waits for others at most.
    most_items
        In one message; 1 sends each by itself.
    """

    def __init__(
        self,
        send: Callable[[Any, float | None], Call | Outcome],
        settle: Callable[[Any], Reply | Outcome],
        *,
        on_sent: Callable[[int], None] = lambda items: None,
        at_once: int = 2,
        linger: float = 0.005,
        most_items: int = MAX_ITEMS,
    ) -> None:
        self._send, self._settle, self._on_sent = send, settle, on_sent
        self._at_once, self._linger, self._most_items = at_once, linger, most_items
        self._lock = threading.Lock()
        self._waiting: dict[tuple[Any, ...], list[Item]] = {}
        self._under_way = 0
        self._pumping = False
        self._limits: dict[int, tuple[Contract, int]] = {}

    def begin(
        self, request: Any, size: int, contract: Contract, deadline: float | None, gate: Gate | None = None
    ) -> Item:
        """Send a request, now or with others.

        Parameters
        ----------
        request
            A ``ModelInferRequest`` for one input.
        size
            Its bytes.
        contract
            What it was made for; two that were made for different ones are not alike.
        deadline
            ``time.perf_counter`` reading at which the answer must be there; None waits.
        gate
            Asked where it has to be sent a second time.
        """
        item = Item(self, request, size, contract, deadline, gate)
        if size * 2 <= _MOST_BYTES and self._stacks(request, contract):
            item.kind = _kind(request, contract)
        with self._lock:
            if item.kind and (self._waiting or self._under_way >= self._at_once):
                now = time.perf_counter()
                patience = self._linger
                if deadline is not None:
                    patience = min(patience, _LINGER_SHARE * (deadline - now))
                item.leaves_at = now + patience
                self._waiting.setdefault(item.kind, []).append(item)
                return item
            self._under_way += 1
        self._launch(_Wave([item]))
        return item

    def _stacks(self, request: Any, contract: Contract) -> bool:
        """Tell whether the server takes several such requests as the rows of one."""
        if self._limit(contract) < 2 or len(request.inputs) != 1 or len(request.raw_input_contents) != 1:
            return False
        if ENCODING_PARAMETER in request.parameters:
            return True
        shape = request.inputs[0].shape
        return contract.shape[:1] == (-1,) and len(shape) == len(contract.shape) and shape[0] == 1

    def _limit(self, contract: Contract) -> int:
        known = self._limits.get(id(contract))
        return self._most_items if known is None else known[1]

    def _learn_limit(self, contract: Contract, most: int) -> None:
        with self._lock:
            if len(self._limits) >= _MOST_LIMITS:
                self._limits.clear()
            self._limits[id(contract)] = contract, most  # kept with it, so that no other gets its id

    def _pump(self) -> None:
        """Send what waits, while few are under way."""
        with self._lock:
            if self._pumping:  # by this thread, in a call that failed at once, or by another: it looks again
                return
            self._pumping = True
        while True:
            with self._lock:
                if not self._waiting or self._under_way >= self._at_once:
                    self._pumping = False
                    return
                wave = self._board(next(iter(self._waiting)))
            self._launch(wave)

    def _hurry(self, item: Item) -> None:
        """Send one that has waited for others long enough, and those others with it."""
        while True:
            with self._lock:
                if item.wave is not None or item.withdrawn:
                    return
                wave = self._board(item.kind)
            self._launch(wave)

    def _board(self, kind: tuple[Any, ...]) -> _Wave | None:
        """Take those of a kind that have waited longest, and still have time, out of the queue; the lock is held."""
        now, group = time.perf_counter(), []
        for item in self._waiting.pop(kind):
            item.withdrawn = item.deadline is not None and item.deadline <= now
            if not item.withdrawn:
                group.append(item)
        if not group:
            return None
        n = size = 0
        for item in group[: self._limit(group[0].contract)]:
            if n and size + item.size > _MOST_BYTES:
                break
            n, size = n + 1, size + item.size
        if n < len(group):
            self._waiting[kind] = group[n:]  # behind the other kinds
        self._under_way += 1
        return _Wave(group[:n])

    def _launch(self, wave: _Wave | None) -> None:
        if wave is None:
            return
        try:
            request = _merge([item.request for item in wave.items])
            wave.size = request.ByteSize()
            call = self._send(request, wave.deadline)
        except Exception as error:  # noqa: BLE001 - somebody waits for every one of them
            call = Outcome(None, "rejected", detail=f"the request cannot be sent: {error}")
        if isinstance(call, Outcome):
            wave.size = 0
            self._land(wave, call)
            return
        wave.call = call
        self._on_sent(wave.n)
        call.add_done_callback(partial(self._end, wave))

    def _end(self, wave: _Wave, call: Any) -> None:
        result: list[Reply] | Outcome
        try:
            settled = self._settle(call)
            if isinstance(settled, Outcome):
                result = settled
                wave.content_refused = wave.n > 1 and call.code() in _OF_CONTENT
            else:
                result = [settled] if wave.n == 1 else settled.rows(wave.n)
        except InputError as error:  # it does not answer row by row
            result = Outcome(None, "rejected", detail=str(error))
            self._learn_limit(wave.items[0].contract, 1)
        except Exception as error:  # noqa: BLE001 - whatever the server says, they wait for an end
            result = Outcome(None, "rejected", detail=f"the answer cannot be read: {error}")
        self._land(wave, result)

    def _land(self, wave: _Wave, result: list[Reply] | Outcome) -> None:
        """Send who waits for this wave's place, and let those go on who wait for its answer."""
        with self._lock:
            self._under_way -= 1
        self._pump()
        wave.result = result
        items, wave.items = wave.items, []  # no circle for the collector
        for item in items:
            item.back.release()

    def _wait(self, item: Item) -> tuple[Reply | Outcome, int]:
        if item.wave is None and not item.is_back(item.leaves_at):
            self._hurry(item)
        if item.withdrawn:
            return Outcome(None, "deadline", detail="no time was left to ask the cloud"), 0
        if not item.is_back(item.deadline):
            late = self._withdraw(item)
            if late is not None:
                return late
        wave = item.wave
        assert wave is not None
        assert wave.result is not None
        if not isinstance(wave.result, Outcome):
            return wave.result[item.row], wave.share(item)
        if wave.content_refused:
            return self._ask_alone(item, wave, wave.result)
        return wave.result, wave.share(item)

    def _withdraw(self, item: Item) -> tuple[Outcome, int] | None:
        """Give up on an answer; None where it has come meanwhile."""
        wave = item.wave
        assert wave is not None
        with self._lock:
            if wave.result is not None:
                return None
            wave.awaited -= 1
            call = wave.call if wave.awaited == 0 else None
        if call is not None:
            call.cancel()  # nobody waits for it any more
        return Outcome(None, "deadline", detail="the cloud did not answer in time"), wave.share(item)

    def _ask_alone(self, item: Item, wave: _Wave, refusal: Outcome) -> tuple[Reply | Outcome, int]:
        """Ask again about one of a wave that was refused, for another of them may have been to blame."""
        spent = wave.share(item)
        remaining = None if item.deadline is None else item.deadline - time.perf_counter()
        if (remaining is not None and remaining <= 0) or (item.gate is not None and item.gate(item.size, remaining)):
            return refusal, spent
        again = Item(self, item.request, item.size, item.contract, item.deadline)
        with self._lock:
            self._under_way += 1
        self._launch(_Wave([again]))
        result, size = again.wait()
        if not isinstance(result, Outcome):
            with self._lock:
                wave.innocent += 1
                all_are = wave.innocent == wave.n
            if all_are:  # it was their number
                self._learn_limit(item.contract, wave.n // 2)
        return result, spent + size


class Item:
    """One request, waiting, on its way or back; `wait` ends it."""

    __slots__ = (
        "_owner", "back", "contract", "deadline", "gate", "kind", "leaves_at",
        "request", "row", "size", "wave", "withdrawn",
    )  # fmt: skip

    def __init__(
        self,
        owner: Coalescer,
        request: Any,
        size: int,
        contract: Contract,
        deadline: float | None,
        gate: Gate | None = None,
    ) -> None:
        self._owner = owner
        self.request, self.size, self.contract = request, size, contract
        self.deadline, self.gate = deadline, gate
        self.kind: tuple[Any, ...] = ()
        self.leaves_at = 0.0
        self.wave: _Wave | None = None
        self.row = 0
        self.withdrawn = False
        self.back = threading.Lock()
        self.back.acquire()

    def wait(self) -> tuple[Reply | Outcome, int]:
        """Return the answer, or how asking failed, and the bytes that were sent for it: in time, whatever happens."""
        return self._owner._wait(self)  # noqa: SLF001 - the two are one

    def is_back(self, ends: float | None) -> bool:
        """Wait for an end until then; tell whether there is one."""
        if self.wave is not None and self.wave.result is not None:
            return True
        return self.back.acquire(timeout=-1 if ends is None else max(0.0, ends - time.perf_counter()))


class _Wave:
    """The items of one message, and what became of it."""

    __slots__ = ("awaited", "call", "content_refused", "deadline", "innocent", "items", "n", "result", "size")

    def __init__(self, items: list[Item]) -> None:
        self.items = items
        self.n = self.awaited = len(items)
        ends = [item.deadline for item in items]
        self.deadline = None if None in ends else max(end for end in ends if end is not None)
        self.call: Call | None = None
        self.result: list[Reply] | Outcome | None = None
        self.size = self.innocent = 0
        self.content_refused = False
        for row, item in enumerate(items):
            item.wave, item.row = self, row

    def share(self, item: Item) -> int:
        """Return an item's part of the bytes that were sent."""
        return self.size // self.n + (item.row < self.size % self.n)


def _kind(request: Any, contract: Contract) -> tuple[Any, ...]:
    """Return what requests have in common that can be rows of one."""
    tensor = request.inputs[0]
    parameters = sorted(
        (name, value.SerializeToString()) for name, value in request.parameters.items() if name != DECISION_PARAMETER
    )
    return id(contract), tensor.datatype, *tensor.shape, *parameters


def _merge(requests: Sequence[Any]) -> Any:
    """Return one request whose rows are those of several of a kind."""
    first = requests[0]
    if len(requests) == 1:
        return first
    merged = messages.ModelInferRequest(model_name=first.model_name, model_version=first.model_version)
    for name, parameter in first.parameters.items():
        merged.parameters[name].CopyFrom(parameter)
    if DECISION_PARAMETER in first.parameters:
        names = [request.parameters[DECISION_PARAMETER].string_param for request in requests]
        merged.parameters[DECISION_PARAMETER].string_param = ",".join(names)  # one a row, in their order
    tensor = first.inputs[0]
    # an input as captured has no axis that counts rows, and gets one; files and processed tensors have it
    has_axis = tensor.datatype == "BYTES" or ENCODING_PARAMETER not in first.parameters
    tail = tensor.shape[1:] if has_axis else tensor.shape
    merged.inputs.add(name=tensor.name, datatype=tensor.datatype, shape=[len(requests), *tail])
    merged.raw_input_contents.append(b"".join([request.raw_input_contents[0] for request in requests]))
    return merged
