"""What watches over one edge model: its certificate, the guard of that, its privacy rules; and what it decided."""

from __future__ import annotations

import logging
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING

from edge_sdk import canonical
from edge_sdk.cascade.audit import Audit, Guard
from edge_sdk.cascade.control import Threshold
from edge_sdk.cascade.journal import key_id, rule_digest
from edge_sdk.cascade.policy import Certificate, Decision
from edge_sdk.client.failures import Complaints
from edge_sdk.client.privacy import PrivacyRule, needs_answer
from edge_sdk.encodings import SentAs
from edge_sdk.errors import InputError
from edge_sdk.model import EdgeModel, Scored

if TYPE_CHECKING:
    from edge_sdk.client.outcomes import Outcome

__all__ = ["Made", "Watch", "guard_name"]

_log = logging.getLogger("edge_sdk.client")


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
        self.guard_name = "" if guard is None else guard_name(model)
        self.key_id = None if audit is None else key_id(audit.key)
        self.rule = "" if policy is None else rule_digest(policy)
        self.threshold: Threshold | None = None
        if adapts and policy is not None and (certificate is None or certificate.risk != "net"):
            self.threshold = Threshold.of(policy.threshold)
        self._has_certificate = certificate is not None
        self.encodings = _encodings(certificate)
        self._causes: dict[str, str] = {}
        self._complaints = Complaints()  # a server that shares requests among versions voids it again and again
        self._changing = threading.Lock()
        self.is_certified = self._has_certificate
        if guard is not None and guard.alarm:
            self.alarm(guard)

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
                self._complaints.say(name, f"{self.model.name}: the certificate is void: {text}")
            self._causes = causes  # replaced, not changed: others read it
            self.is_certified = not causes

    def alarm(self, guard: Guard) -> None:
        """Void the certificate for good: its guard gives alarm. It is said once, though others may count on."""
        if "guard" not in self._causes:
            self.set_cause(
                "guard",
                "confident answers disagree with the cloud more often than calibration saw "
                f"({guard.disagreements} of {guard.audits} audits, where at most {guard.baseline:.1%} were expected)",
            )

    def is_encoding(self, said: Outcome) -> bool:
        """Tell whether the cloud saw what the certificate was made for."""
        policy = self.model.policy
        wanted = None if policy is None or policy.certificate is None else policy.certificate.encodings
        return wanted is None or said.encoding in wanted

    def is_foreign(self, digest: str) -> bool:
        """Tell whether another cloud model answered than the certificate names."""
        certificate = None if self.model.policy is None else self.model.policy.certificate
        return certificate is not None and certificate.validity.get("cloud_model") != digest

    def certifies(self, said: Outcome) -> bool:
        """Tell whether an answer of the cloud stands under a certificate that is not void."""
        return self.is_certified and not self.is_foreign(said.digest) and self.is_encoding(said)


def _encodings(certificate: Certificate | None) -> tuple[tuple[SentAs, ...], tuple[float | None, ...]]:
    names = None if certificate is None else certificate.encodings
    if certificate is None or names is None:
        return (), ()
    try:
        return SentAs.parse_all(names), tuple(rung.cloud_accuracy for rung in certificate.rungs)
    except InputError as error:  # of a newer version: nothing is certified that it does not know
        _log.warning("the certificate's encodings cannot be read: %s", error)
        return (), ()


def guard_name(model: EdgeModel) -> str:
    """Return the digest of all that a guard belongs to: rule and certificate, which names both models."""
    return canonical.digest_of(None if model.policy is None else model.policy.to_json())
