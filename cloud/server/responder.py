"""Requests for inference as bytes to responses as bytes: what every front for Open Inference messages calls."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from google.protobuf.message import DecodeError

from edge_sdk.cloud.server.core import Core, Request
from edge_sdk.cloud.server.exchange import (
    Failure,
    answered,
    deadline_of,
    encoding_of,
    failure_of,
    key_of,
    priority_of,
    wanted_outputs,
)
from edge_sdk.cloud.server.request_log import RequestLog
from edge_sdk.cloud.server.writing import serialize
from edge_sdk.errors import InputError, OverloadedError
from edge_sdk.protocol import messages, read_inputs, read_parameters
from edge_sdk.protocol.names import TIMEOUT_PARAMETER

__all__ = ["Responder", "unreadable"]

_RETRY_SECONDS = 0.05


class Responder:
    """Answers ``ModelInferRequest`` messages; its method is called on the server's event loop.

    Parameters
    ----------
    core
        The models.
    max_concurrent
        Requests at work or queued at a time; more are refused.
    log
        Where each request is noted, or None.
    """

    def __init__(self, core: Core, *, max_concurrent: int, log: RequestLog | None = None) -> None:
        self._core, self._log = core, log
        self._at_work, self._max_concurrent = 0, max_concurrent

    async def respond(
        self,
        data: bytes,
        *,
        arrived: float,
        time_remaining: float | None = None,
        admit: Callable[[str], object] | None = None,
        front: str = "grpc",
    ) -> bytes | Failure:
        """Return a ``ModelInferResponse``, serialized, or what went wrong; note how it ended.

        Parameters
        ----------
        data
            A ``ModelInferRequest``, serialized.
        arrived
            `time.monotonic` reading of its arrival.
        time_remaining
            Seconds that the transport still gives it, or None.
        admit
            Called with the name of the model; raises where the caller may not ask it. None: everybody may.
        front
            As for `RequestLog.note`.
        """
        try:
            request = messages.ModelInferRequest.FromString(data)
        except DecodeError:
            return failure_of(InputError(unreadable("ModelInferRequest")), "")
        status = "CANCELLED"
        try:
            if admit is not None:
                admit(request.model_name)
            response = await self._infer(request, time_remaining, arrived)
            status = "OK"
            return response
        except Exception as error:  # noqa: BLE001 - a fault of the server, too, has its answer
            failure = failure_of(error, request.model_name)
            status = failure.status.name
            return replace(failure, request_id=request.id)
        finally:
            if self._log is not None:
                self._log.note(front, request.id, request.model_name, request.model_version, status, arrived)

    async def _infer(self, request: Any, time_remaining: float | None, arrived: float) -> bytes:
        parameters = read_parameters(request.parameters)
        name, version = request.model_name, request.model_version
        model = self._core.model(name, version)
        asked = [(output.name, read_parameters(output.parameters)) for output in request.outputs]
        wanted = wanted_outputs(asked, model)
        # counted here, not by a transport, to which calls whose message never comes are at work, too
        if self._at_work >= self._max_concurrent:
            raise OverloadedError(f"{self._at_work} requests are at work already", retry_after=_RETRY_SECONDS)
        self._at_work += 1
        try:
            said = await self._core.infer(
                Request(
                    model=name,
                    version=version,
                    inputs=read_inputs(request),
                    encoding=encoding_of(parameters),
                    deadline=deadline_of(arrived, time_remaining, parameters.get(TIMEOUT_PARAMETER)),
                    priority=priority_of(parameters),
                    key=key_of(parameters, request.id),
                    outputs=tuple(output.name for output in wanted),
                )
            )
        finally:
            self._at_work -= 1
        # of the model that answered: a newer one may have taken over meanwhile
        return serialize(said.model, request.id, answered(said, wanted), cached=said.cached)


def unreadable(name: str) -> str:
    """Return what is said of bytes that are no message of a kind."""
    return f"what was sent is no {name} message"
