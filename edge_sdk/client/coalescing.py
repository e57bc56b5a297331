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
from collections.abc import Callable, Sequence
from typing import Any

import grpc

from edge_sdk.client.endpoint import Endpoint, remaining
from edge_sdk.client.failures import Failed
from edge_sdk.client.fleet import Fleet
from edge_sdk.client.outcomes import Gate
from edge_sdk.client.payload import Contract
from edge_sdk.client.sending import Message, Reply, Sending
from edge_sdk.errors import InputError
from edge_sdk.protocol import ENCODING_PARAMETER, MAX_MESSAGE_BYTES, add_output, messages, read_outputs
from edge_sdk.protocol.names import DECISION_PARAMETER, MAX_ITEMS

__all__ = ["Coalescer", "Item"]

_LINGER_SHARE = 0.1  # of the time that a request has, spent on waiting for others at most
# a call costs little beside a message of this size, and rows would wait for other rows to arrive
_MOST_BYTES = 2**20
# what one row may be to blame for
_OF_CONTENT = (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN)
_MOST_LIMITS = 16

Make = Callable[[Contract], Message]
_Kind = tuple[Any, ...]


class Coalescer:
    """Sends requests, those that are made at once in one message; thread-safe.

    Parameters
    ----------
    fleet
        The endpoints.
    on_sent
        Called with the number of requests in each message that is sent.
    at_once
        While fewer calls are under way, a request does not wait.
    linger
        Seconds that a request waits for others at most.
    most_items
        In one message; 1 sends each by itself.

    Attributes
    ----------
    most_bytes
        That the server takes in one message.
    """

    def __init__(
        self,
        fleet: Fleet,
        *,
        on_sent: Callable[[int], None] = lambda items: None,
        at_once: int = 2,
        linger: float = 0.020,
        most_items: int = MAX_ITEMS,
    ) -> None:
        self._fleet, self._on_sent = fleet, on_sent
        self._at_once, self._linger, self._most_items = at_once, linger, most_items
        self.most_bytes = MAX_MESSAGE_BYTES
        self._lock = threading.Lock()
        self._waiting: dict[_Kind, list[Item]] = {}
        self._under_way = 0
        self._pumping = False
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
        if item.size * 2 <= min(_MOST_BYTES, self.most_bytes) and self._stacks(message.request, first[1]):
            item.kind = _kind_of(item)
            with self._lock:
                if self._waiting or self._under_way >= self._at_once:
                    patience = self._linger
                    now = time.perf_counter()
                    if deadline is not None:
                        patience = min(patience, _LINGER_SHARE * (deadline - now))
                    item.leaves_at = now + patience
                    self._waiting.setdefault(item.kind, []).append(item)
                    return item
        self.send_alone(item)
        return item

    def send_alone(self, item: Item) -> None:
        """Send a message of one request; raise `Failed` where that cannot be."""
        with self._lock:
            self._under_way += 1
        try:
            item.own = Sending(self._fleet, item.first, item.message, item.deadline, make=item.make, gate=item.gate)
        except BaseException:
            self._one_is_back()
            raise
        self._on_sent(1)
        item.own.add_done_callback(self._one_is_back)

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

    def _stacks(self, request: Any, contract: Contract) -> bool:
        """Tell whether the server takes several such requests as the rows of one."""
        if self._limit(contract) < 2 or len(request.inputs) != 1 or len(request.raw_input_contents) != 1:
            return False
        if ENCODING_PARAMETER in request.parameters:
            return True
        shape = request.inputs[0].shape
        return contract.shape[:1] == (-1,) and len(shape) == len(contract.shape) and shape[0] == 1

    def _one_is_back(self, _: object = None) -> None:
        """Send what waits, while few are under way."""
        with self._lock:
            self._under_way -= 1
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

    def _board(self, kind: _Kind) -> _Wave | None:
        """Take those of a kind that have waited longest, and still have time, out of the queue; the lock is held."""
        now, group = time.perf_counter(), []
        for item in self._waiting.pop(kind):
            item.withdrawn = item.deadline is not None and item.deadline <= now
            if not item.withdrawn:
                group.append(item)
        if not group:
            return None
        n, size, most_bytes = 0, 0, min(_MOST_BYTES, self.most_bytes)
        for item in group[: self._limit(group[0].first[1])]:
            if n and size + item.size > most_bytes:
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
            sending = wave.send(self._fleet)
        except Exception as error:  # noqa: BLE001 - somebody waits for every one of them
            self._one_is_back()
            wave.land(error if isinstance(error, Failed) else Failed("rejected", f"it cannot be sent: {error}"))
            return
        self._on_sent(wave.n)

        def land(sending: Sending) -> None:
            self._one_is_back()
            wave.land(_outcome(sending))

        sending.add_done_callback(land)


