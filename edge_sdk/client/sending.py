"""One request on its way: to one endpoint, and to another or once more where that helps.

- Where an endpoint cannot be reached, the next one gets the request at once.
- Where a server asks for it by ``grpc-retry-pushback-ms``, the request is sent again after that time, twice at
  most. Nothing else is sent again: ``RESOURCE_EXHAUSTED`` without it is also what too large a message gets.
- Where the link hedges and the answer takes longer than most, a second copy goes out.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import grpc
import numpy as np
from numpy.typing import NDArray

from edge_sdk.client.answers import read_probabilities
from edge_sdk.client.drafts import Message
from edge_sdk.client.endpoint import Endpoint, remaining
from edge_sdk.client.failures import Failed
from edge_sdk.client.fleet import Fleet
from edge_sdk.client.outcomes import Gate
from edge_sdk.client.payload import Contract
from edge_sdk.errors import EdgeSdkError, InputError
from edge_sdk.protocol import read_outputs, read_parameters, set_parameter
from edge_sdk.protocol.names import TIMEOUT_PARAMETER

__all__ = ["Reply", "Sending"]

_RETRIES = 2
_PUSHBACK = "grpc-retry-pushback-ms"


@dataclass(slots=True)  # not frozen: one is made for every request, in half the time
class Reply:
    """What came back.

    Attributes
    ----------
    response
        The ``ModelInferResponse``.
    endpoint, contract
        Who answered, and what it says of its model.
    message
        What was answered.
    size
        Bytes of it.
    """

    response: Any
    message: Message
    endpoint: Endpoint
    contract: Contract
    size: int

    def parameters(self) -> Mapping[str, Any]:
        """Return what the response says beside its tensors."""
        return read_parameters(self.response.parameters)

    def outputs(self) -> Mapping[str, NDArray[Any]]:
        """Return its tensors by name; raise `InputError` where they make no sense."""
        return read_outputs(self.response)

    def probabilities(self, contract: Contract, classes: int) -> NDArray[np.float32]:
        """Return float32 [classes] of its first tensor; raise `InputError` where that is no such answer."""
        outputs = self.outputs()
        if not outputs:
            raise InputError("the cloud's answer has no tensor")
        return read_probabilities(next(iter(outputs.values())), contract, classes)


@dataclass(eq=False, slots=True)
class _Copy:
    message: Message
    endpoint: Endpoint
    contract: Contract
    size: int
    call: Any
    sent_at: float


class Sending:
    """A request under way; thread-safe. It goes on by itself, whether or not somebody waits for it.

    Parameters
    ----------
    fleet
        The endpoints.
    first
        The endpoint that gets the first copy, and what it says of its model.
    message
        What it gets; the request's parameter ``timeout`` is set.
    deadline
        `time.perf_counter` reading at which the answer must be there; None waits.
    make
        Returns the message for an endpoint that serves another model, or raises `InputError`; None sends none there.
    gate
        Asked before a copy goes out that the server has not failed to get.

    Raises
    ------
    Failed
        The first copy cannot be sent.

    Attributes
    ----------
    calls, bytes
        Copies that were handed to gRPC, and their sizes together.
    """

    def __init__(
        self,
        fleet: Fleet,
        first: tuple[Endpoint, Contract],
        message: Message,
        deadline: float | None,
        *,
        make: Callable[[Contract], Message] | None = None,
        gate: Gate | None = None,
    ) -> None:
        self._fleet, self._message, self._contract, self._deadline = fleet, message, first[1], deadline
        self._make, self._gate = make, gate
        self._changed = threading.Condition()
        self._out: list[_Copy] = []
        self._tried: list[Endpoint] = []
        self._replies: deque[Reply] = deque()
        self._failure: Failed | None = None
        self._code: Any = grpc.StatusCode.CANCELLED
        self._callbacks: list[Callable[[Sending], None]] = []
        self._retries_left, self._retries_due = _RETRIES, 0
        self._over = self._answered = False
        self.calls = self.bytes = 0
        self._started = time.perf_counter()
        self._send(*first)
        after = None if fleet.hedger is None else fleet.hedger.begin()
        left = remaining(deadline)
        if after is not None and (left is None or after < left):
            fleet.alarm.after(after, self._hedge)

    def next_reply(self) -> Reply:
        """Return what came back first of what was not returned before.

        Raises
        ------
        Failed
            All failed, or time is up.
        """
        with self._changed:
            while not self._replies:
                if not self._out and not self._retries_due:
                    raise self._failure or Failed("offline", "the connection has been closed")
                left = remaining(self._deadline)
                if left == 0.0:
                    break
                self._changed.wait(left)
            else:
                return self._replies.popleft()
        self.cancel()
        raise self._failure or self._late()

    def add_done_callback(self, call: Callable[[Sending], None]) -> None:
        """Call a function when there is a reply, or none is to come; now, where that is so."""
        with self._changed:
            if not self._is_done:
                self._callbacks.append(call)
                return
        call(self)

    def code(self) -> Any:
        """Return the status that it ended with: ``OK``, or that of the first copy that failed."""
        return grpc.StatusCode.OK if self._answered else self._code

    def cancel(self) -> bool:
        """Give up on an answer that did not come in time; tell whether there was one to come."""
        with self._changed:
            if self._out:
                self._failure = self._late()
        late = self._end()
        if late and self._fleet.hedger is not None and not self._answered:
            self._fleet.hedger.took(time.perf_counter() - self._started)
        for endpoint, sent_at in {copy.endpoint: copy.sent_at for copy in reversed(late)}.items():
            endpoint.missed(sent_at)
        self._tell()
        return bool(late)

    def close(self) -> None:
        """Cancel what is no longer wanted."""
        self._end()
        self._tell()

    @property
    def _is_done(self) -> bool:
        return self._answered or not (self._out or self._retries_due)

    def _tell(self) -> None:
        """Let those go on who wait, where there is something to go on with."""
        with self._changed:
            self._changed.notify_all()
            if not self._is_done:
                return
            callbacks, self._callbacks = self._callbacks, []
        for call in callbacks:
            call(self)

    def _late(self) -> Failed:
        names = dict.fromkeys(endpoint.target for endpoint in self._tried)
        return Failed("deadline", f"{', '.join(names)} did not answer in time")

    def _end(self) -> list[_Copy]:
        with self._changed:
            self._over, out, self._out = True, self._out, []
        for copy in out:
            copy.call.cancel()
        return out

    def _send(self, endpoint: Endpoint, contract: Contract, *, apart: bool = False) -> None:
        message = self._fitting(contract)
        request = message.request
        with self._changed:
            if self._over:
                return
            left = remaining(self._deadline)
            if left:
                set_parameter(request.parameters, TIMEOUT_PARAMETER, max(1, int(left * 1e6)))
            size, sent_at = request.ByteSize(), time.monotonic()
            call = endpoint.start("ModelInfer", request, self._deadline, apart=apart)
            copy = _Copy(message, endpoint, contract, size, call, sent_at)
            self._out.append(copy)
            self._tried.append(endpoint)
            self.calls += 1
            self.bytes += size
        copy.call.add_done_callback(partial(self._ended, copy))

    def _fitting(self, contract: Contract) -> Message:
        """Return the message for what an endpoint says of its model."""
        ours = self._contract
        if contract is ours:
            return self._message
        answers: dict[str, Any] = {
            name: getattr(contract, name) for name in ("digest", "outputs", "quantization", "most_bytes")
        }
        fits = ours.most_bytes <= contract.most_bytes or self._message.size <= contract.most_bytes
        if fits and replace(ours, **answers) == contract:
            return self._message
        if self._make is None:
            raise InputError(f"{contract.model} is served in another way there")
        return self._make(contract)

    def _ended(self, copy: _Copy, call: Any) -> None:
        with self._changed:
            if copy not in self._out:
                return  # cancelled, or given up: what comes now says nothing
        try:
            response = copy.endpoint.result(call, copy.sent_at)
        except Failed as failed:
            self._failed(copy, failed, call)
            return
        if self._fleet.hedger is not None and not self._answered:
            self._fleet.hedger.took(time.perf_counter() - self._started)
        with self._changed:
            self._answered = True
            if copy in self._out:
                self._out.remove(copy)
            self._replies.append(Reply(response, copy.message, copy.endpoint, copy.contract, copy.size))
        self._tell()

    def _failed(self, copy: _Copy, failed: Failed, call: Any) -> None:
        if self._failure is None:
            self._failure, self._code = failed, call.code()
        moved = failed.outcome.reason == "offline" and self._fail_over()
        pushback = None if moved else _pushback(call)
        with self._changed:
            if pushback is not None and self._retries_left and not self._over:
                left = remaining(self._deadline)
                if (left is None or pushback < left) and self._fleet.alarm.after(pushback, partial(self._retry, copy)):
                    self._retries_left -= 1
                    self._retries_due += 1
            if copy in self._out:
                self._out.remove(copy)
        self._tell()

    def _fail_over(self) -> bool:
        """Send the request to an endpoint that has not had it, and tell whether there is one."""
        while (there := self._fleet.elsewhere(self._tried)) is not None:
            try:
                self._send(*there)
            except (Failed, EdgeSdkError):
                self._tried.append(there[0])
                continue
            return True
        return False

    def _retry(self, copy: _Copy) -> None:
        try:
            if self._passes(copy.size):
                there = self._fleet.elsewhere([copy.endpoint]) or (copy.endpoint, copy.contract)
                self._send(*there)
        except (Failed, EdgeSdkError):
            pass  # the first failure stands
        finally:
            with self._changed:
                self._retries_due -= 1
            self._tell()

    def _hedge(self) -> None:
        with self._changed:
            if self._over or self._answered or len(self._out) != 1:
                return
            (slow,) = self._out
        hedger = self._fleet.hedger
        if hedger is None or not hedger.allows() or not self._passes(slow.size):
            return
        there = self._fleet.elsewhere(self._tried)
        try:
            if there is None:
                self._send(slow.endpoint, slow.contract, apart=True)
            else:
                self._send(*there)
        except (Failed, EdgeSdkError):
            pass  # the first copy is still under way

    def _passes(self, size: int) -> bool:
        return self._gate is None or self._gate(size, remaining(self._deadline)) is None


def _pushback(call: Any) -> float | None:
    """Return after how many seconds a server wants the request again; None where it does not."""
    if call.code() not in (grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.UNAVAILABLE):
        return None
    for key, value in call.trailing_metadata() or ():
        if key == _PUSHBACK and isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 10:
            return int(value) / 1e3
    return None
