"""One thing that was looked at on a device, and how files of the kernel are read."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

__all__ = ["Finding", "read_lines", "read_number"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at.

    Attributes
    ----------
    what
        What it is.
    ok
        False where it keeps models from running or being updated, or from running at full speed.
    seen
        What was found.
    advice
        What to do about it; empty where nothing is to be done.
    """

    what: str
    ok: bool
    seen: str
    advice: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Return the record as JSON-compatible values."""
        return asdict(self)


def read_lines(path: Path) -> list[tuple[str, str]]:
    """Return name and value of each line ``name: value``; nothing where the file cannot be read."""
    try:
        lines = path.read_text(errors="replace").splitlines()
    except OSError:
        return []
    return [(name.strip(), value.strip()) for name, _, value in (line.partition(":") for line in lines)]


def read_number(path: Path, base: int = 10) -> int | None:
    """Return the number in a file; None where there is none."""
    try:
        return int(path.read_text().strip(), base)
    except (OSError, ValueError):
        return None
