"""What this device is and has: processor, packages, kernels, heat.

Heat and throttling are read where Linux and the Raspberry Pi's firmware tell them; elsewhere they are left out.
"""

from __future__ import annotations

import importlib.util
import os
import platform
import struct
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

__all__ = ["Finding", "examine"]

ROOT = Path("/")

RUNTIMES = {"ai_edge_litert": "ai-edge-litert", "onnxruntime": "onnxruntime", "tflite_runtime": "tflite-runtime"}
OPTIONAL = {  # what else apps use: the distribution of a module, and the extra that brings it
    "PIL": ("pillow", "image"),
    "grpc": ("grpcio", "hybrid"),
    "paho": ("paho-mqtt", "ota"),
    "tuf": ("tuf", "ota"),
}

_FEATURES = ("neon", "asimd", "asimddp", "sse4_1", "avx2", "avx512f", "avx512_vnni")
_HOT = 80.0  # degrees Celsius at which a Raspberry Pi begins to slow down
_THROTTLED = {0: "under-voltage", 1: "frequency capped", 2: "throttled", 3: "soft temperature limit"}


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at.

    Attributes
    ----------
    what
        What it is.
    ok
        False where it keeps models from running, or from running at full speed.
    seen
        What was found, and what to do about it.
    """

    what: str
    ok: bool
    seen: str

    def to_dict(self) -> dict[str, Any]:
        """Return the record as JSON-compatible values."""
        return asdict(self)


def examine(root: Path = ROOT) -> list[Finding]:
    """Look at this device.

    Parameters
    ----------
    root
        Where ``/proc`` and ``/sys`` are.
    """
    return [_machine(), _processor(root), *_packages(), _kernels(), *_heat(root)]


def _machine() -> Finding:
    bits = struct.calcsize("P") * 8
    seen = f"{platform.system()} {platform.machine()}, {bits}-bit, Python {platform.python_version()}"
    if bits != 64:
        seen += "; there are no runtimes for 32-bit systems: install a 64-bit one"
    return Finding("machine", bits == 64, seen)


def _processor(root: Path) -> Finding:
    name, features = platform.processor() or platform.machine(), set[str]()
    try:
        for line in (root / "proc/cpuinfo").read_text(errors="replace").splitlines():
            key, _, value = line.partition(":")
            if key.strip() in ("model name", "Model"):
                name = value.strip()
            elif key.strip() in ("flags", "Features"):
                features |= set(value.split())
    except OSError:
        pass
    used = [feature for feature in _FEATURES if feature in features]
    return Finding("processor", True, f"{name}, {os.cpu_count()} cores" + (f", {' '.join(used)}" if used else ""))


def _packages() -> Iterator[Finding]:
    runtimes = [_version(name) for module, name in RUNTIMES.items() if _installed(module)]
    nothing = "none: pip install 'edge-sdk[litert]' for .tflite, 'edge-sdk[onnx]' for .onnx"
    yield Finding("runtimes", bool(runtimes), ", ".join(runtimes) or nothing)
    yield Finding("numpy", True, _version("numpy"))
    for module, (name, extra) in OPTIONAL.items():
        there = _installed(module)
        # what an app does not use, it need not have
        yield Finding(name, True, _version(name) if there else f"not installed (edge-sdk[{extra}])")


def _installed(module: str) -> bool:
    return importlib.util.find_spec(module) is not None


def _version(name: str) -> str:
    try:
        return f"{name} {metadata.version(name)}"
    except metadata.PackageNotFoundError:
        return name


def _kernels() -> Finding:
    try:
        from edge_sdk.ext import backend, image
    except ImportError as error:
        return Finding("kernels", False, str(error))
    seen = "in NumPy, slower, as EDGE_SDK_PURE says" if backend() == "pure" else f"compiled; pictures by {image.path()}"
    return Finding("kernels", True, seen)


def _heat(root: Path) -> Iterator[Finding]:
    zones = sorted((root / "sys/class/thermal").glob("thermal_zone*/temp"))
    degrees = [value / 1000 for value in map(_number, zones) if value is not None]
    if degrees:
        hottest = max(degrees)
        advice = "; it slows itself down: cool it" if hottest >= _HOT else ""
        yield Finding("temperature", hottest < _HOT, f"{hottest:.0f} °C{advice}")
    state = _number(root / "sys/devices/platform/soc/soc:firmware/get_throttled", base=16)
    if state is not None:
        now = [name for bit, name in _THROTTLED.items() if state >> bit & 1]
        yield Finding("throttling", not now, ", ".join(now) or "none")


def _number(path: Path, base: int = 10) -> int | None:
    try:
        return int(path.read_text().strip(), base)
    except (OSError, ValueError):
        return None
