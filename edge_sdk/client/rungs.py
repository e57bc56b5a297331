"""The payload ladder of the client: the ways in which an input can travel, and the request made of the one chosen.

All that is sent of inputs is made here: files without their metadata.
"""

from __future__ import annotations

import importlib.util
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from edge_sdk.cascade.ladder import Making, Offer
from edge_sdk.client.drafts import Draft, Head
from edge_sdk.client.payload import MOST_BYTES, Capture, Contract
from edge_sdk.encodings import JPEG_QUALITY, WHOLE, Reduction, SentAs, encode_jpeg, resize_frame
from edge_sdk.errors import InputError
from edge_sdk.processing import ProcessingSpec
from edge_sdk.processing.resizing import rounds
from edge_sdk.protocol import Encoding
from edge_sdk.protocol.names import MAX_IMAGE_PIXELS
from edge_sdk.types import Reason

__all__ = ["DEFAULT_LADDER", "SWELLS", "Ladder", "Pilot", "Refused", "prepare"]

DEFAULT_LADDER = (SentAs(),)
"""What ``auto`` may send where no certificate says what it holds for; less only where apps say so."""

SWELLS = 1.1
"""A file by so much larger than was expected of it is chosen anew, with its size known."""


class Refused(Exception):  # noqa: N818 - never leaves the link
    """No way to send an input is worth it now, or none would be answered in time, or rules leave none."""

    def __init__(self, reason: Reason) -> None:
        super().__init__(reason)
        self.reason: Reason = reason


class Pilot(Protocol):
    """Who chooses between ways: knows the network, the budget, and what making takes."""

    @property
    def making(self) -> Making:
        """What ways take to be made."""

    def choose(self, offers: Sequence[Offer], remaining: float | None, confidence: float) -> int | Reason:
        """See `edge_sdk.cascade.control.Control.choose`."""

    def made(self, name: str, pixels: int, size: int, seconds: float) -> None:
        """Learn what making took."""


@dataclass(frozen=True, slots=True)
class Ladder:
    """What may be sent of one input, and who chooses.

    Attributes
    ----------
    rungs
        The best first.
    pilot
        Chooses.
    accuracies
        Share of inputs about which the cloud is right, of each rung; None where nobody measured.
    confidence
        Probability that the edge's answer is right; 0 where no bytes are to be spared.
    """

    rungs: tuple[SentAs, ...]
    pilot: Pilot | None = None
    accuracies: tuple[float | None, ...] = ()
    confidence: float = 0.0

    def of(self, rungs: tuple[SentAs, ...]) -> Ladder:
        """Return one of other rungs, with what is known of those that are the same."""
        known = dict(zip(self.rungs, self.accuracies, strict=False))
        return replace(self, rungs=rungs, accuracies=tuple(known.get(rung) for rung in rungs))


@dataclass(frozen=True, slots=True)
class _Way:
    """One form of one rung.

    Attributes
    ----------
    wire
        What it is called in a request.
    seen
        What the cloud's model sees, as certificates name it.
    rung
        Which of the ladder it is.
    size
        In bytes; None where that is known only when it is made.
    pixels
        Of what it is made of.
    takes
        What is taken off the input before.
    quality
        Of JPEG that is made here.
    is_file
        Whether it is the file that the input came as.
    """

    wire: Encoding
    seen: str
    rung: int
    size: int | None
    pixels: int
    takes: Reduction
    quality: int | None = None
    is_file: bool = False

    @property
    def name(self) -> str:
        """Of what is learned about making it: of JPEG by quality, of other forms by what they are."""
        return self.wire if self.quality is None else self.seen


@dataclass(frozen=True, slots=True)
class _Plan:
    """The ways of all inputs that are alike: of one model, shape and ladder.

    Attributes
    ----------
    ways
        The best first.
    accuracies
        Of each rung; see `Offer.ranked`.
    made_of
        What it was made for, kept so that nothing else gets the ids by which it is found.
    heads
        Of the requests, by the names of ways, as far as any were made.
    """

    ways: tuple[_Way, ...]
    accuracies: tuple[float, ...]
    made_of: tuple[object, ...]
    heads: dict[str, Head] = field(default_factory=dict)


_plans: dict[tuple[Any, ...], _Plan] = {}
_MOST_PLANS = 256
_SINGLE = ("auto", "captured", "jpeg", "tensor")


