"""Replay: every decision of a journal derived again, and compared bit for bit."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from edge_sdk.cascade.audit import Audit
from edge_sdk.cascade.journal import Entry, Record, derive, key_id, rule_digest
from edge_sdk.cascade.policy import Policy

__all__ = ["Replay", "replay"]


@dataclass(frozen=True, slots=True)
class Replay:
    """What came of deriving decisions again.

    Attributes
    ----------
    decisions
        How many the journal holds.
    matched
        How many came out the same, bit for bit.
    problem
        The first that did not, and why; None where all did.
    """

    decisions: int
    matched: int
    problem: str | None

    @property
    def passed(self) -> bool:
        """True where every decision came out the same."""
        return self.matched == self.decisions


def replay(records: Iterable[Entry], policies: Iterable[Policy], keys: Iterable[bytes] = ()) -> Replay:
    """Derive every decision of a journal again and compare it bit for bit.

    Parameters
    ----------
    records
        As `parse` returns them; what is no decision is passed over.
    policies
        Rules that were in force; each record names its own by digest.
    keys
        Keys of the audits; each record names its own by id.
    """
    rules = {rule_digest(policy): policy for policy in policies}
    secrets = {key_id(key): key for key in keys}
    decisions = matched = 0
    problem = None
    for record in records:
        if not isinstance(record, Record):
            continue
        decisions += 1
        wrong = _compare(record, rules, secrets)
        matched += wrong is None
        if wrong is not None and problem is None:
            problem = f"decision {record.id}, number {decisions}: {wrong}"
    return Replay(decisions, matched, problem)


def _compare(record: Record, rules: Mapping[str, Policy], secrets: Mapping[str, bytes]) -> str | None:
    """Return why a record does not come out as it was logged, or None where it does."""
    policy = rules.get(record.rule)
    if policy is None:
        return f"made by the rule {record.rule}, which is not given"
    if not record.threshold >= policy.threshold:
        return f"the threshold in force, {record.threshold!r}, is below the rule's, {policy.threshold!r}"
    audit = None
    if record.audit_rate is not None:
        key = secrets.get(record.audit_key or "")
        if key is None:
            return f"audited with the key {record.audit_key}, which is not given"
        audit = Audit(key, record.audit_rate)
    scores = np.frombuffer(record.scores, "<f4").astype(np.float32)
    again = derive(policy, scores, record.id, audit=audit, threshold=record.threshold)
    for name, logged in ((name, getattr(record.decision, name)) for name in record.decision.__slots__):
        value = getattr(again, name)
        if not _same(logged, value):
            return f"{name} was logged as {logged!r} and comes out as {value!r}"
    return None


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, float) and isinstance(b, float):
        return a.hex() == b.hex()  # tells 0.0 from -0.0
    return type(a) is type(b) and bool(a == b)
