"""What a process of its own finds of a new version: its golden answers, and what it takes.

The agent never loads a runtime for it: what that maps would stay with the agent for as long as it runs.
"""

from __future__ import annotations

import json
import resource
import statistics
import sys
import time
from pathlib import Path

from edge_sdk.bundle import Bundle, GoldenSet
from edge_sdk.errors import BundleError, MissingExtraError, ModelError, one_line
from edge_sdk.model import EdgeModel
from edge_sdk.runtime.opening import find_runtime
from edge_sdk.verification import verify

__all__ = ["examine"]


def examine(folder: str, runs: str) -> bytes:
    """Verify a bundle's golden examples, and measure so many runs of the model.

    Returns
    -------
    bytes
        JSON: ``measured``, which is what `edge_sdk.verification.verify` returns, with ``latency`` (s) and ``memory``
        (bytes) where there are runs; or ``refused``, why it is not healthy, and ``passing``, whether that may be the
        device's fault and not the version's.
    """
    try:
        bundle = Bundle.open(folder)
        try:
            find_runtime(bundle.manifest.artifacts[0].runtime)
        except (MissingExtraError, ModelError) as error:
            return _refusal(error, passing=True)
        measured = _measure(bundle, int(runs)) if int(runs) else {}
        return json.dumps({"measured": verify(bundle) | measured}).encode()
    except Exception as error:  # noqa: BLE001 - a runtime may raise anything on a bad model
        passing = isinstance(error, (MemoryError, OSError, BundleError))  # a bundle that was whole when it was unpacked
        return _refusal(error, passing=passing)


def _refusal(error: Exception, *, passing: bool) -> bytes:
    return json.dumps({"refused": one_line(error, 1000), "passing": passing}).encode()


def _measure(bundle: Bundle, runs: int) -> dict[str, float]:
    inputs, before, seconds = GoldenSet.from_bundle(bundle).inputs, _resident(), []
    with EdgeModel(bundle) as model:
        model.golden(inputs[0])
        for run in range(runs):
            started = time.perf_counter()
            model.golden(inputs[run % len(inputs)])
            seconds.append(time.perf_counter() - started)
        return {"latency": statistics.median(seconds), "memory": max(0, _resident() - before)}


def _resident() -> int:
    """Return this process's memory in bytes; where only its peak is known, that."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
    except OSError:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024
