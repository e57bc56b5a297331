"""The policy: the rule that a device applies to each answer, and the certificate it stands under."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_sdk.cascade.deferral import Head
from edge_sdk.cascade.detections import DETECTIONS, detection_value, detection_values
from edge_sdk.cascade.signals import SIGNALS
from edge_sdk.errors import CertificateError
from edge_sdk.ext.signals import Signal

__all__ = ["LEARNED", "LOSS", "RISKS", "SIGNAL_NAMES", "Certificate", "Decision", "Policy", "Stratum"]

FORMAT = 1  # readers refuse a signal or a risk they do not know, so new ones need no new format

# How values come about, to the last bit: 1 is that of `edge_sdk.ext.signals`. A policy without the
# number is from version 0.1, whose values were up to some 1e-13 off, and other ones on other machines.
ARITHMETIC = 1
_SLACK = 2.0**-40
_MOST_SAMPLES = 100_000_000  # in a certificate that is read: whoever writes more wants a device to count for minutes

LEARNED = "learned"
SIGNAL_NAMES = (*SIGNALS, LEARNED)
"""Signals of class scores; a detector has `DETECTIONS` instead."""

RISKS: Mapping[str, str] = MappingProxyType(
    {
        "harm": "harm",
        "net": "net loss of accuracy against the cloud alone",
        "agreement": "disagreement with the cloud where the edge answers",
    }
)
"""Of classifiers, by name."""

LOSS = "loss"
"""The risk of a detector: the mean of a loss in [0, 1]."""


@dataclass(frozen=True, slots=True)
class Stratum:
    """What was seen in one stratum, in which the promise holds as well.

    Attributes
    ----------
    name
        Of the stratum.
    n, harms, p_value, local_share
        As in `Certificate`, of this stratum alone.
    needed
        About how many samples of it would have done, at the rate of harm seen.
    """

    name: str
    n: int
    harms: int
    p_value: float
    local_share: float
    needed: int

    def __post_init__(self) -> None:
        _check(f"stratum {self.name}", self)
        if self.needed <= 0:
            raise CertificateError(f"stratum {self.name}: needed is {self.needed}, which is impossible")


@dataclass(frozen=True, slots=True)
class Certificate:
    """What was promised, from how much evidence, and for what it holds.

    The promise of ``harm``: with probability at least ``confidence`` over the calibration data, the
    share of all inputs that are kept on the edge, wrong there, and right in the cloud is at most
    ``max_accuracy_loss``, for inputs exchangeable with the calibration data. For other risks see
    `edge_sdk.cascade.certify`.

    Attributes
    ----------
    max_accuracy_loss, confidence
        The promise, both in (0, 1).
    n
        Calibration samples.
    harms
        How many of them the rule harmed; for ``agreement``, on how many of those kept the cloud differs.
    p_value
        Of "the risk is above ``max_accuracy_loss``" at the threshold: exact binomial, for ``net`` by
        betting; the largest of all strata where there are any.
    local_share
        Share of the calibration samples that the rule kept on the edge.
    validity
        Digests and names of everything it holds for, such as ``edge_model``, ``cloud_model``,
        ``processing``, ``runtime``, ``calibration_data``. A change of any voids it.
    risk
        What is bounded: ``harm``, ``net`` or ``agreement``; ``loss`` of a detector, where ``harms``
        counts the samples kept that lost anything.
    gains
        For ``net``, how many samples were kept, right on the edge, and wrong in the cloud.
    strata
        For each of which the promise holds by itself.
    disagreements
        On how many of those kept the cloud answered otherwise, right or wrong; None where nobody
        counted. An audit is judged by its rise.
    """

    max_accuracy_loss: float
    confidence: float
    n: int
    harms: int
    p_value: float
    local_share: float
    validity: Mapping[str, str]
    risk: str = "harm"
    gains: int = 0
    strata: tuple[Stratum, ...] = ()
    disagreements: int | None = None

    @property
    def promise(self) -> str:
        """The promise in words, without what it rests on."""
        where = f" in each of {len(self.strata)} strata" if self.strata else ""
        bounded = RISKS.get(self.risk, "mean loss where the edge answers")
        return f"{bounded} ≤ {self.max_accuracy_loss:g} at confidence {self.confidence:g}{where}"

    def to_json(self) -> dict[str, Any]:
        """Return the record as JSON-compatible values; what is empty is left out."""
        more: dict[str, Any] = {"gains": self.gains} if self.gains else {}
        if self.disagreements is not None:
            more["disagreements"] = self.disagreements
        if self.strata:
            more["strata"] = [asdict(stratum) for stratum in self.strata]
        return {
            "risk": self.risk,
            "max_accuracy_loss": self.max_accuracy_loss,
            "confidence": self.confidence,
            "n": self.n,
            "harms": self.harms,
            "p_value": self.p_value,
            "local_share": self.local_share,
            "validity": dict(self.validity),
            **more,
        }


@dataclass(frozen=True, slots=True)
class Decision:
    """What the rule said of one answer.

    Attributes
    ----------
    escalate
        True where the cloud should be asked.
    reason
        ``confident`` or ``escalated``; ``audit`` where `edge_sdk.cascade.audit` escalates a confident one.
    confidence
        The calibrated probability of the edge's answer, whatever the signal; of a detector's, the value.
    propensity
        Probability with which this rule escalates such an input: 0 or 1, as it draws no lots, and the
        rate of the audit where there is one.
    value
        The signal's value, which was compared with the threshold; None where none was.
    """

    escalate: bool
    reason: str
    confidence: float
    propensity: float
    value: float | None = None


@dataclass(frozen=True, slots=True)
class Policy:
    """Keep an answer on the edge if its signal reaches the threshold; else escalate.

    Attributes
    ----------
    threshold
        An answer is kept if its signal is at least this.
    temperature
        Scales the scores before the signal is taken.
    signal
        Name of the signal: one of `edge_sdk.cascade.signals.SIGNALS`, ``learned``, or, for a detector,
        ``detections``: the mean confidence of the boxes it kept, 0 where it kept none. Its threshold
        is above 0, so an empty answer always escalates; see `edge_sdk.cascade.detections`.
    certificate
        The promise this threshold was certified for, or None.
    head
        The deferral head, whose value is the signal ``learned``; None with any other.
    """

    threshold: float
    temperature: float = 1.0
    signal: str = "max_probability"
    certificate: Certificate | None = None
    head: Head | None = None
    _kernel: Signal | None = field(init=False, repr=False, compare=False, default=None)  # None of a detector's

    def __post_init__(self) -> None:
        if self.signal not in (*SIGNAL_NAMES, DETECTIONS):
            known = ", ".join((*SIGNAL_NAMES, DETECTIONS))
            raise CertificateError(f"policy: there is no signal {self.signal!r}; there are {known}")
        if (self.signal == LEARNED) != (self.head is not None):
            raise CertificateError("policy: the signal 'learned' needs a head, and no other has one")
        if not (math.isfinite(self.temperature) and self.temperature > 0):
            raise CertificateError(f"policy: temperature is {self.temperature}; it should be positive")
        if math.isnan(self.threshold):
            raise CertificateError("policy: threshold is not a number")
        if self.signal == DETECTIONS and not (self.threshold > 0.0 and self.temperature == 1.0):
            raise CertificateError(
                f"policy: with the signal 'detections' the threshold is {self.threshold:g} and should be above 0, or "
                f"what finds nothing would never escalate; the temperature is {self.temperature:g} and should be 1"
            )
        if self.signal != DETECTIONS:
            kernel = Signal(self.signal, self.temperature) if self.head is None else self.head.signal(self.temperature)
            object.__setattr__(self, "_kernel", kernel)

    def signal_values(self, scores: NDArray[Any] | Sequence[NDArray[Any]]) -> NDArray[np.float64]:
        """Return the signal of each row of probabilities [n, classes]; float64 [n].

        For ``detections``, of the confidences [k] of each of n answers, which differ in k. Each is, to
        the last bit, the ``value`` that `decide` finds, and rows are refused as there.
        """
        return detection_values(scores) if self._kernel is None else self._kernel.values(scores)

    def decide(self, scores: NDArray[Any], context: Mapping[str, Any] | None = None) -> Decision:
        """Decide about one answer. Pure: the same scores always give the same decision.

        Parameters
        ----------
        scores
            Probabilities of one input, float [classes]; for ``detections``, the confidences of the
            boxes kept, float [k], where k may be 0.
        context
            Reserved for rules that look beyond the scores; this one does not.

        Raises
        ------
        InputError
            The scores hold a NaN, an infinity or a negative number, their sum is not 1 within 0.01, or
            they are of other classes than the head; for ``detections``, a confidence is not in [0, 1].
        """
        if self._kernel is None:
            return self._decision(value := detection_value(scores), value)
        return self._decision(*self._kernel.one(scores))

    def _decision(self, value: float, confidence: float) -> Decision:
        if value >= self.threshold:
            return Decision(False, "confident", confidence, 0.0, value)
        return Decision(True, "escalated", confidence, 1.0, value)

    def local_mask(self, scores: NDArray[Any] | Sequence[NDArray[Any]]) -> NDArray[np.bool_]:
        """Decide about many: True where the answer is kept on the edge; bool [n].

        Scores are [n, classes]; for ``detections``, n arrays of confidences [k], which differ in k.
        """
        return np.asarray(self.signal_values(scores) >= self.threshold)

    def to_json(self) -> dict[str, Any]:
        """Return the policy as JSON-compatible values."""
        return {
            "format": FORMAT,
            "arithmetic": ARITHMETIC,
            "signal": self.signal,
            "temperature": self.temperature,
            "threshold": self.threshold,
            "certificate": None if self.certificate is None else self.certificate.to_json(),
            **({} if self.head is None else {"head": self.head.to_json()}),
        }

    @classmethod
    def from_json(cls, value: object) -> Policy:
        """Read a policy from JSON values.

        A certified threshold that was found with other arithmetic is raised by 2^-40: what is kept was
        then kept by the rule that was certified, too, whatever the last places of values are.

        Raises
        ------
        CertificateError
            The policy is from a newer version, or a field is missing or impossible.
        """
        if not isinstance(value, Mapping):
            raise CertificateError(f"policy: need an object, not {type(value).__name__}")
        if value.get("format") != FORMAT:
            raise CertificateError(f"policy format {value.get('format')!r} cannot be read; this SDK reads {FORMAT}")
        try:
            certificate = value["certificate"]
            foreign = certificate is not None and value.get("arithmetic") != ARITHMETIC
            return cls(
                threshold=_real(value["threshold"]) + (_SLACK if foreign else 0.0),
                temperature=_real(value["temperature"]),
                signal=str(value["signal"]),
                certificate=None if certificate is None else _certificate(certificate),
                head=None if value.get("head") is None else Head.from_json(value["head"]),
            )
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            raise CertificateError(f"policy: a field is missing or has the wrong type: {error}") from error


def _real(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise TypeError(f"{str(value)[:40]!r} is not a finite number")
    return float(value)


def _count(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or abs(value) > _MOST_SAMPLES:
        raise TypeError(f"{str(value)[:40]!r} is not a count of samples")
    return value


def _certificate(value: Mapping[str, Any]) -> Certificate:
    certificate = Certificate(
        max_accuracy_loss=_real(value["max_accuracy_loss"]),
        confidence=_real(value["confidence"]),
        n=_count(value["n"]),
        harms=_count(value["harms"]),
        p_value=_real(value["p_value"]),
        local_share=_real(value["local_share"]),
        validity={str(key): str(item) for key, item in value["validity"].items()},
        risk=str(value["risk"]),
        gains=_count(value.get("gains", 0)),
        strata=tuple(_stratum(stratum) for stratum in value.get("strata", ())),
        disagreements=None if value.get("disagreements") is None else _count(value["disagreements"]),
    )
    if certificate.risk not in (*RISKS, LOSS):
        raise CertificateError(
            f"certificate: this SDK knows no risk {certificate.risk!r}; it knows {', '.join(RISKS)}: is it too old?"
        )
    for name, possible in (
        ("max_accuracy_loss", 0.0 < certificate.max_accuracy_loss < 1.0),
        ("confidence", 0.0 < certificate.confidence < 1.0),
        ("gains", 0 <= certificate.gains <= certificate.n),
        ("disagreements", 0 <= (certificate.disagreements or 0) <= certificate.n),
    ):
        if not possible:
            raise CertificateError(f"certificate: {name} is {getattr(certificate, name)}, which is impossible")
    _check("certificate", certificate)
    return certificate


def _stratum(value: Mapping[str, Any]) -> Stratum:
    return Stratum(
        name=str(value["name"]),
        n=_count(value["n"]),
        harms=_count(value["harms"]),
        p_value=_real(value["p_value"]),
        local_share=_real(value["local_share"]),
        needed=_count(value["needed"]),
    )


def _check(what: str, seen: Certificate | Stratum) -> None:
    for name, possible in (
        ("n", seen.n > 0),
        ("harms", 0 <= seen.harms <= seen.n),
        ("p_value", 0.0 <= seen.p_value <= 1.0),
        ("local_share", 0.0 <= seen.local_share <= 1.0),
    ):
        if not possible:
            raise CertificateError(f"{what}: {name} is {getattr(seen, name)}, which is impossible")
