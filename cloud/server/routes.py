"""Routing among the lines of a server's models, and shadows: versions that are asked, too, but never answer.

A mirrored request begins when the answer it is compared with is there, goes last in its line, and is left out where
there is no room. Whatever becomes of it, the request that it mirrors is answered.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from edge_sdk.cloud.server.asked import Answer, Request
from edge_sdk.cloud.server.lines import Line
from edge_sdk.cloud.server.routing import MOST_REMEMBERED, Arm, Router, Routing
from edge_sdk.errors import OverloadedError

__all__ = ["Agreement", "Routes", "ShadowCounts", "compare"]

Array = np.ndarray[Any, Any]
ArmRow = tuple[str, str, str, int, int, float]  # model, version, digest, and what `Arm` holds
Outputs = Mapping[str, Array]
_Infer = Callable[[Request], Awaitable[Answer]]
LAST = 2**30
"""Priority of mirrored requests."""
_MOST_AT_ONCE = 4  # mirrored requests of a model
_SECONDS = 10.0  # that one may wait
_INLINE_ITEMS = 65_536  # numbers; more are compared beside the event loop


@dataclass(frozen=True, slots=True)
class Agreement:
    """How far two answers agree.

    Attributes
    ----------
    items
        How many inputs they answer.
    same
        Of them, those for which the first output is largest at the same place.
    difference
        Largest absolute difference of any two numbers; infinite where only one is NaN.
    """

    items: int
    same: int
    difference: float


@dataclass(slots=True)
class ShadowCounts:
    """What became of the requests mirrored to one version.

    Attributes
    ----------
    compared, failed, skipped
        Requests whose answers were compared, that failed or gave what cannot be compared, and for which there was
        no room.
    items, same
        Sums of those of `Agreement`.
    difference
        The largest one so far.
    """

    compared: int = 0
    failed: int = 0
    skipped: int = 0
    items: int = 0
    same: int = 0
    difference: float = 0.0


class Routes:
    """How requests find a version; its methods are called on the server's event loop."""

    def __init__(self) -> None:
        self.routers: dict[str, Router] = {}
        self.shadows: dict[tuple[str, str], ShadowCounts] = {}
        self._at_work: dict[str, int] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def busy(self) -> bool:
        """Mirrored requests are at work."""
        return bool(self._tasks)

    @staticmethod
    def main(versions: dict[str, Line]) -> Line:
        """Return the version that stands for a model: its primary one, or that of the largest share, or the highest."""
        newest = next(reversed(versions.values()))
        if (routing := newest.settings.routing) is None:
            return newest
        others = [version for version in versions if version != routing.shadow]
        for version in (*routing.versions, *reversed(others)):
            if version in versions and version != routing.shadow:
                return versions[version]
        return newest

    def choose(self, name: str, key: str, versions: dict[str, Line]) -> Line:
        """Return the version that answers a request which names none.

        Parameters
        ----------
        name
            The model.
        key
            What it is assigned by; empty is chance.
        versions
            Those that are there, ascending; at least one.
        """
        routing = _routing(versions)
        if routing is None:
            return self.main(versions)
        ready = {version: line.model.digest for version, line in versions.items() if not line.hangs}
        chosen = self._router(name).choose(routing, ready or _digests(versions), key)
        return versions[chosen]

    def count_more(self, line: Line, items: int) -> None:
        """Let a bandit know that a request which it chose a version for has so many more items, each to be rewarded."""
        router = self.routers.get(line.model.name)
        arm = router and router.arms.get((line.model.version, line.model.digest))
        if arm:
            arm.chosen += items

    def reward(self, name: str, versions: dict[str, Line], version: str, reward: object, decision: str = "") -> None:
        """Let a bandit learn how good an answer was; raise `InputError` where it cannot."""
        self._router(name).reward(_routing(versions), _digests(versions), version, reward, decision)

    def arms(self) -> list[ArmRow]:
        """Return what bandits know by their own answers, for other processes of the server."""
        return [
            (router.model, version, digest, arm.chosen, arm.rewards, arm.reward)
            for router in self.routers.values()
            for (version, digest), arm in router.arms.items()
        ]

    def learn(self, name: str, others: Iterable[Sequence[Any]], decision: str = "") -> None:
        """Take over what other processes of the server know of a model, and which answer was rewarded there."""
        rows = [row for row in others if row[0] == name]
        if rows or decision:
            self._router(name).learn({(row[1], row[2]): Arm(*row[3:]) for row in rows}, decision)

    def mirror(self, request: Request, versions: dict[str, Line], answer: Answer, infer: _Infer | None) -> None:
        """Send the shadow what has been answered, where there is one and it is its turn; returns at once.

        Parameters
        ----------
        request, answer
            What was asked, and the answer.
        versions
            As for `choose`; may be none by now.
        infer
            Runs a request. None where there is no room for it.
        """
        name, routing = request.model, _routing(versions) if versions else None
        if routing is None or not routing.shadow or not self._router(name).is_mirrored(routing, request.key):
            return
        counts = self.shadows.get((name, routing.shadow))
        if counts is None:
            for old in [key for key in self.shadows if key[0] == name][:-MOST_REMEMBERED]:
                del self.shadows[old]
            counts = self.shadows[name, routing.shadow] = ShadowCounts()
        if infer is None or routing.shadow not in versions or self._at_work.get(name, 0) >= _MOST_AT_ONCE:
            counts.skipped += 1
            return
        self._at_work[name] = self._at_work.get(name, 0) + 1
        again = replace(request, version=routing.shadow, priority=LAST, deadline=time.monotonic() + _SECONDS)
        task = asyncio.create_task(self._mirror(again, answer.outputs, infer, counts))
        self._tasks.add(task)  # the loop holds tasks only weakly
        task.add_done_callback(self._tasks.discard)

    async def _mirror(self, request: Request, outputs: Outputs, infer: _Infer, counts: ShadowCounts) -> None:
        try:
            others = (await infer(request)).outputs
            if sum(array.size for array in outputs.values()) <= _INLINE_ITEMS:
                agreement = compare(outputs, others)
            else:
                agreement = await asyncio.to_thread(compare, outputs, others)
        except OverloadedError:
            counts.skipped += 1
        except Exception:  # noqa: BLE001 - whatever it is, the request it mirrors was answered
            counts.failed += 1
        else:
            counts.compared += 1
            counts.items += agreement.items
            counts.same += agreement.same
            counts.difference = max(counts.difference, agreement.difference)
        finally:
            self._at_work[request.model] -= 1

    def _router(self, name: str) -> Router:
        router = self.routers.get(name)
        if router is None:
            router = self.routers[name] = Router(name)
        return router


