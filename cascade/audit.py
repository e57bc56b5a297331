"""Audit: ask the cloud about a few confident answers, too, so that what the rule keeps is not out of sight.

Escalated answers say nothing about those that were kept: where confident answers go wrong, they look
as good as ever. So a small random share of confident answers is escalated as well, with a known
probability. The coin is a keyed pseudo-random function of the decision's id: nobody without the key
can tell which will be audited, and anybody with it can replay the decision.

What the cloud says is an answer, not a label: an audit measures *agreement*. Only where true labels
arrive by feedback do the same estimates speak of accuracy.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_sdk.cascade import binomial
from edge_sdk.cascade.policy import Certificate, Decision
from edge_sdk.errors import CertificateError, InputError

__all__ = ["Audit", "Estimate", "Guard", "estimate_mean", "estimate_threshold", "toss"]

LEAST_KEY = 16  # bytes

# Alternatives that the guard bets on: so many times the odds of disagreement that calibration saw.
_ODDS = (1.5, 2.0, 3.0, 5.0, 10.0)
# Half of the guard's stake is bet on a rise within about so many audits, the rest ever more slowly.
_SOON = 50.0
_MOST_AUDITS = 1 << 53


def toss(key: bytes, decision_id: str) -> float:
    """Return a number in [0, 1) that is fixed by key and id, and looks uniform to whoever lacks the key.

    Keyed BLAKE2b (RFC 7693); the first 53 bits of it.
    """
    digest = hashlib.blake2b(decision_id.encode(), digest_size=8, key=key).digest()
    return (int.from_bytes(digest, "big") >> 11) / (1 << 53)


@dataclass(frozen=True, slots=True)
class Audit:
    """Which confident answers are escalated all the same.

    Attributes
    ----------
    key
        Secret, 16 to 64 bytes; of one device or one fleet.
    rate
        Share of confident answers, in [0, 1].

    Raises
    ------
    InputError
        Key or rate is not what it should be.
    """

    key: bytes
    rate: float = 0.01

    def __post_init__(self) -> None:
        if not LEAST_KEY <= len(self.key) <= hashlib.blake2b.MAX_KEY_SIZE:
            raise InputError(f"the key of an audit has {len(self.key)} bytes; it should have 16 to 64")
        if not 0.0 <= self.rate <= 1.0:
            raise InputError(f"the rate of an audit is {self.rate}; it should be from 0 to 1")

    def __repr__(self) -> str:
        return f"Audit(rate={self.rate})"  # the key is a secret

    def decide(self, decision: Decision, decision_id: str) -> Decision:
        """Return the decision, turned into an escalation with reason ``audit`` if the coin says so.

        Pure: the same decision and id always give the same. ``propensity`` is 1 where the rule itself
        escalates and the rate otherwise, whichever way the coin fell.
        """
        if decision.escalate:
            return decision
        heads = toss(self.key, decision_id) < self.rate
        reason = "audit" if heads else decision.reason
        return Decision(heads, reason, decision.confidence, self.rate, decision.value)


@dataclass(frozen=True, slots=True)
class Estimate:
    """A share of all requests, estimated.

    Attributes
    ----------
    value, low, high
        The estimate and its confidence interval, in [0, 1]; NaN, 0 and 1 where requests of some
        propensity were never observed.
    observed
        Outcomes that it rests on.
    """

    value: float
    low: float
    high: float
    observed: int


def estimate_mean(outcome: NDArray[Any], propensity: NDArray[Any], *, confidence: float = 0.95) -> Estimate:
    """Return the mean outcome over all requests, though few of those that were kept are known.

    Requests of one propensity are alike in how they came to be known, so each that is known stands
    for as many as there are of that propensity for each one known: inverse-propensity weighting,
    post-stratified by propensity. An audit that was lost, to the network or to privacy, is missing
    and stands for nobody; that is unbiased if it has nothing to do with the outcome.

    Parameters
    ----------
    outcome
        Of every request: 1 where edge and cloud agree (or the edge is right, where labels arrived),
        0 where not, NaN where that is not known; float [n].
    propensity
        Probability with which each was escalated, as logged: 1 where the rule did, the audit's rate
        where it did not; float [n] in [0, 1]. There should be few different ones.
    confidence
        Of the interval, in (0, 1).

    Raises
    ------
    InputError
        The arrays differ in length, or hold what they should not; the message names the row.
    """
    known, chance = np.asarray(outcome, dtype=np.float64), np.asarray(propensity, dtype=np.float64)
    if known.ndim != 1 or known.shape != chance.shape or len(known) == 0:
        raise InputError("outcome and propensity should have the same length, at least 1")
    for name, array, bad in (
        ("outcome", known, ~(np.isnan(known) | ((known >= 0.0) & (known <= 1.0)))),
        ("propensity", chance, ~((chance >= 0.0) & (chance <= 1.0))),
    ):
        if bad.any():
            row = int(np.argmax(bad))
            raise InputError(f"{name}: row {row} is {array[row]}, which is not between 0 and 1")
    if not 0.0 < confidence < 1.0:
        raise InputError(f"confidence is {confidence}; it should be between 0 and 1")
    from statistics import NormalDist  # takes its time to load, and devices do without

    _, group, counts = np.unique(chance, return_inverse=True, return_counts=True)
    seen = ~np.isnan(known)
    observed = np.bincount(group[seen], minlength=len(counts))
    if not observed.all():
        return Estimate(math.nan, 0.0, 1.0, int(observed.sum()))
    shares = counts / len(known)
    totals = np.bincount(group[seen], weights=known[seen], minlength=len(counts))
    value = float((shares * totals / observed).sum())
    # two successes and two failures more (Agresti and Coull), so that no disagreement seen is not none there
    smooth = (totals + 2.0) / (observed + 4.0)
    spread = math.sqrt(float((shares**2 * smooth * (1.0 - smooth) / observed).sum()))
    reach = NormalDist().inv_cdf(0.5 + confidence / 2.0) * spread
    return Estimate(value, max(0.0, value - reach), min(1.0, value + reach), int(observed.sum()))


def estimate_threshold(
    value: NDArray[Any],
    outcome: NDArray[Any],
    propensity: NDArray[Any],
    threshold: float,
    *,
    confidence: float = 0.95,
) -> tuple[float, Estimate]:
    """Return what another threshold would have done, from the log of the one that was used.

    Parameters
    ----------
    value
        The signal of every request, float [n].
    outcome, propensity, confidence
        As for `estimate_mean`.
    threshold
        The one to judge: requests with at least this signal would be kept.

    Returns
    -------
    The share of requests that would be kept, which is known; and, over all requests, the estimated
    share that would be kept and is 0, as ``agreement`` bounds it where outcomes are agreement.

    Raises
    ------
    InputError
        The arrays differ in length, or hold what they should not; the message names the row.
    """
    signal, known = np.asarray(value, dtype=np.float64), np.asarray(outcome, dtype=np.float64)
    if signal.shape != known.shape:
        raise InputError("value and outcome should have the same length")
    kept = signal >= threshold
    if not kept.any():
        return 0.0, Estimate(0.0, 0.0, 0.0, 0)
    share = float(kept.mean())
    among = estimate_mean(1.0 - known[kept], np.asarray(propensity)[kept], confidence=confidence)
    return share, Estimate(share * among.value, share * among.low, share * among.high, among.observed)


@dataclass(frozen=True, slots=True)
class Guard:
    """An anytime-valid alarm at a rise of disagreement among audited answers.

    A gambler bets that disagreement is above the baseline, with several stakes, some of which he
    holds back for a rise that comes later. While the baseline holds, his wealth does not grow in
    expectation, so the probability that it *ever* reaches ``1 / level`` is at most ``level``, however
    often one looks (Ville's inequality). A cloud answer is no label: the baseline is the
    disagreement that calibration saw, not the harm that was certified.

    Attributes
    ----------
    baseline
        Largest probability of disagreement of an audited answer that is no cause for alarm, in (0, 1).
    level
        Probability of a false alarm, over all time.
    audits, disagreements
        Seen so far.
    stakes
        Wealth of each bet that is placed.
    alarm
        Whether it went off; it stays so.

    References
    ----------
    Ramdas, Grünwald, Vovk, Shafer, "Game-theoretic statistics and safe anytime-valid inference",
    Statistical Science 2023; Shin, Ramdas, Rinaldo, "E-detectors", NEJSDS 2024.
    """

    baseline: float
    level: float = 0.05
    audits: int = 0
    disagreements: int = 0
    stakes: tuple[float, ...] = (0.0,) * len(_ODDS)
    alarm: bool = False

    def __post_init__(self) -> None:
        for name in ("baseline", "level"):
            if not 0.0 < getattr(self, name) < 1.0:
                raise InputError(f"the guard's {name} is {getattr(self, name)}; it should be between 0 and 1")

    @classmethod
    def of(cls, certificate: Certificate, *, level: float = 0.05) -> Guard:
        """Return the guard of a certificate.

        The baseline is an upper confidence bound of the disagreement that calibration saw among the
        answers kept; half of the level is spent on that bound, the other on the alarm.

        Raises
        ------
        CertificateError
            The certificate does not say how many kept answers the cloud disagreed with.
        """
        kept = round(certificate.local_share * certificate.n)
        if certificate.disagreements is None or kept == 0:
            raise CertificateError("the certificate does not say how often edge and cloud disagreed; certify anew")
        bound = binomial.upper_bound(certificate.disagreements, kept, 1.0 - level / 2.0)
        return cls(baseline=min(bound, 0.999), level=level / 2.0)

    @property
    def wealth(self) -> float:
        """The gambler's wealth, from 1: evidence against the baseline."""
        return sum(self.stakes) + _SOON / (self.audits + _SOON)

    def update(self, disagrees: bool) -> Guard:
        """Return the guard after one more audit. Lost audits are not passed in."""
        if self.alarm:
            return self
        t = self.audits
        placed = (_SOON / (t + _SOON) - _SOON / (t + 1 + _SOON)) / len(_ODDS)
        stakes = tuple(
            (stake + placed) * factor for stake, factor in zip(self.stakes, self._factors(disagrees), strict=True)
        )
        after = replace(self, audits=t + 1, disagreements=self.disagreements + disagrees, stakes=stakes)
        return replace(after, alarm=after.wealth >= 1.0 / self.level)

    def reset(self) -> Guard:
        """Return the guard as it was before any audit."""
        return Guard(self.baseline, self.level)

    def _factors(self, disagrees: bool) -> tuple[float, ...]:
        """Return the likelihood ratio of each alternative to the baseline."""
        base = self.baseline
        risen = (base * odds / (1.0 - base + base * odds) for odds in _ODDS)
        return tuple(p / base if disagrees else (1.0 - p) / (1.0 - base) for p in risen)

    def to_json(self) -> dict[str, Any]:
        """Return the guard as JSON-compatible values, so that it survives a restart."""
        return {**asdict(self), "stakes": list(self.stakes)}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Guard:
        """Read a guard from JSON values.

        Raises
        ------
        CertificateError
            A field is missing or impossible.
        """
        try:
            guard = cls(
                baseline=float(value["baseline"]),
                level=float(value["level"]),
                audits=int(value["audits"]),
                disagreements=int(value["disagreements"]),
                stakes=tuple(float(stake) for stake in value["stakes"]),
                alarm=bool(value["alarm"]),
            )
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise CertificateError(f"guard: a field is missing or impossible: {error}") from error
        sound = all(math.isfinite(stake) and stake >= 0.0 for stake in guard.stakes)
        counted = 0 <= guard.disagreements <= guard.audits < _MOST_AUDITS
        if len(guard.stakes) != len(_ODDS) or not sound or not counted:
            raise CertificateError("guard: its stakes or counts are impossible")
        if guard.alarm != (guard.wealth >= 1.0 / guard.level):
            raise CertificateError("guard: its alarm is not what its stakes say")
        return guard