def prepare(
    contract: Contract,
    wanted: str,
    capture: Capture,
    edge_spec: ProcessingSpec,
    *,
    ladder: Ladder | None = None,
    remaining: Callable[[], float | None] = lambda: None,
    most_bytes: int = MOST_BYTES,
) -> Draft:
    """Return the request that asks about an input.

    Parameters
    ----------
    contract
        What the server says of its model.
    wanted
        An encoding, several with commas between them, or ``auto``: what the ladder says.
    capture
        What may be sent.
    edge_spec
        The edge model's processing.
    ladder
        For ``auto``; who chooses, where there is a choice. None takes the best.
    remaining
        Returns the seconds that are left; None waits.
    most_bytes
        That the input may take in a message.

    Raises
    ------
    Refused
        By the choice of the ladder's pilot; ``privacy`` where rules leave a picture as which no rung sends it.
    InputError
        The server takes none of what is wanted, or the input does not fit its model.
    MissingExtraError
        JPEG is to be encoded and Pillow is not installed.
    """
    capture = capture.stripped()
    ladder = ladder or Ladder(DEFAULT_LADDER)
    plan = _plan_for(contract, wanted, capture, edge_spec, ladder)
    ways = list(plan.ways)
    if capture.jpeg is not None:
        ways = [replace(way, size=len(capture.jpeg)) if way.is_file else way for way in ways]
    pilot = ladder.pilot if len({way.seen for way in ways}) > 1 else None  # of one there is nothing to choose
    ways = [way for way in ways if (way.size or 0) <= most_bytes]
    made: dict[_Way, NDArray[Any]] = {}
    while ways:
        n = 0 if pilot is None else _chosen(ways, plan.accuracies, pilot, remaining(), ladder.confidence)
        way, started = ways[n], time.perf_counter()
        tensor = made.get(way)
        if tensor is None:
            tensor = _payload(contract, way, capture.reduced(way.takes), edge_spec, most_bytes)
        size = len(tensor[0]) if way.wire == "jpeg" else tensor.nbytes
        if pilot is not None and way not in made:
            swells = way.size is None and size > SWELLS * _expected(way, pilot.making)
            pilot.made(way.name, way.pixels, size, time.perf_counter() - started)
            if swells and size <= most_bytes and len(ways) > 1:  # so large, it may not be the one to send
                ways[n] = replace(way, size=size)
                made[ways[n]] = tensor
                continue
        if size <= most_bytes:
            head = plan.heads.get(way.name)
            if head is None or not head.fits(tensor):
                head = plan.heads[way.name] = Head(contract, tensor, way.wire)
            return Draft(head, tensor, way.seen)
        ways.remove(way)  # it became larger than was expected
    raise InputError(f"the input is over {most_bytes} bytes as {wanted}, which is all that the cloud takes")


def _chosen(
    ways: list[_Way], accuracies: Sequence[float], pilot: Pilot, remaining: float | None, confidence: float
) -> int:
    """Return which way to go: the first where all show the cloud the same, so that there is nothing to choose."""
    if len({way.seen for way in ways}) == 1:
        return 0
    making = pilot.making
    offers = [
        Offer(
            _expected(way, making),
            making.seconds_of(way.name, way.pixels),
            accuracies[way.rung],
        )
        for way in ways
    ]
    chosen = pilot.choose(offers, remaining, confidence)
    if isinstance(chosen, str):
        raise Refused(chosen)
    return chosen


def _expected(way: _Way, making: Making) -> float:
    if way.size is not None:
        return way.size
    return making.size_of(way.name, way.pixels, way.quality or JPEG_QUALITY)


def _plan_for(contract: Contract, wanted: str, capture: Capture, edge_spec: ProcessingSpec, ladder: Ladder) -> _Plan:
    """Return the ways of an input; they are found once for all inputs that are alike."""
    pixels, made_of = capture.pixels, (contract, edge_spec, ladder.rungs, ladder.accuracies)
    key = (*map(id, made_of), wanted, pixels.shape, pixels.dtype, capture.reduction, capture.jpeg is None)
    plan = _plans.get(key)
    if plan is not None:
        return plan
    contract.check_takes(edge_spec)
    if wanted not in _SINGLE:
        ladder = ladder.of(SentAs.parse_all(wanted))
    ways = _ways(contract, wanted, capture, edge_spec, ladder)
    reduced_otherwise = capture.reduction != WHOLE and wanted not in _SINGLE
    if not ways and reduced_otherwise and not any(one.reduction in (WHOLE, capture.reduction) for one in ladder.rungs):
        raise Refused("privacy")  # what rules leave is none of what the app wants to be sent
    if not ways:
        reduced = f", of what rules leave of a picture ({capture.reduction})" if capture.reduction != WHOLE else ""
        offered = ", ".join(contract.encodings)
        raise InputError(f"the cloud's model {contract.model} takes {offered}, not {wanted}{reduced}")
    accuracies = Offer.ranked([*ladder.accuracies, *[None] * (len(ladder.rungs) - len(ladder.accuracies))])
    if len(_plans) >= _MOST_PLANS:
        _plans.clear()
    plan = _plans[key] = _Plan(tuple(ways), tuple(accuracies), made_of)
    return plan


