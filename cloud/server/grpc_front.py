"""The gRPC front: Open Inference Protocol messages to and from the core."""

from __future__ import annotations

import asyncio
import functools
import hmac
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Any

import grpc
from google.protobuf.json_format import ParseDict
from google.protobuf.message import DecodeError

from edge_sdk.cloud.server.admin import Admin
from edge_sdk.cloud.server.core import Core, Request
from edge_sdk.cloud.server.descriptions import (
    model_config,
    model_metadata,
    repository_index,
    server_metadata,
    statistics,
)
from edge_sdk.cloud.server.exchange import (
    FAILURES,
    Failure,
    answered,
    deadline_of,
    encoding_of,
    failure_of,
    priority_of,
    wanted_outputs,
)
from edge_sdk.cloud.server.request_log import RequestLog
from edge_sdk.errors import InputError, OverloadedError
from edge_sdk.protocol import add_output, messages, read_inputs, read_parameters, set_parameter
from edge_sdk.protocol.names import (
    DIGEST_PARAMETER,
    MAX_MESSAGE_BYTES,
    PUSHBACK_PARAMETER,
    SERVICE,
    STATUS_PARAMETER,
    TIMEOUT_PARAMETER,
)
from edge_sdk.protocol.services import HEALTH

__all__ = ["MAX_STREAM_REQUESTS", "GrpcFront", "TokenInterceptor"]

MAX_STREAM_REQUESTS = 64
"""Requests of one stream at work or queued at a time; further ones are not read."""
MAX_STREAM_BYTES = 2 * MAX_MESSAGE_BYTES
"""How many bytes they may hold; further ones are not read, either."""

_RETRY_SECONDS = 0.05
_log = logging.getLogger("edge_sdk.cloud.server")
Method = Callable[[Any, Any], Awaitable[Any]]


