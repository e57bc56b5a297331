"""Keeps an app's model at the version that the agent made active, also when the agent is another process."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol, Self

from edge_sdk.ota.slots import active, read_pointer
from edge_sdk.ota.soak import Vitals, write_vitals

__all__ = ["Follower", "Swappable", "follow"]

log = logging.getLogger("edge_sdk.ota.follower")

_ENOUGH = 50  # answers of the version before, for its mean confidence to be held against another
_NOT_WANTED = ("confident", "audit", "forced")  # requests that the rule did not want from the cloud


class Swappable(Protocol):
    """A model whose bundle can be replaced while it is used, such as `edge_sdk.client.HybridModel`."""

    @property
    def bundle_digest(self) -> str:
        """Digest of the bundle in use now."""
        ...

    def swap(self, path: Path) -> object:
        """Replace the bundle by that in ``path``."""
        ...


class Follower:
    """A thread that calls ``model.swap`` when the active version changes.

    Parameters
    ----------
    state_dir
        The agent's state folder.
    model
        What is kept up to date.
    interval
        Seconds between two looks at the pointer file.
    on_swap
        Called with the folder after each swap, on the follower's thread.
    vitals
        Returns what was seen of the version in use, for the agent that has it on trial; by default from the
        model's ``counters``, where it has them as `edge_sdk.client.HybridModel` does.
    """

    def __init__(
        self,
        state_dir: str | Path,
        model: Swappable,
        *,
        interval: float = 0.25,
        on_swap: Callable[[Path], None] | None = None,
        vitals: Callable[[], Vitals] | None = None,
    ) -> None:
        self._counted = Counted(model) if vitals is None and hasattr(model, "counters") else None
        self._vitals = vitals or (self._counted.vitals if self._counted else None)
        self._state = Path(state_dir)
        self._model = model
        self._interval = interval
        self._on_swap = on_swap
        self._stop = threading.Event()
        # what the model has, not what is active by now: the version may have changed since it was loaded
        self._current: str = model.bundle_digest
        self._thread = threading.Thread(target=self._run, name="edge-sdk-follower", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop following."""
        self._stop.set()
        if threading.current_thread() is not self._thread:
            self._thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _run(self) -> None:
        while not self._stop.wait(self._interval):
            pointer = read_pointer(self._state)
            if pointer.active is None:
                continue
            if pointer.active.digest != self._current:
                self._swap(pointer.active.digest)
            elif pointer.soaking and self._vitals is not None:
                self._tell(self._vitals)

    def _swap(self, digest: str) -> None:
        folder = active(self._state)
        if folder is None:
            return
        try:
            self._model.swap(folder)
            self._current = digest
            if self._counted is not None:
                self._counted.begin()
            if self._on_swap is not None:
                self._on_swap(folder)
        except Exception:  # the app keeps the version it has; the next look tries again
            log.exception("cannot change to the version in %s", folder)

    def _tell(self, vitals: Callable[[], Vitals]) -> None:
        try:
            write_vitals(self._state, vitals())
        except Exception:  # without them the agent's trial ends at its deadline
            log.exception("cannot tell the agent how the version does")


class Counted:
    """Reads vitals from a model's counters, from `begin` on.

    Parameters
    ----------
    model
        Has ``counters`` as `edge_sdk.client.HybridModel` has.
    """

    def __init__(self, model: Any) -> None:
        self._model = model
        self._base: tuple[int, int, int, int, float] | None = None
        self._before: float | None = None
        self.begin()

    def begin(self) -> None:
        """Forget what was seen until now, but for the mean confidence: the version has changed."""
        self._before = self._confidence(_ENOUGH) if self._base is not None else None
        self._base = self._counts()

    def vitals(self) -> Vitals:
        """Return what was seen since."""
        requests, errors, escalated, _, _ = self._since()
        digest = str(self._model.bundle_digest)
        return Vitals(digest, requests, errors, escalated, self._confidence(1), self._before)

    def _confidence(self, least: int) -> float | None:
        _, _, _, answers, confidence = self._since()
        return min(1.0, max(0.0, confidence / answers)) if answers >= least else None

    def _since(self) -> tuple[int, int, int, int, float]:
        requests, errors, escalated, answers, confidence = self._counts()
        base = self._base or (0, 0, 0, 0, 0.0)
        return requests - base[0], errors - base[1], escalated - base[2], answers - base[3], confidence - base[4]

    def _counts(self) -> tuple[int, int, int, int, float]:
        counters = self._model.counters
        outcomes: dict[str, dict[str, int]] = dict(counters["outcomes"])
        errors = sum(outcomes.pop("none", {}).values())
        answered = sum(sum(reasons.values()) for reasons in outcomes.values())
        kept = sum(reasons.get(reason, 0) for reasons in outcomes.values() for reason in _NOT_WANTED)
        confidence = counters.get("edge_confidence")  # a model of another kind may count none
        answers = 0 if confidence is None else sum(outcomes.get("edge", {}).values())
        return answered + errors, errors, answered - kept, answers, confidence or 0.0


def follow(
    state_dir: str | Path,
    model: Swappable,
    *,
    interval: float = 0.25,
    on_swap: Callable[[Path], None] | None = None,
    vitals: Callable[[], Vitals] | None = None,
) -> Follower:
    """Keep ``model`` at the agent's active version until the returned `Follower` is closed.

    A version that became active after ``model`` was loaded is taken up at the first look.
    """
    return Follower(state_dir, model, interval=interval, on_swap=on_swap, vitals=vitals)
