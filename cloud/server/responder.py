"""Requests for inference as bytes to responses as bytes: what every front for Open Inference messages calls."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from google.protobuf.message import DecodeError

from edge_sdk.cloud.server.asked import Request
from edge_sdk.cloud.server.core import Core
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
from edge_sdk.cloud.server.heads import cut
from edge_sdk.cloud.server.margin import Margin
from edge_sdk.cloud.server.payloads import Payload
from edge_sdk.cloud.server.plans import Contents, Plan, Plans
from edge_sdk.cloud.server.request_log import Notes
from edge_sdk.cloud.server.runs import Run
from edge_sdk.cloud.server.tickets import Ticket
from edge_sdk.cloud.server.waiting import RetiredError
from edge_sdk.cloud.server.writing import serialize
from edge_sdk.errors import InputError, OverloadedError, RateLimitError
from edge_sdk.protocol import messages, read_inputs, read_parameters
from edge_sdk.protocol.names import TIMEOUT_PARAMETER

__all__ = ["Responder", "unreadable"]

Parameters = Mapping[str, bool | int | float | str]
_RETRY_SECONDS = 0.05
_FEW = 4  # requests at work, beside which none is refused before it is read
_PRESSED = {"RESOURCE_EXHAUSTED", "DEADLINE_EXCEEDED", "CANCELLED"}  # ends of requests where there are too many
_PRESSED_SECONDS = 1.0
_UNTIMELY = (OverloadedError, TimeoutError)
_NONE: Parameters = {}


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

    Attributes
    ----------
    refused
        Requests that had no answer for want of room or time, so far.
    margin
        What the front learns of the way that answers take.
    is_brief
        As `Plans.is_brief`.
    """

    def __init__(self, core: Core, *, max_concurrent: int, log: Notes | None = None) -> None:
        self._core, self._log, self._plans = core, log, Plans()
        self._at_work, self._max_concurrent, self._pressed_until = 0, max_concurrent, 0.0
        self._arrived = self.refused = 0
        self.margin, self.is_brief = Margin(), self._plans.is_brief

    @property
    def activity(self) -> tuple[int, int]:
        """How many requests came so far, and how many are at work or queued."""
        return self._arrived, self._at_work

    @property
    def is_pressed(self) -> bool:
        """So much is at work, and so lately was something refused, that requests may be before they are read."""
        # it costs more where the request is taken after all
        return self._at_work > _FEW and time.monotonic() < self._pressed_until

    def begun(self) -> bool:
        """Note that a call has begun; tell whether it may be refused before its message is read."""
        self._core.coming.begun()
        return self._at_work > _FEW and self.is_pressed

    def refusal(self, time_remaining: float | None, front: str = "grpc") -> Failure | None:
        """Return why a request is refused before it is read, whatever it is; None where it may be answered.

        Parameters
        ----------
        time_remaining
            Seconds that the transport still gives it, or None.
        front
            As for `RequestLog.note`.
        """
        arrived = time.monotonic()
        error = self._core.refusal_of_any(self._due(arrived, time_remaining, _NONE))
        if error is None:
            return None
        self._core.coming.came()  # or rather will not
        self.refused += 1
        failure = failure_of(error, "")
        self._pressed_until = arrived + _PRESSED_SECONDS
        if self._log is not None:
            self._log.note(front, "", "", "", failure.status.name, arrived)
        return failure

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
        self._arrived += 1
        self._core.coming.came()
        known, request = self._recognize(data), None
        if known is not None:
            plan, contents, request_id, parameters = known
            model, version = plan.model, plan.version
        else:
            try:
                request = messages.ModelInferRequest.FromString(data)
            except DecodeError:
                return failure_of(InputError(unreadable("ModelInferRequest")), "")
            model, version, request_id = request.model_name, request.model_version, request.id
        status, response = "CANCELLED", None
        try:
            if admit is not None:
                admit(model)
            if known is not None:
                deadline = self._due(arrived, time_remaining, parameters)
                if deadline is None or time.monotonic() < deadline:
                    response = self._at_once(plan, data, contents, request_id, arrived)
                    if response is None:
                        response = await self._planned(plan, data, contents, request_id, parameters, deadline)
            if response is None:
                response = await self._infer(request, data, time_remaining, arrived)
            status = "OK"
            return response
        except Exception as error:  # noqa: BLE001 - a fault of the server, too, has its answer
            failure = self._failure(error, model, request_id)
            status = failure.status.name
            return failure
        finally:
            self._note(front, request_id, model, version, status, arrived)

    def take(
        self,
        data: bytes,
        *,
        arrived: float,
        time_remaining: float | None,
        admit: Callable[[str], object] | None,
        tell: Callable[[bytes | Failure], None],
    ) -> bytes | Failure | Ticket | None:
        """Answer a request that is like one before it, without a coroutine.

        Parameters
        ----------
        data, arrived, time_remaining, admit
            As for `respond`.
        tell
            Called with what `respond` returns, where that is not known now; not when the ticket was given back before.

        Returns
        -------
        The same, or a ticket, to be cancelled when the caller goes; None where nothing has been done, and `respond` is
        to be asked.
        """
        known = self._recognize(data)
        if known is None or self._core.on_run is not None or not known[0].line.is_plain:
            return None
        plan, contents, request_id, parameters = known
        self._arrived += 1
        self._core.coming.came()
        try:
            if admit is not None:
                admit(plan.model)
            deadline = None
            if time_remaining is not None or parameters:
                deadline = self._due(arrived, time_remaining, parameters)
                if deadline is not None and time.monotonic() >= deadline:
                    raise TimeoutError("no time is left for this request")
            response = self._at_once(plan, data, contents, request_id, arrived)
            if response is None:
                payload, priority = plan.keeping(data, contents), priority_of(parameters)
                return self._wait(plan, payload, request_id, deadline, priority, arrived, tell)
        except RetiredError:
            return None
        except Exception as error:  # noqa: BLE001 - as above
            failure = self._failure(error, plan.model, request_id)
            self._note("grpc", request_id, plan.model, plan.version, failure.status.name, arrived)
            return failure
        if self._log is not None:
            self._note("grpc", request_id, plan.model, plan.version, "OK", arrived)
        return response

    def _wait(
        self,
        plan: Plan,
        payload: Payload,
        request_id: str,
        deadline: float | None,
        priority: int,
        arrived: float,
        tell: Callable[[bytes | Failure], None],
    ) -> Ticket:
        """Let a request wait in line, and tell what comes of it."""

        def finish(run: Run | None, error: BaseException | None) -> None:
            self._leave(payload)
            plan.line.leave(payload, run, gone=run is None and error is None)
            said: bytes | Failure | None = None
            status = "CANCELLED"
            if run is not None:
                try:
                    status, said = "OK", plan.response(run, request_id, payload.said)
                except Exception as fault:  # noqa: BLE001 - as above
                    error = fault
            if error is not None:
                said = failure = self._failure(error, plan.model, request_id)
                status = failure.status.name
            self._note("grpc", request_id, plan.model, plan.version, status, arrived)
            if said is not None:
                tell(said)

        ticket = Ticket(finish)
        self._enter()
        try:
            self._core.hold(plan.line, payload)
        except OverloadedError:
            self._at_work -= 1
            raise
        try:
            plan.line.enter(payload, deadline, priority, ticket)
        except Exception:
            self._leave(payload)
            raise
        return ticket

    def _leave(self, payload: Payload) -> None:
        self._at_work -= 1
        self._core.let_go(payload)

    def _failure(self, error: BaseException, model: str, request_id: str) -> Failure:
        self.refused += isinstance(error, _UNTIMELY) and not isinstance(error, RateLimitError)
        return replace(failure_of(error, model), request_id=request_id)

    def _note(self, front: str, request_id: str, model: str, version: str, status: str, arrived: float) -> None:
        if status in _PRESSED:
            self._pressed_until = time.monotonic() + _PRESSED_SECONDS
        if self._log is not None:
            self._log.note(front, request_id, model, version, status, arrived)

    def _recognize(self, data: bytes) -> tuple[Plan, Contents, str, Parameters] | None:
        """Return the plan of a request, and what is its own; None where it has to be looked at as a whole."""
        request_id, parameters = "", _NONE
        plan = self._plans.at_hand(data)
        if plan is not None:
            contents = plan.contents
        else:
            parts = cut(data)
            plan = None if parts is None else self._plans.get(parts)
            if plan is None or parts is None:
                return None
            contents, request_id = parts.contents, parts.request_id
            if parts.parameters:
                try:
                    asked = read_parameters(messages.ModelInferRequest.FromString(parts.parameters).parameters)
                    deadline_of(0.0, None, asked.get(TIMEOUT_PARAMETER))
                    priority_of(asked)
                    key_of(asked, request_id)
                    if encoding_of(asked) != "tensor":
                        return None
                except (DecodeError, InputError):
                    return None
                parameters = asked
        if plan.served is not self._core.served:
            self._plans.forget()
            return None
        return plan, contents, request_id, parameters

    def _at_once(self, plan: Plan, data: bytes, contents: Contents, request_id: str, arrived: float) -> bytes | None:
        """Return the response to a request that may run here and now; None where it may not, or failed."""
        line, payload = plan.line, plan.payload
        # it holds nothing while others wait; who traces runs is told of each in the usual way
        if plan.example is None or self._at_work >= self._max_concurrent or self._core.on_run is not None:
            return None
        try:
            instance = line.seize(payload.items)
        except RetiredError:
            return None
        if instance is None:
            return None
        response, done = None, None
        try:
            seat = plan.seat(instance)
            if seat is not None:
                response = seat.answer(data, contents, request_id)
                done = time.monotonic()
        except Exception:  # noqa: BLE001 - of a runtime, which is anybody's; it is told when it fails in the usual way
            plan.example = None
        finally:
            line.release(instance, payload.items, arrived, done)
        return response

    async def _planned(
        self,
        plan: Plan,
        data: bytes,
        contents: Contents,
        request_id: str,
        parameters: Parameters,
        deadline: float | None,
    ) -> bytes | None:
        """Return the response to a request with a plan; None where that has become void."""
        inputs = plan.inputs(data, contents)
        asked = Request(plan.model, plan.version, inputs, "tensor", deadline, priority_of(parameters))
        self._enter()
        try:
            run = await self._core.ask(plan.line, plan.holding(inputs), asked)
        except RetiredError:
            return None
        finally:
            self._at_work -= 1
        return plan.response(run, request_id)

    async def _infer(self, request: Any | None, data: bytes, time_remaining: float | None, arrived: float) -> bytes:
        if request is None:
            request = messages.ModelInferRequest.FromString(data)
        parameters = read_parameters(request.parameters)
        name, version = request.model_name, request.model_version
        model = self._core.model(name, version)
        asked = [(output.name, read_parameters(output.parameters)) for output in request.outputs]
        wanted = wanted_outputs(asked, model)
        self._enter()
        try:
            inputs, encoding = read_inputs(request), encoding_of(parameters)
            said = await self._core.infer(
                Request(
                    model=name,
                    version=version,
                    inputs=inputs,
                    encoding=encoding,
                    deadline=self._due(arrived, time_remaining, parameters),
                    priority=priority_of(parameters),
                    key=key_of(parameters, request.id),
                    outputs=tuple(output.name for output in wanted),
                )
            )
        finally:
            self._at_work -= 1
        outputs = answered(said, wanted)
        if encoding == "tensor" and outputs is said.outputs and (parts := cut(data)) is not None:
            self._plans.learn(self._core, parts, request, inputs, said)
        # of the model that answered: a newer one may have taken over meanwhile
        return serialize(said.model, request.id, outputs, cached=said.cached)

    def _due(self, arrived: float, time_remaining: float | None, parameters: Parameters) -> float | None:
        """Return when an answer has to be ready, as a `time.monotonic` reading; None is never."""
        if time_remaining is None and not parameters:
            return None
        deadline = deadline_of(arrived, time_remaining, parameters.get(TIMEOUT_PARAMETER))
        return None if deadline is None else deadline - self.margin.seconds(arrived)

    def _enter(self) -> None:
        # counted here, not by a transport, to which calls whose message never comes are at work, too
        if self._at_work >= self._max_concurrent:
            raise OverloadedError(f"{self._at_work} requests are at work already", retry_after=_RETRY_SECONDS)
        self._at_work += 1


def unreadable(name: str) -> str:
    """Return what is said of bytes that are no message of a kind."""
    return f"what was sent is no {name} message"
