"""Leaving a port that other processes serve, too, so that no connection is lost that was on its way here.

A socket that is closed resets what it has not accepted yet. So newcomers are kept off first, by a filter that drops
what would begin a connection: it comes again after a second, to another process. On Linux; elsewhere, nothing is done.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import socket
import struct
import time
from collections.abc import Callable, Iterator
from pathlib import Path

__all__ = ["are_gone", "keep_off", "stop_listening"]

_ATTACH_FILTER = 26  # SO_ATTACH_FILTER of Linux
# of classic BPF: the flags of TCP's head, SYN and ACK of them; SYN alone is dropped, all else passes
_NO_NEWCOMERS = b"".join(
    struct.pack("HBBI", *step)
    for step in ((0x30, 0, 0, 13), (0x54, 0, 0, 0x12), (0x15, 0, 1, 0x02), (0x06, 0, 0, 0), (0x06, 0, 0, 0xFFFFFFFF))
)
_LOOK_SECONDS = 0.2


def keep_off(port: int) -> None:
    """Let no new connection to this process begin on a port; those that have begun are completed."""
    code = ctypes.create_string_buffer(_NO_NEWCOMERS, len(_NO_NEWCOMERS))
    program = struct.pack("HP", len(_NO_NEWCOMERS) // 8, ctypes.addressof(code))
    for _, one in _sockets(port, listening=True):
        with contextlib.suppress(OSError):
            one.setsockopt(socket.SOL_SOCKET, _ATTACH_FILTER, program)


def stop_listening(port: int) -> None:
    """Take this process's sockets of a port out of those to which the system gives connections.

    Their owner is left with ones that do nothing in their place: of one that was shut down or closed it would complain.
    """
    for number, one in _sockets(port, listening=True):
        with contextlib.suppress(OSError), socket.socket(one.family, socket.SOCK_STREAM) as idle:
            os.dup2(idle.fileno(), number, inheritable=False)


async def are_gone(ports: list[int], seconds: float, ends: Callable[[], bool]) -> None:
    """Wait until all connections of some ports have been closed, until so long, or until something else ends it."""
    until = time.monotonic() + seconds
    while time.monotonic() < until and not ends():
        if not await asyncio.to_thread(lambda: any(any(_sockets(port, listening=False)) for port in ports)):
            return
        await asyncio.sleep(_LOOK_SECONDS)


def _sockets(port: int, *, listening: bool) -> Iterator[tuple[int, socket.socket]]:
    """Yield this process's sockets of a local port, whichever library has opened them, and their numbers."""
    with contextlib.suppress(FileNotFoundError):  # of macOS
        for name in Path("/proc/self/fd").iterdir():
            try:
                if not str(name.readlink()).startswith("socket:"):
                    continue
                one = socket.socket(fileno=os.dup(int(name.name)))
            except OSError:  # it is closed already
                continue
            with one, contextlib.suppress(OSError):
                if one.family not in (socket.AF_INET, socket.AF_INET6) or one.getsockname()[1] != port:
                    continue
                if bool(one.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)) is listening:
                    yield int(name.name), one
