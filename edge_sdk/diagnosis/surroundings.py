"""What updates need around them: a state folder, room on the disk, and the right time."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from edge_sdk.diagnosis.findings import Finding

__all__ = ["clock", "disk", "state_folder"]

_LITTLE_DISK = 200  # MB: an update keeps the version before and needs room for the next
_SYNC = "run/systemd/timesync"


def state_folder(state: Path) -> Finding:
    """Look at whether the update agent can work in a folder."""
    parent = next(folder for folder in (state, *state.absolute().parents) if folder.exists())
    if not parent.is_dir():
        return Finding("state folder", ok=False, seen=f"{parent} is a file", advice="name a folder")
    if not os.access(parent, os.W_OK | os.X_OK):
        advice = "run the agent as the user it belongs to, on a file system that can be written to"
        return Finding("state folder", ok=False, seen=f"{parent} cannot be written to", advice=advice)
    return Finding("state folder", ok=True, seen=f"{state}" if state.exists() else f"{state} can be made")


def disk(folder: Path) -> Iterator[Finding]:
    """Look at how much room there is where a folder is, or will be."""
    there = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    try:
        usage = shutil.disk_usage(there)
    except OSError:
        return
    free, total = usage.free // 1_000_000, usage.total // 1_000_000
    enough = free >= _LITTLE_DISK
    yield Finding(
        "disk", enough, f"{free:,} of {total:,} MB free at {there}", "" if enough else "make room for updates"
    )


def clock(root: Path) -> Finding:
    """Look at whether the clock is behind what is known to have been, and who sets it."""
    now = time.time()
    seen = datetime.fromtimestamp(now, UTC).strftime("%Y-%m-%d %H:%M UTC")
    known = [Path(__file__), root / "var/lib/systemd/timesync/clock"]
    latest = max((path.stat().st_mtime for path in known if path.exists()), default=0.0)
    if latest > now + 60:
        advice = "set it (timedatectl set-ntp true): signatures of updates and certificates are judged by it"
        return Finding("clock", ok=False, seen=f"{seen}, behind what is on the disk", advice=advice)
    if (root / _SYNC).is_dir() and not (root / _SYNC / "synchronized").exists():
        advice = "not set by the network's time yet; `timedatectl` says why"
        return Finding("clock", ok=True, seen=seen, advice=advice)
    return Finding("clock", ok=True, seen=seen)
