"""Child processes that say when they are ready, and that never outlive the demo."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from edge_sdk.errors import ServiceError
from edge_sdk.files import storage_errors

__all__ = ["Child", "command"]

READY_SECONDS = 60.0
STOP_SECONDS = 10.0


def command(*arguments: str) -> list[str]:
    """Return the command line of an edge-sdk command, run by this interpreter."""
    return [sys.executable, "-m", "edge_sdk", *arguments]


class Child:
    """A process whose first line of output is ``ready key=value …``.

    Parameters
    ----------
    name
        Names it in errors and names its log.
    argv
        Its command line.
    logs
        Folder for what it writes to standard error.
    environment
        Variables it gets beside ours; where secrets go.

    Raises
    ------
    ServiceError
        It ended, or said nothing, before it was ready; the message holds its last words.
    """

    def __init__(
        self, name: str, argv: Sequence[str], logs: Path, environment: Mapping[str, str] | None = None
    ) -> None:
        self.name = name
        self._log = logs / f"{name}.log"
        self._lines: queue.Queue[str | None] = queue.Queue()
        with storage_errors(self._log):
            log = self._log.open("ab")
        with log:
            self._process = subprocess.Popen(
                argv,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env={**os.environ, "PYTHONSAFEPATH": "1", "PYTHONUNBUFFERED": "1", **(environment or {})},
            )
        self._reader = threading.Thread(target=self._read, name=f"{name} output", daemon=True)
        self._reader.start()
        try:
            self.facts = self._ready()
        except BaseException:
            self.stop()
            raise

    def ask(self, order: dict[str, Any], *, timeout: float) -> dict[str, Any]:
        """Send a JSON line and return the JSON line that answers it."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(order) + "\n")
            self._process.stdin.flush()
        except OSError as error:
            raise ServiceError(f"{self.name} has ended: {self._last_words()}") from error
        reply: dict[str, Any] = json.loads(self._next(timeout, f"answer {order}"))
        if "error" in reply:
            raise ServiceError(f"{self.name}: {reply['error']}")
        return reply

    def lines(self, timeout: float) -> list[str]:
        """Return the lines written since the last call, waiting at most ``timeout`` seconds for the first.

        Raises
        ------
        ServiceError
            It has ended, and every line of it was returned before.
        """
        found: list[str] = []
        with contextlib.suppress(queue.Empty):
            line = self._lines.get(timeout=timeout)
            while line is not None:
                found.append(line)
                line = self._lines.get_nowait()
            self._lines.put(None)  # for the next call
            if not found:
                raise ServiceError(f"{self.name} ended: {self._last_words()}")
        return found

    def kill(self) -> None:
        """End it at once, as a power cut would (SIGKILL)."""
        self._process.kill()
        self._process.wait()
        self._close()

    def stop(self) -> None:
        """Ask it to end (SIGTERM), and make it if it does not."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            try:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self._process.wait(STOP_SECONDS)
            finally:  # also where a second signal ends the waiting
                self._process.kill()
                self._process.wait()
        self._close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _close(self) -> None:
        self._reader.join(STOP_SECONDS)
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.put(line.rstrip("\n"))
        self._lines.put(None)

    def _ready(self) -> dict[str, str]:
        line = self._next(READY_SECONDS, "be ready")
        if not line.startswith("ready"):
            raise ServiceError(f"{self.name} said {line!r} instead of being ready")
        return dict(word.split("=", 1) for word in line.split()[1:] if "=" in word)

    def _next(self, timeout: float, what: str) -> str:
        deadline = time.monotonic() + timeout
        try:
            line = self._lines.get(timeout=max(0.0, deadline - time.monotonic()))
        except queue.Empty:
            raise ServiceError(f"{self.name} did not {what} within {timeout:g} s; see {self._log}") from None
        if line is None:
            raise ServiceError(f"{self.name} ended: {self._last_words()}")
        return line

    def _last_words(self) -> str:
        lines = self._log.read_text(errors="replace").strip().splitlines()
        return lines[-1] if lines else f"it said nothing (exit code {self._process.poll()})"
