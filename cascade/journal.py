"""The journal: records from which every decision can be derived again, and other thresholds judged.

One record is one line of canonical JSON. It holds what the decision was made from, to the bit: the
scores, the digest of the rule, the threshold in force, the audit's rate and the id of its key; what
was decided; and what came of it. Labels and answers of the cloud that arrive later are records of their
own, joined by the decision's id. What is in a journal, and what of it may be estimated: ``docs/journal-and-audits.md``.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, get_args

from numpy.typing import NDArray

from edge_sdk import canonical
from edge_sdk.cascade.audit import Audit
from edge_sdk.cascade.policy import Decision, Policy
from edge_sdk.errors import InputError, JournalError
from edge_sdk.types import Reason, Source, Timing

__all__ = [
    "CloudAnswer",
    "Entry",
    "Feedback",
    "LateAnswer",
    "Outcome",
    "Record",
    "derive",
    "key_id",
    "parse",
    "rule_digest",
]

FORMAT = 1
MAX_LINE_BYTES = 1 << 20
MAX_SCORES = 1 << 16
_MAX_TEXT = 200


def key_id(key: bytes) -> str:
    """Return a name of an audit's key that tells nothing of the key."""
    return hashlib.blake2b(b"edge-sdk audit key", digest_size=8, key=key).hexdigest()


def rule_digest(policy: Policy) -> str:
    """Return the digest of a rule, whatever certificate it stands under."""
    return canonical.digest_of({**policy.to_json(), "certificate": None})


def derive(
    policy: Policy,
    scores: NDArray[Any],
    decision_id: str,
    *,
    audit: Audit | None = None,
    threshold: float | None = None,
) -> Decision:
    """Decide about one answer as devices do. Pure: this is what a replay runs again.

    Parameters
    ----------
    policy
        The rule.
    scores
        Probabilities of one input, float32 [classes].
    decision_id
        On which the audit tosses its coin.
    audit
        Which confident answers are escalated as well; None is none.
    threshold
        One above the policy's, where there is budget to spare; None is the policy's.
    """
    try:
        decision = policy.decide(scores)
    except InputError:  # scores that the rule cannot read are no reason to trust them
        return Decision(True, "escalated", 0.0, 1.0)
    if threshold is not None and not decision.escalate and decision.value is not None and decision.value < threshold:
        return replace(decision, escalate=True, reason="escalated", propensity=1.0)
    return decision if audit is None else audit.decide(decision, decision_id)


@dataclass(frozen=True, slots=True)
class CloudAnswer:
    """What the cloud said.

    Attributes
    ----------
    index, confidence
        Its class, and the probability that it gave it.
    model
        Digest of the model that answered; empty where the server does not say.
    encoding
        What it saw, as certificates name it; see `edge_sdk.encodings`.
    """

    index: int
    confidence: float
    model: str
    encoding: str


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a decision.

    Attributes
    ----------
    source, reason, certified
        As in the answer that was given.
    index
        The class that the edge named.
    cloud
        What the cloud said; None where it was not asked or no answer was delivered.
    missing
        Why there is no answer of the cloud though the decision was to ask; else None.
    bytes_sent
        Handed to the network.
    timing
        Where the time went.
    """

    source: Source
    reason: Reason
    certified: bool
    index: int
    cloud: CloudAnswer | None = None
    missing: Reason | None = None
    bytes_sent: int = 0
    timing: Timing = field(default_factory=Timing)


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One decision.

    Attributes
    ----------
    id
        Of the decision.
    time
        Seconds since 1970.
    input
        ``sha256:<hex>`` of what was decided about; empty where nobody hashed it.
    model, rule
        Digests of the edge model, and of the rule (`rule_digest`).
    scores
        Float32, little-endian, as the rule got them.
    threshold
        The one in force, at least the rule's.
    audit_rate, audit_key
        Of the audit, and the id of its key (`key_id`); None where there was none.
    decision, outcome
        What was decided, and what came of it.
    """

    id: str
    time: float
    input: str
    model: str
    rule: str
    scores: bytes
    threshold: float
    audit_rate: float | None
    audit_key: str | None
    decision: Decision
    outcome: Outcome

    def to_line(self) -> bytes:
        """Return the record as one line of canonical JSON, without its end."""
        cloud = None if self.outcome.cloud is None else _fields(self.outcome.cloud)
        outcome = {**_fields(self.outcome), "cloud": cloud, "timing": self.outcome.timing.to_dict()}
        scores = base64.b64encode(self.scores).decode()
        plain = {name: getattr(self, name) for name in ("id", "time", "input", "model", "rule", "threshold")}
        audit = None if self.audit_rate is None else {"rate": self.audit_rate, "key": self.audit_key}
        decision = _fields(self.decision)
        record = {"format": FORMAT, "kind": "decision", **plain, "scores": scores, "audit": audit}
        return canonical.dumps({**record, "decision": decision, "outcome": outcome})


@dataclass(frozen=True, slots=True)
class Feedback:
    """A true label, which may arrive days after the decision.

    Attributes
    ----------
    id
        Of the decision.
    time
        Seconds since 1970.
    label
        The true class, by position.
    """

    id: str
    time: float
    label: int

    def to_line(self) -> bytes:
        """Return the label as one line of canonical JSON, without its end."""
        return canonical.dumps({"format": FORMAT, "kind": "feedback", **_fields(self)})


