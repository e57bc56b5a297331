"""The gRPC front: Open Inference Protocol messages to and from the core."""

from __future__ import annotations

import asyncio
import hmac
import logging
import math
import time
from collections.abc import Awaitable, Callable
from importlib import metadata
from typing import Any

import grpc
from google.protobuf.message import DecodeError

from edge_sdk.cloud.server.core import Core, Request
from edge_sdk.cloud.server.models import ServedModel
from edge_sdk.errors import InputError, ModelError, ProcessingError
from edge_sdk.protocol import add_output, messages, read_inputs, read_parameters, set_parameter
from edge_sdk.protocol.names import (
    DIGEST_PARAMETER,
    ENCODING_PARAMETER,
    SERVICE,
    STATUS_PARAMETER,
    TIMEOUT_PARAMETER,
)

__all__ = ["MAX_STREAM_REQUESTS", "GrpcFront", "TokenInterceptor"]

MAX_STREAM_REQUESTS = 64
"""Requests of one stream at work or queued at a time; further ones are not read."""

_log = logging.getLogger("edge_sdk.cloud.server")
Method = Callable[[Any, Any], Awaitable[Any]]


class GrpcFront:
    """The service's methods over one `Core`."""

    def __init__(self, core: Core) -> None:
        self._core = core

    def handler(self) -> Any:
        """Return the generic handler to register with a ``grpc.aio`` server."""
        methods: dict[str, Method] = {
            "ServerLive": self._server_live,
            "ServerReady": self._server_ready,
            "ModelReady": self._model_ready,
            "ServerMetadata": self._server_metadata,
            "ModelMetadata": self._model_metadata,
            "ModelInfer": self._model_infer,
            "RepositoryIndex": self._repository_index,
        }
        handlers = {
            name: grpc.unary_unary_rpc_method_handler(
                methods[name],
                request_deserializer=request.FromString,
                response_serializer=response.SerializeToString,
            )
            for name, (request, response) in messages.METHODS.items()
        }
        # the stream parses what comes by itself: a message that is none must not end it
        handlers["ModelStreamInfer"] = grpc.stream_stream_rpc_method_handler(
            self._model_stream_infer, response_serializer=messages.ModelStreamInferResponse.SerializeToString
        )
        return grpc.method_handlers_generic_handler(SERVICE, handlers)

    async def _server_live(self, request: Any, context: Any) -> Any:
        return messages.ServerLiveResponse(live=True)

    async def _server_ready(self, request: Any, context: Any) -> Any:
        return messages.ServerReadyResponse(ready=True)

    async def _model_ready(self, request: Any, context: Any) -> Any:
        # as in Triton, a model that is not there is not ready, which is no error
        try:
            self._core.model(request.name, request.version)
        except LookupError:
            return messages.ModelReadyResponse(ready=False)
        return messages.ModelReadyResponse(ready=True)

    async def _server_metadata(self, request: Any, context: Any) -> Any:
        return messages.ServerMetadataResponse(
            name="edge-sdk", version=metadata.version("edge-sdk"), extensions=["edge_encodings"]
        )

    async def _model_metadata(self, request: Any, context: Any) -> Any:
        model = await self._find(request, context)
        response = messages.ModelMetadataResponse(
            name=model.name, versions=[model.version], platform=model.platform, properties=model.properties
        )
        for target, tensors in ((response.inputs, model.inputs), (response.outputs, model.outputs)):
            for tensor in tensors:
                target.add(name=tensor.name, datatype=tensor.datatype, shape=tensor.shape)
        return response

    async def _repository_index(self, request: Any, context: Any) -> Any:
        response = messages.RepositoryIndexResponse()
        for model in self._core.models:
            response.models.add(name=model.name, version=model.version, state="READY")
        return response

    async def _find(self, request: Any, context: Any) -> ServedModel:
        try:
            return self._core.model(request.name, request.version)
        except LookupError as error:
            await context.abort(grpc.StatusCode.NOT_FOUND, _line(error))
            raise AssertionError("abort raises") from error

    async def _model_infer(self, request: Any, context: Any) -> Any:
        try:
            response = messages.ModelInferResponse()
            await self._infer(request, context.time_remaining(), response)
            return response
        except _FAILURES as error:
            await context.abort(*_status(error, request.model_name))

    async def _model_stream_infer(self, requests: Any, context: Any) -> None:
        """Work on up to `MAX_STREAM_REQUESTS` of a stream at a time; answer each as soon as it is ready."""
        slots, writing = asyncio.Semaphore(MAX_STREAM_REQUESTS), asyncio.Lock()

        async def answer(data: bytes) -> None:
            try:
                response = await self._stream_response(data, context)
                async with writing:  # gRPC takes one message of a call at a time
                    await context.write(response)
            except grpc.aio.BaseError:
                _log.debug("a stream ended before its answer could be written")
            finally:
                slots.release()

        async with asyncio.TaskGroup() as tasks:  # a client that goes takes its requests with it
            async for data in requests:
                # an unread request is held back by flow control, at the sender's end
                await slots.acquire()
                tasks.create_task(answer(data))

    async def _stream_response(self, data: bytes, context: Any) -> Any:
        response = messages.ModelStreamInferResponse()
        try:
            request = messages.ModelInferRequest.FromString(data)
        except DecodeError:
            status, response.error_message = grpc.StatusCode.INVALID_ARGUMENT, "that is no ModelInferRequest"
        else:
            try:
                await self._infer(request, context.time_remaining(), response.infer_response)
                return response
            except _FAILURES as error:
                response.infer_response.Clear()
                status, response.error_message = _status(error, request.model_name)
                response.infer_response.id = request.id  # as in Triton, so that it is known which failed
        set_parameter(response.infer_response.parameters, STATUS_PARAMETER, status.name)
        return response

    async def _infer(self, request: Any, time_remaining: float | None, response: Any) -> None:
        arrived = time.monotonic()
        parameters = read_parameters(request.parameters)
        encoding = parameters.get(ENCODING_PARAMETER, "tensor")
        if not isinstance(encoding, str):
            raise InputError(f"parameter {ENCODING_PARAMETER} is a string")
        model = self._core.model(request.model_name, request.model_version)
        wanted = _requested_outputs(request, model)
        outputs = await self._core.infer(
            Request(
                model=request.model_name,
                version=request.model_version,
                inputs=read_inputs(request),
                encoding=encoding,
                deadline=_deadline(arrived, time_remaining, parameters.get(TIMEOUT_PARAMETER)),
            )
        )
        response.model_name, response.model_version, response.id = model.name, model.version, request.id
        set_parameter(response.parameters, DIGEST_PARAMETER, model.digest)
        for name in wanted:
            add_output(response, name, outputs[name])


