"""What watches over a hybrid model: audits and their guard, budgets, what voids the certificate, and the journal.

`edge_sdk.client.watch.Watch` is of one edge model; `Oversight` outlives it, as models are swapped. Both are
thread-safe.
"""

from __future__ import annotations

import math
import secrets
import threading
import time
from collections.abc import Sequence
from functools import partial
from numbers import Real
from pathlib import Path
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

import numpy as np
from numpy.typing import NDArray

from edge_sdk import canonical
from edge_sdk.cascade.audit import Audit, Guard
from edge_sdk.cascade.control import Budget, Control
from edge_sdk.cascade.journal import Feedback, derive
from edge_sdk.cascade.ladder import Making, Offer
from edge_sdk.client.guards import Guards
from edge_sdk.client.journal import Journal, keep_key
from edge_sdk.client.privacy import PrivacyRule
from edge_sdk.client.records import record_of
from edge_sdk.client.watch import Made, Watch, guard_name
from edge_sdk.errors import CertificateError, InputError
from edge_sdk.model import EdgeModel, Scored
from edge_sdk.types import Classification, Reason

if TYPE_CHECKING:
    from edge_sdk.client.outcomes import Outcome as CloudOutcome

__all__ = ["AUDIT_RATE", "Oversight"]

AUDIT_RATE = 0.01
_HASHED_PER_SECOND = 100e6  # bytes, on a slow processor


