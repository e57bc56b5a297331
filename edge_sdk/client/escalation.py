"""Asking the cloud: what is sent to its model, and what its answer says, in time.

Nothing here raises for a failing cloud; a call ends in an `Outcome`. Time limits are held twice:
gRPC ends the call at its deadline, and waiting for it ends then too, whatever gRPC does.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any

from edge_sdk.client.cloud import Cloud
from edge_sdk.client.coalescing import Coalescer
from edge_sdk.client.diagnosis import limit_in
from edge_sdk.client.drafts import Message
from edge_sdk.client.endpoint import Endpoint, remaining
from edge_sdk.client.failures import Failed
from edge_sdk.client.fleet import Fleet
from edge_sdk.client.outcomes import Escalation, Gate, Origin, Outcome
from edge_sdk.client.payload import Capture, Contract
from edge_sdk.client.rungs import Ladder, Refused, prepare
from edge_sdk.client.sending import Reply
from edge_sdk.client.waves import Item
from edge_sdk.encodings import WHOLE
from edge_sdk.errors import InputError
from edge_sdk.processing import ProcessingSpec
from edge_sdk.protocol.names import (
    DECISION_PARAMETER,
    DIGEST_PARAMETER,
    KEY_PARAMETER,
    MAX_ITEMS,
    PRIORITY_PARAMETER,
)
from edge_sdk.types import Reason

__all__ = ["CloudLink"]

_MOST_SMALLER = 16  # times that an input is sent anew for one that is too large: each endpoint has its own limit

_REFUSALS: dict[Reason, str] = {
    "budget": "the budget for escalations is used up, or too little time has passed since the last",
    "deadline": "no answer is to be expected in the time that is left",
    "privacy": "what privacy rules leave of this picture is in none of the encodings that were asked for",
}


class CloudLink:
    """The way to one model in the cloud, which one server or several have; thread-safe.

    It connects in the background as soon as it is made.

    Parameters
    ----------
    cloud
        Where it is, and how it is asked.
    on_sent
        Called with the number of inputs in each message that is sent.

    Raises
    ------
    InputError
        A file of a certificate, a key or a token cannot be used.
    """

    def __init__(self, cloud: Cloud, *, on_sent: Callable[[int], None] = lambda items: None) -> None:
        self._cloud = cloud
        self._fleet = Fleet(cloud)
        self._coalescer = Coalescer(self._fleet, on_sent=on_sent, most_items=MAX_ITEMS if cloud.coalesce else 1)

    @property
    def described(self) -> bool:
        """True where the cloud's model is known, so that `begin` does not wait."""
        return self._fleet.described

    @property
    def known(self) -> Contract | None:
        """What the server that was asked last says of its model, though it may be gone."""
        return self._fleet.current.known

    @property
    def is_answering(self) -> bool:
        """True where the last call was answered, and by the model that is known."""
        current = self._fleet.current
        return current.contract is not None and current.is_answering

    def begin(
        self,
        capture: Capture,
        deadline: float | None,
        *,
        labels: tuple[str, ...],
        edge_spec: ProcessingSpec,
        gate: Gate | None = None,
        ladder: Ladder | None = None,
        decision_id: str | None = None,
        audit: bool = False,
        priority: int | None = None,
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
            Asked last, when the size is known, and for every further copy.
        ladder
            What may be sent where the encoding is ``auto``, and who chooses.
        decision_id
            Sent with it, if any.
        audit
            Whether it can wait for requests that cannot: its priority is one lower than theirs.
        priority
            In place of that.
        """

        def make(contract: Contract) -> Message:
            self._check_labels(contract, labels)
            try:
                message = prepare(
                    contract,
                    self._cloud.encoding,
                    capture,
                    edge_spec,
                    ladder=ladder,
                    remaining=lambda: remaining(deadline),
                    most_bytes=contract.most_bytes,
                )
            except Refused as refused:
                raise Failed(refused.reason, _REFUSALS[refused.reason]) from refused
            if decision_id is not None:
                message.set(DECISION_PARAMETER, decision_id)
            return message

        def read(reply: Reply) -> Outcome:
            return self._read(reply, deadline, labels, reduced=capture.reduction != WHOLE)

        if priority is None and self._cloud.priority is not None:
            priority = self._cloud.priority + audit
        return self._begin(make, read, deadline, gate, priority)

    def exchange(
        self,
        make: Callable[[Contract], Any],
        read: Callable[[Reply], Outcome],
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
            Returns what a reply says; as above.
        deadline, gate
            As of `begin`.
        """
        return self._begin(lambda contract: Message(make(contract)), read, deadline, gate, self._cloud.priority)

    def streaming(self) -> AbstractContextManager[None]:
        """Return a context in which requests share one call for each server; see `edge_sdk.client.streaming`."""
        return self._fleet.streaming()

    def forget(self) -> None:
        """Ask what is served again before the next request."""
        self._fleet.forget()

    def close(self) -> None:
        """Close the connections; calls under way end as ``deadline``."""
        self._fleet.close()

    def _begin(
        self,
        make: Callable[[Contract], Message],
        read: Callable[[Reply], Outcome],
        deadline: float | None,
        gate: Gate | None,
        priority: int | None,
        smaller: int = _MOST_SMALLER,
    ) -> Escalation:
        def make_urgent(contract: Contract) -> Message:
            message = make(contract)
            if priority is not None:
                message.set(PRIORITY_PARAMETER, priority)
            if self._cloud.key is not None:
                message.set(KEY_PARAMETER, self._cloud.key)
            return message

        try:
            if remaining(deadline) == 0.0:
                raise Failed("deadline", "no time was left to ask the cloud")
            first, message = self._made(make_urgent, deadline)
            refused = None if gate is None else gate(message.size, remaining(deadline))
            if refused is not None:
                raise Failed(refused, _REFUSALS[refused])
            item = self._coalescer.begin(first, message, deadline, make=make_urgent, gate=gate)
        except Failed as failed:
            outcome = failed.outcome
            return Escalation(lambda: outcome, under_way=False)

        def finish() -> Outcome:
            outcome = self._finish(item, read)
            limit = None if outcome.reason != "rejected" else limit_in(outcome.detail)
            if limit is None or limit >= first[1].most_bytes or not smaller or remaining(deadline) == 0.0:
                return outcome
            # what that server is sent from now on is smaller, this input too if there is time
            again = self._begin(make, read, deadline, gate, priority, smaller - 1).wait()
            if not again.bytes_sent:
                sent, calls = outcome.bytes_sent, outcome.extra_calls
                return replace(again, bytes_sent=sent, extra_calls=calls, encoding=outcome.encoding)
            return replace(
                again,
                extra_calls=again.extra_calls + 1 + outcome.extra_calls,
                extra_bytes=again.extra_bytes + outcome.bytes_sent,
            )

        return Escalation(finish)

    def _made(
        self, make: Callable[[Contract], Message], deadline: float | None
    ) -> tuple[tuple[Endpoint, Contract], Message]:
        """Return the endpoint to ask and the message for it; another one where the first has no use for it."""
        there: tuple[Endpoint, Contract] | None = self._fleet.choose(deadline)
        tried: list[Endpoint] = []
        failure: Failed | None = None
        while there is not None:
            try:
                return there, make(there[1])
            except InputError as error:
                failure = failure or self._rejected(there[0], error)
                tried.append(there[0])
                there = self._fleet.elsewhere(tried)
        assert failure is not None
        raise failure

    def _finish(self, item: Item, read: Callable[[Reply], Outcome]) -> Outcome:
        failure: Failed | None = None
        try:
            while True:
                reply = item.next_reply()
                try:
                    outcome = read(reply)
                except InputError as error:  # another copy may yet be answered better
                    failure = failure or self._rejected(reply.endpoint, error)
                else:
                    calls, size = item.calls - 1, item.bytes - reply.size
                    return replace(outcome, extra_calls=calls, extra_bytes=size) if calls or size else outcome
        except Failed as failed:
            failure = failure or failed
            calls = max(0, item.calls - 1)
            return replace(failure.outcome, bytes_sent=item.bytes, extra_calls=calls, encoding=item.message.seen)
        finally:
            item.close()

    def _rejected(self, endpoint: Endpoint, error: InputError) -> Failed:
        self._fleet.complaints.say(f"answer {endpoint.target}", f"the cloud's answer is unusable: {error}")
        return Failed("rejected", str(error))

    def _check_labels(self, contract: Contract, labels: tuple[str, ...]) -> None:
        if contract.labels is not None and contract.labels != labels:
            self._fleet.forget(contract)  # the server may be given the right model later
            raise InputError(f"the cloud's model {contract.model} has other labels than the edge's")

    def _read(self, reply: Reply, deadline: float | None, labels: tuple[str, ...], *, reduced: bool) -> Outcome:
        endpoint, contract, expected = reply.endpoint, reply.contract, True
        digest = str(reply.parameters().get(DIGEST_PARAMETER, ""))
        if digest != (contract.digest or ""):
            # another model than was described answers: its labels may be others, and what it was to see
            expected = False
            contract = self._contract_of(reply, digest, deadline)
            self._check_labels(contract, labels)
            if reply.message.is_processed and contract.processing != reply.contract.processing:
                raise InputError(f"another version of {contract.model} answered, whose inputs are processed otherwise")
        return Outcome(
            reply.probabilities(contract, len(labels)),
            "escalated",
            digest=digest,
            bytes_sent=reply.size,
            encoding=reply.message.seen,
            reduced=reduced,
            expected=expected,
            origin=Origin(endpoint, contract.model, reply.response.model_version) if self._cloud.feedback else None,
        )

    @staticmethod
    def _contract_of(reply: Reply, digest: str, deadline: float | None) -> Contract:
        """Return what the server says of the model that answered, where that is not the one that it described."""
        endpoint, version = reply.endpoint, reply.response.model_version
        known = endpoint.version(digest)
        if known is not None:
            return known
        endpoint.forget()
        contract = endpoint.describe(deadline)
        if digest != (contract.digest or "") and version:  # versions share the requests
            contract = endpoint.describe_version(contract.model, version, deadline)
        if digest != (contract.digest or ""):
            raise InputError(f"{endpoint.target} changes its model")
        return contract