class GrpcFront:
    """The service's methods over one `Core`.

    Parameters
    ----------
    core
        The models.
    max_concurrent
        Inference requests at work or queued at a time; more are refused.
    allow_admin
        Whether clients may load and unload models.
    log
        Where each inference request is noted, or None.
    """

    def __init__(
        self, core: Core, *, max_concurrent: int, allow_admin: bool = False, log: RequestLog | None = None
    ) -> None:
        self._core, self._admin, self._log = core, Admin(core, allowed=allow_admin), log
        self._at_work, self._max_concurrent = 0, max_concurrent

    def handler(self) -> Any:
        """Return the generic handler to register with a ``grpc.aio`` server."""
        methods: dict[str, Method] = {
            "ServerLive": self._server_live,
            "ServerReady": self._server_ready,
            "ModelReady": self._model_ready,
            "ServerMetadata": self._server_metadata,
            "ModelMetadata": self._model_metadata,
            "ModelConfig": self._model_config,
            "ModelStatistics": self._model_statistics,
            "ModelInfer": self._model_infer,
            "RepositoryIndex": self._repository_index,
            "RepositoryModelLoad": self._load,
            "RepositoryModelUnload": self._unload,
        }
        handlers = {name: _unary(name, method) for name, method in methods.items()}
        # the stream parses what comes by itself: a message that is none must not end it
        handlers["ModelStreamInfer"] = grpc.stream_stream_rpc_method_handler(
            self._model_stream_infer, response_serializer=messages.ModelStreamInferResponse.SerializeToString
        )
        return grpc.method_handlers_generic_handler(SERVICE, handlers)

    async def _server_live(self, request: Any, context: Any) -> Any:
        return messages.ServerLiveResponse(live=True)

    async def _server_ready(self, request: Any, context: Any) -> Any:
        return messages.ServerReadyResponse(ready=self._core.is_ready)

    async def _model_ready(self, request: Any, context: Any) -> Any:
        # as in Triton, a model that is not there is not ready, which is no error
        return messages.ModelReadyResponse(ready=self._core.answers(request.name, request.version))

    async def _server_metadata(self, request: Any, context: Any) -> Any:
        return messages.ServerMetadataResponse(**server_metadata())

    async def _model_metadata(self, request: Any, context: Any) -> Any:
        return await self._say(model_metadata, messages.ModelMetadataResponse(), request, context)

    async def _model_config(self, request: Any, context: Any) -> Any:
        response = messages.ModelConfigResponse()
        await self._say(model_config, response.config, request, context)
        return response

    async def _model_statistics(self, request: Any, context: Any) -> Any:
        return await self._say(statistics, messages.ModelStatisticsResponse(), request, context)

    async def _repository_index(self, request: Any, context: Any) -> Any:
        return ParseDict(
            {"models": repository_index(self._core, ready=request.ready)}, messages.RepositoryIndexResponse()
        )

    async def _load(self, request: Any, context: Any) -> Any:
        return await self._do(self._admin.load, messages.RepositoryModelLoadResponse(), request, context)

    async def _unload(self, request: Any, context: Any) -> Any:
        return await self._do(self._admin.unload, messages.RepositoryModelUnloadResponse(), request, context)

    @staticmethod
    async def _do(action: Callable[..., Awaitable[None]], response: Any, request: Any, context: Any) -> Any:
        try:
            await action(request.model_name, context.peer(), request.parameters)
        except FAILURES as error:
            failure = failure_of(error, request.model_name)
            await context.abort(failure.status, failure.message)
        return response

    async def _say(self, describe: Callable[[Core, str, str], Any], message: Any, request: Any, context: Any) -> Any:
        """Fill a message with what is said of the model that a request names."""
        try:
            return ParseDict(describe(self._core, request.name, request.version), message)
        except FAILURES as error:
            failure = failure_of(error, request.name)
            await context.abort(failure.status, failure.message)

    async def _model_infer(self, request: Any, context: Any) -> Any:
        arrived, response = time.monotonic(), messages.ModelInferResponse()
        failure = await self._try("grpc", request, context, arrived, response)
        if failure is not None:
            await context.abort(failure.status, failure.message, trailing_metadata=failure.metadata)
        return response

    async def _try(self, front: str, request: Any, context: Any, arrived: float, response: Any) -> Failure | None:
        """Fill the response, or return what went wrong; note how it ended."""
        failure, status = None, "CANCELLED"
        try:
            await self._infer(request, context.time_remaining(), arrived, response)
            status = "OK"
        except FAILURES as error:
            failure = failure_of(error, request.model_name)
            status = failure.status.name
        finally:
            if self._log is not None:
                self._log.note(front, request.id, request.model_name, request.model_version, status, arrived)
        return failure

    async def _model_stream_infer(self, requests: Any, context: Any) -> None:
        """Work on several requests of a stream at a time; answer each as soon as it is ready."""
        room, writing = _Room(), asyncio.Lock()

        async def work(data: bytes) -> None:
            try:
                response = await self._stream_response(data, context)
                async with writing:  # gRPC takes one message of a call at a time
                    await context.write(response)
            except grpc.aio.BaseError:
                _log.debug("a stream ended before its answer could be written")
            finally:
                room.leave(len(data))

        async with asyncio.TaskGroup() as tasks:  # a client that goes takes its requests with it
            async for data in requests:
                # an unread request is held back by flow control, at the sender's end
                await room.enter(len(data))
                tasks.create_task(work(data))

    async def _stream_response(self, data: bytes, context: Any) -> Any:
        arrived, response = time.monotonic(), messages.ModelStreamInferResponse()
        request = messages.ModelInferRequest()
        failure: Failure | None
        try:
            request.ParseFromString(data)
        except DecodeError:
            failure = failure_of(InputError(_unreadable("ModelInferRequest")), "")
            request.Clear()
        else:
            failure = await self._try("stream", request, context, arrived, response.infer_response)
        if failure is None:
            return response
        response.error_message = failure.message
        response.infer_response.Clear()
        response.infer_response.id = request.id  # as in Triton, so that it is known which failed
        set_parameter(response.infer_response.parameters, STATUS_PARAMETER, failure.status.name)
        if failure.pushback_ms is not None:
            set_parameter(response.infer_response.parameters, PUSHBACK_PARAMETER, failure.pushback_ms)
        return response

    async def _infer(self, request: Any, time_remaining: float | None, arrived: float, response: Any) -> None:
        parameters = read_parameters(request.parameters)
        model = self._core.model(request.model_name, request.model_version)
        asked = [(output.name, read_parameters(output.parameters)) for output in request.outputs]
        wanted = wanted_outputs(asked, model)
        # counted here, not by gRPC, to which calls whose message never comes are at work, too
        if self._at_work >= self._max_concurrent:
            raise OverloadedError(f"{self._at_work} requests are at work already", retry_after=_RETRY_SECONDS)
        self._at_work += 1
        try:
            said = await self._core.infer(
                Request(
                    model=request.model_name,
                    version=request.model_version,
                    inputs=read_inputs(request),
                    encoding=encoding_of(parameters),
                    deadline=deadline_of(arrived, time_remaining, parameters.get(TIMEOUT_PARAMETER)),
                    priority=priority_of(parameters),
                    outputs=tuple(output.name for output in wanted),
                )
            )
        finally:
            self._at_work -= 1
        # of the model that answered: a newer one may have taken over meanwhile
        response.CopyFrom(_head(said.model.name, said.model.version, said.model.digest))
        response.id = request.id
        for name, array in answered(said, wanted).items():
            add_output(response, name, array)


