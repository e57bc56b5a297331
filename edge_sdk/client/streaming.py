"""Many requests on one call, ``ModelStreamInfer``: for those who ask again and again.

Opening a call costs client and server more than a message on one that is open. A request whose stream
breaks is sent again as a call of its own, within its time.
"""

from __future__ import annotations

import itertools
import queue
import threading
import time
from collections.abc import Callable
from typing import Any

import grpc

from edge_sdk.protocol import messages, read_parameters, set_parameter
from edge_sdk.protocol.names import STATUS_PARAMETER, TIMEOUT_PARAMETER

__all__ = ["RequestStream", "StreamCall"]

Again = Callable[[float | None], Any | None]
"""Sends a request as a call of its own, to be answered in so many seconds; None where that cannot be."""


class _StreamError(grpc.RpcError):  # type: ignore[misc]
    """A request that was refused on a stream."""

    def __init__(self, code: grpc.StatusCode, details: str) -> None:
        super().__init__(details)
        self._code, self._details = code, details

    def code(self) -> grpc.StatusCode:
        return self._code

    def details(self) -> str:
        return self._details


class StreamCall:
    """One request on a stream: what the link needs of gRPC's futures; thread-safe."""

    def __init__(self, timeout: float | None, again: Again) -> None:
        self._ends_at = None if timeout is None else time.perf_counter() + timeout
        self._again = again
        self._lock = threading.Lock()
        self._callbacks: list[Callable[[Any], None]] = []
        self._response: Any = None
        self._error: _StreamError | None = None
        self._own: Any = None
        self._done = False
        self.forget: Callable[[], object] = lambda: None

    def result(self, timeout: float | None = None) -> Any:
        """Return the response of a call that has ended; raise as gRPC's futures do."""
        with self._lock:
            done, own = self._done, self._own
        if not done:
            raise grpc.FutureTimeoutError
        if own is not None:
            return own.result(timeout=timeout)
        if self._response is not None:
            return self._response
        if self._error is not None:
            raise self._error
        raise grpc.FutureCancelledError

    def code(self) -> grpc.StatusCode:
        """Return the status of a call that has ended."""
        if self._own is not None:
            return self._own.code()
        if self._response is not None:
            return grpc.StatusCode.OK
        return grpc.StatusCode.CANCELLED if self._error is None else self._error.code()

    def trailing_metadata(self) -> Any:
        """Return what came behind the answer; nothing on a stream."""
        return () if self._own is None else self._own.trailing_metadata()

    def add_done_callback(self, fn: Callable[[Any], None]) -> None:
        """Call ``fn`` with this when it has ended; now, where it has."""
        with self._lock:
            if not self._done:
                self._callbacks.append(fn)
                return
        fn(self)

    def cancel(self) -> bool:
        """Give up on the answer."""
        self.forget()
        own = self._own
        if own is not None:
            return bool(own.cancel())
        return self.end()

    def end(self, response: Any = None, error: _StreamError | None = None) -> bool:
        """Take the answer; False where it has ended before."""
        with self._lock:
            if self._done:
                return False
            self._done, self._response, self._error = True, response, error
            callbacks, self._callbacks = self._callbacks, []
        for call in callbacks:
            call(self)
        return True

    def go_alone(self) -> None:
        """Send the request as a call of its own, for the stream is broken."""
        left = None if self._ends_at is None else self._ends_at - time.perf_counter()
        own = None if left is not None and left <= 0 else self._again(left)
        if own is None:
            self.end()
            return
        with self._lock:
            if self._done:  # cancelled meanwhile
                own.cancel()
                return
            self._own = own
        own.add_done_callback(lambda _: self.end())


class RequestStream:
    """A call that carries many requests; thread-safe. It takes two threads, until it ends.

    Parameters
    ----------
    method
        gRPC's callable of ``ModelStreamInfer``, to which requests are given as bytes.
    metadata
        Of the call.

    Attributes
    ----------
    code
        Status that it ended with; None before.
    """

    def __init__(self, method: Any, metadata: Any) -> None:
        self.code: grpc.StatusCode | None = None
        self._lock = threading.Lock()
        self._finishes = False
        self._pending: dict[str, StreamCall] = {}
        self._numbers = itertools.count(1)
        self._requests: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._call = method(iter(self._requests.get, None), metadata=metadata, wait_for_ready=False)
        threading.Thread(target=self._read, name="edge-sdk-replies", daemon=True).start()

    def start(self, request: Any, timeout: float | None, again: Again) -> StreamCall | None:
        """Send a ``ModelInferRequest``; None where the stream has ended."""
        number = str(next(self._numbers))
        # appended to a message, fields of another replace its own: the request itself may be sent elsewhere, too
        extra = messages.ModelInferRequest(id=number)
        if timeout is not None:
            set_parameter(extra.parameters, TIMEOUT_PARAMETER, max(1, int(timeout * 1e6)))
        data = request.SerializeToString() + extra.SerializeToString()
        call = StreamCall(timeout, again)
        call.forget = lambda: self._pending.pop(number, None)
        with self._lock:
            if self.code is not None or self._finishes:
                return None
            self._pending[number] = call
            self._requests.put(data)
        return call

    def finish(self) -> None:
        """Take no more requests; those under way are still answered here."""
        with self._lock:
            self._finishes = True
            self._requests.put(None)

    def close(self) -> None:
        """End it; requests under way go on by themselves."""
        self._requests.put(None)
        self._call.cancel()

    def _read(self) -> None:
        code = grpc.StatusCode.OK
        try:
            for response in self._call:
                self._deliver(response)
        except grpc.RpcError as error:
            code = error.code()
        except grpc.FutureCancelledError:
            code = grpc.StatusCode.CANCELLED
        with self._lock:
            self.code = code
            pending, self._pending = list(self._pending.values()), {}
        self._requests.put(None)  # its reader is gone, or goes
        for call in pending:
            call.go_alone()

    def _deliver(self, response: Any) -> None:
        reply, failed = response.infer_response, response.error_message
        number = reply.id
        if failed and not number and len(self._pending) == 1:  # it does not say which, and can mean no other
            number = next(iter(self._pending), "")
        call = self._pending.pop(number, None)
        if call is None:  # nobody waits for it any more, or it is nobody's
            if failed and not number:
                self._call.cancel()
            return
        if not failed:
            call.end(reply)
            return
        status = read_parameters(reply.parameters).get(STATUS_PARAMETER)
        code = getattr(grpc.StatusCode, str(status), grpc.StatusCode.UNKNOWN)
        call.end(error=_StreamError(code, failed))
