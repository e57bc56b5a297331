"""What a suite declares: tasks and their cases."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from typing import Any

import numpy as np

__all__ = ["Case", "Task", "largest_difference"]


def largest_difference(answer: Any, expected: Any) -> float:
    """Return the largest absolute difference of two arrays; infinite where their shapes differ or a NaN is in."""
    answer, expected = np.asarray(answer, np.float64), np.asarray(expected, np.float64)
    if answer.shape != expected.shape:
        return float("inf")
    difference = float(np.abs(answer - expected).max(initial=0.0))
    return difference if np.isfinite(difference) else float("inf")


@dataclass(frozen=True)
class Case:
    """One way to do a task.

    Attributes
    ----------
    name
        Shown in tables.
    make
        Called once, untimed; returns the function of no arguments that is timed and returns the
        answer. Peers are imported in here.
    module, pip
        What it imports, and the distribution that brings it; both empty where nothing special is
        needed.
    ours
        Whether it is the one that peers are compared with.
    tolerance
        Largest distance from our answer that counts as the same answer; the task's by default.
    note
        What a reader of the table must know, such as that it computes something slightly different.
    """

    name: str
    make: Callable[[], Callable[[], Any]]
    module: str = ""
    pip: str = ""
    ours: bool = False
    tolerance: float | None = None
    note: str = ""

    @property
    def installed(self) -> bool:
        """Whether what it imports can be imported."""
        if not self.module:
            return True
        try:
            importlib.import_module(self.module)
        except ImportError:
            return False
        return True

    @property
    def version(self) -> str:
        """Version of its distribution, or an empty string."""
        return metadata.version(self.pip) if self.pip else ""


@dataclass(frozen=True)
class Task:
    """One job, and everyone who does it.

    Attributes
    ----------
    name
        Unique in its suite.
    what
        The job and its input in one line.
    cases
        Exactly one of them is ours.
    tolerance
        Largest `distance` that counts as the same answer.
    distance
        Called with a peer's answer and ours.
    """

    name: str
    what: str
    cases: tuple[Case, ...]
    tolerance: float = 1e-6
    distance: Callable[[Any, Any], float] = largest_difference

    def __post_init__(self) -> None:
        if sum(case.ours for case in self.cases) != 1:
            raise ValueError(f"task {self.name}: exactly one case must be ours")
        names = [case.name for case in self.cases]
        if len(set(names)) != len(names):
            raise ValueError(f"task {self.name}: two cases have one name: {', '.join(names)}")

    @property
    def ours(self) -> Case:
        """The case that peers are compared with."""
        return next(case for case in self.cases if case.ours)
