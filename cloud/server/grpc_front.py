"""The gRPC front: Open Inference Protocol messages to and from the core."""

from __future__ import annotations

import asyncio
import functools
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from inspect import isawaitable
from typing import Any

import grpc
from google.protobuf.json_format import ParseDict
from google.protobuf.message import DecodeError

from edge_sdk.cloud.server.access import Access, Caller, Kind
from edge_sdk.cloud.server.admin import Admin
from edge_sdk.cloud.server.core import Core
from edge_sdk.cloud.server.descriptions import (
    all_statistics,
    model_config,
    model_metadata,
    repository_index,
    server_metadata,
)
from edge_sdk.cloud.server.door import INFER, Door
from edge_sdk.cloud.server.exchange import FAILURES, Failure, failure_of
from edge_sdk.cloud.server.gathering import Gathering
from edge_sdk.cloud.server.readings import Readings
from edge_sdk.cloud.server.request_log import Notes
from edge_sdk.cloud.server.responder import Responder, unreadable
from edge_sdk.cloud.server.resting import Resting
from edge_sdk.cloud.server.room import Room
from edge_sdk.cloud.server.tickets import Ticket, Told
from edge_sdk.cloud.server.traces import Traces
from edge_sdk.cloud.server.writing import within_stream
from edge_sdk.errors import NotReadyError, UnknownCallerError
from edge_sdk.protocol import messages, set_parameter
from edge_sdk.protocol.names import (
    MAX_MESSAGE_BYTES,
    PUSHBACK_PARAMETER,
    SERVICE,
    STATUS_PARAMETER,
)
from edge_sdk.protocol.services import HEALTH

__all__ = ["CallerInterceptor", "GrpcFront"]

