# ruff: noqa: INP001 - a script, not a module of a package
"""What edge-sdk takes of a device beside its peers: bytes on the disk, time and memory at the start, an idle agent.

Sizes are those of the files that pip installs for the processor and Python of --wheel, without compiled byte code; the
index of packages is asked for them. Times and memory are of this machine: fresh processes in turn, processor time, and
what is resident at their end. The agent has one version active, keeps its connection to a mosquitto, and looks for
assignments as it does by default; its processor time and wake-ups (voluntary context switches) are those of all its
threads. The model is ``ad01_int8.tflite`` of MLPerf Tiny from the folder in ``EDGE_SDK_DATA``; without it no model is
loaded, and the agent has nothing assigned.

example:
  python benchmarks/footprint.py --wheel dist/edge_sdk-0.1.0-cp311-cp311-manylinux_2_17_aarch64.whl --rounds 10
"""

from __future__ import annotations

import argparse
import json
import os
import re
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from importlib import metadata
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PEERS = {
    "LiteRT": ["ai-edge-litert"],
    "ONNX Runtime": ["onnxruntime"],
    "OpenCV": ["opencv-python-headless"],
}
EXTRAS = ("litert", "onnx", "device")
PROGRAMS = {
    "Python": "pass",
    "NumPy": "import numpy",
    "LiteRT": "import ai_edge_litert.interpreter",
    "ONNX Runtime": "import onnxruntime",
    "OpenCV": "import cv2",
    "edge-sdk": "import edge_sdk.model",
    "edge-sdk's agent": "import edge_sdk.ota.agent",
}
LITERT = """
import numpy
from ai_edge_litert.interpreter import Interpreter
model = Interpreter(model_path={model!r}, num_threads=1)
model.allocate_tensors()
"""
OURS = "import edge_sdk; model = edge_sdk.load({bundle!r})"
RESIDENT = "\nprint('resident', *(row.split()[1] for row in open('/proc/self/status') if row.startswith('VmRSS')))"


def installed_size(requirements: list[str], architecture: str, python: str) -> dict[str, int]:
    """Return the bytes that pip installs of each package, by its name and version."""
    with tempfile.TemporaryDirectory() as folder:
        platforms = [f"manylinux_2_{n}_{architecture}" for n in (28, 27, 17)] + [f"manylinux2014_{architecture}"]
        command = [sys.executable, "-m", "pip", "install", "-q", "--no-compile", "--target", folder]
        command += ["--only-binary=:all:", "--python-version", python, "-c", str(ROOT / "constraints.txt")]
        command += [word for name in platforms for word in ("--platform", name)]
        subprocess.run([*command, *requirements], check=True, stderr=subprocess.DEVNULL)
        shares = {}
        for found in metadata.distributions(path=[folder]):
            files = [Path(str(found.locate_file(file))) for file in found.files or ()]
            shares[f"{found.metadata['Name']} {found.version}"] = sum(f.stat().st_size for f in files if f.is_file())
        everything = sum(path.stat().st_size for path in Path(folder).rglob("*") if path.is_file())
        missed = everything - sum(shares.values())  # commands, which pip puts elsewhere than it says
        return dict(sorted(shares.items(), key=lambda share: -share[1])) | ({"commands": missed} if missed > 0 else {})


def sizes(wheel: Path) -> dict[str, dict[str, Any]]:
    """Measure what peers and ours take on the disk, for the Python and processor of a wheel."""
    parts = re.search(r"-cp3(\d+)-cp3\d+-manylinux\w+?_(x86_64|aarch64)\.whl$", wheel.name)
    if parts is None:
        raise SystemExit(f"{wheel.name} is no wheel that `make wheels` made")
    asked = PEERS | {f"edge-sdk[{extra}]": [f"edge-sdk[{extra}] @ {wheel.resolve().as_uri()}"] for extra in EXTRAS}
    found = {}
    for name, requirements in asked.items():
        shares = installed_size(requirements, parts[2], f"3.{parts[1]}")
        size = sum(shares.values())
        found[name] = {"bytes": size, "packages": shares}
        told = ", ".join(f"{package} {share / 1e6:.1f}" for package, share in shares.items())
        print(f"{name:20} {size / 1e6:7.1f} MB, {size / 2**20:6.1f} MiB: {told}", flush=True)
    return found


def start(program: str, cache: Path) -> tuple[float, float]:
    """Run a program in a fresh Python; return its processor time in milliseconds and its resident megabytes."""
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    kept["PYTHONPYCACHEPREFIX"] = str(cache)
    command = [sys.executable, "-P", "-c", program + RESIDENT]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=kept)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return spent * 1e3, int(done.stdout.split()[-1]) * 1024 / 1e6


def starts(rounds: int, folder: Path) -> dict[str, dict[str, float]]:
    """Measure imports and loads, in turn, each in processes of its own."""
    programs = dict(PROGRAMS)
    if model := find_model():
        programs["LiteRT, ad01 loaded"] = LITERT.format(model=str(model))
        programs["edge-sdk, ad01 loaded"] = OURS.format(bundle=str(bundle(model, folder)))
    measured: dict[str, list[tuple[float, float]]] = {name: [] for name in programs}
    for program in programs.values():
        start(program, folder / "compiled")  # from here on, all byte code is there
    for _ in range(rounds):
        for name, program in programs.items():
            measured[name].append(start(program, folder / "compiled"))
    found = {}
    for name, pairs in measured.items():
        times, resident = zip(*pairs, strict=True)
        found[name] = {"ms": min(times), "median_ms": statistics.median(times), "resident": statistics.median(resident)}
        print(
            f"{name:24} {min(times):6.0f} ms, median {statistics.median(times):6.0f} {found[name]['resident']:7.1f} MB"
        )
    return found


