"""What is released: wheels for every Python and processor, and the source distribution."""

from __future__ import annotations

import importlib.util
import os
import platform
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from outside.debian import debian_python
from outside.installed import find_python, pack_and_predict, run_installed
from outside.sources import ROOT, copy_sources

PYTHONS = ("3.11", "3.12", "3.13", "3.14")
CHECKERS = ("auditwheel", "check_wheel_contents", "twine")
HERE = platform.machine()
PLATFORMS = (*(f"manylinux_2_{n}_{HERE}" for n in (28, 27, 17)), f"manylinux2014_{HERE}")


def built(out: Path, architecture: str, version: str) -> Path:
    """Build one wheel, or skip where a compiler or headers are missing."""
    command = [sys.executable, "-P", "tools/wheels.py", "--architecture", architecture, "--python", version]
    done = subprocess.run([*command, "--out", out], cwd=ROOT, capture_output=True, text=True, check=False, timeout=800)
    if "no wheel for" in done.stderr:
        pytest.skip(done.stderr.splitlines()[-1])
    assert done.returncode == 0, done.stderr[-3000:]
    return Path(done.stdout.splitlines()[-1])


@pytest.mark.slow
@pytest.mark.timeout(1500)
@pytest.mark.parametrize("version", PYTHONS)
def test_a_wheel_installs_without_a_compiler_into_an_empty_environment_and_predicts(version, tmp_path):
    interpreter = find_python(version)
    wheel = f"{built(tmp_path, HERE, version)}[litert,image]"
    nothing = {**os.environ, "PATH": str(tmp_path / "venv/bin"), "CC": "/nonexistent/cc"}
    if interpreter is not None:
        subprocess.run([interpreter, "-m", "venv", tmp_path / "venv"], check=True, timeout=500)
        python = tmp_path / "venv/bin/python"
        pip = [python, "-m", "pip", "install", "-q", "--only-binary=:all:", "-c", ROOT / "constraints.txt"]
    else:
        python = debian_python(version, tmp_path / "python")
        if python is None:
            pytest.skip(f"Python {version} is not installed, and Debian's cannot be fetched")
        nothing |= {"PYTHONPATH": str(tmp_path / "site"), "PATH": "/bin"}
        pip = [sys.executable, "-m", "pip", "install", "-q", "--only-binary=:all:", "--target", tmp_path / "site"]
        pip += ["--python-version", version, *(word for name in PLATFORMS for word in ("--platform", name))]
    subprocess.run([*pip, wheel], check=True, timeout=600, cwd=tmp_path, env=nothing if interpreter else None)
    assert pack_and_predict([python], tmp_path, env=nothing) >= 0.8
    doctor = run_installed([python], "doctor", folder=tmp_path, env=nothing)
    assert "compiled; pictures by" in doctor.stdout


@pytest.mark.slow
@pytest.mark.timeout(1500)
@pytest.mark.parametrize("architecture", ["x86_64", "aarch64"])
def test_a_wheel_is_stripped_small_and_runs_on_old_systems(architecture, tmp_path):
    wheel = built(tmp_path, architecture, "3.11")
    assert wheel.name.endswith(f"-cp311-cp311-manylinux_2_17_{architecture}.whl")
    assert wheel.stat().st_size < 1_900_000
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "unpacked")
    modules = sorted((tmp_path / "unpacked").rglob("*.so"))
    sources = [*(ROOT / "ext").glob("*.pyx"), *(ROOT / "cloud/server").glob("*.pyx")]
    assert {path.name.partition(".")[0] for path in modules} == {path.stem for path in sources}
    for module in modules:
        assert module.stat().st_size < 500_000
        told = subprocess.run(["readelf", "-hSd", "-W", module], capture_output=True, text=True, check=True).stdout
        assert {"x86_64": "X86-64", "aarch64": "AArch64"}[architecture] in told
        assert ".symtab" not in told
        assert ".debug_info" not in told
        assert [line.partition("[")[2].rstrip("]") for line in told.splitlines() if "NEEDED" in line] in (
            ["libc.so.6"],
            ["libc.so.6", "ld-linux-aarch64.so.1"],
        )


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_what_is_built_passes_the_checks_of_twine_check_wheel_contents_and_auditwheel(tmp_path):
    missing = [name for name in CHECKERS if importlib.util.find_spec(name) is None]
    if missing:
        pytest.skip(f"{', '.join(missing)} not installed: make wheels brings them")
    command = [sys.executable, "-P", "tools/wheels.py", "--all", "--architecture", HERE, "--python", "3.11"]
    done = subprocess.run([*command, "--out", tmp_path], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert {path.suffix for path in tmp_path.iterdir()} == {".whl", ".gz"}


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_source_distribution_installs_where_a_compiler_is(tmp_path):
    sources = copy_sources(tmp_path / "sources")
    build = [sys.executable, "-P", "-m", "build", "--sdist", "--no-isolation", "--outdir", tmp_path, sources]
    subprocess.run(build, check=True, capture_output=True, timeout=500)
    (archive,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(archive) as packed:
        assert any(name.endswith("ext/src/image_kernel.c") for name in packed.getnames())
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True, timeout=500)
    python = tmp_path / "venv/bin/python"
    pip = [python, "-m", "pip", "install", "-q", "-c", ROOT / "constraints.txt", f"{archive}[litert,image]"]
    subprocess.run(pip, check=True, timeout=850, cwd=tmp_path)
    assert pack_and_predict([python], tmp_path) >= 0.8


@pytest.mark.parametrize(("kernel", "says"), [("armv7l", "(armv7l)"), ("aarch64", "its kernel is a 64-bit one")])
def test_an_installation_on_a_32_bit_system_is_refused_at_once_and_says_what_to_install(kernel, says):
    program = (
        f"import platform, sys; sys.maxsize = 2**31 - 1; platform.machine = lambda: {kernel!r}\n"
        "sys.argv = ['setup.py', '--version']; exec(compile(open('setup.py').read(), 'setup.py', 'exec'))"
    )
    command = [sys.executable, "-c", f"__file__ = 'setup.py'\n{program}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=500)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith("edge-sdk: error: this is a 32-bit system")
    assert says in line
    assert "Raspberry Pi OS (64-bit)" in line
