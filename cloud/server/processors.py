"""How many processors this process may use."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

__all__ = ["available_cores"]

_QUOTA = Path("/sys/fs/cgroup/cpu.max")


def available_cores(quota: Path = _QUOTA) -> int:
    """Return the number of cores that this process may keep busy, at least 1.

    Parameters
    ----------
    quota
        What a container may use, as Linux' control groups (version 2) say it: microseconds of so many.
    """
    try:
        cores = len(os.sched_getaffinity(0))
    except AttributeError:  # macOS
        cores = os.cpu_count() or 1
    with contextlib.suppress(OSError, ValueError):
        most, period = quota.read_text(encoding="ascii").split()
        cores = min(cores, int(most) // int(period))  # of "max", there is none
    return max(1, cores)