def find_model() -> Path | None:
    """Return the model, if it is there."""
    path = Path(os.environ.get("EDGE_SDK_DATA", "")) / "mlperf_tiny" / "ad01_int8.tflite"
    return path if path.is_file() else None


def bundle(model: Path, folder: Path) -> Path:
    """Pack the model once; return its bundle."""
    from edge_sdk.packing import pack
    from edge_sdk.processing import Columns, ProcessingSpec

    path = folder / "ad01-1.0.0.edge"
    if not path.exists():
        spec = ProcessingSpec((Columns(tuple(f"bin {n}" for n in range(640))),))
        pack(model, path=path, name="ad01", version="1.0.0", task="regression", processing=spec)
    return path


def look(process: int) -> tuple[float, int]:
    """Return processor seconds and wake-ups of all threads of a process so far."""
    spent, wakes = 0.0, 0
    for thread in Path(f"/proc/{process}/task").iterdir():
        spent += int((thread / "schedstat").read_text().split()[0]) / 1e9
        wakes += int(re.findall(r"\nvoluntary_ctxt_switches:\s+(\d+)", (thread / "status").read_text())[0])
    return spent, wakes


def watch(process: int, seconds: float) -> dict[str, float]:
    """Watch an idle process."""
    began, before = time.monotonic(), look(process)
    time.sleep(seconds)
    lasted, after = time.monotonic() - began, look(process)
    status = dict(re.findall(r"(\w+):\s+(\d+)", Path(f"/proc/{process}/status").read_text()))
    return {
        "seconds": lasted,
        "cores_percent": (after[0] - before[0]) / lasted * 100,
        "wakeups_a_second": (after[1] - before[1]) / lasted,
        "resident_mb": int(status["VmRSS"]) * 1024 / 1e6,
        "anonymous_mb": int(status["RssAnon"]) * 1024 / 1e6,  # the rest are pages of files, such as libraries
        "peak_mb": int(status["VmHWM"]) * 1024 / 1e6,
        "threads": int(status["Threads"]),
    }


def agent(seconds: float, python: str, folder: Path) -> dict[str, dict[str, float]]:
    """Measure the agent: after it has installed a version, and started again with that version active."""
    from edge_sdk.cloud.ota.broker import EmbeddedBroker
    from edge_sdk.cloud.ota.repository import Repository

    repository, state, found = folder / "repository", folder / "state", {}
    kept = Repository.init(repository)
    model = find_model()
    if model:
        kept.add(bundle(model, folder))
        kept.assign("cam-1", "ad01-1.0.0")
    edge_sdk = [sys.executable, "-P", "-m", "edge_sdk"]
    with EmbeddedBroker(engine="mosquitto") as broker:
        serve = [*edge_sdk, "ota", "serve", str(repository), "--fleet", "shop", "--broker", broker.url]
        run = [python, "-P", "-m", "edge_sdk", "agent", "--state", str(state), "--broker", broker.url]
        run += ["--fleet", "shop", "--device", "cam-1", "--root", str(repository / "root.json")]
        with subprocess.Popen(serve, stdout=subprocess.PIPE, text=True) as service:
            assert service.stdout is not None
            service.stdout.readline()
            for name in ("after an update", "started again") if model else ("nothing assigned",):
                with subprocess.Popen(run, stdout=subprocess.PIPE, text=True) as device:
                    assert device.stdout is not None
                    while not device.stdout.readline().startswith("active" if name == "after an update" else "ready"):
                        pass
                    time.sleep(5)
                    found[name] = watch(device.pid, seconds)
                    device.terminate()
                print(name, {key: round(value, 3) for key, value in found[name].items()}, flush=True)
            service.terminate()
    return found


def main() -> None:
    """Measure what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--wheel", type=Path, metavar="FILE", help="wheel of edge-sdk; without it no sizes")
    parser.add_argument("--rounds", type=int, default=10, help="fresh processes of each kind (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=60, help="to watch the agent for (default: %(default)s)")
    parser.add_argument(
        "--python",
        default=sys.executable,
        metavar="FILE",
        help="runs the agent: of an environment that holds edge-sdk[device] and nothing else (default: this one)",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything measured, for programs")
    arguments = parser.parse_args()
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="footprint-") as name:
        folder = Path(name)
        if arguments.wheel:
            found["sizes"] = sizes(arguments.wheel)
        if arguments.rounds:
            found["starts"] = starts(arguments.rounds, folder)
        if arguments.seconds:
            found["agent"] = agent(arguments.seconds, arguments.python, folder)
    peers = ("numpy", "ai-edge-litert", "onnxruntime", "opencv-python-headless")
    found["versions"] = {name: metadata.version(name) for name in peers}
    print(", ".join(f"{name} {version}" for name, version in found["versions"].items()))
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
