"""The services that any gRPC server has: health for load balancers, reflection for tools like grpcurl."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from types import SimpleNamespace
from typing import Any

import grpc
from google.protobuf import descriptor_pb2

from edge_sdk.protocol.feedback import FEEDBACK
from edge_sdk.protocol.messages import POOL
from edge_sdk.protocol.names import SERVICE
from edge_sdk.protocol.services import (
    HEALTH,
    REFLECTION,
    HealthCheckRequest,
    HealthCheckResponse,
    ServerReflectionRequest,
    ServerReflectionResponse,
)

__all__ = ["SERVICES", "Health", "methods_of", "reflection_handlers"]

SERVICES = (SERVICE, FEEDBACK, HEALTH, REFLECTION[0])
"""Names of all services of a server, but for the older name of reflection."""


class Health:
    """``grpc.health.v1.Health`` of the whole server, ``""``, and of the inference service."""

    def __init__(self) -> None:
        self._serving = True
        self._changed = asyncio.Condition()

    async def set(self, *, serving: bool) -> None:
        """Say whether requests are taken; who watches is told."""
        async with self._changed:
            self._serving = serving
            self._changed.notify_all()

    def handler(self) -> Any:
        """Return the generic handler to register with a ``grpc.aio`` server."""
        codec: dict[str, Any] = {
            "request_deserializer": HealthCheckRequest.FromString,
            "response_serializer": HealthCheckResponse.SerializeToString,
        }
        return grpc.method_handlers_generic_handler(
            HEALTH,
            {
                "Check": grpc.unary_unary_rpc_method_handler(self._check, **codec),
                "Watch": grpc.unary_stream_rpc_method_handler(self._watch, **codec),
            },
        )

    def _status(self, service: str) -> Any:
        if service not in ("", SERVICE):
            return HealthCheckResponse.SERVICE_UNKNOWN
        return HealthCheckResponse.SERVING if self._serving else HealthCheckResponse.NOT_SERVING

    async def _check(self, request: Any, context: Any) -> Any:
        status = self._status(request.service)
        if status == HealthCheckResponse.SERVICE_UNKNOWN:
            await context.abort(grpc.StatusCode.NOT_FOUND, f"there is no service {request.service[:80]!r}")
        return HealthCheckResponse(status=status)

    async def _watch(self, request: Any, context: Any) -> AsyncIterator[Any]:
        told = None
        while True:
            async with self._changed:
                while (status := self._status(request.service)) == told:
                    await self._changed.wait()
            told = status
            yield HealthCheckResponse(status=status)


def reflection_handlers() -> tuple[Any, ...]:
    """Return the generic handlers of server reflection, of both its versions."""
    method = grpc.stream_stream_rpc_method_handler(
        _reflect,
        request_deserializer=ServerReflectionRequest.FromString,
        response_serializer=ServerReflectionResponse.SerializeToString,
    )
    return tuple(grpc.method_handlers_generic_handler(name, {"ServerReflectionInfo": method}) for name in REFLECTION)


def methods_of(handlers: Iterable[grpc.GenericRpcHandler]) -> dict[bytes, Any]:
    """Return the methods of generic handlers by their path: those of the services that any server of ours has."""
    names = [method.name for service in SERVICES for method in POOL.FindServiceByName(service).methods]
    methods = {}
    for path in [f"/{service}/{name}" for service in {*SERVICES, *REFLECTION} for name in names]:
        details = SimpleNamespace(method=path, invocation_metadata=())
        for handler in handlers:
            if (found := handler.service(details)) is not None:
                methods[path.encode()] = found
    return methods


async def _reflect(requests: Any, context: Any) -> AsyncIterator[Any]:
    async for request in requests:
        response = ServerReflectionResponse(valid_host=request.host, original_request=request)
        kind = request.WhichOneof("message_request")
        try:
            if kind == "list_services":
                for name in SERVICES:
                    response.list_services_response.service.add(name=name)
            elif kind == "file_by_filename":
                _describe(response, POOL.FindFileByName(request.file_by_filename))
            elif kind == "file_containing_symbol":
                _describe(response, POOL.FindFileContainingSymbol(request.file_containing_symbol))
            elif kind == "all_extension_numbers_of_type":
                name = POOL.FindMessageTypeByName(request.all_extension_numbers_of_type).full_name
                response.all_extension_numbers_response.base_type_name = name  # proto3: there are none
            else:
                raise KeyError(kind)
        except KeyError:
            response.error_response.error_code = grpc.StatusCode.NOT_FOUND.value[0]
            response.error_response.error_message = f"there is no such {(kind or 'request').replace('_', ' ')}"
        yield response


def _describe(response: Any, file: Any) -> None:
    description = descriptor_pb2.FileDescriptorProto()
    file.CopyToProto(description)  # none of ours imports another
    response.file_descriptor_response.file_descriptor_proto.append(description.SerializeToString())
