"""The health probe: a new version must answer on this device as it did where it was packed, fast and small enough.

It answers in a process of its own, which may crash without the agent, and takes the runtime's memory along.
"""

from __future__ import annotations

import json
import logging
import signal
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from edge_sdk import children
from edge_sdk.bundle import Bundle
from edge_sdk.errors import HealthError, InputError, InstallError

__all__ = ["Limits", "probe"]

log = logging.getLogger("edge_sdk.ota.health")

_SECONDS = 900.0
_FAULTS = (signal.SIGSEGV, signal.SIGILL, signal.SIGFPE)  # of a model or a runtime; others may come of a lack of memory


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
    """Run a bundle's golden examples through its processing and model on this device, in a process of its own.

    Parameters
    ----------
    bundle
        The version, unpacked to a folder.
    limits
        What it may take; by default anything.
    own
        The app's own probe, last and in this process; whatever it raises is why the version is refused.

    Returns
    -------
    dict
        What was measured, as `edge_sdk.verification.verify` reports it, with ``latency`` (s) and
        ``memory`` (bytes) where ``limits`` are given.

    Raises
    ------
    HealthError
        An output or a processed tensor is not as stored, a limit is not kept, the app's probe refuses, or the model
        cannot be run at all, crashes, or takes 15 minutes. Its cause is an ``OSError`` where that may have been the
        device's fault.
    InstallError
        The process cannot be started, or was ended before it had an answer: nothing is known of the version.
    """
    name = f"{bundle.manifest.name}-{bundle.manifest.version}"
    measured = _examined(bundle, limits.runs if limits else 0, name)
    if "refused" in measured:
        cause = OSError(measured["refused"]) if measured["passing"] else None
        raise HealthError(f"{name} is not healthy: {measured['refused']}") from cause
    found: dict[str, Any] = measured["measured"]
    reason = None if limits is None else _beyond(limits, found)
    if reason is not None:
        raise HealthError(f"{name} is not healthy: {reason}")
    if own is not None:
        try:
            own(bundle)
        except Exception as error:  # whatever an app raises; none of it may end the agent
            raise HealthError(f"{name} is not healthy: {error}") from error
    return found


def _examined(bundle: Bundle, runs: int, name: str) -> dict[str, Any]:
    if not children.possible():
        from edge_sdk.ota.examining import examine

        log.warning("%s is checked in this process, as there is no interpreter to start another with", name)
        return dict(json.loads(examine(str(bundle.path), str(runs))))
    try:
        ended = children.ask("edge_sdk.ota.examining:examine", str(bundle.path), str(runs), seconds=_SECONDS)
    except TimeoutError as error:
        raise HealthError(f"{name} is not healthy: it does not answer within {_SECONDS:g} s") from error
    except OSError as error:
        raise InstallError(f"{name} cannot be checked: no process can be started ({error.strerror})") from error
    if -ended.code in _FAULTS:
        raise HealthError(f"{name} is not healthy: the process that runs it crashed ({ended})")
    if ended.code:
        raise InstallError(f"{name} could not be checked: the process that runs it ended early ({ended})")
    return dict(json.loads(ended.said))


def _beyond(limits: Limits, measured: dict[str, Any]) -> str | None:
    """Return which limit is not kept, or None."""
    latency, memory = measured["latency"], measured["memory"]
    if limits.latency is not None and latency > limits.latency:
        return f"an answer takes {latency * 1e3:.3g} ms; {limits.latency * 1e3:.3g} ms are allowed"
    if limits.memory is not None and memory > limits.memory:
        return f"it takes {memory / 1e6:.3g} MB of memory; {limits.memory / 1e6:.3g} MB are allowed"
    return None
