"""What watches over a hybrid model: audits and their guard, budgets, what voids the certificate, and the journal.

`Watch` is of one edge model; `Oversight` outlives it, as models are swapped. Both are thread-safe.
"""

from __future__ import annotations

import logging
import math
import secrets
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

import numpy as np
from numpy.typing import NDArray

from edge_sdk import canonical
from edge_sdk.cascade.audit import Audit, Guard
from edge_sdk.cascade.control import Budget, Control, Threshold
from edge_sdk.cascade.journal import Feedback, derive, key_id, rule_digest
from edge_sdk.cascade.ladder import Making, Offer
from edge_sdk.cascade.policy import Certificate, Decision
from edge_sdk.client.guards import Guards
from edge_sdk.client.journal import Journal, keep_key
from edge_sdk.client.privacy import PrivacyRule, needs_answer
from edge_sdk.client.records import record_of
from edge_sdk.encodings import SentAs
from edge_sdk.errors import CertificateError, InputError
from edge_sdk.model import EdgeModel, Scored
from edge_sdk.types import Classification, Reason

if TYPE_CHECKING:
    from edge_sdk.client.outcomes import Outcome as CloudOutcome

__all__ = ["AUDIT_RATE", "Made", "Oversight", "Watch"]

_log = logging.getLogger("edge_sdk.client")

AUDIT_RATE = 0.01
_HASHED_PER_SECOND = 100e6  # bytes, on a slow processor


@dataclass(slots=True)  # not frozen: one is made for every prediction, in half the time
class Made:
    """One edge model's answer and what was decided about it.

    Attributes
    ----------
    watch
        Of the model that answered, which may be swapped meanwhile.
    scored
        What it said.
    decision
        Audits and raised thresholds included; None where the model has no policy.
    decision_id
        Its name.
    threshold
        The one in force.
    """

    watch: Watch
    scored: Scored
    decision: Decision | None
    decision_id: str
    threshold: float

    @property
    def model(self) -> EdgeModel:
        """The edge model that answered."""
        return self.watch.model

    @property
    def is_audit(self) -> bool:
        """True where the answer is confident and the coin sends it to the cloud."""
        return self.decision is not None and self.decision.reason == "audit"

    @property
    def kept(self) -> bool:
        """True where the policy would keep the answer, though it may be audited or escalated to use a budget."""
        policy, decision = self.watch.model.policy, self.decision
        if policy is None or decision is None:
            return False
        return not decision.escalate or (decision.value is not None and decision.value >= policy.threshold)

    @property
    def certified(self) -> bool:
        """True where the edge's answer stands under a certificate that is not void."""
        return self.kept and self.watch.is_certified


