"""What a figure was measured on: a figure without its machine cannot be read."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

__all__ = ["Machine"]

BASE = ("edge-sdk", "numpy")


@dataclass(frozen=True)
class Machine:
    """Processor, system, interpreter and versions.

    Attributes
    ----------
    cores
        Cores this process may use.
    governor
        Frequency governor of the first core, or None where the system does not say.
    load
        One-minute load average when the run began: above 0 somebody else was working too.
    versions
        Distribution → version.
    """

    cpu: str
    architecture: str
    cores: int
    governor: str | None
    load: float
    system: str
    python: str
    versions: dict[str, str]

    @classmethod
    def here(cls, distributions: Iterable[str] = ()) -> Machine:
        """Describe this machine, with the versions of these distributions."""
        return cls(
            cpu=_cpu(),
            architecture=platform.machine(),
            cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
            governor=_text(Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")),
            load=round(os.getloadavg()[0], 2),
            system=platform.platform(),
            python=f"{platform.python_implementation()} {platform.python_version()}",
            versions={name: metadata.version(name) for name in sorted({*BASE, *distributions})},
        )

    def to_json(self) -> dict[str, Any]:
        """Return the record as JSON-compatible values."""
        return asdict(self)


def _text(path: Path) -> str | None:
    try:
        return path.read_text().strip().strip("\0") or None
    except OSError:
        return None


def _cpu() -> str:
    """Return the processor's (or board's) name as the system gives it."""
    if platform.system() == "Darwin":
        command = ["/usr/sbin/sysctl", "-n", "machdep.cpu.brand_string"]
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip() or platform.machine()
    board = _text(Path("/proc/device-tree/model"))
    if board:
        return board
    named = re.search(r"^model name\s*:\s*(.+)$", _text(Path("/proc/cpuinfo")) or "", re.MULTILINE)
    return named[1] if named else platform.processor() or platform.machine()
