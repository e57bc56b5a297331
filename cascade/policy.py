"""The policy: the rule that a device applies to each answer, and the certificate it stands under."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_sdk.cascade.deferral import Head
from edge_sdk.cascade.detections import DETECTIONS, detection_value, detection_values
from edge_sdk.cascade.promise import LOSS, RISKS, Certificate, Rung, Stratum, read_certificate, read_real
from edge_sdk.cascade.signals import SIGNALS
from edge_sdk.errors import CertificateError
from edge_sdk.ext.signals import Signal

__all__ = ["LEARNED", "LOSS", "RISKS", "SIGNAL_NAMES", "Certificate", "Decision", "Policy", "Rung", "Stratum"]

FORMAT = 1  # readers refuse a signal or a risk they do not know, so new ones need no new format

# How values come about, to the last bit: 1 is that of `edge_sdk.ext.signals`. A policy without the
# number is from version 0.1, whose values were up to some 1e-13 off, and other ones on other machines.
ARITHMETIC = 1
_SLACK = 2.0**-40

LEARNED = "learned"
SIGNAL_NAMES = (*SIGNALS, LEARNED)
"""Signals of class scores; a detector has `DETECTIONS` instead."""


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
                threshold=read_real(value["threshold"]) + (_SLACK if foreign else 0.0),
                temperature=read_real(value["temperature"]),
                signal=str(value["signal"]),
                certificate=None if certificate is None else read_certificate(certificate),
                head=None if value.get("head") is None else Head.from_json(value["head"]),
            )
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            raise CertificateError(f"policy: a field is missing or has the wrong type: {error}") from error
