"""The payload ladder: which of several encodings of an input to send, and what each takes to be made.

Pure functions on frozen records with an explicit clock, as in `edge_sdk.cascade.control`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

__all__ = ["Making", "Offer", "best_offer"]

_GAIN = 0.2  # weight of the newest picture in what is known of making them
_LEAST_GAIN = 0.05  # as a share of accuracy: the rule wants the cloud's answer though little be gained
_CERTAIN = 0.97  # surer than this is not asked, or fidelity would be given for nothing
_LOSS = 0.01  # of accuracy from one rung to the next where nobody has measured it
_PHOTO = 0.4, 25.0  # bytes a pixel of a photograph at quality 95, and by how much quality these fall by a factor e


@dataclass(frozen=True, slots=True)
class Offer:
    """An encoding in which an input could be sent now.

    Attributes
    ----------
    size
        Bytes, known or expected.
    seconds
        That making it is expected to take.
    accuracy
        Share of inputs about which the cloud is right when it sees them so.
    """

    size: float
    seconds: float
    accuracy: float

    @staticmethod
    def ranked(accuracies: Sequence[float | None]) -> list[float]:
        """Return an accuracy for each of several encodings, the best first, of which not all are measured."""
        ranked: list[float] = []
        for accuracy in accuracies:
            guess = ranked[-1] - _LOSS if ranked else 1.0
            ranked.append(guess if accuracy is None else accuracy)
        return ranked


@dataclass(frozen=True, slots=True)
class Making:
    """What encodings take: bytes and seconds a pixel by the name of each, learned from those that were made.

    Attributes
    ----------
    sizes, seconds
        Weighted means, the latest weighing most.
    """

    sizes: Mapping[str, float] = field(default_factory=lambda: MappingProxyType({}))
    seconds: Mapping[str, float] = field(default_factory=lambda: MappingProxyType({}))

    def learn(self, name: str, pixels: int, size: float, seconds: float) -> Making:
        """Return what is known after one more input of so many pixels was brought into an encoding."""

        def after(known: Mapping[str, float], value: float) -> Mapping[str, float]:
            mean = known.get(name, value)
            return MappingProxyType({**known, name: mean + _GAIN * (value - mean)})

        return Making(after(self.sizes, size / pixels), after(self.seconds, seconds / pixels))

    def size_of(self, name: str, pixels: int, quality: int) -> float:
        """Return the bytes to expect of JPEG: as of those made at this quality, else as of photographs."""
        if name in self.sizes:
            return self.sizes[name] * pixels
        most, falls = _PHOTO
        return most * math.exp((quality - 95) / falls) * pixels

    def seconds_of(self, name: str, pixels: int) -> float:
        """Return the seconds that making it should take; 0 where that is not known."""
        return self.seconds.get(name, 0.0) * pixels


def best_offer(
    offers: Sequence[Offer],
    in_time: Sequence[float],
    *,
    confidence: float,
    price: float,
    sure: float,
) -> int | None:
    """Return which encoding is worth most, or None where none is worth its price.

    Worth is how much likelier the answer becomes right, times the probability that it comes in time, less what
    its bytes cost. With a price at which the budget is just used up, this is the best that can be done with it
    (the Lagrangian of a knapsack). Of equals the first is taken.

    Parameters
    ----------
    offers
        At least one.
    in_time
        Probability of each to be answered in time.
    confidence
        Probability that the answer is right without asking.
    price
        Of a byte, in probability of a right answer; 0 asks whatever it costs.
    sure
        Probability of an answer in time below which one is not considered.
    """
    best, most = None, -math.inf
    for n, (offer, probability) in enumerate(zip(offers, in_time, strict=True)):
        if probability < sure:
            continue
        gain = max(offer.accuracy - confidence, _LEAST_GAIN * offer.accuracy)
        worth = gain * min(probability, _CERTAIN) - price * offer.size
        if worth > most and (price == 0.0 or worth > 0.0):
            best, most = n, worth
    return best