class Oversight:
    """Audits, budgets and the journal of a hybrid model; see `edge_sdk.client.HybridModel` for the options.

    Raises
    ------
    InputError
        An option is out of range, or only for the mode ``hybrid``.
    StorageError
        The journal's folder cannot be made or written.
    """

    def __init__(
        self,
        mode: str,
        *,
        audit_rate: float | None = None,
        audit_key: bytes | None = None,
        budget: Budget | None = None,
        journal: Any = None,
    ) -> None:
        if mode != "hybrid" and (journal is not None or audit_rate or audit_key is not None):
            raise InputError(f"audits and a journal are for the mode hybrid, not {mode}")
        for name, value, kind, what in (
            ("audit_rate", audit_rate, Real, "a number"),
            ("audit_key", audit_key, bytes, "bytes"),
            ("budget", budget, Budget, "a Budget"),
        ):
            if value is not None and not isinstance(value, kind):
                raise InputError(f"{name} is {type(value).__name__}; it should be {what} or None")
        given: type = type(journal)
        if journal is not None and not issubclass(given, str | Path | Journal):
            raise InputError(f"the journal is {given.__name__}; it should be a folder or a Journal")
        self._mode = mode
        self._rate = audit_rate
        Audit(audit_key or bytes(32), audit_rate or 0.0)  # refuses what is out of range
        self._lock = threading.Lock()
        self._budget = budget or Budget()
        self._control = Control.of(self._budget, time.monotonic())
        self._making = Making()
        self._chooses = False
        self._audits = dict.fromkeys(("asked", "answered", "missing", "disagreed"), 0)
        self._watches: WeakSet[Watch] = WeakSet()
        self._owns = journal is not None and not isinstance(journal, Journal)
        self._journal: Journal | None = Journal(journal) if self._owns else journal
        try:
            if self._journal is not None:
                audit_key = audit_key or keep_key(self._journal.folder)
        except BaseException:
            self.close()
            raise
        self._guards = Guards(self._journal, self._heard)
        self._key = audit_key or secrets.token_bytes(32)

    def hash_of(self, pixels: NDArray[Any], ends_at: float | None) -> str:
        """Return the digest of an input for the journal; empty where none is wanted, or there is no time for it."""
        if self._journal is None or not self._journal.hash_inputs:
            return ""
        if ends_at is not None and (ends_at - time.perf_counter()) * _HASHED_PER_SECOND < pixels.nbytes:
            return ""
        return canonical.sha256(np.ascontiguousarray(pixels).data)

    def watch(self, model: EdgeModel, rules: tuple[PrivacyRule, ...] = ()) -> Watch:
        """Return what watches over a model that is taken into use, with privacy rules that fit it."""
        certificate = None if model.policy is None else model.policy.certificate
        guard = None
        if certificate is not None and self._mode == "hybrid":
            try:
                guard = self._guards.take(guard_name(model), certificate)
            except CertificateError:  # it does not say how often the two disagreed
                guard = None
        rate = self._rate
        if rate is None:
            rate = 0.0 if guard is None else AUDIT_RATE
        audit = Audit(self._key, rate) if rate else None
        adapts = self._budget.spare > 0 and self._mode == "hybrid"
        watch = Watch(model, audit, guard, adapts=adapts, rules=rules)
        self._watches.add(watch)
        return watch

    def _heard(self, name: str, guard: Guard) -> None:
        """Void the certificates that a guard watches over."""
        for watch in list(self._watches):
            if watch.guard_name == name:
                watch.alarm(guard)

    def decide(self, watch: Watch, scored: Scored, decision_id: str) -> Made:
        """Decide about an answer of the edge."""
        policy = watch.model.policy
        if policy is None:
            return Made(watch, scored, None, decision_id, 0.0)
        raised = watch.threshold
        if raised is None:
            decision = derive(policy, scored.probabilities, decision_id, audit=watch.audit)
            return Made(watch, scored, decision, decision_id, policy.threshold)
        decision = derive(policy, scored.probabilities, decision_id, audit=watch.audit, threshold=raised.value)
        if decision.value is not None:
            with self._lock:
                share = self._control.spare(time.monotonic())
                watch.threshold = (watch.threshold or raised).after(decision.value, share)
        return Made(watch, scored, decision, decision_id, raised.value)

    @property
    def journal(self) -> Journal | None:
        """Where decisions are written to, if anywhere."""
        return self._journal

    @property
    def floor(self) -> float:
        """Least seconds between two requests."""
        return self._budget.floor

    def has_room(self, share: float) -> bool:
        """Tell whether so much of the budget is unspent that this share of it may go to what nobody waits for."""
        with self._lock:
            return self._control.level(time.monotonic()) >= 1.0 - share

    def gate(self, size: int, remaining: float | None, *, share: float | None = None) -> Reason | None:
        """Say why a request may not be sent now, or pay for it; see `edge_sdk.cascade.control.Control.ask`.

        With a share, that of `has_room`, nobody waits for the answer, and it may not either where there is no room.
        """
        if share is not None and not self.has_room(share):
            return "budget"
        with self._lock:
            self._control, refused = self._control.ask(time.monotonic(), size, remaining, awaited=share is None)
        return refused

    @property
    def making(self) -> Making:
        """What encodings take to be made."""
        return self._making

    def choose(self, offers: Sequence[Offer], remaining: float | None, confidence: float) -> int | Reason:
        """Choose the encoding in which to ask; see `edge_sdk.cascade.control.Control.choose`."""
        with self._lock:
            now = time.monotonic()
            self._control, chosen = self._control.choose(now, offers, remaining, confidence=confidence)
            self._chooses = True
        return chosen

    def made(self, name: str, pixels: int, size: int, seconds: float) -> None:
        """Learn what it took to bring an input into an encoding."""
        with self._lock:
            self._making = self._making.learn(name, pixels, size, seconds)

    def learn(self, said: CloudOutcome) -> None:
        """Learn of the network from how long asking the cloud took."""
        if not said.bytes_sent:
            return
        # in other modes than hybrid, more than the way to the cloud is in this time: enough to choose by
        if self._mode != "hybrid" and not self._chooses:
            return
        with self._lock:
            size, seconds, now = said.bytes_sent, said.elapsed_ms / 1e3, time.monotonic()
            if said.probabilities is not None:
                self._control = self._control.learn(size, seconds, now)
            elif self._chooses and said.reason == "deadline":
                # where there is nothing to choose, the breaker alone says when to stop
                self._control = self._control.miss(size, seconds, now)

    def observe(self, made: Made, said: CloudOutcome) -> None:
        """Learn from how asking the cloud ended, before the answer is given."""
        watch = made.watch
        if said.probabilities is not None:
            self.judge(watch, said)
        self.learn(said)
        with self._lock:
            if not made.is_audit:
                return
            self._audits["asked"] += 1
            if said.probabilities is None:
                self._audits["missing"] += 1
                return
            self._audits["answered"] += 1
            disagrees = bool(said.probabilities.argmax() != made.scored.probabilities.argmax())
            self._audits["disagreed"] += disagrees
            if not watch.guard_name or watch.is_foreign(said.digest) or not watch.is_encoding(said):
                return
        guard = self._guards.update(watch.guard_name, disagrees)
        if guard.alarm:
            self._heard(watch.guard_name, guard)

    def judge(self, watch: Watch, said: CloudOutcome) -> None:
        """Void the certificate, or not any more, by who answered and what it saw."""
        foreign = f"another cloud model answers ({said.digest or 'it does not say which'})"
        watch.set_cause("cloud_model", foreign if watch.is_foreign(said.digest) else None)
        if said.reduced and not watch.is_encoding(said):
            return  # by rule, and not for good: this answer alone is not certified
        other = f"the cloud's model sees pictures as {said.encoding}, for which it was not certified"
        watch.set_cause("encoding", None if watch.is_encoding(said) else other)

    def record(self, made: Made, said: CloudOutcome | None, answer: Classification, hashed: str) -> None:
        """Give a decision and what came of it to the journal, if there is one; it makes the record by itself.

        Parameters
        ----------
        made, said, answer
            The edge's answer, the cloud's if it was asked, and the one that the app gets.
        hashed
            What `hash_of` returned; empty where the input was not hashed.
        """
        if self._journal is None or made.decision is None:
            return
        scores = made.scored.probabilities.tobytes()  # now, for a runtime may use its memory again
        why = answer.source, answer.reason, answer.certified
        self._journal.put(partial(record_of, made, said, scores, why, answer.timing, hashed, time.time()))

    def feedback(self, decision_id: str, label: int) -> None:
        """Write a true label into the journal; raise `InputError` where there is none."""
        if self._journal is None:
            raise InputError("there is no journal for feedback: give journal= to connect, or Cloud(feedback=True)")
        self._journal.put(Feedback(decision_id, time.time(), label))

    def snapshot(self, watch: Watch) -> dict[str, Any]:
        """Return what was counted here; see `edge_sdk.client.HybridModel.counters`."""
        with self._lock:
            network = self._control.network
            return {
                "audits": dict(self._audits),
                "network": {
                    "round_trip_ms": network.round_trip * 1e3,
                    "bytes_per_second": network.bandwidth if math.isfinite(network.bandwidth) else None,
                },
                "certificate_void": watch.void,
                "journal": {"written": 0, "lost": 0} if self._journal is None else self._journal.counters,
            }

    def close(self) -> None:
        """Write what is left of the journal, and close it if it was opened here."""
        if self._journal is not None and self._owns:
            self._journal.close()
