"""Asking the cloud: one gRPC channel, what the server says of its model, and calls that end in time.

Nothing here raises for a failing cloud; a call ends in an `Outcome`. Time limits are held twice:
gRPC ends the call at its deadline, and waiting for it ends then too, whatever gRPC does.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc

from edge_sdk.client.answers import read_probabilities
from edge_sdk.client.breaker import Breaker
from edge_sdk.client.cloud import Cloud
from edge_sdk.client.outcomes import Escalation, Gate, Outcome
from edge_sdk.client.payload import Capture, Contract, prepare
from edge_sdk.encodings import WHOLE
from edge_sdk.errors import InputError
from edge_sdk.processing import ProcessingSpec
from edge_sdk.protocol import MAX_MESSAGE_BYTES, messages, read_outputs, read_parameters, set_parameter
from edge_sdk.protocol.names import DECISION_PARAMETER, DIGEST_PARAMETER, SERVICE
from edge_sdk.types import Reason

__all__ = ["CloudLink"]

_log = logging.getLogger("edge_sdk.client")

_CHANNEL_OPTIONS = (
    # try a lost server again within a second, so that escalation resumes soon after its return
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.min_reconnect_backoff_ms", 1_000),
    ("grpc.max_reconnect_backoff_ms", 1_000),
    # give a silent connection up: bytes unacknowledged for 2 s, or an unanswered ping under a call
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 2_000),
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    # a channel's failures and back-off are its own, not those of others in the process
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.service_config_disable_resolution", 1),
)
_LEARN_SECONDS = 2.0
_REFUSALS: dict[Reason, str] = {
    "budget": "the budget for escalations is used up, or too little time has passed since the last",
    "deadline": "no answer is to be expected in the time that is left",
}


class _Failed(Exception):  # noqa: N818 - never leaves this module
    """Carries an outcome out of a helper."""

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(detail)
        self.outcome = Outcome(None, reason, detail=detail)


class CloudLink:
    """A channel to one server and what it says of one model; thread-safe.

    The channel connects in the background as soon as the link is made.

    Parameters
    ----------
    cloud
        Where it is, and how it is asked.

    Raises
    ------
    InputError
        A file of the CA or the token cannot be read.
    """

    def __init__(self, cloud: Cloud) -> None:
        target, tls_ca, token = cloud.targets[0], cloud.tls_ca, cloud.token
        if cloud.token_file is not None:
            try:
                token = Path(cloud.token_file).read_text(encoding="utf-8").strip()
            except (OSError, UnicodeDecodeError) as error:
                raise InputError(f"cannot read the token in {cloud.token_file}: {error}") from error
        self._target = target
        self._model_name = cloud.model_name
        self._encoding = cloud.encoding
        self._metadata = (("authorization", f"Bearer {token}"),) if token else ()
        self._breaker = Breaker()
        self._contract: Contract | None = None
        self._known: Contract | None = None
        self._is_answering = False
        self._warned: set[str] = set()
        if tls_ca is not None:
            try:
                credentials = grpc.ssl_channel_credentials(Path(tls_ca).read_bytes())
            except OSError as error:
                raise InputError(f"cannot read {tls_ca}: {error.strerror or error}") from error
            self._channel: Any = grpc.secure_channel(target, credentials, _CHANNEL_OPTIONS)
        else:
            self._channel = grpc.insecure_channel(target, _CHANNEL_OPTIONS)
        self._methods = {
            name: self._channel.unary_unary(
                f"/{SERVICE}/{name}",
                request_serializer=request.SerializeToString,
                response_deserializer=response.FromString,
            )
            for name, (request, response) in messages.METHODS.items()
        }
        self._lock = threading.Lock()
        self._learning = self._learn()

    @property
    def described(self) -> bool:
        """True where the server's model is known, so that `begin` does not wait."""
        return self._contract is not None

    @property
    def known(self) -> Contract | None:
        """What the server said last of its model, though it may be gone."""
        return self._known

    @property
    def is_answering(self) -> bool:
        """True where the last call was answered, and by the model that is known."""
        return self._contract is not None and self._is_answering

    def begin(
        self,
        capture: Capture,
        deadline: float | None,
        *,
        labels: tuple[str, ...],
        edge_spec: ProcessingSpec,
        gate: Gate | None = None,
        decision_id: str | None = None,
    ) -> Escalation:
        """Send a picture to the cloud.

        Parameters
        ----------
        capture
            The picture.
        deadline
            `time.perf_counter` reading at which the answer must be there; None waits.
        labels
            The edge model's labels; the cloud's must be the same.
        edge_spec
            The edge model's processing; see `Contract.payload`.
        gate
            Asked last, when the size is known.
        decision_id
            Sent with it, if any.
        """
        seen = ""

        def make(contract: Contract) -> Any:
            nonlocal seen
            self._check_labels(contract, labels)
            request, seen = prepare(contract, self._encoding, capture, edge_spec)
            if decision_id is not None:
                set_parameter(request.parameters, DECISION_PARAMETER, decision_id)
            return request

        def read(response: Any, contract: Contract, size: int) -> Outcome:
            outcome = self._read(response, contract, deadline, labels, size)
            return replace(outcome, encoding=seen, reduced=capture.reduction != WHOLE)

        return self.exchange(make, read, deadline, gate=gate)

    def exchange(
        self,
        make: Callable[[Contract], Any],
        read: Callable[[Any, Contract, int], Outcome],
        deadline: float | None,
        *,
        gate: Gate | None = None,
    ) -> Escalation:
        """Send a request of any kind to the cloud's model.

        Parameters
        ----------
        make
            Returns the ``ModelInferRequest`` for the model that is known; `InputError` is ``rejected``.
        read
            Returns what a ``ModelInferResponse`` says, given the model and the bytes sent; as above.
        deadline, gate
            As of `begin`.
        """
        try:
            return self._exchange(make, read, deadline, gate)
        except _Failed as failed:
            outcome = failed.outcome
            return Escalation(lambda: outcome)

    def forget(self) -> None:
        """Ask the server again what it serves before the next request."""
        self._contract = None

    def close(self) -> None:
        """Close the channel; calls under way end as ``deadline``."""
        self._channel.close()

    def _exchange(
        self,
        make: Callable[[Contract], Any],
        read: Callable[[Any, Contract, int], Outcome],
        deadline: float | None,
        gate: Gate | None,
    ) -> Escalation:
        if _remaining(deadline) == 0.0:
            raise _Failed("deadline", "no time was left to ask the cloud")
        if not self._breaker.allows():
            raise _Failed("breaker", f"{self._target} left calls unanswered and is left alone for a moment")
        contract = self._contract or self._describe(deadline)
        try:
            request = make(contract)
        except InputError as error:
            raise self._rejected(str(error)) from error
        size = request.ByteSize()
        refused = None if gate is None else gate(size, _remaining(deadline))
        if refused is not None:
            raise _Failed(refused, _REFUSALS[refused])
        call = self._start("ModelInfer", request, deadline)

        def finish() -> Outcome:
            try:
                response = self._finish(call, deadline)
                try:
                    return read(response, contract, size)
                except InputError as error:
                    raise self._rejected(str(error)) from error
            except _Failed as failed:
                return replace(failed.outcome, bytes_sent=size)

        return Escalation(finish)

    def _start(self, method: str, request: Any, deadline: float | None) -> Any:
        remaining = _remaining(deadline)
        if remaining == 0.0:
            raise _Failed("deadline", "no time was left to ask the cloud")
        try:
            # wait_for_ready off: a server that is known to be down fails the call at once
            return self._methods[method].future(
                request, timeout=remaining, metadata=self._metadata, wait_for_ready=False
            )
        except ValueError as error:  # the channel is closed
            raise _Failed("offline", "the connection has been closed") from error

    def _finish(self, call: Any, deadline: float | None) -> Any:
        """Wait for a call to end, as long as there is time; raise `_Failed` where it failed."""
        try:
            call.exception(timeout=_remaining(deadline))
        except grpc.FutureTimeoutError:
            call.cancel()  # gRPC should have ended it itself
        except grpc.FutureCancelledError:
            pass
        try:
            response = self._result(call)
        except _Failed as failed:
            self._is_answering = False
            if failed.outcome.reason == "deadline":
                self._breaker.missed()
            else:
                self._breaker.answered()
            raise
        self._is_answering = True
        self._breaker.answered()
        return response

    def _failure(self, error: Any) -> _Failed:
        code, detail = error.code(), " ".join(str(error.details()).split())
        if code in (grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.CANCELLED):
            return _Failed("deadline", f"{self._target} did not answer in time")
        if code is grpc.StatusCode.UNAVAILABLE:
            return _Failed("offline", f"{self._target} cannot be reached: {detail}")
        if code is not grpc.StatusCode.RESOURCE_EXHAUSTED:  # an overloaded server is not asked more
            self._contract = None  # another model may be served now: ask again what it is
        return self._rejected(f"{self._target} refused: {code.name}: {detail}")

    def _rejected(self, detail: str) -> _Failed:
        if detail not in self._warned and len(self._warned) < 100:
            self._warned.add(detail)
            _log.warning("the cloud's answer is unusable: %s", detail)
        return _Failed("rejected", detail)

    def _describe(self, deadline: float | None) -> Contract:
        """Return what the server says of its model.

        Learning it goes on when this call's time is up, so that a later call finds it known even
        where all the round trips never fit into one deadline.
        """
        with self._lock:
            if self._learning.done():
                self._learning = self._learn()
            learning = self._learning
        try:
            learnt = learning.result(timeout=_remaining(deadline))
        except TimeoutError as error:
            self._breaker.missed()
            raise _Failed("deadline", f"{self._target} did not say in time what it serves") from error
        if isinstance(learnt, _Failed):
            raise _Failed(learnt.outcome.reason, learnt.outcome.detail)
        return learnt

    def _learn(self) -> Future[Contract | _Failed]:
        """Ask the server about its model, and for the model's name first where none was given."""
        learnt: Future[Contract | _Failed] = Future()

        def guarded(step: Callable[[Any], None]) -> Callable[[Any], None]:
            def run(call: Any) -> None:
                try:
                    step(call)
                except _Failed as failed:
                    learnt.set_result(failed)
                except Exception as error:  # noqa: BLE001 - callers wait for a result, whatever the server says
                    learnt.set_result(self._rejected(str(error)))

            return run

        def ask_for_metadata(name: str) -> None:
            self._ask("ModelMetadata", messages.ModelMetadataRequest(name=name), guarded(read_metadata))

        def read_index(call: Any) -> None:
            names = sorted({model.name for model in self._result(call).models})
            if len(names) != 1:
                raise InputError(f"{self._target} serves {', '.join(names) or 'nothing'}: say which with model_name")
            ask_for_metadata(names[0])

        def read_metadata(call: Any) -> None:
            self._contract = self._known = Contract.read(self._result(call))
            learnt.set_result(self._contract)

        def begin(_: Any) -> None:
            if self._model_name is not None:
                ask_for_metadata(self._model_name)
            else:
                self._ask("RepositoryIndex", messages.RepositoryIndexRequest(ready=True), guarded(read_index))

        guarded(begin)(None)
        return learnt

    def _ask(self, method: str, request: Any, then: Callable[[Any], None]) -> None:
        self._start(method, request, time.perf_counter() + _LEARN_SECONDS).add_done_callback(then)

    def _result(self, call: Any) -> Any:
        """Return the response of a call that has ended; raise `_Failed` where it failed."""
        try:
            return call.result(timeout=0)
        except (grpc.FutureTimeoutError, grpc.FutureCancelledError) as error:
            raise _Failed("deadline", f"{self._target} did not answer in time") from error
        except grpc.RpcError as error:
            raise self._failure(error) from error

    def _check_labels(self, contract: Contract, labels: tuple[str, ...]) -> None:
        if contract.labels is not None and contract.labels != labels:
            self._contract = None  # the server may be given the right model later
            raise InputError(f"the cloud's model {contract.model} has other labels than the edge's")

    def _read(
        self, response: Any, contract: Contract, deadline: float | None, labels: tuple[str, ...], size: int
    ) -> Outcome:
        expected = True
        try:
            digest = str(read_parameters(response.parameters).get(DIGEST_PARAMETER, ""))
            if digest != (contract.digest or ""):
                # another model than was described answers: its labels may be others
                expected = False
                self._contract = None
                contract = self._describe(deadline)
                if digest != (contract.digest or ""):
                    raise InputError(f"{self._target} changes its model")
                self._check_labels(contract, labels)
            outputs = read_outputs(response)
            if not outputs:
                raise InputError("the cloud's answer has no tensor")
            probabilities = read_probabilities(next(iter(outputs.values())), contract, len(labels))
        except InputError as error:
            raise self._rejected(str(error)) from error
        return Outcome(probabilities, "escalated", digest=digest, bytes_sent=size, expected=expected)


def _remaining(deadline: float | None) -> float | None:
    """Return the seconds that are left, at least 0; None is for ever."""
    return None if deadline is None else max(0.0, deadline - time.perf_counter())
