"""What a fork does to models that were loaded before it.

A runtime's threads do not survive a fork, but its memory says that they are there: in the child, LiteRT and ONNX
Runtime crash when a session with several threads is destroyed. And a lock that another thread held at that moment
is held for ever. So in the child such models refuse to be used, and what they hold is never destroyed.
"""

from __future__ import annotations

import ctypes
import os
import weakref
from typing import Protocol

__all__ = ["Forked", "keep_for_ever", "watch"]


class Forked(Protocol):
    """Something that wants to know when it finds itself in a child of the process that made it."""

    def after_fork(self) -> None:
        """Give up what did not survive."""


_watched: weakref.WeakSet[Forked] = weakref.WeakSet()


def watch(holder: Forked) -> None:
    """Call ``holder.after_fork()`` in every child that is forked while it is there."""
    _watched.add(holder)


def keep_for_ever(value: object) -> None:
    """Never destroy an object in this process, not at its end either."""
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(value))


def _tell() -> None:
    for holder in list(_watched):
        holder.after_fork()


if hasattr(os, "register_at_fork"):  # where there is no fork there is no such function
    os.register_at_fork(after_in_child=_tell)
