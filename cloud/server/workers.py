"""A worker as its supervisor sees it: a process that is started, asked, and ended."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import pickle
import signal
import socket
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field

from edge_sdk.cloud.server.link import Answer, Link
from edge_sdk.cloud.server.orders import Orders

__all__ = ["Worker", "spawn"]

_log = logging.getLogger("edge_sdk.cloud.server")


@dataclass(eq=False, slots=True)
class Worker:
    """One of several processes that serve.

    Attributes
    ----------
    number
        Its own; another never gets it.
    process, link
        To end it, and to ask it.
    is_member
        It is asked what all are asked.
    ready, ready_at
        Whether it serves, and since when (a `time.monotonic` reading).
    models
        What it serves.
    failure
        Why it cannot.
    outdated, why
        Another should take its place, for its ``"memory"``, or because that was ``"asked"`` for.
    """

    number: int
    process: asyncio.subprocess.Process
    link: Link
    is_member: bool = False
    ready: asyncio.Event = field(default_factory=asyncio.Event)
    ready_at: float = 0.0
    models: tuple[str, ...] = ()
    failure: str = ""
    outdated: asyncio.Event = field(default_factory=asyncio.Event)
    why: str = ""

    def send(self, signum: signal.Signals) -> None:
        """Send the process a signal; nothing where it has ended.

        Not `Process.send_signal`: before Python 3.13 it can take the exit status from the thread that waits for it.
        """
        if self.process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.process.pid, signum)

    @property
    def how_it_ended(self) -> str:
        """An exit code, or the name of a signal."""
        code = self.process.returncode or 0
        return f"exit code {code}" if code >= 0 else signal.Signals(-code).name

    async def end(self, seconds: float) -> None:
        """Let it finish what it does; end it where that takes longer."""
        self.send(signal.SIGTERM)
        try:
            await asyncio.wait_for(self.process.wait(), seconds)
        except TimeoutError:
            _log.error("worker %d does not end and is killed", self.number)
            self.send(signal.SIGKILL)
            await self.process.wait()


async def spawn(orders: Orders, environment: Mapping[str, str], answer: Answer) -> Worker:
    """Start a worker.

    Parameters
    ----------
    orders
        What it should do.
    environment
        Its variables.
    answer
        What it asks is answered by; see `Link.open`.
    """
    ours, theirs = socket.socketpair()
    with theirs:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-P", "-m", "edge_sdk.cloud.server.worker", str(theirs.fileno())),
            stdin=asyncio.subprocess.PIPE,
            stdout=2,  # ours says only that all are ready
            pass_fds=[theirs.fileno(), orders.rates],
            process_group=0,  # Ctrl-C is for us, who say what it means
            env=environment,
        )
    assert process.stdin is not None
    process.stdin.write(pickle.dumps(orders))  # and stays open: its end is ours
    return Worker(orders.number, process, await Link.open(ours, answer))