_LOOK_SECONDS, _QUIET_LOOKS = 0.002, 10
_LEARN_OF = 8  # answers given at once, of which one says how long it was on its way
_log = logging.getLogger("edge_sdk.cloud.server")
Method = Callable[[Any, Any], Awaitable[Any]]
Describe = Callable[[Callable[[str], bool]], Any]


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
    access
        Who may do what, or None: everybody may do all.
    traces
        What is told by whom a request was traced, or None.
    max_message_bytes
        Of a message at most.
    """

    def __init__(
        self,
        core: Core,
        *,
        max_concurrent: int,
        allow_admin: bool = False,
        log: Notes | None = None,
        access: Access | None = None,
        traces: Traces | None = None,
        max_message_bytes: int = MAX_MESSAGE_BYTES,
    ) -> None:
        self._traces = traces
        self._access = access
        self._core, self._admin = core, Admin(core, allowed=allow_admin)
        self._responder = Responder(core, max_concurrent=max_concurrent, log=log)
        self._readings = Readings(core.serving.max_pending_bytes // max_message_bytes)
        self._gathering = Gathering(core.coming)
        self._resting: Resting | None = None
        self._answered = 0

    async def lull(self, seconds: float) -> None:
        """Wait until nothing has come or been at work for a while; the longer that takes, the shorter a while will do.

        Parameters
        ----------
        seconds
            To wait at most.
        """
        began, quiet, before = time.monotonic(), 0, None
        while (waited := time.monotonic() - began) < seconds:
            now = self._responder.activity
            quiet = quiet + 1 if now == before and not now[1] else 0
            if quiet > _QUIET_LOOKS * (1 - waited / seconds):
                return
            before = now
            await asyncio.sleep(_LOOK_SECONDS)

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
            "RepositoryIndex": self._repository_index,
            "RepositoryModelLoad": self._load,
            "RepositoryModelUnload": self._unload,
        }
        handlers = {name: _unary(name, method) for name, method in methods.items()}
        # these take bytes: of a stream, a message that is none must not end it
        handlers["ModelInfer"] = grpc.unary_unary_rpc_method_handler(self._model_infer)
        handlers["ModelStreamInfer"] = grpc.stream_stream_rpc_method_handler(self._model_stream_infer)
        return grpc.method_handlers_generic_handler(SERVICE, handlers)

    def door(self, handlers: Sequence[Any]) -> Door:
        """Return what a ``grpc.aio`` server is to have in place of its handlers, all of which it is given."""
        self._resting = Resting(self._core)
        return Door(handlers, self._responder, self._readings)

    def refusal(self, method: str, time_remaining: float | None) -> Failure | None:
        """Return why a call is refused before its message comes, much being at work; None where it is not."""
        if self._responder.is_pressed and method == INFER:
            return self._responder.refusal(time_remaining)
        return None

    def refused(self) -> int:
        """Return how many requests had no answer for want of room or time, so far."""
        return self._responder.refused

    async def _server_live(self, request: Any, context: Any) -> Any:
        return messages.ServerLiveResponse(live=True)

    async def _server_ready(self, request: Any, context: Any) -> Any:
        return messages.ServerReadyResponse(ready=self._core.is_ready)

    async def _model_ready(self, request: Any, context: Any) -> Any:
        # as in Triton, a model that is not there is not ready, which is no error
        return await self._say(
            messages.ModelReadyResponse(),
            request.name,
            context,
            lambda _: {"ready": self._core.answers(request.name, request.version)},
        )

    async def _server_metadata(self, request: Any, context: Any) -> Any:
        return messages.ServerMetadataResponse(**server_metadata())

    async def _model_metadata(self, request: Any, context: Any) -> Any:
        name, version = request.name, request.version
        return await self._say(
            messages.ModelMetadataResponse(), name, context, lambda _: model_metadata(self._core, name, version)
        )

    async def _model_config(self, request: Any, context: Any) -> Any:
        name, version = request.name, request.version
        return await self._say(
            messages.ModelConfigResponse(),
            name,
            context,
            lambda _: {"config": model_config(self._core, name, version)},
        )

    async def _model_statistics(self, request: Any, context: Any) -> Any:
        name, version = request.name, request.version
        return await self._say(
            messages.ModelStatisticsResponse(),
            name,
            context,
            lambda sees: all_statistics(self._core, name, version, sees),
        )

    async def _repository_index(self, request: Any, context: Any) -> Any:
        await _only_repository(request, context)
        return await self._say(
            messages.RepositoryIndexResponse(),
            "",
            context,
            lambda sees: {"models": repository_index(self._core, ready=request.ready, sees=sees)},
        )

    async def _load(self, request: Any, context: Any) -> Any:
        return await self._do(self._admin.load, messages.RepositoryModelLoadResponse(), request, context)

    async def _unload(self, request: Any, context: Any) -> Any:
        return await self._do(self._admin.unload, messages.RepositoryModelUnloadResponse(), request, context)

    async def _do(self, action: Callable[..., Awaitable[None]], response: Any, request: Any, context: Any) -> Any:
        await _only_repository(request, context)
        try:
            caller = self.admit(context, "admin", request.model_name)
            who = context.peer() if caller is None else f"{caller.name} ({context.peer()})"
            await action(request.model_name, who, request.parameters)
        except FAILURES as error:
            await _abort(context, failure_of(error, request.model_name))
        return response

    async def _say(
        self, message: Any, model: str, context: Any, describe: Callable[[Callable[[str], bool]], Any]
    ) -> Any:
        """Fill a message with what is said of a model, or of those that the caller may see."""
        try:
            caller = self.admit(context, "describe", model)
            said = describe(bool if caller is None else caller.sees)
            return ParseDict(await said if isawaitable(said) else said, message)
        except FAILURES as error:
            await _abort(context, failure_of(error, model))

    def admit(self, context: Any, kind: Kind, model: str) -> Caller | None:
        """Return who is calling, where that matters; raise where it may not do what it asks for."""
        if self._access is None:
            return None
        caller = self._access.identify(_authorization(context.invocation_metadata()), _certificate_names(context))
        self._access.admit(caller, kind, model)
        return caller

    async def _model_infer(self, data: bytes, context: Any) -> bytes:
        self._readings.came()
        arrived, remaining, admit = time.monotonic(), context.time_remaining(), self._admission(context)
        if self._responder.is_brief(data) and not self._gathering.is_alone(arrived):
            await self._gathering.join(arrived, remaining)
        told, said = Told(), None
        if self._traces is None:
            said = self._responder.take(data, arrived=arrived, time_remaining=remaining, admit=admit, tell=told.tell)
        else:
            self._traces.follow(context.invocation_metadata())
        if said is None:
            said = await self._responder.respond(data, arrived=arrived, time_remaining=remaining, admit=admit)
        elif isinstance(said, Ticket):
            said = await told.wait(said)
        if isinstance(said, Failure):
            await _abort(context, said)  # raises
        assert isinstance(said, bytes)
        self._answered += 1
        # who waited says most; of those that were answered at once, a few say as much as all
        if told.ready or not self._answered % _LEARN_OF:
            ready = told.ready or time.monotonic()
            context.add_done_callback(lambda _: self._responder.margin.learn(ready, time.monotonic()))
        return said

    def take(
        self, data: bytes, context: Any, tell: Callable[[bytes | Failure], None]
    ) -> bytes | Failure | Ticket | None:
        """Answer a call of ``ModelInfer`` without a coroutine, as `Responder.take`."""
        if self._traces is not None:
            return None
        return self._responder.take(
            data,
            arrived=time.monotonic(),
            time_remaining=context.time_remaining(),
            admit=self._admission(context),
            tell=tell,
        )

    def _admission(self, context: Any) -> Callable[[str], object] | None:
        """Return what raises where a call may not ask a model; None where everybody may."""
        return None if self._access is None else functools.partial(self.admit, context, "infer")

    async def _model_stream_infer(self, requests: Any, context: Any) -> None:
        """Work on several requests of a stream at a time; answer each as soon as it is ready."""
        room, writing, incoming = Room(), asyncio.Lock(), aiter(requests)
        ended, peer = None, context.peer()

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
            try:
                while (data := await self._next(incoming, peer)) is not None:
                    # an unread request is held back by flow control, at the sender's end
                    await room.enter(len(data))
                    tasks.create_task(work(data))
            except NotReadyError as error:
                ended = failure_of(error, "")
        if ended is not None:
            await _abort(context, ended)

    async def _next(self, incoming: AsyncIterator[bytes], peer: str) -> bytes | None:
        return await (anext(incoming, None) if self._resting is None else self._resting.next(incoming, peer))

    async def _stream_response(self, data: bytes, context: Any) -> bytes:
        if self._traces is not None:
            self._traces.follow(context.invocation_metadata())
        said = await self._responder.respond(
            data,
            arrived=time.monotonic(),
            time_remaining=context.time_remaining(),
            admit=self._admission(context),
            front="stream",
        )
        if not isinstance(said, Failure):
            return within_stream(said)
        response = messages.ModelStreamInferResponse(error_message=said.message)
        response.infer_response.id = said.request_id  # as in Triton, so that it is known which failed
        set_parameter(response.infer_response.parameters, STATUS_PARAMETER, said.status.name)
        if said.pushback_ms is not None:
            set_parameter(response.infer_response.parameters, PUSHBACK_PARAMETER, said.pushback_ms)
        answer: bytes = response.SerializeToString()
        return answer


def _unary(name: str, method: Method) -> Any:
    """Return the handler of a method of one request and one response."""
    request_class, response_class = messages.METHODS[name]
    parse = request_class.FromString

    async def handle(data: bytes, context: Any) -> Any:
        try:  # here, because grpc.aio takes a parser's error for a fault of the server, and logs it as one
            request = parse(data)
        except DecodeError:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, unreadable(request_class.DESCRIPTOR.name))
        return await method(request, context)

    return grpc.unary_unary_rpc_method_handler(handle, response_serializer=response_class.SerializeToString)


async def _abort(context: Any, failure: Failure) -> None:
    await context.abort(failure.status, failure.message, trailing_metadata=failure.metadata)


async def _only_repository(request: Any, context: Any) -> None:
    """Refuse a request for one of several repositories, as Triton does."""
    if request.repository_name:
        await context.abort(grpc.StatusCode.UNIMPLEMENTED, "'repository_name' specification is not supported")


def _authorization(metadata: Any) -> str | bytes | None:
    """Return what a call carries as authorization."""
    for key, value in metadata or ():
        if key == "authorization":
            given: str | bytes = value
            return given
    return None


def _certificate_names(context: Any) -> list[str]:
    """Return the names in the certificate that a connection was made with; none where there was none."""
    shown = context.auth_context()
    names = shown.get("x509_subject_alternative_name") or shown.get("x509_common_name") or ()
    return [name.decode(errors="replace") for name in names]


class CallerInterceptor(grpc.aio.ServerInterceptor):  # type: ignore[misc]
    """Refuses calls of nobody who is known before their message comes; health checks, which carry nothing, pass.

    Where callers may be known by certificates, a call without a token passes, too: it came over a connection with
    a certificate of the authority, and each method asks whose it is.
    """

    def __init__(self, access: Access) -> None:
        self._access = access

        async def refuse(requests: Any, context: Any) -> None:
            await context.abort(grpc.StatusCode.UNAUTHENTICATED, access.unknown)

        # whatever kind the method is of
        self._refusal = grpc.stream_stream_rpc_method_handler(refuse)

    async def intercept_service(self, continuation: Any, handler_call_details: Any) -> Any:
        """Go on with the call, or answer UNAUTHENTICATED."""
        if not self.lets_in(handler_call_details.method, handler_call_details.invocation_metadata):
            return self._refusal
        return await continuation(handler_call_details)

    def lets_in(self, method: str, metadata: Any) -> bool:
        """Tell whether the caller of a method may be somebody."""
        if not method.startswith(f"/{HEALTH}/"):
            authorization = _authorization(metadata)
            if authorization is not None or not self._access.needs_certificates:
                try:
                    self._access.identify(authorization)
                except UnknownCallerError:
                    return False
        return True
