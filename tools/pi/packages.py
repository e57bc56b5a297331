"""What Python finds on the emulated Raspberry Pi: wheels of others as pip picks them for it, and our own."""

import hashlib
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import debian
from bytecode import compile_modules

__all__ = ["COMPILER", "build_ours", "fetch_others", "requirements", "to_build", "to_predict"]

ROOT = Path(__file__).resolve().parents[2]
COMPILER = "aarch64-linux-gnu-gcc"
EXTRAS = ("device", "onnx", "cloud")  # the last for the other end of what the device's tests talk to
FOR_TESTS = ("hypothesis", "onnx", "prometheus-client", "pytest", "pytest-timeout")
NOT_EMULATED = "iotcore"  # its broker does not begin to listen under QEMU 7.2; mosquitto, which is tried next, does
NEWEST_GLIBC = 28  # of those that wheels are tagged with and Debian 12 has
BUILT_FROM = ("setup.py", "pyproject.toml", "edge_sdk", "ext", "cascade", "compression", "cloud", "examples")


def requirements(extras=EXTRAS, others=FOR_TESTS):
    """Return what the extras and the tests need, as lines for pip."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    found, todo = [*project["dependencies"], *others], list(extras)
    for extra in todo:
        for need in project["optional-dependencies"][extra]:
            if need.startswith("edge-sdk["):
                todo += [name for name in need[9:-1].split(",") if name not in todo]
            elif not need.startswith(NOT_EMULATED):
                found.append(need)
    return sorted(set(found))


def to_predict():
    """Return what models and pictures need, as lines for pip."""
    return requirements(("litert", "onnx", "image"), ())


def to_build():
    """Return what our own package is built with besides, as lines for pip."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    return [*to_predict(), "pip", *project["build-system"]["requires"]]


def fetch_others(cache, lines=None, system=debian.BOOKWORM):
    """Return the folder of the packages of others, filled where it is not there yet."""
    lines = lines or requirements()
    pins = (ROOT / "constraints.txt").read_text()
    recipe = "\n".join((pins, system.python, *lines, Path(__file__).read_text()))
    folder = cache / f"site-{hashlib.sha256(recipe.encode()).hexdigest()[:12]}"
    if folder.exists():
        return folder
    being_made = folder.with_suffix(".part")
    shutil.rmtree(being_made, ignore_errors=True)
    downloads = cache / "downloads"
    downloads.mkdir(parents=True, exist_ok=True)
    platforms = [f"manylinux_2_{minor}_aarch64" for minor in range(NEWEST_GLIBC, 16, -1)]
    command = [sys.executable, "-m", "pip", "-qq", "--disable-pip-version-check"]
    chosen = ["--only-binary=:all:", "--implementation=cp", f"--python-version={system.python}"]
    chosen += [f"--platform={name}" for name in (*platforms, "manylinux2014_aarch64")]
    chosen += ["--constraint", str(ROOT / "constraints.txt"), *lines]
    subprocess.run([*command, "download", "--dest", downloads, "--find-links", downloads, *chosen], check=True)
    subprocess.run(
        [*command, "install", "--target", being_made, "--no-index", "--find-links", downloads, "--no-compile", *chosen],
        check=True,
    )
    compile_modules(being_made, system.site, system.python)
    being_made.rename(folder)
    return folder


def sources():
    """Yield the files that our wheel is built from."""
    kinds = {".py", ".pyi", ".pyx", ".pxd", ".pxi", ".c", ".h", ".desc", ".proto", ".toml", ".typed"}
    for name in BUILT_FROM:
        path = ROOT / name
        found = [path] if path.is_file() else path.rglob("*")
        yield from (each for each in sorted(found) if each.suffix in kinds and each.is_file())


def build_ours(cache, root, system=debian.BOOKWORM):
    """Return the folder of our own package for the Raspberry Pi, built where its sources have changed."""
    sys.path.insert(0, str(ROOT / "tools"))
    import wheels

    digest = hashlib.sha256(Path(__file__).read_bytes() + Path(wheels.__file__).read_bytes())
    for path in sources():
        digest.update(str(path.relative_to(ROOT)).encode() + path.read_bytes())
    name = f"ours-{system.python}"
    folder = cache / f"{name}-{digest.hexdigest()[:12]}"
    if folder.exists():
        return folder
    building = cache / f"building-{name}"
    earlier = sorted(cache.glob(f"{name}-*"), key=lambda path: path.stat().st_mtime)
    for old in (building, *earlier[:-2]):  # another run may use one of the last
        shutil.rmtree(old, ignore_errors=True)
    found = root / f"usr/include/python{system.python}"
    includes = [found, root / "usr/include"] if found.exists() else None
    wheel = wheels.build("aarch64", system.python, building, cache, includes)
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(building / "unpacked")
    compile_modules(building / "unpacked", debian.MINE, system.python)
    (building / "unpacked").rename(folder)
    shutil.rmtree(building)
    return folder
