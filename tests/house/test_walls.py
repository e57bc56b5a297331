"""Proves that `make lint` sees every room: what is planted wrong must be found."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from outside.sources import ROOT, copy_sources


def make(target: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run one target of the Makefile, with the tools of this interpreter's environment."""
    environment = os.environ | {"MAKEFLAGS": "", "COLUMNS": "200", "NO_COLOR": "1"}
    command = ["make", target, f"VENV={sys.prefix}", "-o", f"{sys.prefix}/stamp-dev"]
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=500, check=False
    )


def plant(folder: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (folder / name).write_text(text)


IMPORTS = {
    "edge_sdk/runtime/planted.py": "import tensorflow\n",
    "edge_sdk/commands/planted.py": "from flask import Flask\n",
    "edge_sdk/ota/planted.py": "import edge_sdk.processing.keras\n",
    "edge_sdk/client/planted.py": "from edge_sdk.cloud import server\n",
    "cascade/planted.py": "from edge_sdk.model import EdgeModel\n",
    "compression/planted.py": "import edge_sdk.examples\n",
    "cloud/planted_one.py": "import edge_sdk.cloud.planted_two\n",
    "cloud/planted_two.py": "import edge_sdk.cloud.planted_one\n",
}

FOUND_IMPORTS = [
    r"edge_sdk\.runtime\.planted -> tensorflow",
    r"edge_sdk\.commands\.planted -> flask",
    r"edge_sdk\.ota\.planted -> edge_sdk\.processing\.keras",
    r"edge_sdk\.client\.planted -> edge_sdk\.cloud\.server",
    r"edge_sdk\.cascade\.planted -> edge_sdk\.model",
    r"edge_sdk\.compression\.planted -> edge_sdk\.examples",
    r"\.planted_(one|two) -> \.planted_(one|two)",
]

TYPES = {
    "edge_sdk/client/planted.py": "def untyped(x):\n    return x\n",
    "cascade/planted.py": "from edge_sdk.types import TensorSpec\n\nrank: str = TensorSpec('x', 'int8', (1,)).shape\n",
    "cloud/planted.py": "number: int = 'a string'\n",
    "compression/planted.py": "from edge_sdk.ext.scores import softmax\n\nsoftmax('not an array')\n",
    "examples/planted.py": "from edge_sdk.cascade import NoSuchName\n",
}

FOUND_TYPES = [
    r"edge_sdk/client/planted\.py:1: error: .*\[no-untyped-def\]",
    r"edge_sdk/cascade/planted\.py:3: error: .*\[assignment\]",
    r"edge_sdk/cloud/planted\.py:1: error: .*\[assignment\]",
    r"edge_sdk/compression/planted\.py:3: error: .*\[arg-type\]",
    r"edge_sdk/examples/planted\.py:1: error: .*\[attr-defined\]",
]


@pytest.mark.parametrize(
    ("target", "files", "expected"),
    [("lint-imports", IMPORTS, FOUND_IMPORTS), ("lint-types", TYPES, FOUND_TYPES)],
    ids=["imports", "types"],
)
def test_what_is_planted_wrong_in_any_room_is_found(tmp_path, target, files, expected):
    sources = copy_sources(tmp_path)
    plant(sources, files)
    done = make(target, sources)
    output = re.sub(r"\s*\n\s+", " ", done.stdout) if target == "lint-imports" else done.stdout
    assert done.returncode != 0, done.stdout + done.stderr
    assert [pattern for pattern in expected if not re.search(pattern, output)] == [], done.stdout + done.stderr


def test_a_new_module_must_be_given_a_floor(tmp_path):
    sources = copy_sources(tmp_path)
    plant(sources, {"edge_sdk/attic.py": '"""No floor."""\n'})
    done = make("lint-imports", sources)
    assert done.returncode != 0
    assert "edge_sdk.attic" in done.stdout


def test_every_module_of_the_device_is_held_to_what_a_device_has():
    document = tomllib.loads((ROOT / "pyproject.toml").read_text())
    (contract,) = [row for row in document["tool"]["importlinter"]["contracts"] if row["id"] == "device"]
    listed = {name.removeprefix("edge_sdk.") for name in contract["source_modules"]}
    there = {path.stem for path in (ROOT / "edge_sdk").glob("[!_]*.py")}
    there |= {path.parent.name for path in (ROOT / "edge_sdk").glob("*/__init__.py")}
    assert there - listed == set()


def imported_by(path: Path) -> set[str]:
    """Return what a Python or Cython file imports; Cython's ``cimport`` is counted too."""
    if path.suffix == ".pyx":
        lines = re.findall(r"^\s*(?:from\s+([\w.]+)\s+c?import|c?import\s+([\w.]+))", path.read_text(), re.MULTILINE)
        return {first or second for first, second in lines}
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
    return found


def is_allowed(module: str, rooms: tuple[str, ...]) -> bool:
    top = module.partition(".")[0]
    own = module == "edge_sdk" or module.startswith(rooms)
    return own if top == "edge_sdk" else top in {"numpy", "__future__"} or top in sys.stdlib_module_names


def test_kernels_import_only_numpy_and_the_ground_floor():
    rooms = ("edge_sdk.errors", "edge_sdk.ext")
    for path in [*(ROOT / "ext").glob("*.py"), *(ROOT / "ext").glob("*.pyx")]:
        outside = {name for name in imported_by(path) if not is_allowed(name, rooms)}
        # what Cython itself brings: declarations of C, of the C library and of Python's C interface
        assert {name for name in outside if name.partition(".")[0] not in {"cython", "libc", "cpython"}} == set(), path


def test_the_cascade_imports_only_numpy_and_the_floors_below_it():
    rooms = tuple(f"edge_sdk.{name}" for name in ("cascade", "ext", "canonical", "types", "errors", "_lazy"))
    for path in (ROOT / "cascade").rglob("*.py"):
        assert {name for name in imported_by(path) if not is_allowed(name, rooms)} == set(), path
