"""Metrics as Prometheus has them: families of samples, their text format, and what any process says of itself.

Written by hand: the names that Triton gave its counters, without ``_total``, are none that
Prometheus' client library would write.
"""

from __future__ import annotations

import contextlib
import resource
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

__all__ = ["CONTENT_TYPE", "Family", "Sample", "as_text", "process_metrics", "resident_bytes"]

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

Sample = tuple[str, Mapping[str, str], float]
"""Suffix of the family's name, labels, value."""


class Family(NamedTuple):
    """Samples of one name.

    Attributes
    ----------
    name, kind, says
        What it is called, ``counter``, ``gauge`` or ``histogram``, and what it is.
    samples
        Of a histogram, those of one series follow each other.
    """

    name: str
    kind: str
    says: str
    samples: list[Sample]


def as_text(families: Iterable[Family]) -> str:
    """Return metrics in Prometheus' text format, version 0.0.4."""
    lines: list[str] = []
    for name, kind, says, samples in families:
        lines.extend((f"# HELP {name} {says}", f"# TYPE {name} {kind}"))
        for suffix, labels, value in samples:
            inner = ",".join(f'{label}="{_escape(text)}"' for label, text in labels.items())
            lines.append(f"{name}{suffix}{{{inner}}} {value:.17g}" if inner else f"{name}{suffix} {value:.17g}")
    return "\n".join(lines) + "\n"


def process_metrics() -> list[Family]:
    """Return the processor time and the memory of this process."""
    return [
        Family("process_cpu_seconds_total", "counter", "Processor time.", [("", {}, time.process_time())]),
        Family("process_resident_memory_bytes", "gauge", "Memory that is in use.", [("", {}, resident_bytes())]),
    ]


def resident_bytes(pid: int | str = "self") -> int:
    """Return the memory that a process uses; 0 where there is none, or where it is another one and not on Linux."""
    with contextlib.suppress(OSError):
        return int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1]) * resource.getpagesize()
    if pid != "self":
        return 0
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # macOS has no /proc: the highest so far, in bytes


def _escape(text: str) -> str:
    return text.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")
