"""Keeps an app's model at the version that the agent made active, also when the agent is another process."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Protocol, Self

from edge_sdk.ota.slots import active, read_pointer

__all__ = ["Follower", "Swappable", "follow"]

log = logging.getLogger("edge_sdk.ota.follower")


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
    """

    def __init__(
        self,
        state_dir: str | Path,
        model: Swappable,
        *,
        interval: float = 0.25,
        on_swap: Callable[[Path], None] | None = None,
    ) -> None:
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

    def _digest(self) -> str | None:
        installed = read_pointer(self._state).active
        return None if installed is None else installed.digest

    def _run(self) -> None:
        while not self._stop.wait(self._interval):
            digest = self._digest()
            if digest is None or digest == self._current:
                continue
            folder = active(self._state)
            if folder is None:
                continue
            try:
                self._model.swap(folder)
                self._current = digest
                if self._on_swap is not None:
                    self._on_swap(folder)
            except Exception:  # the app keeps the version it has; the next look tries again
                log.exception("cannot change to the version in %s", folder)


def follow(
    state_dir: str | Path,
    model: Swappable,
    *,
    interval: float = 0.25,
    on_swap: Callable[[Path], None] | None = None,
) -> Follower:
    """Keep ``model`` at the agent's active version until the returned `Follower` is closed.

    A version that became active after ``model`` was loaded is taken up at the first look.
    """
    return Follower(state_dir, model, interval=interval, on_swap=on_swap)
