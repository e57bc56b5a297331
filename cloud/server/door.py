"""Where calls of gRPC's library come in: how the message of each is read, which the library leaves to its handler."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Any

import grpc

from edge_sdk.cloud.server.exchange import failure_of
from edge_sdk.cloud.server.readings import Readings, StalledError
from edge_sdk.cloud.server.responder import Responder
from edge_sdk.errors import OverloadedError
from edge_sdk.protocol.names import SERVICE

__all__ = ["INFER", "Door"]

INFER = f"/{SERVICE}/ModelInfer"


class Door(grpc.GenericRpcHandler):  # type: ignore[misc]
    """The handlers of all services, or where much is at work, such as look before they read a message.

    Parameters
    ----------
    handlers
        The generic handlers of the services. That of inference tells the readings itself when its message has come.
    responder, readings
        Of the server.
    """

    def __init__(self, handlers: Sequence[Any], responder: Responder, readings: Readings) -> None:
        self._handlers, self._responder, self._readings = handlers, responder, readings
        self._both: dict[str, tuple[Any, Any]] = {}  # by the path of a method

    def service(self, details: Any) -> Any:
        """Return the handler of a call."""
        method = details.method
        both = self._both.get(method)
        if both is None:
            handler = next(filter(None, (handler.service(details) for handler in self._handlers)), None)
            if handler is None or handler.request_streaming:
                return handler
            both = self._both[method] = self._infer(handler) if method == INFER else self._other(handler)
        at_once, looks_first = both
        if method == INFER and self._responder.begun():
            return looks_first
        return at_once if self._readings.begin() else looks_first

    def _infer(self, handler: Any) -> tuple[Any, Any]:
        async def look_first(requests: Any, context: Any) -> Any:
            """Refuse a request before its message is read, or else answer it."""
            failure = self._responder.refusal(context.time_remaining())
            if failure is not None:
                await context.abort(failure.status, failure.message, trailing_metadata=failure.metadata)
            return await handler.unary_unary(await self._message(context), context)

        return handler, grpc.stream_unary_rpc_method_handler(look_first)

    def _other(self, handler: Any) -> tuple[Any, Any]:
        codec = {
            "request_deserializer": handler.request_deserializer,
            "response_serializer": handler.response_serializer,
        }
        if handler.response_streaming:

            async def follow(request: Any, context: Any) -> AsyncIterator[Any]:
                self._readings.came()
                async for response in handler.unary_stream(request, context):
                    yield response

            async def follow_later(requests: Any, context: Any) -> AsyncIterator[Any]:
                async for response in handler.unary_stream(await self._message(context), context):
                    yield response

            return (
                grpc.unary_stream_rpc_method_handler(follow, **codec),
                grpc.stream_stream_rpc_method_handler(follow_later, **codec),
            )

        async def answer(request: Any, context: Any) -> Any:
            self._readings.came()
            return await handler.unary_unary(request, context)

        async def answer_later(requests: Any, context: Any) -> Any:
            return await handler.unary_unary(await self._message(context), context)

        return (
            grpc.unary_unary_rpc_method_handler(answer, **codec),
            grpc.stream_unary_rpc_method_handler(answer_later, **codec),
        )

    async def _message(self, context: Any) -> Any:
        try:
            message = await self._readings.read(context)
        except (OverloadedError, StalledError) as error:
            failure = failure_of(error, "")
            await context.abort(failure.status, failure.message, trailing_metadata=failure.metadata)
        if message is grpc.aio.EOF:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "there is no message in this call")
        return message