class Item:
    """A request on its way, by itself or in a wave: what callers need of a `Sending`."""

    __slots__ = (
        "back", "deadline", "first", "gate", "given", "kind", "leaves_at", "make", "message", "own", "owner", "row",
        "size", "wave", "withdrawn",
    )  # fmt: skip

    def __init__(
        self,
        owner: Coalescer,
        first: tuple[Endpoint, Contract],
        message: Message,
        deadline: float | None,
        make: Make | None,
        gate: Gate | None,
    ) -> None:
        self.owner, self.first, self.message, self.deadline = owner, first, message, deadline
        self.make, self.gate = make, gate
        self.size = message.request.ByteSize()
        self.kind: _Kind = ()
        self.leaves_at = 0.0
        self.own: Sending | None = None
        self.wave: _Wave | None = None
        self.row = 0
        self.withdrawn = self.given = False
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
        return self.back.acquire(timeout=-1 if ends is None else max(0.0, ends - time.perf_counter()))

    def _ask_alone(self, wave: _Wave) -> Reply:
        """Ask again about one of a wave that was refused."""
        self.owner.send_alone(self)
        assert self.own is not None
        reply = self.own.next_reply()
        if wave.clear_one():  # none of them was: it was their number
            self.owner.learn_limit(self.first[1], wave.n // 2)
        return reply


class _Wave:
    """The items of one message, and what became of it."""

    __slots__ = ("_awaited", "_cleared", "_lock", "deadline", "items", "n", "result", "rows", "sending")

    def __init__(self, items: list[Item]) -> None:
        self.items = items
        self.n = self._awaited = len(items)
        ends = [item.deadline for item in items]
        self.deadline = None if None in ends else max(end for end in ends if end is not None)
        self.sending: Sending | None = None
        self.result: Reply | Failed | None = None
        self.rows: list[Any] | None = None
        self._cleared = 0
        self._lock = threading.Lock()
        for row, item in enumerate(items):
            item.wave, item.row = self, row

    @property
    def calls(self) -> int:
        return 0 if self.sending is None else self.sending.calls

    def send(self, fleet: Fleet) -> Sending:
        """Send it; raise what `Sending` does."""
        first = self.items[0]
        message = Message(_merge([item.message.request for item in self.items]), first.message.seen)
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
        items, self.items = self.items, []  # no circle for the collector
        for item in items:
            item.back.release()

    def row(self, item: Item, reply: Reply) -> Reply:
        """Return the answer to an item; raise `InputError` where the rows are not theirs."""
        if self.n == 1:
            return reply
        with self._lock:
            if self.rows is None:
                self.rows = _split(reply.response, self.n)
        size = self.share(item, reply.size)
        return Reply(self.rows[item.row], item.message, reply.endpoint, reply.contract, size)

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


def _outcome(sending: Sending) -> Reply | Failed:
    """Return how one ended that has."""
    try:
        return sending.next_reply()
    except Failed as failed:
        return failed


def _kind_of(item: Item) -> _Kind:
    """Return what requests have in common that can be rows of one."""
    request = item.message.request
    tensor = request.inputs[0]
    parameters = sorted(
        (name, b"" if name == DECISION_PARAMETER else value.SerializeToString())
        for name, value in request.parameters.items()
    )
    endpoint, contract = item.first
    return id(endpoint), id(contract), tensor.datatype, *tensor.shape, *parameters


def _merge(requests: Sequence[Any]) -> Any:
    """Return one ``ModelInferRequest`` whose rows are those of several of a kind."""
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


def _split(response: Any, n: int) -> list[Any]:
    """Return ``n`` responses of one row each.

    Raises
    ------
    InputError
        The response makes no sense, or has more or fewer rows.
    """
    outputs = read_outputs(response)
    for name, array in outputs.items():
        if array.shape[:1] != (n,):
            raise InputError(f"the cloud was asked about {n} inputs, and its output {name} is {list(array.shape)}")
    rows = []
    for at in range(n):
        row = messages.ModelInferResponse(model_name=response.model_name, model_version=response.model_version)
        for name, parameter in response.parameters.items():
            row.parameters[name].CopyFrom(parameter)
        for name, array in outputs.items():
            add_output(row, name, array[at : at + 1])
        rows.append(row)
    return rows
