"""From an input to an answer, in each mode: by the edge alone, by its rule, or by asking the cloud always."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from dataclasses import replace
from numbers import Real
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np

from edge_sdk.client.answers import answer_of_cloud
from edge_sdk.client.counters import Counters
from edge_sdk.client.oversight import Oversight
from edge_sdk.client.watch import Made, Watch
from edge_sdk.errors import EscalationError, InputError, ModelClosedError, ModelError
from edge_sdk.inputs import Input
from edge_sdk.model import EdgeModel, new_decision_id
from edge_sdk.processing.sources import Matrix, Pixels
from edge_sdk.types import Classification, Reason

if TYPE_CHECKING:
    from edge_sdk.client.asking import Asking
    from edge_sdk.client.forwarding import Forwarder
    from edge_sdk.client.outcomes import Escalation, Outcome
    from edge_sdk.client.payload import Capture
    from edge_sdk.encodings import Reduction

__all__ = ["MODES", "Answering", "Given", "Mode", "checked_deadline"]

_log = logging.getLogger("edge_sdk.client")

Mode = Literal["edge", "hybrid", "cloud", "prefer_cloud"]
MODES: tuple[Mode, ...] = get_args(Mode)
_LONGEST_DEADLINE = 86_400  # seconds, which every clock and timer can hold

# kept back from a deadline to come back to the caller in time: 5 % of it, within these seconds
_MARGIN_SHARE, _MARGIN_LEAST, _MARGIN_MOST = 0.05, 0.001, 0.010


class Given:
    """One input as an app gave it, and when.

    Attributes
    ----------
    value, pixels, matrix
        As of `edge_sdk.EdgeModel.predict`; what had to be decoded is an array from then on.
    context
        What privacy rules know of it.
    started
        ``time.perf_counter()`` at the start of the call.

    Raises
    ------
    InputError
        The context is no mapping.
    """

    __slots__ = ("_capture", "context", "matrix", "pixels", "started", "value")

    def __init__(
        self, value: Input, context: Mapping[str, Any] | None, pixels: Pixels = "rgb", matrix: Matrix = "bt601"
    ) -> None:
        self.started = time.perf_counter()
        if context is not None and not isinstance(context, Mapping):
            raise InputError(f"the context is {type(context).__name__}; it should be a mapping of names to values")
        self.value, self.context, self.pixels, self.matrix = value, context, pixels, matrix
        self._capture: Capture | None = None

    def decode(self, model: EdgeModel) -> None:
        """Decode a file or bytes, once for the edge and the cloud."""
        if not isinstance(self.value, np.ndarray) and self.pixels == "rgb":
            self.value = self.capture(model).pixels

    def capture(self, model: EdgeModel) -> Capture:
        """Return what the cloud may be sent of it: frames of cameras as RGB."""
        if self._capture is None:
            from edge_sdk.client.payload import Capture  # needs protobuf, which the mode edge does without

            value = self.value
            if self.pixels != "rgb":
                from edge_sdk.processing.device import to_rgb

                value = to_rgb(value, self.pixels, self.matrix)
            self._capture = Capture.of(value, model.processor.spec)
        return self._capture


class Answering:
    """The way of one mode; thread-safe.

    Parameters
    ----------
    mode, deadline
        As of `edge_sdk.client.HybridModel`.
    watch
        Of the edge model to begin with.
    oversight
        Decides, and learns what came of it.
    counters
        Where every request is counted.
    asking
        The cloud; None in the mode ``edge``.

    Attributes
    ----------
    watch
        Of the edge model in use now; replaced when models are swapped.
    deadline
        As given; whoever changes it changes the calls that begin then.
    closed
        Whether a closed edge model is no reason to look for a newer one.
    forwarder
        What keeps inputs that the cloud did not see, or None.
    """

    def __init__(
        self,
        mode: Mode,
        deadline: float | None,
        watch: Watch,
        *,
        oversight: Oversight,
        counters: Counters,
        asking: Asking | None,
    ) -> None:
        self.watch = watch
        self.deadline = deadline
        self.closed = False
        self.forwarder: Forwarder | None = None
        self._mode: Mode = mode
        self._oversight, self._counters, self._asking = oversight, counters, asking

    def answer(self, given: Given) -> Classification:
        """Answer one input; see `edge_sdk.client.HybridModel.predict`."""
        if self._asking is None:
            answer = self._conclude(self._infer(given), None, given)
        elif self._mode == "hybrid":
            answer = self._hybrid(given, self._asking)
        elif self._mode == "prefer_cloud":
            answer = self._prefer_cloud(given, self._asking)
        else:
            answer = self._cloud(given, self._asking)
        seconds = time.perf_counter() - given.started
        self._counters.request(
            answer.source, answer.reason, seconds, certified=answer.certified, confidence=answer.confidence
        )
        return answer

    def check_open(self) -> None:
        """Raise `ModelClosedError` after the end."""
        if self.closed:
            raise ModelClosedError("this hybrid model has been closed")

    def _hybrid(self, given: Given, asking: Asking) -> Classification:
        given.decode(self.watch.model)
        try:
            made = self._infer(given)
        except ModelError as error:
            return self._instead_of_edge(error, given, asking, None)
        outcome, hashed = None, ""
        if made.decision is None or made.decision.escalate:
            capture, ends_at = given.capture(made.model), self._ends_at(given.started)
            reduction = asking.may_leave(capture, made.watch, made, given.context)
            sure = 0.0 if made.is_audit or made.decision is None else made.decision.confidence
            call = asking.ask(
                capture,
                reduction,
                made.watch,
                ends_at,
                audit=made.is_audit,
                decision_id=made.decision_id,
                confidence=sure,
            )
            # nothing is hashed that may not leave whole, for who knows where journals go
            hashes = reduction is not None and not reduction.takes
            if hashes and call.under_way and asking.is_answering:
                hashed = self._oversight.hash_of(capture.pixels, ends_at)  # while the cloud works
            outcome = call.wait()
            if hashes and not hashed and outcome.bytes_sent and outcome.probabilities is not None:
                hashed = self._oversight.hash_of(capture.pixels, ends_at)
            if outcome.probabilities is None:
                self._unanswered(capture, reduction, made, given.context, outcome)
            elif self.forwarder is not None and not outcome.cached:
                self.forwarder.notice()
        answer = self._conclude(made, outcome, given)
        self._oversight.record(made, outcome, answer, hashed)
        return answer

    def _prefer_cloud(self, given: Given, asking: Asking) -> Classification:
        watch = self.watch
        given.decode(watch.model)
        capture, ends_at = given.capture(watch.model), self._ends_at(given.started)
        # the edge works while the cloud does; where the cloud's model is not known yet, asking
        # would wait, and the edge's answer could come too late; rules may have to see that first
        call = None
        if asking.described and not watch.needs_answer:
            reduction = asking.may_leave(capture, watch, None, given.context)
            call = asking.ask(capture, reduction, watch, ends_at)
        try:
            made = self._infer(given)
        except ModelError as error:
            return self._instead_of_edge(error, given, asking, call)
        if call is None:
            reduction = asking.may_leave(capture, made.watch, made, given.context)
            call = asking.ask(capture, reduction, made.watch, ends_at)
        outcome = call.wait()
        if outcome.probabilities is not None and watch.model.labels != made.model.labels:  # swapped meanwhile
            outcome = replace(outcome, probabilities=None, reason="rejected")
        if outcome.probabilities is None:
            self._unanswered(capture, reduction, made, given.context, outcome)
        return self._conclude(made, outcome, given)

    def _cloud(self, given: Given, asking: Asking) -> Classification:
        self.check_open()
        watch, made = self.watch, None
        given.decode(watch.model)
        capture = given.capture(watch.model)
        if watch.needs_answer:
            made = self._infer(given)
            watch = made.watch
        reduction = asking.may_leave(capture, watch, made, given.context)
        outcome = asking.ask(capture, reduction, watch, self._ends_at(given.started)).wait()
        answer = self._by_cloud_alone(outcome, watch, made, given)
        if answer is None:
            self._unanswered(capture, reduction, made, given.context, outcome)
            raise EscalationError(f"the cloud gave no usable answer ({outcome.reason}): {outcome.detail}")
        return answer

    def _instead_of_edge(
        self, error: ModelError, given: Given, asking: Asking, call: Escalation | None
    ) -> Classification:
        """Answer by the cloud where the edge model failed; raise its error where the cloud does not answer either.

        Parameters
        ----------
        error
            How it failed.
        given
            The input.
        asking
            The cloud.
        call
            What it has been asked already, or None.
        """
        watch = self.watch
        # rules that look at the edge's answer have none to look at
        if isinstance(error, ModelClosedError) or (call is None and watch.needs_answer):
            raise error
        if call is None:
            capture = given.capture(watch.model)
            reduction = asking.may_leave(capture, watch, None, given.context)
            call = asking.ask(capture, reduction, watch, self._ends_at(given.started))
        answer = self._by_cloud_alone(call.wait(), watch, None, given)
        if answer is None:
            raise error
        return answer

    def _by_cloud_alone(self, outcome: Outcome, watch: Watch, made: Made | None, given: Given) -> Classification | None:
        """Return the cloud's answer; None where it has none, and nobody else either."""
        self._oversight.learn(outcome)
        self._count_upload(outcome, watch)
        if outcome.probabilities is None:
            self._counters.request(None, outcome.reason, time.perf_counter() - given.started)
            return None
        if not outcome.cached:
            self._oversight.judge(watch, outcome)
        return self._noted(answer_of_cloud(outcome, watch, made, "forced", given.started), outcome)

    def _noted(self, answer: Classification, outcome: Outcome) -> Classification:
        """Return an answer of the cloud, remembered for what may be said of it later."""
        if outcome.origin is not None and self._asking is not None and self._asking.rewards is not None:
            self._asking.rewards.note(answer.decision_id, outcome, answer.label)
        return answer

    def _infer(self, given: Given) -> Made:
        while True:
            watch = self.watch
            try:
                scored = watch.model.infer(given.value, pixels=given.pixels, matrix=given.matrix)
            except ModelClosedError:
                self.check_open()
                if watch is self.watch:  # somebody else closed it
                    raise
                continue
            return self._oversight.decide(watch, scored, new_decision_id())

    def _ends_at(self, started: float) -> float | None:
        deadline = self.deadline
        if deadline is None:
            return None
        return started + deadline - min(max(deadline * _MARGIN_SHARE, _MARGIN_LEAST), _MARGIN_MOST)

    def _unanswered(
        self,
        capture: Capture,
        reduction: Reduction | None,
        made: Made | None,
        context: Mapping[str, Any] | None,
        outcome: Outcome,
    ) -> None:
        """Take note of an input that the cloud was to see, and that has no answer of it.

        Parameters
        ----------
        capture, reduction
            The input, and what must be taken off before it leaves; None where it never may.
        made
            The edge's answer; None where it was not asked.
        context
            What the app said of the call.
        outcome
            Why there is none of the cloud.
        """
        _log.debug("the cloud gave no answer (%s): %s", outcome.reason, outcome.detail)
        if self.forwarder is not None and made is not None and outcome.reason != "privacy":
            self.forwarder.put(capture, reduction, made, context, time.time())

    def _conclude(self, made: Made, outcome: Outcome | None, given: Given) -> Classification:
        """Put the better answer there is into the record."""
        reason: Reason = "confident" if made.kept and self._mode in ("hybrid", "edge") else "forced"
        if outcome is not None:
            self._count_upload(outcome, made.watch)
            if not outcome.cached:
                self._oversight.observe(made, outcome)
            if outcome.probabilities is not None:
                if self._mode == "hybrid":
                    reason = "audit" if made.is_audit else "escalated"
                return self._noted(answer_of_cloud(outcome, made.watch, made, reason, given.started), outcome)
            if reason == "forced" or not made.kept:
                reason = outcome.reason
        answer: Classification = made.model.answer(
            made.scored,
            made.decision,
            reason=reason,
            certified=made.certified,
            started=given.started,
            cloud_ms=0.0 if outcome is None else outcome.elapsed_ms,
            decision_id=made.decision_id,
        )
        return answer

    def _count_upload(self, outcome: Outcome, watch: Watch) -> None:
        if outcome.bytes_sent:
            usable = outcome.probabilities is not None
            if outcome.extra_calls:
                self._counters.copies(outcome.extra_calls, outcome.extra_bytes)
            self._counters.upload(
                outcome.bytes_sent,
                usable=usable,
                foreign=usable and watch.is_foreign(outcome.digest),
                seconds=outcome.elapsed_ms / 1e3,
                encoding=outcome.encoding,
            )


def checked_deadline(deadline: Any) -> float | None:
    """Return a deadline in seconds; raise `InputError` where it is none."""
    if deadline is None:
        return None
    if not issubclass(type(deadline), Real) or not 0 <= deadline <= _LONGEST_DEADLINE:
        raise InputError(
            f"deadline is {deadline!r}; it should be seconds, from 0 to {_LONGEST_DEADLINE}, or None to wait"
        )
    return float(deadline)
