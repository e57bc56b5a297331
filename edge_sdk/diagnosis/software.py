"""The packages that a device runs models with, and whether they can be used here."""

from __future__ import annotations

import functools
import importlib.util
import platform
import signal
import subprocess
import sys
from collections.abc import Iterator
from importlib import metadata

from edge_sdk.diagnosis.findings import Finding

__all__ = ["kernels", "packages"]

_RUNTIMES = {  # what is imported of a distribution
    "ai-edge-litert": "ai_edge_litert.interpreter",
    "onnxruntime": "onnxruntime",
    "tflite-runtime": "tflite_runtime.interpreter",
}
_OPTIONAL = {  # what else apps use: the module of a distribution, and the extra that brings it
    "pillow": ("PIL", "image"),
    "opencv-python-headless": ("cv2", "camera"),
    "grpcio": ("grpc", "hybrid"),
    "protobuf": ("google.protobuf", "hybrid"),
    "paho-mqtt": ("paho", "ota"),
    "tuf": ("tuf", "ota"),
    "cryptography": ("cryptography", "ota"),
}
_IMPORT_SECONDS = 60.0


def packages() -> Iterator[Finding]:
    """Look at runtimes, each imported in a process of its own, as one made for another processor ends it."""
    usable, broken = [], []
    for name, module in _RUNTIMES.items():
        if not _installed(module.partition(".")[0]):  # nothing of it is imported here
            continue
        why = _problem(module)
        if why:
            broken.append(f"{_version(name)} cannot be used: {why}")
        else:
            usable.append(_version(name))
    advice = "pip install 'edge-sdk[litert]' for .tflite, 'edge-sdk[onnx]' for .onnx" if not usable else ""
    if broken:
        advice = "install another version of it, or none"
    yield Finding("runtimes", bool(usable) and not broken, ", ".join(usable + broken) or "none", advice)
    yield Finding("numpy", ok=True, seen=_version("numpy"))
    for name, (module, extra) in _OPTIONAL.items():
        there = _installed(module)
        # what an app does not use, it need not have
        yield Finding(name, ok=True, seen=_version(name) if there else f"not installed (edge-sdk[{extra}])")


def kernels() -> Finding:
    """Look at what computes: the compiled kernels, and by which instructions, or NumPy."""
    try:
        from edge_sdk.ext import backend, image
    except ImportError as error:
        return Finding(
            "kernels", ok=False, seen=str(error), advice="install a wheel: pip install --force-reinstall edge-sdk"
        )
    if backend() == "pure":
        return Finding("kernels", ok=True, seen="in NumPy, slower, as EDGE_SDK_PURE says")
    seen = f"compiled; pictures by {image.path()}"
    if platform.machine() in ("aarch64", "arm64") and image.path() != "neon":
        return Finding(
            "kernels", ok=False, seen=seen, advice="compiled without NEON: install a wheel, or use gcc or clang"
        )
    return Finding("kernels", ok=True, seen=seen)


def _installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # the package around it is missing
        return False


def _version(name: str) -> str:
    try:
        return f"{name} {metadata.version(name)}"
    except metadata.PackageNotFoundError:
        return name


@functools.cache  # what cannot be imported does not mend itself while a process runs
def _problem(module: str) -> str:
    """Return why a module cannot be imported; an empty string where it can."""
    command = [sys.executable, "-P", "-c", f"import {module}"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_IMPORT_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        return f"its import took longer than {_IMPORT_SECONDS:g} s"
    if done.returncode == -signal.SIGILL:
        return "it was made for another processor (illegal instruction)"
    if done.returncode < 0:
        return f"its import ended with {signal.Signals(-done.returncode).name}"
    said = done.stderr.strip().splitlines() or [f"its import ended with exit code {done.returncode}"]
    return said[-1] if done.returncode else ""