_FAILURES = (LookupError, InputError, ProcessingError, TimeoutError, ModelError, MemoryError)


def _status(error: Exception, model_name: str) -> tuple[grpc.StatusCode, str]:
    """Return the status and the line that one of `_FAILURES` is answered with."""
    match error:
        case LookupError():
            return grpc.StatusCode.NOT_FOUND, _line(error)
        case InputError() | ProcessingError():
            return grpc.StatusCode.INVALID_ARGUMENT, _line(error)
        case TimeoutError():
            return grpc.StatusCode.DEADLINE_EXCEEDED, _line(error)
        case MemoryError():
            return grpc.StatusCode.RESOURCE_EXHAUSTED, "the server is out of memory for this request"
        case _:
            _log.warning("model %s failed: %s", model_name[:80], _line(error))
            return grpc.StatusCode.INTERNAL, _line(error)


def _requested_outputs(request: Any, model: ServedModel) -> list[str]:
    there = [tensor.name for tensor in model.outputs]
    wanted = [output.name for output in request.outputs]
    for output in request.outputs:
        if output.name not in there or wanted.count(output.name) > 1:
            raise InputError(f"output {output.name[:80]!r} is unknown or asked for twice; there are {', '.join(there)}")
        if output.parameters:
            raise InputError(f"output parameter {min(output.parameters)[:80]!r} is not supported")
    return wanted or there


def _deadline(arrived: float, time_remaining: float | None, timeout: object) -> float | None:
    """Return when the request's time is up: the earlier of gRPC's deadline and the parameter, in µs."""
    ends = []
    if time_remaining is not None and math.isfinite(time_remaining):
        ends.append(arrived + time_remaining)
    if timeout is not None:
        if isinstance(timeout, bool) or not isinstance(timeout, int) or timeout < 0:
            raise InputError(f"parameter {TIMEOUT_PARAMETER} is a number of microseconds")
        if timeout > 0:  # as in Triton, 0 is no timeout
            ends.append(arrived + timeout / 1e6)
    return min(ends, default=None)


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())


class TokenInterceptor(grpc.aio.ServerInterceptor):  # type: ignore[misc]
    """Lets requests pass that carry ``authorization: Bearer TOKEN``."""

    def __init__(self, token: str) -> None:
        self._expected = f"Bearer {token}".encode()

        async def refuse(request: Any, context: Any) -> None:
            await context.abort(grpc.StatusCode.UNAUTHENTICATED, "a valid bearer token is needed")

        self._refusal = grpc.unary_unary_rpc_method_handler(refuse)

    async def intercept_service(self, continuation: Any, handler_call_details: Any) -> Any:
        """Go on with the call, or answer UNAUTHENTICATED."""
        for key, value in handler_call_details.invocation_metadata or ():
            given = value.encode() if isinstance(value, str) else value
            if key == "authorization" and hmac.compare_digest(given, self._expected):
                return await continuation(handler_call_details)
        return self._refusal
