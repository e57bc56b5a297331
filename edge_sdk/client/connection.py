"""A gRPC channel to one server, with the methods of the protocol."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from typing import Any

import grpc
from google.protobuf.message import DecodeError

from edge_sdk.client.streaming import RequestStream
from edge_sdk.protocol import MAX_MESSAGE_BYTES, messages
from edge_sdk.protocol.feedback import FEEDBACK, RewardRequest, RewardResponse
from edge_sdk.protocol.names import SERVICE

__all__ = ["Connection"]

_OPTIONS = (
    # try a lost server again within a second, so that escalation resumes soon after its return
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.min_reconnect_backoff_ms", 1_000),
    ("grpc.max_reconnect_backoff_ms", 1_000),
    # give a silent connection up: bytes unacknowledged for 2 s, or an unanswered ping under a call;
    # a server of ours takes a ping every 5 s, many others take only few, and none without a call
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 2_000),
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    # a channel's failures and back-off are its own, not those of others in the process
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.service_config_disable_resolution", 1),
)
_STREAM_PAUSE = 1.0  # seconds until a stream that broke is opened again


class Connection:
    """A channel that is closed when it is retired and the last of its calls has ended; thread-safe.

    Parameters
    ----------
    target
        ``host:port``.
    credentials
        Of the channel; None is no TLS.
    server_name
        The name that certificates must bear, where it is not the target's.

    Attributes
    ----------
    heard_at
        `time.monotonic` reading of the last answer, be it a refusal; None where none came.
    """

    def __init__(self, target: str, credentials: Any, server_name: str | None) -> None:
        named = () if server_name is None else (("grpc.ssl_target_name_override", server_name),)
        self._channel: Any = (
            grpc.insecure_channel(target, _OPTIONS)
            if credentials is None
            else grpc.secure_channel(target, credentials, _OPTIONS + named)
        )
        self._methods = {
            name: self._channel.unary_unary(
                f"/{SERVICE}/{name}",
                request_serializer=request.SerializeToString,
                response_deserializer=_reader(response),
            )
            for name, (request, response) in messages.METHODS.items()
        }
        self._methods["Reward"] = self._channel.unary_unary(
            f"/{FEEDBACK}/Reward",
            request_serializer=RewardRequest.SerializeToString,
            response_deserializer=_reader(RewardResponse),
        )
        _, response = messages.STREAMS["ModelStreamInfer"]
        self._stream_method = self._channel.stream_stream(
            f"/{SERVICE}/ModelStreamInfer", response_deserializer=_reader(response)
        )
        self._lock = threading.Lock()
        self._calls, self._retired = 0, False
        self._streams, self._stream_at = False, 0.0
        self._stream: RequestStream | None = None
        self._stream_metadata: Any = None
        self._made_at = time.monotonic()
        self.heard_at: float | None = None

    @property
    def is_silent(self) -> bool:
        """True where it has not answered for so long, or not since it was made so long ago, that it may be dead."""
        return self._quiet_seconds > (3.0 if self.heard_at is None else 2.0)

    @property
    def has_fallen_silent(self) -> bool:
        """True where it has answered, and not for a while; enough for doubt where calls are not answered, either."""
        return self.heard_at is not None and self._quiet_seconds > 1.0

    @property
    def _quiet_seconds(self) -> float:
        return time.monotonic() - (self._made_at if self.heard_at is None else self.heard_at)

    @property
    def is_over(self) -> bool:
        """True where it was retired, and no call is under way."""
        with self._lock:
            return self._retired and not self._calls

    def start(self, method: str, request: Any, timeout: float | None, metadata: Any) -> Any | None:
        """Begin a call; None where the channel is closed."""
        with self._lock:
            if self._retired:
                return None
            self._calls += 1
            stream = self._open_stream(metadata) if self._streams and method == "ModelInfer" else None
        call = None
        if stream is not None:
            call = stream.start(request, timeout, lambda left: self._start_alone(method, request, left, metadata))
        if call is None:
            call = self._start_alone(method, request, timeout, metadata)
        if call is None:
            self._ended(None)
            return None
        call.add_done_callback(self._ended)
        return call

    def stream(self, *, on: bool) -> None:
        """Send requests on one call from now on, or each as a call of its own; see `RequestStream`."""
        with self._lock:
            self._streams = on
            stream = None if on else self._stream
            if not on:
                self._stream = None
        if stream is not None:
            stream.close()

    def _open_stream(self, metadata: Any) -> RequestStream | None:
        """Return the stream, opened anew where it broke a while ago; None where there is none. The lock is held."""
        now = time.monotonic()
        if self._stream is not None and self._stream.code is not None:
            never = self._stream.code is grpc.StatusCode.UNIMPLEMENTED
            self._stream, self._stream_at = None, math.inf if never else now + _STREAM_PAUSE
        if self._stream is not None and self._stream_metadata != metadata:  # such as a token that was renewed
            self._stream.finish()
            self._stream = None
        if self._stream is None and now >= self._stream_at:
            try:
                self._stream, self._stream_metadata = RequestStream(self._stream_method, metadata), metadata
            except ValueError:  # closed meanwhile
                return None
        return self._stream

    def _start_alone(self, method: str, request: Any, timeout: float | None, metadata: Any) -> Any | None:
        try:
            # wait_for_ready off: a server that is known to be down fails the call at once
            return self._methods[method].future(request, timeout=timeout, metadata=metadata, wait_for_ready=False)
        except ValueError:  # closed meanwhile
            return None

    def retire(self) -> None:
        """Take no more calls, and close when those under way have ended."""
        with self._lock:
            self._retired = True
            idle = not self._calls
        if idle:
            self._close_apart()

    def close(self) -> None:
        """Close now; calls under way end as cancelled."""
        with self._lock:
            self._retired = True
        self._channel.close()

    def _ended(self, _: Any) -> None:
        with self._lock:
            self._calls -= 1
            done = self._retired and not self._calls
        if done:
            self._close_apart()

    def _close_apart(self) -> None:
        """Close, but not here: this may be the channel's own thread, which closing waits for."""
        threading.Thread(target=self._channel.close, name="edge-sdk-close", daemon=True).start()


def _reader(response: Any) -> Callable[[bytes], Any]:
    """Return what reads a response; None, which gRPC takes for INTERNAL, where bytes are none.

    Of an exception it would log the traceback, for every call.
    """

    def read(data: bytes) -> Any:
        try:
            return response.FromString(data)
        except DecodeError:
            return None

    return read