@functools.lru_cache
def _head(name: str, version: str, digest: str) -> Any:
    """Return what every answer of a model begins with; not to be changed."""
    head = messages.ModelInferResponse(model_name=name, model_version=version)
    set_parameter(head.parameters, DIGEST_PARAMETER, digest)
    return head


class _Room:
    """How much of one stream is at work or queued."""

    def __init__(self) -> None:
        self._requests = self._bytes = 0
        self._left = asyncio.Event()

    async def enter(self, size: int) -> None:
        """Wait until there is room; a request of any size finds it where it is alone."""
        while self._requests and (self._requests >= MAX_STREAM_REQUESTS or self._bytes + size > MAX_STREAM_BYTES):
            self._left.clear()
            await self._left.wait()
        self._requests += 1
        self._bytes += size

    def leave(self, size: int) -> None:
        """Make room again."""
        self._requests -= 1
        self._bytes -= size
        self._left.set()


def _unary(name: str, method: Method) -> Any:
    """Return the handler of a method of one request and one response."""
    request_class, response_class = messages.METHODS[name]
    parse = request_class.FromString

    async def handle(data: bytes, context: Any) -> Any:
        try:  # here, because grpc.aio takes a parser's error for a fault of the server, and logs it as one
            request = parse(data)
        except DecodeError:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, _unreadable(request_class.DESCRIPTOR.name))
        return await method(request, context)

    return grpc.unary_unary_rpc_method_handler(handle, response_serializer=response_class.SerializeToString)


def _unreadable(name: str) -> str:
    return f"what was sent is no {name} message"


class TokenInterceptor(grpc.aio.ServerInterceptor):  # type: ignore[misc]
    """Lets requests pass that carry ``authorization: Bearer TOKEN``, and health checks, which cannot."""

    def __init__(self, token: str) -> None:
        self._expected = f"Bearer {token}".encode()

        async def refuse(requests: Any, context: Any) -> None:
            await context.abort(grpc.StatusCode.UNAUTHENTICATED, "a valid bearer token is needed")

        # answers before a message comes, whatever kind the method is of
        self._refusal = grpc.stream_stream_rpc_method_handler(refuse)

    async def intercept_service(self, continuation: Any, handler_call_details: Any) -> Any:
        """Go on with the call, or answer UNAUTHENTICATED."""
        if handler_call_details.method.startswith(f"/{HEALTH}/"):
            return await continuation(handler_call_details)
        for key, value in handler_call_details.invocation_metadata or ():
            given = value.encode() if isinstance(value, str) else value
            if key == "authorization" and hmac.compare_digest(given, self._expected):
                return await continuation(handler_call_details)
        return self._refusal
