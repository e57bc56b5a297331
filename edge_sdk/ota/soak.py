"""A new version in use, on trial: what is watched meanwhile, and when it is kept or given up.

The app that predicts writes what it sees into ``vitals.json`` (`edge_sdk.ota.follow` does it for a
`HybridModel`); the agent reads it. The file is a hint that is renewed all the time, so it is
replaced at once, but not fsynced.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from edge_sdk import canonical
from edge_sdk.errors import InputError

__all__ = ["Soak", "Vitals", "read_vitals", "write_vitals"]

_NAME = "vitals.json"
_SIGMAS = 3.0


@dataclass(frozen=True, slots=True)
class Vitals:
    """What an app saw of one version since it took it up.

    Attributes
    ----------
    digest
        The version's manifest digest.
    requests
        Answers asked for.
    errors
        Of these, those that ended in an error.
    escalated
        Of these, those that the rule wanted from the cloud.
    confidence
        Mean confidence of the answers that it gave itself, 0 to 1; None where it is not known.
    reference
        The same of the version before, as the app saw it; None where it is not known.
    """

    digest: str
    requests: int = 0
    errors: int = 0
    escalated: int = 0
    confidence: float | None = None
    reference: float | None = None


@dataclass(frozen=True, slots=True)
class Soak:
    """How long a new version is on trial, and what it has to keep.

    Attributes
    ----------
    seconds
        At least as long; 0 commits after the health probe.
    requests
        At least as many answers have to be seen. 0: none, as on a device whose app does not tell.
    deadline
        Seconds until a version of which too few answers were seen is given up; None: ten times ``seconds``.
    max_error_rate, max_escalation_rate
        Shares of requests, 0 to 1; None: any. Within the trial a share that is too high by more than three
        standard deviations ends it; at its end any that is too high does.
    min_confidence
        Least mean confidence; held against at the end, where it is known.
    max_confidence_drop
        How far the mean confidence may be below that of the version before, as the app saw it; None: any. At the
        end, where both are known.

    Raises
    ------
    InputError
        A value is not within its range.
    """

    seconds: float = 0.0
    requests: int = 0
    deadline: float | None = None
    max_error_rate: float | None = 0.05
    max_escalation_rate: float | None = None
    min_confidence: float | None = None
    max_confidence_drop: float | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.seconds < math.inf or self.requests < 0 or (self.requests and not self.seconds):
            raise InputError("a trial has seconds and requests, 0 or above, and seconds where it has requests")
        if self.deadline is not None and not self.deadline >= self.seconds:
            raise InputError("the trial's deadline is before its end")
        for name in ("max_error_rate", "max_escalation_rate", "min_confidence", "max_confidence_drop"):
            value = getattr(self, name)
            if value is not None and not 0 <= value <= 1:
                raise InputError(f"{name} is {value}, and not within 0 and 1")

    def objection(self, vitals: Vitals, elapsed: float) -> str | None:
        """Return why the version is to be given up after ``elapsed`` seconds, or None."""
        ended = self.over(vitals, elapsed)
        for name, count, most in (
            ("errors", vitals.errors, self.max_error_rate),
            ("escalations", vitals.escalated, self.max_escalation_rate),
        ):
            if most is None or not vitals.requests:
                continue
            chance = 0.0 if ended else _SIGMAS * math.sqrt(vitals.requests * most * (1 - most)) + 1
            if count > vitals.requests * most + chance:
                return f"{count} {name} in {vitals.requests} requests; a share of {most:g} is allowed"
        least, mean = self.min_confidence, vitals.confidence
        if ended and least is not None and mean is not None and mean < least:
            return f"a mean confidence of {mean:.3g}; {least:g} is the least allowed"
        drop, before = self.max_confidence_drop, vitals.reference
        if ended and drop is not None and mean is not None and before is not None and before - mean > drop:
            return f"a mean confidence of {mean:.3g}, after {before:.3g} before it; {drop:g} less is allowed"
        deadline = 10 * self.seconds if self.deadline is None else self.deadline
        if not ended and elapsed >= deadline:
            return f"{vitals.requests} answers were seen in {elapsed:.0f} s; {self.requests} are needed"
        return None

    def over(self, vitals: Vitals, elapsed: float) -> bool:
        """Whether the trial has lasted long enough."""
        return elapsed >= self.seconds and vitals.requests >= self.requests


def write_vitals(state_dir: Path, vitals: Vitals) -> None:
    """Tell the agent what was seen; raise ``OSError`` if the folder cannot be written."""
    temporary = state_dir / f".{_NAME}.unfinished"
    temporary.write_bytes(canonical.dumps({"format": 1, **asdict(vitals)}))
    temporary.replace(state_dir / _NAME)


def read_vitals(state_dir: Path, digest: str) -> Vitals:
    """Return what was seen of a version; nothing where the file is missing, damaged or of another."""
    try:
        document: dict[str, Any] = canonical.loads((state_dir / _NAME).read_bytes(), limit=4096)
        vitals = Vitals(**{field.name: document[field.name] for field in fields(Vitals) if field.name in document})
        counts = (vitals.requests, vitals.errors, vitals.escalated)
        shares = (vitals.confidence, vitals.reference)
        known = all(share is None or type(share) in (int, float) for share in shares)
        if vitals.digest == digest and known and all(type(count) is int and count >= 0 for count in counts):
            return vitals
    except (OSError, InputError, KeyError, TypeError):
        pass
    return Vitals(digest)