def compare(ours: Outputs, theirs: Outputs) -> Agreement:
    """Return how far two answers to one request agree.

    Parameters
    ----------
    ours, theirs
        Output tensors by name, each [N, ...] of N items.

    Raises
    ------
    ValueError
        They are not of the same names and shapes, or hold no numbers.
    """
    if list(ours) != list(theirs) or not ours:
        raise ValueError(f"outputs {list(ours)} and {list(theirs)} cannot be compared")
    difference = 0.0
    for name, mine in ours.items():
        other = theirs[name]
        if mine.shape != other.shape or mine.dtype.kind not in "fiub" or other.dtype.kind not in "fiub":
            raise ValueError(f"output {name}: {mine.dtype} {mine.shape} and {other.dtype} {other.shape}")
        difference = max(difference, _difference(mine, other))
    first, second = next(iter(ours.values())), next(iter(theirs.values()))
    items = len(first) if first.ndim else 1
    if not first.size:
        return Agreement(items, items, difference)
    same = np.argmax(first.reshape(items, -1), axis=1) == np.argmax(second.reshape(items, -1), axis=1)
    return Agreement(items, int(np.count_nonzero(same)), difference)


def _difference(mine: Array, other: Array) -> float:
    if not mine.size:
        return 0.0
    a, b = mine.astype(np.float64), other.astype(np.float64)
    with np.errstate(invalid="ignore"):
        apart = np.where((a == b) | (np.isnan(a) & np.isnan(b)), 0.0, np.abs(a - b))
    largest = float(np.max(apart))
    return math.inf if math.isnan(largest) else largest


def _routing(versions: dict[str, Line]) -> Routing | None:
    return next(reversed(versions.values())).settings.routing


def _digests(versions: dict[str, Line]) -> dict[str, str]:
    return {version: line.model.digest for version, line in versions.items()}