def _ways(contract: Contract, wanted: str, capture: Capture, edge_spec: ProcessingSpec, ladder: Ladder) -> list[_Way]:
    """Return the ways that the server offers of what is wanted, the best first."""
    fits = math.prod(capture.pixels.shape[:2]) <= MAX_IMAGE_PIXELS or edge_spec.modality != "image"
    if wanted == "tensor":
        ways = [_as_tensor(contract, capture, edge_spec)]
    elif wanted == "captured":
        ways = [_as_captured(capture, 0)]
    elif wanted == "jpeg":
        ways = [_as_file(capture, 0) or _as_jpeg(capture, 0, JPEG_QUALITY)]
    elif edge_spec.modality != "image":
        ways = [_as_captured(capture, 0), _as_tensor(contract, capture, edge_spec)]
    else:
        mine = list(enumerate(ladder.rungs))
        if capture.reduction != WHOLE:  # by privacy rules: as named for that, else as what is left of it
            alike = [(n, one) for n, one in mine if one.reduction == capture.reduction]
            mine = alike or [(n, one) for n, one in mine if one.reduction == WHOLE]
        ways = [way for n, one in mine for way in _of_rung(contract, capture, n, one, edge_spec)]
        if wanted == "auto" and not any(way.wire in contract.encodings for way in ways):
            # nothing that the certificate names: what the edge saw, and the answer is not certified
            ways = _of_rung(contract, capture, 0, SentAs(), edge_spec)
    return [way for way in ways if way.wire in contract.encodings and (fits or way.wire in ("tensor", "resized"))]


def _of_rung(contract: Contract, capture: Capture, rung: int, one: SentAs, edge_spec: ProcessingSpec) -> list[_Way]:
    """Return the forms of one rung; those that need no work here come first."""
    takes = WHOLE
    if capture.reduction == WHOLE:
        capture, takes = capture.reduced(one.reduction), one.reduction
    if one.quality is not None:
        return [_as_jpeg(capture, rung, one.quality, takes)] if importlib.util.find_spec("PIL") is not None else []
    resized = _as_resized(contract, capture, rung, takes)
    if one.resized:
        return [] if resized is None else [resized]
    file = _as_file(capture, rung)
    exact = resized if resized is not None and not resized.seen.startswith("resized") else None
    forms = (file, _as_captured(capture, rung, takes), exact, _as_tensor(contract, capture, edge_spec, rung, takes))
    return [form for form in forms if form is not None]


def _as_file(capture: Capture, rung: int) -> _Way | None:
    if capture.jpeg is None:
        return None
    return _Way("jpeg", f"captured{capture.reduction}", rung, None, _pixels(capture), WHOLE, is_file=True)


def _as_captured(capture: Capture, rung: int, takes: Reduction = WHOLE) -> _Way:
    return _Way("captured", f"captured{capture.reduction}", rung, capture.pixels.nbytes, _pixels(capture), takes)


def _as_jpeg(capture: Capture, rung: int, quality: int, takes: Reduction = WHOLE) -> _Way:
    return _Way("jpeg", str(SentAs(quality, capture.reduction)), rung, None, _pixels(capture), takes, quality)


def _as_resized(contract: Contract, capture: Capture, rung: int, takes: Reduction) -> _Way | None:
    spec, shape = contract.processing, capture.pixels.shape
    if spec is None or spec.modality != "image":
        return None
    name = "resized" if rounds(spec, shape) else "captured"
    size = spec.target.height * spec.target.width * spec.channels
    return _Way("resized", name + str(capture.reduction), rung, size, _pixels(capture), takes)


def _as_tensor(
    contract: Contract, capture: Capture, edge_spec: ProcessingSpec, rung: int = 0, takes: Reduction = WHOLE
) -> _Way:
    """Return the processed tensor: of the cloud's own processing it shows the cloud what the edge saw."""
    spec = contract.processing or edge_spec.without_quantize()
    size = math.prod(spec.output_shape) * spec.output_dtype.itemsize
    name = "tensor" if contract.processing is None else "captured"
    return _Way("tensor", name + str(capture.reduction), rung, size, _pixels(capture), takes)


def _pixels(capture: Capture) -> int:
    return math.prod(capture.pixels.shape[:2])


def _payload(
    contract: Contract, way: _Way, capture: Capture, edge_spec: ProcessingSpec, most_bytes: int
) -> NDArray[Any]:
    if way.wire == "tensor":
        return contract.tensor(capture, edge_spec, most_bytes)
    if way.wire == "resized":
        return resize_frame(capture.pixels, contract.processing)
    if way.wire == "jpeg":
        item = np.empty(1, object)
        item[0] = capture.jpeg if way.is_file else encode_jpeg(capture.pixels, way.quality or JPEG_QUALITY)
        return item
    if edge_spec.modality == "image" and capture.pixels.ndim == 2:
        return capture.pixels[..., np.newaxis]
    return capture.pixels
