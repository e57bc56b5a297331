"""Work in a process of its own: it may crash or take all memory, and what it loads is gone with it.

The process ends with the one that asked (on Linux at once, on other systems of Unix when its time is over), and is the
first that Linux ends where it has no memory left.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Ended", "ask", "possible"]

_PR_SET_PDEATHSIG = 1  # of linux/prctl.h


@dataclass(frozen=True, slots=True)
class Ended:
    """How a process ended.

    Attributes
    ----------
    code
        0, its exit code, or a signal's number below 0.
    said
        What the function returned; nothing unless the code is 0.
    """

    code: int
    said: bytes

    def __str__(self) -> str:
        if self.code >= 0:
            return f"exit code {self.code}"
        with contextlib.suppress(ValueError):
            return f"signal {-self.code}, {signal.Signals(-self.code).name}"
        return f"signal {-self.code}"


def possible() -> bool:
    """Whether there is an interpreter to start: not in a program that was made one file, or that embeds Python."""
    return bool(sys.executable) and not getattr(sys, "frozen", False)


def ask(function: str, *arguments: str, seconds: float, given: bytes = b"", quiet: bool = False) -> Ended:
    """Call a function in a fresh process, and wait for its end.

    Parameters
    ----------
    function
        ``module:name``; it returns bytes.
    arguments
        What it is called with.
    seconds
        It may take.
    given
        Its standard input.
    quiet
        Leave out what it, or a library, says beside its answer; by default that goes to standard error.

    Raises
    ------
    TimeoutError
        It took longer, and was ended.
    OSError
        No process can be started.
    """
    command = [sys.executable, "-P", "-m", "edge_sdk.children", str(os.getpid()), str(int(seconds)), function]
    known = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}  # a runtime may be on a path added by hand
    said = subprocess.DEVNULL if quiet else None
    try:
        done = subprocess.run(
            [*command, *arguments],
            input=given,
            stdout=subprocess.PIPE,
            stderr=said,
            timeout=seconds,
            check=False,
            env=known,
        )
    except subprocess.TimeoutExpired as error:
        raise TimeoutError(f"no end within {seconds:g} s") from error
    return Ended(done.returncode, done.stdout if done.returncode == 0 else b"")


def _follow(parent: int, seconds: int) -> None:
    """End when the parent does, or after a time."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's, which ends this process then
    if sys.platform == "win32":  # has no such signals, and a launcher between the two
        return
    signal.alarm(seconds + 10)
    if sys.platform == "linux":
        import ctypes  # which the parent does without

        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL))
        with contextlib.suppress(OSError):
            Path("/proc/self/oom_score_adj").write_text("1000")
    if os.getppid() != parent:
        os._exit(1)


def _main(parent: str, seconds: str, function: str, *arguments: str) -> None:
    _follow(int(parent), int(seconds))
    answer = os.dup(1)
    os.dup2(2, 1)  # what libraries print is no answer
    module, name = function.split(":")
    said: bytes = getattr(importlib.import_module(module), name)(*arguments)
    with os.fdopen(answer, "wb") as stream:
        stream.write(said)
    sys.stderr.flush()
    os._exit(0)  # what a runtime does at its end costs time and decides nothing


if __name__ == "__main__":
    _main(*sys.argv[1:])
