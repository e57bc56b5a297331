"""From nothing to a loaded model: a fresh process each time, which imports, loads, and says when it is done.

The peer is the least that can be done: NumPy and the LiteRT interpreter alone. The resident memory of each is measured
once and stands in its note. The model is ``ad01_int8.tflite`` of MLPerf Tiny, from the folder in ``EDGE_SDK_DATA``;
without the folder only imports are timed.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import tempfile
from functools import cache, partial
from pathlib import Path

from harness import Case, Task

__all__ = ["tasks"]

PYTHON = "pass"
INTERPRETER = """
import numpy
from ai_edge_litert.interpreter import Interpreter
model = Interpreter(model_path={model!r}, num_threads=1)
model.allocate_tensors()
"""
OURS = """
import edge_sdk
model = edge_sdk.load({bundle!r})
"""
RESIDENT = """
import pathlib
(line,) = [line for line in pathlib.Path("/proc/self/status").read_text().splitlines() if line.startswith("VmRSS")]
print(int(line.split()[1]) / 1024)
"""
KEPT = tempfile.TemporaryDirectory(prefix="startup-")  # until this process ends


@cache
def _bundle(model: Path) -> str:
    from edge_sdk.packing import pack
    from edge_sdk.processing import Columns, ProcessingSpec

    path = Path(KEPT.name) / "ad01-1.0.0.edge"
    spec = ProcessingSpec((Columns(tuple(f"bin {n}" for n in range(640))),))
    pack(model, path=path, name="ad01", version="1.0.0", task="regression", processing=spec)
    return str(path)


def _run(program: str) -> str:
    # every module from its byte code, as an installer writes it: a source tree may be without
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    kept["PYTHONPYCACHEPREFIX"] = str(Path(KEPT.name) / "compiled")
    command = [sys.executable, "-P", "-c", program]
    # LiteRT greets on standard error
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=kept)
    return done.stdout


def _case(name: str, program: str, *, module: str = "", pip: str = "", ours: bool = False) -> Case:
    def call() -> int:
        _run(program)
        return 0  # there is no answer to compare

    note = f"{float(_run(program + RESIDENT)):.0f} MB resident" if Path("/proc/self/status").exists() else ""
    return Case(name, lambda: call, module=module, pip=pip, ours=ours, note=note)


def tasks() -> tuple[Task, ...]:
    """Return the task of importing, and that of loading where the model and its runtime are."""
    python = _case("Python alone", PYTHON)
    imports = (
        _case("edge-sdk", "import edge_sdk.model", pip="edge-sdk", ours=True),
        _case("numpy", "import numpy", pip="numpy"),
        python,
    )
    made = [Task("import", "a fresh Python that imports what runs a model, without a runtime", imports, tolerance=0)]
    model = Path(os.environ.get("EDGE_SDK_DATA", "")) / "mlperf_tiny" / "ad01_int8.tflite"
    if model.is_file() and importlib.util.find_spec("ai_edge_litert") is not None:
        litert = partial(_case, module="ai_edge_litert")
        loads = (
            litert("edge-sdk", OURS.format(bundle=_bundle(model)), pip="edge-sdk", ours=True),
            litert("NumPy and interpreter", INTERPRETER.format(model=str(model)), pip="ai-edge-litert"),
            python,
        )
        made.append(Task("load", "a fresh Python that loads ad01_int8.tflite", loads, tolerance=0))
    return tuple(made)