class Watch:
    """What watches over one edge model.

    Attributes
    ----------
    model
        The edge model.
    audit
        Which of its confident answers are escalated as well, or None.
    rules
        Privacy rules, checked against the model's labels.
    is_certified
        Whether there is a certificate and it is not void now.
    encodings
        As what inputs may be sent under the certificate, the best first, and how often the cloud is right
        about each; none where it does not say.
    """

    def __init__(
        self,
        model: EdgeModel,
        audit: Audit | None,
        guard: Guard | None,
        *,
        adapts: bool,
        rules: tuple[PrivacyRule, ...] = (),
    ) -> None:
        policy = model.policy
        certificate = None if policy is None else policy.certificate
        self.model = model
        self.audit = audit
        self.rules = rules
        self.needs_answer = needs_answer(rules)
        self.guard_name = "" if guard is None else _name(model)
        self.key_id = None if audit is None else key_id(audit.key)
        self.rule = "" if policy is None else rule_digest(policy)
        self.threshold: Threshold | None = None
        if adapts and policy is not None and (certificate is None or certificate.risk != "net"):
            self.threshold = Threshold.of(policy.threshold)
        self._has_certificate = certificate is not None
        self.encodings = _encodings(certificate)
        self._causes: dict[str, str] = {}
        self._changing = threading.Lock()
        self.is_certified = self._has_certificate
        if guard is not None and guard.alarm:
            self.set_cause("guard", _alarm(guard))

    @property
    def void(self) -> str | None:
        """Why the certificate is void, or None."""
        return "; ".join(self._causes.values()) or None

    def set_cause(self, name: str, text: str | None) -> None:
        """Note a cause that voids the certificate, or that it is gone."""
        if not self._has_certificate or self._causes.get(name) == text:
            return
        with self._changing:
            causes = {key: value for key, value in self._causes.items() if key != name}
            if text is not None:
                causes[name] = text
                _log.warning("%s: the certificate is void: %s", self.model.name, text)
            self._causes = causes  # replaced, not changed: others read it
            self.is_certified = not causes

    def is_foreign(self, digest: str) -> bool:
        """Tell whether another cloud model answered than the certificate names."""
        certificate = None if self.model.policy is None else self.model.policy.certificate
        return certificate is not None and certificate.validity.get("cloud_model") != digest

    def certifies(self, said: CloudOutcome) -> bool:
        """Tell whether an answer of the cloud stands under a certificate that is not void."""
        return self.is_certified and not self.is_foreign(said.digest) and _is_encoding(self, said)


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
                guard = self._guards.take(_name(model), certificate)
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
                watch.set_cause("guard", _alarm(guard))

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

        With a share, that of `has_room`, it may not either where there is no room for it.
        """
        if share is not None and not self.has_room(share):
            return "budget"
        with self._lock:
            self._control, refused = self._control.ask(time.monotonic(), size, remaining)
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

    def observe(self, made: Made, said: CloudOutcome) -> None:
        """Learn from how asking the cloud ended, before the answer is given."""
        watch = made.watch
        if said.probabilities is not None:
            self.judge(watch, said)
        with self._lock:
            if said.probabilities is not None and self._mode == "hybrid":
                # in other modes, more than the way to the cloud is in this time
                self._control = self._control.learn(said.bytes_sent, said.elapsed_ms / 1e3)
            elif self._chooses and said.reason == "deadline" and said.bytes_sent and self._mode == "hybrid":
                # where there is nothing to choose, the breaker alone says when to stop
                self._control = self._control.miss(said.bytes_sent, said.elapsed_ms / 1e3)
            if not made.is_audit:
                return
            self._audits["asked"] += 1
            if said.probabilities is None:
                self._audits["missing"] += 1
                return
            self._audits["answered"] += 1
            disagrees = bool(said.probabilities.argmax() != made.scored.probabilities.argmax())
            self._audits["disagreed"] += disagrees
            if not watch.guard_name or watch.is_foreign(said.digest) or not _is_encoding(watch, said):
                return
        guard = self._guards.update(watch.guard_name, disagrees)
        if guard.alarm:
            self._heard(watch.guard_name, guard)

    def judge(self, watch: Watch, said: CloudOutcome) -> None:
        """Void the certificate, or not any more, by who answered and what it saw."""
        foreign = f"another cloud model answers ({said.digest or 'it does not say which'})"
        watch.set_cause("cloud_model", foreign if watch.is_foreign(said.digest) else None)
        if said.reduced and not _is_encoding(watch, said):
            return  # by rule, and not for good: this answer alone is not certified
        other = f"the cloud's model sees pictures as {said.encoding}, for which it was not certified"
        watch.set_cause("encoding", None if _is_encoding(watch, said) else other)

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
            raise InputError("there is no journal for feedback: give journal= to connect")
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


def _is_encoding(watch: Watch, said: CloudOutcome) -> bool:
    policy = watch.model.policy
    wanted = None if policy is None or policy.certificate is None else policy.certificate.encodings
    return wanted is None or said.encoding in wanted


def _encodings(certificate: Certificate | None) -> tuple[tuple[SentAs, ...], tuple[float | None, ...]]:
    names = None if certificate is None else certificate.encodings
    if certificate is None or names is None:
        return (), ()
    try:
        return SentAs.parse_all(names), tuple(rung.cloud_accuracy for rung in certificate.rungs)
    except InputError as error:  # of a newer version: nothing is certified that it does not know
        _log.warning("the certificate's encodings cannot be read: %s", error)
        return (), ()


def _name(model: EdgeModel) -> str:
    """Return the digest of all that a guard belongs to: rule and certificate, which names both models."""
    return canonical.digest_of(None if model.policy is None else model.policy.to_json())


def _alarm(guard: Guard) -> str:
    return (
        f"confident answers disagree with the cloud more often than calibration saw ({guard.disagreements} of "
        f"{guard.audits} audits, where at most {guard.baseline:.1%} were expected)"
    )
