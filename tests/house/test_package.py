"""What a wheel holds, and that it works where only numpy is."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from importlib import metadata
from pathlib import Path

import grpc
import numpy as np
import pytest

from outside.bundles import tiny_onnx
from outside.services import Service
from outside.sources import ROOT, copy_sources

ROOMS = {"cascade", "cloud", "compression", "edge_sdk", "examples", "ext"}


@pytest.fixture(scope="session")
def wheel(tmp_path_factory) -> Path:
    sources = copy_sources(tmp_path_factory.mktemp("sources"))
    out = tmp_path_factory.mktemp("wheel")
    # without --wheel, the wheel is built from the source distribution: that one must be whole as well
    command = [sys.executable, "-P", "-m", "build", "--no-isolation", "--outdir", out, sources]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    (path,) = out.glob("*.whl")
    return path


def test_a_wheel_holds_one_package_and_nothing_beside_it(wheel):
    with zipfile.ZipFile(wheel) as archive:
        tops = {name.partition("/")[0] for name in archive.namelist()}
    version = metadata.version("edge-sdk")
    assert tops == {"edge_sdk", f"edge_sdk-{version}.dist-info"}


def test_a_wheel_holds_every_room_its_kernels_types_protocol_and_licence(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    for room in ROOMS - {"edge_sdk"}:
        assert f"edge_sdk/{room}/__init__.py" in names
    assert {"edge_sdk/py.typed", "edge_sdk/protocol/inference.proto", "edge_sdk/protocol/inference.desc"} <= names
    for kernel in (ROOT / "ext").glob("*.pyx"):
        assert f"edge_sdk/ext/{kernel.stem}.pyi" in names
        assert any(name.startswith(f"edge_sdk/ext/{kernel.stem}.") and name.endswith(".so") for name in names)
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in names)
    assert not [name for name in names if name.endswith((".pyx", ".c", ".h"))]


def test_every_module_of_the_sources_is_in_the_wheel(wheel):
    with zipfile.ZipFile(wheel) as archive:
        packed = {name for name in archive.namelist() if name.endswith(".py")}
    expected = set()
    for room in ROOMS:
        for path in (ROOT / room).rglob("*.py"):
            below = path.relative_to(ROOT / room).as_posix()
            expected.add(f"edge_sdk/{below}" if room == "edge_sdk" else f"edge_sdk/{room}/{below}")
    assert packed == expected


def test_an_unpacked_wheel_runs_its_kernels_without_the_sources(wheel, tmp_path):
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path)
    program = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "import edge_sdk, numpy as np\n"
        "from edge_sdk.ext.scores import softmax\n"
        "assert edge_sdk.__file__.startswith(sys.argv[1]), edge_sdk.__file__\n"
        "print(softmax(np.zeros(4, np.float32)).tolist())\n"
    )
    command = [sys.executable, "-P", "-c", program, tmp_path]
    done = subprocess.run(command, capture_output=True, text=True, timeout=500, check=True, cwd=tmp_path)
    assert done.stdout.strip() == "[0.25, 0.25, 0.25, 0.25]"


@pytest.mark.slow
def test_a_wheel_installs_into_an_empty_environment_with_its_base_requirements_alone(wheel, tmp_path):
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True, timeout=500)
    python = tmp_path / "venv" / "bin" / "python"
    pip = [python, "-m", "pip", "install", "-q", "-c", ROOT / "constraints.txt", wheel]
    subprocess.run(pip, check=True, timeout=300, capture_output=True)
    done = subprocess.run([python, "-m", "edge_sdk", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["edge-sdk", metadata.version("edge-sdk")]
    refused = subprocess.run([python, "-m", "edge_sdk", "serve", "x.edge"], capture_output=True, text=True, check=False)
    assert refused.returncode == 2
    assert "pip install 'edge-sdk[cloud]'" in refused.stderr


ALONE = (
    "import sys; sys.path.insert(0, sys.argv[1])\n"
    "sys.meta_path[:] = [f for f in sys.meta_path if 'editable' not in f.__module__]  # what is installed here\n"
)


@pytest.fixture(scope="module")
def pure(tmp_path_factory) -> Path:
    """Return where a wheel that was built without a compiler is unpacked."""
    folder = tmp_path_factory.mktemp("pure")
    sources = copy_sources(folder / "sources")
    command = [sys.executable, "-P", "-m", "build", "--wheel", "--no-isolation", "--outdir", folder, sources]
    environment = {**os.environ, "EDGE_SDK_PURE": "1"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=900, check=False, env=environment)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    (path,) = folder.glob("*.whl")
    assert path.name.endswith("-py3-none-any.whl")
    with zipfile.ZipFile(path) as archive:
        assert not [name for name in archive.namelist() if name.endswith(".so")]
        archive.extractall(folder / "installed")
    return folder / "installed"


def test_a_wheel_of_python_alone_computes_in_numpy_and_else_says_what_is_missing(pure, tmp_path):
    program = (
        f"{ALONE}import numpy as np\n"
        "from edge_sdk.ext.scores import softmax\n"
        "print(softmax(np.zeros(4, np.float32)).tolist())\n"
    )
    command = [sys.executable, "-P", "-c", program, pure]
    environment = {**os.environ, "EDGE_SDK_PURE": "1"}
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=500, check=True, cwd=tmp_path, env=environment
    )
    assert done.stdout.strip() == "[0.25, 0.25, 0.25, 0.25]"
    compiled = {**os.environ, "EDGE_SDK_PURE": "0"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=500, check=False, cwd=tmp_path, env=compiled)
    assert done.stderr.splitlines()[-1].startswith("edge_sdk.errors.KernelError: the compiled kernels do not load")


def test_a_wheel_of_python_alone_serves_with_grpcs_own_library_and_says_so(pure, tmp_path, monkeypatch):
    monkeypatch.setenv("EDGE_SDK_PURE", "1")
    (tmp_path / "plain.onnx").write_bytes(tiny_onnx(np.zeros((192, 3), np.float32), np.zeros(3, np.float32)))
    program = [sys.executable, "-P", "-c", f"{ALONE}from edge_sdk.main import main\nsys.exit(main(sys.argv[2:]))", pure]
    with Service("serve", tmp_path / "plain.onnx", "--grpc-port", "0", program=list(map(str, program))) as process:
        with grpc.insecure_channel(process.ready["grpc"]) as channel:
            live = channel.unary_unary("/inference.GRPCInferenceService/ServerLive")
            assert live(b"", timeout=30) == b"\x08\x01"
        assert process.stop() == 0
    assert process.errors.count("\n") == 1
    assert "gRPC's own library serves" in process.errors


def test_a_build_without_a_compiler_says_what_to_do(tmp_path):
    sources = copy_sources(tmp_path / "sources")
    command = [sys.executable, "-P", "setup.py", "-q", "build_ext", "--build-temp", tmp_path, "--build-lib", tmp_path]
    none = {**os.environ, "EDGE_SDK_PURE": "0", "CC": str(tmp_path / "no-compiler")}
    done = subprocess.run(command, capture_output=True, text=True, timeout=900, check=False, env=none, cwd=sources)
    assert done.returncode != 0
    last = done.stderr.splitlines()[-1]
    assert last.startswith("edge-sdk: error: the kernels cannot be compiled")
    assert "EDGE_SDK_PURE=1" in last


def test_one_version_is_told_everywhere():
    import tomllib

    import edge_sdk

    stated = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert stated == metadata.version("edge-sdk") == edge_sdk.__version__
    assert f"[{stated}]" in (ROOT / "CHANGELOG.md").read_text()
