"""The machine: its word size, processor, memory, heat and throttling.

Heat and throttling are read where Linux and the Raspberry Pi's firmware tell them; elsewhere they are left out.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from edge_sdk.diagnosis.findings import Finding, read_lines, read_number

__all__ = ["heat", "machine", "memory", "processor"]

_FEATURES = ("neon", "asimd", "asimddp", "sse4_1", "avx2", "f16c", "avx512f", "avx512_vnni")
_HOT = 80.0  # degrees Celsius at which a Raspberry Pi begins to slow down
_LITTLE_MEMORY = 100  # MB that a runtime and a small model take, with what they are fed
# bits of get_throttled: what holds now, and 16 bits higher what has held since the start
_THROTTLED = {0: "under-voltage", 1: "frequency capped", 2: "throttled", 3: "soft temperature limit"}
_POWER = 1 << 0 | 1 << 16


def machine() -> Finding:
    """Look at the system, its word size and its Python."""
    wide = sys.maxsize > 2**32
    seen = f"{platform.system()} {platform.machine()}, {64 if wide else 32}-bit, Python {platform.python_version()}"
    if wide:
        return Finding("machine", ok=True, seen=seen)
    if platform.machine() in ("aarch64", "x86_64"):
        seen += " (the kernel is a 64-bit one, this Python is not)"
    advice = "there are no runtimes for 32-bit systems: install a 64-bit one, such as Raspberry Pi OS (64-bit)"
    return Finding("machine", ok=False, seen=seen, advice=advice)


def processor(root: Path) -> Finding:
    """Look at the processor, and which of the features that kernels or runtimes use it has."""
    name, features = platform.processor() or platform.machine(), set[str]()
    for key, value in read_lines(root / "proc/cpuinfo"):
        if key in ("model name", "Model"):
            name = value
        elif key in ("flags", "Features"):
            features |= set(value.split())
    used = [feature for feature in _FEATURES if feature in features]
    seen = f"{name}, {os.cpu_count()} cores" + (f", {' '.join(used)}" if used else "")
    return Finding("processor", ok=True, seen=seen)


def memory(root: Path) -> Iterator[Finding]:
    """Look at how much memory there is, and how much of it can be had."""
    facts = {
        key: int(value.split()[0]) // 1024 for key, value in read_lines(root / "proc/meminfo") if _kilobytes(value)
    }
    if "MemTotal" not in facts or "MemAvailable" not in facts:
        return
    enough = facts["MemAvailable"] >= _LITTLE_MEMORY
    seen = f"{facts['MemAvailable']:,} of {facts['MemTotal']:,} MB available"
    yield Finding("memory", enough, seen, "" if enough else "end other programs, or take a smaller model")


def _kilobytes(value: str) -> bool:
    return re.fullmatch(r"\d+ kB", value) is not None


def heat(root: Path) -> Iterator[Finding]:
    """Look at temperature and throttling, in /sys or by ``vcgencmd``."""
    zones = sorted((root / "sys/class/thermal").glob("thermal_zone*/temp"))
    degrees = [value / 1000 for value in map(read_number, zones) if value is not None]
    degrees = degrees or _told("measure_temp", r"temp=([\d.]+)'C")
    if degrees:
        hot = max(degrees) >= _HOT
        advice = "it slows itself down: give it a heat sink or a fan, or fewer frames" if hot else ""
        yield Finding("temperature", not hot, f"{max(degrees):.0f} °C", advice)
    bits = read_number(root / "sys/devices/platform/soc/soc:firmware/get_throttled", base=16)
    if bits is None:
        bits = next((int(value) for value in _told("get_throttled", r"throttled=0x([0-9a-fA-F]+)", base=16)), None)
    if bits is not None:
        yield _throttling(bits)


def _throttling(bits: int) -> Finding:
    now = [name for bit, name in _THROTTLED.items() if bits >> bit & 1]
    before = [name for bit, name in _THROTTLED.items() if bits >> bit + 16 & 1 and name not in now]
    seen = ", ".join(now) or "none"
    if before:
        seen += f" (since it was started also: {', '.join(before)})" if now else f" now; before: {', '.join(before)}"
    causes = ["take the power supply made for this board, and a short cable"] if bits & _POWER else []
    if bits & 0xE000E and not bits & _POWER:
        causes.append("cool it")
    return Finding("throttling", not now, seen, "; ".join(causes))


def _told(question: str, pattern: str, base: int = 10) -> list[float]:
    """Return the number in what the Raspberry Pi's firmware answers, in a list; nothing where there is none."""
    program = shutil.which("vcgencmd")
    if program is None:
        return []
    try:
        answer = subprocess.run([program, question], capture_output=True, text=True, timeout=5, check=False).stdout
    except (OSError, subprocess.TimeoutExpired):
        return []
    found = re.match(pattern, answer)
    return [] if found is None else [float(found[1]) if base == 10 else int(found[1], base)]
