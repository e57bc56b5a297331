"""The health probe: a new version must answer on this device as it did where it was packed, fast and small enough."""

from __future__ import annotations

import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edge_sdk.bundle import Bundle, GoldenSet
from edge_sdk.errors import HealthError, InputError
from edge_sdk.model import EdgeModel
from edge_sdk.verification import verify

__all__ = ["Limits", "probe"]

_SECONDS = 300.0


@dataclass(frozen=True, slots=True)
class Limits:
    """What a version may take on this device.

    Attributes
    ----------
    latency
        Seconds from a golden example to its answer, processing included: the median of ``runs``. None: any.
    memory
        Bytes by which a process grows that loads and runs the model. None: any.
    runs
        Answers that are timed, after one that is not.

    Raises
    ------
    InputError
        A limit is not positive.
    """

    latency: float | None = None
    memory: int | None = None
    runs: int = 20

    def __post_init__(self) -> None:
        for name in ("latency", "memory", "runs"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise InputError(f"the health limit {name} is {value}, and not above 0")


def probe(
    bundle: Bundle, limits: Limits | None = None, own: Callable[[Bundle], object] | None = None
) -> dict[str, Any]:
    """Run a bundle's golden examples through its processing and model on this device.

    Parameters
    ----------
    bundle
        The version, unpacked to a folder.
    limits
        What it may take; by default anything.
    own
        The app's own probe, last; whatever it raises is why the version is refused.

    Returns
    -------
    dict
        What was measured, as `edge_sdk.verification.verify` reports it, with ``latency`` (s) and
        ``memory`` (bytes) where ``limits`` are given.

    Raises
    ------
    HealthError
        An output or a processed tensor is not as stored, a limit is not kept, the app's probe refuses, or
        the model cannot be run at all.
    """
    try:
        measured: dict[str, Any] = dict(verify(bundle))
        if limits is not None:
            measured |= _measure(bundle, limits)
        if own is not None:
            own(bundle)
    except Exception as error:  # a runtime may raise anything on a bad model; none of it may end the agent
        raise HealthError(f"{bundle.manifest.name}-{bundle.manifest.version} is not healthy: {error}") from error
    return measured


def _measure(bundle: Bundle, limits: Limits) -> dict[str, float]:
    # in a process of its own: this one may have memory at hand from models that it ran before
    command = [sys.executable, "-P", "-m", "edge_sdk.ota.health", str(bundle.path), str(limits.runs)]
    known = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}  # a runtime may be on a path added by hand
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS, check=False, env=known)
    except subprocess.TimeoutExpired as error:
        raise HealthError(f"it does not answer {limits.runs} times within {_SECONDS:g} s") from error
    if done.returncode != 0:
        raise HealthError(f"the process that measures it failed: {done.stderr.strip().splitlines()[-1:]}")
    measured: dict[str, float] = json.loads(done.stdout)
    latency, memory = measured["latency"], measured["memory"]
    if limits.latency is not None and latency > limits.latency:
        raise HealthError(f"an answer takes {latency * 1e3:.3g} ms; {limits.latency * 1e3:.3g} ms are allowed")
    if limits.memory is not None and memory > limits.memory:
        raise HealthError(f"it takes {memory / 1e6:.3g} MB of memory; {limits.memory / 1e6:.3g} MB are allowed")
    return measured


def _main(folder: str, runs: int) -> None:
    bundle = Bundle.open(folder)
    inputs, before, seconds = GoldenSet.from_bundle(bundle).inputs, _resident(), []
    with EdgeModel(bundle) as model:
        model.golden(inputs[0])
        for run in range(runs):
            started = time.perf_counter()
            model.golden(inputs[run % len(inputs)])
            seconds.append(time.perf_counter() - started)
        measured = {"latency": statistics.median(seconds), "memory": max(0, _resident() - before)}
    sys.stdout.write(json.dumps(measured))


def _resident() -> int:
    """Return this process's memory in bytes; where only its peak is known, that."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
    except OSError:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024


if __name__ == "__main__":
    _main(sys.argv[1], int(sys.argv[2]))
