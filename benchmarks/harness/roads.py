"""A device that escalates over made-up networks by the client's own rules, and a clairvoyant one.

Time is a number that is handed on; nothing sleeps.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from edge_sdk.cascade.control import Budget, Control
from edge_sdk.cascade.ladder import Making, Offer
from edge_sdk.client.rungs import SWELLS
from edge_sdk.types import Reason
from harness.traces import Floats, Road, Trace, draw_trace

__all__ = [
    "LADDERS",
    "RUNGS",
    "Pictures",
    "Result",
    "Row",
    "clairvoyant",
    "compare",
    "draw_pictures",
    "drive",
    "informed",
]

RUNGS = {
    "captured": (0.975, 0.0),
    "jpeg:95": (0.975, 4e-3),
    "jpeg:75": (0.970, 3e-3),
    "resized": (0.965, 0.5e-3),
    "jpeg:50": (0.960, 2.5e-3),
    "jpeg:30": (0.935, 2.5e-3),
}
"""Accuracy of the cloud and seconds of encoding, by name, the best first."""

LADDERS = {"all rungs": tuple(RUNGS), "jpeg:75 alone": ("jpeg:75",), "captured alone": ("captured",)}
"""What clients have to choose from: the ladder, and for comparison what knows no other way."""

_PIXELS = 640 * 480


@dataclass(frozen=True)
class Pictures:
    """What there is to answer.

    Attributes
    ----------
    confidence, edge_right
        The edge's honest probability to be right, and whether it is; [n].
    sizes, cloud_right
        Bytes as each rung, and whether the cloud is right about it; [n, rungs].
    pace
        By how much making each takes longer than usual; [n].
    """

    confidence: Floats
    edge_right: NDArray[np.bool_]
    sizes: Floats
    cloud_right: NDArray[np.bool_]
    pace: Floats


def draw_pictures(n: int, seed: int) -> Pictures:
    """Draw pictures of a scene that changes slowly, and answers of a pair as in `harness.worlds`."""
    rng = np.random.default_rng([seed, 7])
    confidence = 1 - 0.9 * rng.beta(0.5, 3.6, n)
    detail, state = np.empty(n), 0.0
    for i in range(n):
        state = 0.95 * state + rng.normal(0.0, 0.1)
        detail[i] = math.exp(state + rng.normal(0.0, 0.1))
    sizes = np.empty((n, len(RUNGS)))
    for column, name in enumerate(RUNGS):
        kind, _, quality = name.partition(":")
        if kind == "jpeg":
            sizes[:, column] = 0.35 * math.exp((int(quality) - 95) / 28) * _PIXELS * detail
        else:
            sizes[:, column] = 224 * 224 * 3 if kind == "resized" else _PIXELS * 3
    hard = rng.random(n)  # the same for every rung: what is seen of a good picture is seen of a better one
    accuracy = np.array([accuracy for accuracy, _ in RUNGS.values()])
    right, pace = rng.random(n) < confidence, np.exp(rng.normal(0.0, 0.3, n))
    return Pictures(confidence, right, np.ceil(sizes), hard[:, None] < accuracy, pace)


@dataclass(frozen=True)
class Result:
    """What came of driving a trace, as shares of all requests, and the bytes sent.

    Attributes
    ----------
    right
        Right answers before the deadline: the utility.
    late
        Answers that the app got after its deadline.
    wasted
        Uploads that were not answered in time; the edge answered then, in time.
    closed
        Those of them that no encoding would have saved, for the way was closed.
    unforeseen
        Those of them that were the first to meet an outage: nothing could have told the device of it before.
    asked
        Uploads.
    sent, sent_in_vain
        Bytes.
    rungs
        Uploads by rung.
    reasons
        How often nothing was sent though the rule wanted it, by why.
    """

    right: float
    late: float
    wasted: float
    closed: float
    unforeseen: float
    asked: float
    sent: float
    sent_in_vain: float
    rungs: dict[str, int]
    reasons: dict[str, int]


def drive(
    trace: Trace,
    pictures: Pictures,
    road: Road,
    budget: Budget,
    *,
    threshold: float = 0.9,
    rungs: Sequence[str] = tuple(RUNGS),
) -> Result:
    """Answer pictures one after the other as the hybrid client does, with its own control and ladder."""
    control, making = Control.of(budget, 0.0), Making()
    n = len(pictures.confidence)
    right = late = wasted = closed = unforeseen = asked = sent = in_vain = 0.0
    met = -1
    count, reasons = dict.fromkeys(rungs, 0), {"deadline": 0, "budget": 0}
    columns = [list(RUNGS).index(name) for name in rungs]
    for i in range(n):
        start = i * road.interval
        confidence = float(pictures.confidence[i])
        answer, edge_seconds = bool(pictures.edge_right[i]), 0.005
        now, ends_at = start + edge_seconds, _ends_at(road, i)
        if confidence >= threshold:
            right += answer
            continue
        offers = [_offer(name, float(pictures.sizes[i, n]), making) for name, n in zip(rungs, columns, strict=True)]
        name, size, made = "", 0, set()
        while True:
            control, chosen = control.choose(now, offers, ends_at - now, confidence=confidence)
            if isinstance(chosen, str):
                break
            name, size = rungs[chosen], math.ceil(pictures.sizes[i, columns[chosen]])
            if chosen in made:
                break
            takes, expected = RUNGS[name][1] * float(pictures.pace[i]), offers[chosen]
            making = making.learn(name, _PIXELS, size, takes)
            now += takes
            if size <= SWELLS * expected.size:
                break
            offers[chosen] = Offer(size, 0.0, expected.accuracy)
            made.add(chosen)
        if isinstance(chosen, str):
            refused: Reason | None = chosen
        else:
            control, refused = control.ask(now, size, ends_at - now)
        if isinstance(chosen, str) or refused is not None:
            reasons[str(refused)] += 1
            right += answer
            late += now > start + road.deadline
            continue
        asked += 1
        sent += size
        count[name] += 1
        answered = trace.answered_at(now, size, ends_at)
        if answered <= ends_at:
            control = control.learn(size, answered - now, answered)
            right += bool(pictures.cloud_right[i, columns[chosen]])
        else:
            control = control.miss(size, ends_at - now, ends_at)
            wasted += 1
            if not math.isfinite(trace.answered_at(now, min(pictures.sizes[i]), ends_at)):
                closed += 1
                outage = trace.outage_within(now, ends_at)
                unforeseen += outage is not None and outage != met
                met = met if outage is None else outage
            in_vain += size
            right += answer
        late += max(now, min(answered, ends_at)) > start + road.deadline
    return Result(right / n, late / n, wasted / n, closed / n, unforeseen / n, asked / n, sent, in_vain, count, reasons)


def _offer(name: str, size: float, making: Making) -> Offer:
    kind, _, quality = name.partition(":")
    expected = making.size_of(name, _PIXELS, int(quality)) if kind == "jpeg" else size
    return Offer(expected, making.seconds_of(name, _PIXELS), RUNGS[name][0])


def informed(trace: Trace, pictures: Pictures, road: Road, amount: float, *, threshold: float = 0.9) -> float:
    """Return about how many right answers one can expect who knows trace and sizes, but no answer before it is given.

    What separates this from `clairvoyant` is not knowing which pictures the models get wrong; what separates
    `drive` from this is not knowing the network. The knapsack is solved greedily, by gain a byte, and one
    picture is sent once; like the client, it asks only where the rule does.
    """
    gains, sizes = [], []
    for i in map(int, np.flatnonzero(pictures.confidence < threshold)):
        steps = []
        for column, (accuracy, takes) in enumerate(RUNGS.values()):
            size = float(pictures.sizes[i, column])
            start = i * road.interval + 0.005 + takes * float(pictures.pace[i])
            if math.isfinite(trace.answered_at(start, size, _ends_at(road, i))):
                steps.append((size, accuracy - float(pictures.confidence[i])))
        # the upper hull: each further byte gains less than the one before
        hull = [(0.0, 0.0)]
        for size, gain in sorted(steps):
            if gain <= hull[-1][1]:
                continue
            while len(hull) > 1 and _slope(hull[-1], (size, gain)) >= _slope(hull[-2], hull[-1]):
                hull.pop()
            hull.append((size, gain))
        for one, other in itertools.pairwise(hull):
            gains.append(other[1] - one[1])
            sizes.append(other[0] - one[0])
    order = np.argsort(-np.array(gains) / np.array(sizes))
    afford = np.cumsum(np.array(sizes)[order]) <= amount
    return float(pictures.edge_right.mean() + np.array(gains)[order][afford].sum() / len(pictures.confidence))


def _slope(one: tuple[float, float], other: tuple[float, float]) -> float:
    return (other[1] - one[1]) / (other[0] - one[0])


def _ends_at(road: Road, i: int) -> float:
    return i * road.interval + road.deadline - min(max(0.05 * road.deadline, 0.001), 0.010)


def clairvoyant(
    trace: Trace, pictures: Pictures, road: Road, amount: float, *, rungs: Sequence[str] = tuple(RUNGS)
) -> float:
    """Return the largest share of right answers in time that any planner can have, exactly.

    It knows the trace, every size and every answer. Requests do not overlap, so only the bytes couple them: one
    is worth sending where the edge is wrong and some rung is right in time, and then in the fewest bytes. All of
    them being worth one right answer, the cheapest first solve the knapsack.
    """
    costs = []
    columns = [(list(RUNGS).index(name), RUNGS[name][1]) for name in rungs]
    for i in map(int, np.flatnonzero(~pictures.edge_right)):
        start, fits = i * road.interval + 0.005, []
        for column, takes in columns:
            size = float(pictures.sizes[i, column])
            in_time = math.isfinite(trace.answered_at(start + takes * float(pictures.pace[i]), size, _ends_at(road, i)))
            if pictures.cloud_right[i, column] and in_time:
                fits.append(size)
        if fits:
            costs.append(min(fits))
    spent = np.cumsum(np.sort(costs)) if costs else np.empty(0)
    return (int(pictures.edge_right.sum()) + int((spent <= amount).sum())) / len(pictures.edge_right)


class Row(NamedTuple):
    """One trace: utility as a share of the optimum and of who knows the network alone; see `Result`.

    Attributes
    ----------
    in_vain, closed, unforeseen
        `Result.wasted`, what of it no encoding would have saved, and what of that nobody could have known.
    spent
        Share of the budget.
    edge
        Right answers of the edge alone, as a share of the optimum.
    """

    of_optimum: float
    of_informed: float
    late: float
    in_vain: float
    closed: float
    unforeseen: float
    asked: float
    spent: float
    edge: float


def compare(road: Road, requests: int, seed: int, bytes_a_request: float, rungs: Sequence[str] = tuple(RUNGS)) -> Row:
    """Drive one trace, and plan it with all that can be known; the planners have all rungs, whatever we have."""
    seconds, amount = requests * road.interval, requests * bytes_a_request
    trace, pictures = draw_trace(road, seconds, seed), draw_pictures(requests, seed)
    ours = drive(trace, pictures, road, Budget(bytes=amount, period=seconds), rungs=rungs)
    best = clairvoyant(trace, pictures, road, amount)
    able = informed(trace, pictures, road, amount)
    return Row(
        ours.right / best,
        ours.right / able,
        ours.late,
        ours.wasted,
        ours.closed,
        ours.unforeseen,
        ours.asked,
        ours.sent / amount,
        float(pictures.edge_right.mean()) / best,
    )
