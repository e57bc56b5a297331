"""The certificate as a record: what was promised, from how much evidence, and for what it holds."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from types import MappingProxyType
from typing import Any

from edge_sdk.errors import CertificateError

__all__ = ["LOSS", "RISKS", "Certificate", "Rung", "Stratum", "read_certificate", "read_real"]

_MOST_SAMPLES = 100_000_000  # in a certificate that is read: whoever writes more wants a device to count for minutes

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
class Rung:
    """What was seen of the cloud where inputs are sent to it in one of several encodings.

    Attributes
    ----------
    name
        Of the encoding, as in `edge_sdk.encodings`.
    harms
        As in `Certificate`, where the cloud is asked in this encoding alone.
    cloud_accuracy
        Share of the calibration samples that the cloud gets right; None without labels.
    mean_bytes
        That one sample takes; None where nobody measured.
    """

    name: str
    harms: int
    cloud_accuracy: float | None = None
    mean_bytes: float | None = None


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
    rungs
        The encodings that the promise holds for, whichever of them is chosen for an input and for
        whatever reason; the best first. None are where it was made for one.
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
    rungs: tuple[Rung, ...] = ()

    @property
    def encodings(self) -> tuple[str, ...] | None:
        """Names of the encodings it holds for, the best first; None where it does not say."""
        if self.rungs:
            return tuple(rung.name for rung in self.rungs)
        return (self.validity["encoding"],) if "encoding" in self.validity else None

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
        if self.rungs:
            more["rungs"] = [asdict(rung) for rung in self.rungs]
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


def read_real(value: object) -> float:
    """Return a finite number that was read from JSON; raise `TypeError` where it is none."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise TypeError(f"{str(value)[:40]!r} is not a finite number")
    return float(value)


def _count(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or abs(value) > _MOST_SAMPLES:
        raise TypeError(f"{str(value)[:40]!r} is not a count of samples")
    return value


def read_certificate(value: Mapping[str, Any]) -> Certificate:
    """Read a certificate from JSON values.

    Raises
    ------
    CertificateError
        A field is impossible.
    KeyError, TypeError, ValueError, AttributeError, OverflowError
        A field is missing or has the wrong type.
    """
    certificate = Certificate(
        max_accuracy_loss=read_real(value["max_accuracy_loss"]),
        confidence=read_real(value["confidence"]),
        n=_count(value["n"]),
        harms=_count(value["harms"]),
        p_value=read_real(value["p_value"]),
        local_share=read_real(value["local_share"]),
        validity={str(key): str(item) for key, item in value["validity"].items()},
        risk=str(value["risk"]),
        gains=_count(value.get("gains", 0)),
        strata=tuple(_stratum(stratum) for stratum in value.get("strata", ())),
        disagreements=None if value.get("disagreements") is None else _count(value["disagreements"]),
        rungs=tuple(_rung(rung) for rung in value.get("rungs", ())),
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
        p_value=read_real(value["p_value"]),
        local_share=read_real(value["local_share"]),
        needed=_count(value["needed"]),
    )


def _rung(value: Mapping[str, Any]) -> Rung:
    accuracy, size = (
        None if value.get(key) is None else read_real(value[key]) for key in ("cloud_accuracy", "mean_bytes")
    )
    rung = Rung(str(value["name"]), _count(value["harms"]), accuracy, size)
    if not (rung.harms >= 0 and 0.0 <= (accuracy or 0.0) <= 1.0 and (size or 0.0) >= 0.0):
        raise CertificateError(f"certificate: its rung {rung.name[:40]} is impossible")
    return rung


def _check(what: str, seen: Certificate | Stratum) -> None:
    for name, possible in (
        ("n", seen.n > 0),
        ("harms", 0 <= seen.harms <= seen.n),
        ("p_value", 0.0 <= seen.p_value <= 1.0),
        ("local_share", 0.0 <= seen.local_share <= 1.0),
    ):
        if not possible:
            raise CertificateError(f"{what}: {name} is {getattr(seen, name)}, which is impossible")
