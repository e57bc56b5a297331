"""Checks that all cases agree, then times them in turns."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from harness.tasks import Task

__all__ = ["CaseResult", "DisagreementError", "Skipped", "TaskResult", "measure"]

MAX_INNER = 1_000_000


class DisagreementError(Exception):
    """Two cases of a task give different answers, so comparing their speed means nothing."""


@dataclass(frozen=True)
class Skipped:
    """A case that could not run here."""

    name: str
    reason: str


@dataclass(frozen=True)
class CaseResult:
    """Seconds a call of one case took.

    Attributes
    ----------
    samples
        One per round: the mean of ``inner`` calls in a row.
    distance
        Distance of its answer from ours.
    ratio, ratio_low, ratio_high
        Time of this case over time of ours, round by round: median and quartiles.
    """

    name: str
    ours: bool
    version: str
    note: str
    inner: int
    samples: tuple[float, ...]
    distance: float
    ratio: float
    ratio_low: float
    ratio_high: float

    def quantile(self, q: float) -> float:
        """Return a quantile of the samples, in seconds."""
        return float(np.quantile(self.samples, q))

    def to_json(self) -> dict[str, Any]:
        """Return the record as JSON-compatible values; times in seconds."""
        return {
            "name": self.name,
            "ours": self.ours,
            "version": self.version,
            "note": self.note,
            "inner_calls": self.inner,
            "rounds": len(self.samples),
            "seconds": {
                "median": self.quantile(0.5),
                "q1": self.quantile(0.25),
                "q3": self.quantile(0.75),
                "min": min(self.samples),
                "max": max(self.samples),
                "samples": list(self.samples),
            },
            "distance_from_ours": self.distance,
            "time_over_ours": {"median": self.ratio, "q1": self.ratio_low, "q3": self.ratio_high},
        }


@dataclass(frozen=True)
class TaskResult:
    """Everything one task gave."""

    name: str
    what: str
    cases: tuple[CaseResult, ...]
    skipped: tuple[Skipped, ...]

    def to_json(self) -> dict[str, Any]:
        """Return the record as JSON-compatible values."""
        return {
            "name": self.name,
            "what": self.what,
            "cases": [case.to_json() for case in self.cases],
            "skipped": [{"name": case.name, "reason": case.reason} for case in self.skipped],
        }


def measure(
    task: Task,
    *,
    rounds: int = 30,
    warm_up: int = 3,
    sample_seconds: float = 0.005,
    clock: Callable[[], float] = time.perf_counter,
) -> TaskResult:
    """Time every installed case of a task.

    Parameters
    ----------
    task
        What to do.
    rounds
        How often each case is sampled. In each round every case runs once; the one that begins
        changes from round to round.
    warm_up
        Untimed calls of each case before the first round.
    sample_seconds
        A fast case is called so often in a row that a sample lasts about this long.
    clock
        Seconds, as `time.perf_counter`.

    Raises
    ------
    DisagreementError
        A case's answer is farther from ours than its tolerance.
    ValueError
        Our own case cannot be imported, or `rounds` is not positive.
    """
    if rounds < 1:
        raise ValueError(f"rounds must be 1 or more, not {rounds}")
    if not task.ours.installed:
        raise ValueError(f"task {task.name}: our own case needs {task.ours.pip or task.ours.module}")
    skipped = tuple(
        Skipped(case.name, f"not installed: pip install {case.pip or case.module}")
        for case in task.cases
        if not case.installed
    )
    cases = [case for case in task.cases if case.installed]
    calls = [case.make() for case in cases]
    distances = _check(task, [(case.name, case.tolerance, call()) for case, call in zip(cases, calls, strict=True)])
    inner = [_inner_calls(call, warm_up, sample_seconds, clock) for call in calls]
    samples = _sample(calls, inner, rounds, clock)
    ours = samples[cases.index(task.ours)]
    results = []
    for index, case in enumerate(cases):
        low, middle, high = np.quantile(samples[index] / ours, [0.25, 0.5, 0.75])
        results.append(
            CaseResult(
                name=case.name,
                ours=case.ours,
                version=case.version,
                note=case.note,
                inner=inner[index],
                samples=tuple(samples[index].tolist()),
                distance=distances[case.name],
                ratio=float(middle),
                ratio_low=float(low),
                ratio_high=float(high),
            )
        )
    return TaskResult(task.name, task.what, tuple(results), skipped)


def _check(task: Task, answers: list[tuple[str, float | None, Any]]) -> dict[str, float]:
    expected = next(answer for name, _, answer in answers if name == task.ours.name)
    distances = {}
    for name, own_tolerance, answer in answers:
        tolerance = task.tolerance if own_tolerance is None else own_tolerance
        distances[name] = task.distance(answer, expected)
        if not distances[name] <= tolerance:
            raise DisagreementError(
                f"task {task.name}: {name} is {distances[name]:.3g} away from {task.ours.name}; "
                f"{tolerance:.3g} is allowed, so their times cannot be compared"
            )
    return distances


def _inner_calls(call: Callable[[], Any], warm_up: int, sample_seconds: float, clock: Callable[[], float]) -> int:
    fastest = float("inf")
    for _ in range(max(1, warm_up)):
        start = clock()
        call()
        fastest = min(fastest, clock() - start)
    if fastest <= 0:
        return MAX_INNER if sample_seconds > 0 else 1
    return int(min(MAX_INNER, max(1, round(sample_seconds / fastest))))


def _sample(
    calls: list[Callable[[], Any]], inner: list[int], rounds: int, clock: Callable[[], float]
) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
    samples = np.empty((len(calls), rounds))
    collecting = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        for turn in range(rounds):
            for step in range(len(calls)):
                # another one begins each round: nobody always runs after the same neighbour's cache
                index = (turn + step) % len(calls)
                call, count = calls[index], inner[index]
                start = clock()
                for _ in range(count):
                    call()
                samples[index, turn] = (clock() - start) / count
    finally:
        if collecting:
            gc.enable()
    return samples
