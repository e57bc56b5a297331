"""Privacy rules: what may not leave the device, and what must be taken off it before it does.

Rules only ever take away: a rule that says "never" outweighs every other, and what several rules
ask to be reduced is reduced by all of them. A rule that cannot tell whether it is meant — the call
does not name a tenant, a predicate raises — is meant.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from edge_sdk.encodings import Reduction
from edge_sdk.errors import InputError

__all__ = ["PrivacyRule", "Question", "check_rules", "judge", "needs_answer"]

_log = logging.getLogger("edge_sdk.client")

_MOST_COMPLAINTS = 100
_complained: set[str] = set()  # each is said once, and not a flood of them


@dataclass(frozen=True, slots=True)
class Question:
    """What a rule is asked about.

    Attributes
    ----------
    frame
        The input as captured; not to be changed.
    label
        The edge's own answer; None where the cloud is asked before the edge has one.
    context
        What the app said of this call, such as ``{"tenant": "acme", "region": "eu"}``.
    """

    frame: NDArray[Any]
    label: str | None
    context: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class PrivacyRule:
    """For some inputs: keep them on the device, or send less of them.

    A rule is meant for an input if everything that it names fits; one that names nothing is meant
    for every input. Without `max_side` and `region_of_interest` such an input never leaves.

    Attributes
    ----------
    labels
        Answers of the edge model.
    where
        Values by key of the call's context: ``{"tenant": {"acme"}, "region": {"eu", "uk"}}``.
    when
        Called with a `Question`; true where the rule is meant.
    max_side
        Send a picture whose longer side has at most so many pixels.
    region_of_interest
        Send only this part: top, left, height and width as shares of the frame, in [0, 1].
    """

    labels: Collection[str] | None = None
    where: Mapping[str, Collection[Any]] | None = None
    when: Callable[[Question], bool] | None = None
    max_side: int | None = None
    region_of_interest: tuple[float, float, float, float] | None = None

    def __post_init__(self) -> None:
        if self.where is not None and not isinstance(self.where, Mapping):
            raise InputError(f"privacy rule: where is {self.where!r}; it should be a mapping of keys to sets of values")
        sets = {} if self.labels is None else {"labels": self.labels}
        for name, names in (*sets.items(), *(self.where or {}).items()):
            if isinstance(names, str):
                raise InputError(f"privacy rule: {name} is the text {names!r}; it should be a set of them")
            if not isinstance(names, Collection):
                raise InputError(f"privacy rule: {name} is {names!r}; it should be a set")
        if self.when is not None and not callable(self.when):
            raise InputError(f"privacy rule: when is {self.when!r}; it should be called with a Question")
        if self.max_side is not None and (type(self.max_side) is not int or self.max_side < 1):
            raise InputError(
                f"privacy rule: max_side is {self.max_side!r}; it should be a whole number, at least 1 pixel"
            )
        if self.region_of_interest is not None and not _is_region(self.region_of_interest):
            raise InputError(
                f"privacy rule: region_of_interest is {self.region_of_interest!r}; "
                "it should be top, left, height and width as shares, within the frame"
            )

    @property
    def reduces(self) -> bool:
        """True where less is sent; false where nothing is."""
        return self.max_side is not None or self.region_of_interest is not None

    def fits(self, question: Question) -> bool:
        """Tell whether the rule is meant for an input; it is where that cannot be told."""
        if self.labels is not None and question.label is not None and question.label not in self.labels:
            return False
        for key, values in (self.where or {}).items():
            try:
                if key in question.context and question.context[key] not in values:
                    return False
            except Exception:  # noqa: BLE001 - a value that is in no set: whatever it is, it may not let an input out
                _complain(f"a value of the context cannot be compared with {key!r} of the rule")
        if self.when is None:
            return True
        try:
            return bool(self.when(question))
        except Exception as error:  # noqa: BLE001 - whatever it is, it may not let an input out
            _complain(f"its predicate failed: {_told(error)}")
            return True


def _is_region(region: Any) -> bool:
    try:
        top, left, height, width = region
        return bool(min(top, left) >= 0 and min(height, width) > 0 and max(top + height, left + width) <= 1 + 1e-9)
    except (TypeError, ValueError):
        return False


def _told(error: Exception) -> str:
    try:
        return f"{type(error).__name__}: {error}"
    except Exception:  # noqa: BLE001 - it is the app's, and cannot say what it is
        return type(error).__name__


def _complain(text: str) -> None:
    if text not in _complained and len(_complained) < _MOST_COMPLAINTS:
        _complained.add(text)
        _log.warning("privacy rule: %s; it is taken as meant", text)


def check_rules(rules: Iterable[PrivacyRule], labels: Collection[str], modality: str) -> tuple[PrivacyRule, ...]:
    """Return the rules as a tuple.

    Parameters
    ----------
    rules
        What an app gave.
    labels, modality
        Of the edge model.

    Raises
    ------
    InputError
        One names a label that the model does not have, so that it would guard nothing, or reduces
        what is no picture.
    """
    if isinstance(rules, PrivacyRule):
        raise InputError("privacy: need a list of rules, not one rule")
    if not isinstance(rules, Iterable):
        raise InputError(f"privacy: need a list of rules, not {rules!r}")
    rules = tuple(rules)
    for rule in rules:
        if not isinstance(rule, PrivacyRule):
            raise InputError(f"privacy: need PrivacyRule records, not {type(rule).__name__}")
        unknown = sorted(set(rule.labels or ()) - set(labels))
        if unknown:
            raise InputError(f"privacy rule: the model has no label {unknown[0]!r}; it has {', '.join(labels)}")
        if rule.reduces and modality != "image":
            raise InputError(f"privacy rule: only pictures can be reduced, and the model takes {modality}")
    return rules


def needs_answer(rules: Iterable[PrivacyRule]) -> bool:
    """Tell whether a rule may ask what the edge's answer is: the edge has to answer first."""
    return any(rule.labels is not None or rule.when is not None for rule in rules)


def judge(rules: Iterable[PrivacyRule], question: Question) -> Reduction | None:
    """Return what must be taken off an input before it is sent; None where it may not be sent at all."""
    max_side: int | None = None
    top, left, bottom, right = 0.0, 0.0, 1.0, 1.0
    for rule in rules:
        if not rule.fits(question):
            continue
        if not rule.reduces:
            return None
        if rule.max_side is not None:
            max_side = min(rule.max_side, max_side or rule.max_side)
        if rule.region_of_interest is not None:
            y, x, height, width = rule.region_of_interest
            top, left, bottom, right = max(top, y), max(left, x), min(bottom, y + height), min(right, x + width)
    if top >= bottom or left >= right:  # no part that every rule would send
        return None
    return Reduction(max_side, (top, left, bottom, right))