def _fields(record: Any) -> dict[str, Any]:
    """Return a record's fields as they are; `dataclasses.asdict` copies them, at five times the price."""
    return {name: getattr(record, name) for name in record.__slots__}


@dataclass(frozen=True, slots=True)
class LateAnswer:
    """What the cloud said of an input that it was sent when the link was back; see ``docs/work-offline.md``.

    Attributes
    ----------
    id
        Of the decision. Of several late answers with one id, the first counts.
    time
        Seconds since 1970, of the answer.
    cloud
        What it was.
    """

    id: str
    time: float
    cloud: CloudAnswer

    def to_line(self) -> bytes:
        """Return the answer as one line of canonical JSON, without its end."""
        return canonical.dumps({"format": FORMAT, "kind": "late", **_fields(self), "cloud": _fields(self.cloud)})


Entry = Record | Feedback | LateAnswer
"""One line of a journal."""


def parse(line: bytes) -> Entry:
    """Read one line of a journal, from whoever wrote it.

    Raises
    ------
    JournalError
        The line is too long, not JSON, from a newer version, or a field is missing, unknown, or impossible.
    """
    try:
        value = canonical.loads(line, limit=MAX_LINE_BYTES)
        if not isinstance(value, dict):
            raise InputError("it is not an object")
        if value.get("format") != FORMAT:
            raise InputError(f"its format is {_shown(value.get('format'))}; this SDK reads {FORMAT}")
        if value.get("kind") == "feedback":
            _keys(value, "format kind id time label")
            return Feedback(_text(value["id"]), _number(value["time"]), _count(value["label"]))
        if value.get("kind") == "late":
            _keys(value, "format kind id time cloud")
            return LateAnswer(_text(value["id"]), _number(value["time"]), _cloud(value["cloud"]))
        if value.get("kind") != "decision":
            raise InputError(f"its kind is {_shown(value.get('kind'))}; this SDK knows decision, feedback and late")
        return _record(value)
    except (InputError, KeyError, TypeError, ValueError, OverflowError) as error:
        raise JournalError(f"not a record of a journal: {error}") from error


def _record(value: Mapping[str, Any]) -> Record:
    _keys(value, "format kind id time input model rule threshold scores audit decision outcome")
    audit, decision = value["audit"], value["decision"]
    if audit is not None:
        _keys(audit, "rate key")
    _keys(decision, "escalate reason confidence propensity value")
    scores = base64.b64decode(_text(value["scores"], MAX_LINE_BYTES), validate=True)
    if len(scores) % 4 or len(scores) > 4 * MAX_SCORES:
        raise InputError(f"its scores are {len(scores)} bytes, which is no float32 array of at most {MAX_SCORES}")
    return Record(
        id=_text(value["id"]),
        time=_number(value["time"]),
        input=_text(value["input"]),
        model=_text(value["model"]),
        rule=_text(value["rule"]),
        scores=scores,
        threshold=_number(value["threshold"]),
        audit_rate=None if audit is None else _share(audit["rate"]),
        audit_key=None if audit is None else _text(audit["key"]),
        decision=Decision(
            _flag(decision["escalate"]),
            _one_of(decision["reason"], ("confident", "escalated", "audit")),
            _number(decision["confidence"]),
            _share(decision["propensity"]),
            None if decision["value"] is None else _number(decision["value"]),
        ),
        outcome=_outcome(value["outcome"]),
    )


def _outcome(value: Mapping[str, Any]) -> Outcome:
    _keys(value, "source reason certified index cloud missing bytes_sent timing")
    cloud, reasons = value["cloud"], get_args(Reason)
    _keys(value["timing"], "pre_ms infer_ms post_ms cloud_ms total_ms")
    return Outcome(
        source=_one_of(value["source"], get_args(Source)),
        reason=_one_of(value["reason"], reasons),
        certified=_flag(value["certified"]),
        index=_count(value["index"]),
        cloud=None if cloud is None else _cloud(cloud),
        missing=None if value["missing"] is None else _one_of(value["missing"], reasons),
        bytes_sent=_count(value["bytes_sent"]),
        timing=Timing(**{name: _number(part) for name, part in value["timing"].items()}),
    )


def _cloud(value: Any) -> CloudAnswer:
    _keys(value, "index confidence model encoding")
    return CloudAnswer(
        _count(value["index"]), _number(value["confidence"]), _text(value["model"]), _text(value["encoding"])
    )


def _keys(value: Any, names: str) -> None:
    if not isinstance(value, dict) or value.keys() != set(names.split()):
        raise InputError(f"it should be an object with {', '.join(names.split())}, not {_shown(value)}")


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _MAX_TEXT else f"{text[:_MAX_TEXT]}…"


def _text(value: Any, most: int = _MAX_TEXT) -> str:
    if not isinstance(value, str) or len(value) > most or not value.isprintable():
        raise InputError(f"{_shown(value)} should be a text of at most {most} characters")
    return value


def _one_of(value: Any, names: tuple[str, ...]) -> Any:
    if value not in names:
        raise InputError(f"{_shown(value)} is none of {', '.join(names)}")
    return value


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise InputError(f"{_shown(value)} should be true or false")
    return value


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InputError(f"{_shown(value)} should be a number")
    return float(value)


def _share(value: Any) -> float:
    if not 0.0 <= _number(value) <= 1.0:
        raise InputError(f"{_shown(value)} should be from 0 to 1")
    return float(value)


def _count(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 1 << 53:
        raise InputError(f"{_shown(value)} should be a count")
    return value
