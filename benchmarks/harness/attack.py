"""Many calls while something is broken: how many were answered, how late, and what they left behind."""

from __future__ import annotations

import os
import threading
import time
from array import array
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Attack", "Resources", "attack", "seconds_until"]

TICK = 0.020  # seconds


@dataclass(frozen=True)
class Resources:
    """What this process holds.

    Attributes
    ----------
    threads
        Of the process, those of libraries among them.
    descriptors
        Open files and sockets.
    memory
        Resident bytes.
    """

    threads: int
    descriptors: int
    memory: int

    @classmethod
    def now(cls) -> Resources:
        """Count; all 0 where the system has no ``/proc``."""
        here = Path("/proc/self")
        if not here.exists():
            return cls(0, 0, 0)
        pages = int((here / "statm").read_text().split()[1])
        return cls(
            len(list((here / "task").iterdir())),
            len(list((here / "fd").iterdir())),
            pages * os.sysconf("SC_PAGE_SIZE"),
        )


@dataclass(frozen=True)
class Attack:
    """What became of the calls.

    Attributes
    ----------
    calls
        How many were made.
    outcomes
        What they returned, and how often; errors by the name of their class.
    errors
        How many raised.
    latencies
        Float64 [calls], seconds, in order of start.
    early, late
        What the process held after a tenth of the calls, and after the last.
    timer
        Float64, seconds: by how much a timer of this process was late meanwhile. Where that is much, the
        machine was busy with other things, and latencies say little.
    """

    calls: int
    outcomes: dict[str, int]
    errors: int
    latencies: NDArray[np.float64]
    early: Resources
    late: Resources
    timer: NDArray[np.float64]

    @property
    def answered(self) -> int:
        """How many calls returned."""
        return self.calls - self.errors

    def quantile(self, share: float) -> float:
        """Return the latency in seconds that this share of the calls did not exceed."""
        return float(np.quantile(self.latencies, share, method="higher"))


def attack(
    call: Callable[[Any], str], inputs: Sequence[Any], calls: int, *, threads: int = 4, rate: float | None = None
) -> Attack:
    """Call from several threads.

    Parameters
    ----------
    call
        Takes one of the inputs; returns a word that says what came of it. It may raise.
    inputs
        Taken in turn.
    calls
        How many in all.
    threads
        How many callers.
    rate
        Calls a second, of all threads together; None is as fast as they return.

    Returns
    -------
    Attack
        A call's latency counts from when it was made, not from when it was due.
    """
    latencies = np.full(calls, np.nan)  # written to at once, so that it does not look like growth
    outcomes: list[Counter[str]] = [Counter() for _ in range(threads)]
    errors = [0] * threads
    early: list[Resources] = []
    lateness = array("d")  # a list of an hour would be taken for growth
    over = threading.Event()
    began = time.perf_counter()

    def watch() -> None:
        while not over.is_set():
            started = time.perf_counter()
            time.sleep(TICK)
            lateness.append(time.perf_counter() - started - TICK)

    def run(caller: int) -> None:
        for i in range(caller, calls, threads):
            if rate is not None:
                time.sleep(max(0.0, began + i / rate - time.perf_counter()))
            started = time.perf_counter()
            try:
                outcome = call(inputs[i % len(inputs)])
            except Exception as error:  # noqa: BLE001 - any is a failure to be counted
                outcome = type(error).__name__
                errors[caller] += 1
            latencies[i] = time.perf_counter() - started
            outcomes[caller][outcome] += 1
            if i == calls // 10:
                early.append(Resources.now())

    callers = [threading.Thread(target=run, args=(i,), name=f"caller-{i}") for i in range(threads)]
    watcher = threading.Thread(target=watch, name="timer")
    watcher.start()
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    late = Resources.now()
    over.set()
    watcher.join()
    # the callers themselves have ended by now
    late = Resources(late.threads + threads, late.descriptors, late.memory)
    return Attack(calls, dict(sum(outcomes, Counter())), sum(errors), latencies, early[0], late, np.array(lateness))


def seconds_until(holds: Callable[[], bool], within: float, *, pause: float = 0.02) -> float | None:
    """Return after how many seconds something held, tried every ``pause`` seconds; None where it did not."""
    began = time.perf_counter()
    while not holds():
        if time.perf_counter() - began > within:
            return None
        time.sleep(pause)
    return time.perf_counter() - began
