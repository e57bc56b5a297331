"""Builds wheels for Linux on x86-64 and 64-bit ARM, and the source distribution, on whichever machine this runs.

Cython makes C of the extensions once. That is compiled for each architecture and Python with nothing but a compiler
and the headers of that Python, so none of the interpreters has to be there. Headers come from an interpreter on this
machine or from Debian's package, which a private apt fetches and `dpkg -x` unpacks into the cache: nothing is
installed.

example:
  python tools/wheels.py --architecture aarch64 --python 3.11 --out dist
"""

import argparse
import functools
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import setuptools  # noqa: F401 - brings distutils, and has to come before it

ROOT = Path(__file__).resolve().parents[1]
BUILD = ROOT / "build" / "wheels"
CACHE = Path(os.environ.get("EDGE_SDK_CACHE") or ROOT / "build" / "cache")
PYTHONS = ("3.11", "3.12", "3.13", "3.14")
ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}  # and what Debian calls them
RELEASES = {"3.11": "bookworm", "3.13": "trixie", "3.14": "forky"}  # the Debian that has it
KEYS = "/usr/share/keyrings/debian-archive-keyring.gpg"
FLAGS = ["-DNDEBUG", "-fwrapv", "-fPIC", "-g0"]  # beside those of setup.py: what Python's own modules are built with
OLDEST, NEWEST = (2, 17), (2, 28)  # glibc: what a tag promises at most and at least
MOST_BYTES = 1_900_000, 500_000  # of a wheel, half of which is Python, and of a module in it


class MissingError(Exception):
    """Something that is not installed here, and how to get it."""


def compiler(architecture):
    """Return the C compiler for an architecture."""
    name = "gcc" if architecture == platform.machine() else f"{architecture}-linux-gnu-gcc"
    if shutil.which(name) is None:
        package = "gcc libc6-dev" if name == "gcc" else f"gcc-{architecture.replace('_', '-')}-linux-gnu"
        libc = "" if name == "gcc" else f" libc6-dev-{ARCHITECTURES[architecture]}-cross"
        raise MissingError(f"there is no {name}; on Debian: apt-get install {package}{libc}")
    return name


def debian(packages, architecture="aarch64", release="bookworm", cache=CACHE):
    """Fetch and unpack packages of Debian, without what they depend on; return the folder that holds their files.

    What is in the cache is not asked for again. Nothing outside the cache is changed.
    """
    home = Path(cache).resolve() / f"debian-{release}-{architecture}"
    root = home / "root"
    stamps = {package: home / f"{package}.unpacked" for package in packages}
    wanted = [package for package, stamp in stamps.items() if not stamp.exists()]
    if not wanted:
        return root
    for command in ("apt-get", "dpkg"):
        if shutil.which(command) is None:
            raise MissingError(f"there is no {command} to fetch {' '.join(wanted)} of Debian {release} with")
    for folder in ("lists/partial", "archives/partial", "etc/preferences.d", "etc/apt.conf.d"):
        (home / folder).mkdir(parents=True, exist_ok=True)
    (home / "status").touch()
    source = f"deb [signed-by={KEYS}] http://deb.debian.org/debian {release} main\n"
    (home / "sources.list").write_text(source)
    settings = {
        "APT::Architecture": ARCHITECTURES[architecture],
        "APT::Architectures": ARCHITECTURES[architecture],
        "APT::Sandbox::User": "",
        "Acquire::Languages": "none",
        "Dir::State": home,
        "Dir::State::status": home / "status",
        "Dir::Cache": home,
        "Dir::Etc": home / "etc",
        "Dir::Etc::sourcelist": home / "sources.list",
        "Dir::Etc::sourceparts": "/dev/null",
        "Dir::Etc::trustedparts": "/dev/null",
    }
    apt = ["apt-get", "-qq", *(f"-o{key}={value}" for key, value in settings.items())]
    try:
        subprocess.run([*apt, "update"], check=True)
        subprocess.run([*apt, "download", *wanted], check=True, cwd=home)
    except subprocess.CalledProcessError as error:
        raise MissingError(f"{' '.join(wanted)} of Debian {release} cannot be fetched") from error
    for package in wanted:
        (archive,) = home.glob(f"{package}_*.deb")
        subprocess.run(["dpkg", "-x", archive, root], check=True)
        stamps[package].touch()
    return root


def interpreter(version):
    """Return an interpreter of a version that runs, on the path or among pyenv's; None where there is none."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    candidates = [shutil.which(f"python{version}"), *map(str, sorted(pyenv.glob(f"{version}.*/bin/python")))]
    for candidate in filter(None, candidates):
        if subprocess.run([candidate, "-c", "import ensurepip"], capture_output=True, check=False).returncode == 0:
            return candidate
    return None


def headers(architecture, version, cache=CACHE):
    """Return the folders to include for the headers of a Python.

    Between the two architectures, they differ in nothing that an extension sees (docs/decisions/009), so that those of
    an interpreter on this machine will do where Debian has no such Python.
    """
    found = interpreter(version)
    if found and (architecture == platform.machine() or version not in RELEASES):
        program = "import sysconfig; print(sysconfig.get_path('include'))"
        told = subprocess.run([found, "-c", program], stdout=subprocess.PIPE, text=True, check=True)
        folder = Path(told.stdout.strip())
        if (folder / "Python.h").exists():
            return [folder]
    if version not in RELEASES:
        raise MissingError(f"there is no Python {version} with headers on this machine, and Debian has none")
    root = debian([f"libpython{version}-dev"], architecture, RELEASES[version], cache)
    return [root / "usr/include" / f"python{version}", root / "usr/include"]


@functools.lru_cache(maxsize=1)
def extensions():
    """Return the extensions of setup.py, as C."""
    from distutils.core import run_setup

    before = Path.cwd(), os.environ.get("EDGE_SDK_PURE")
    os.chdir(ROOT)
    os.environ["EDGE_SDK_PURE"] = "0"
    try:
        return tuple(run_setup("setup.py", ["-q"], stop_after="init").ext_modules)
    finally:
        os.chdir(before[0])
        del os.environ["EDGE_SDK_PURE"]
        if before[1] is not None:
            os.environ["EDGE_SDK_PURE"] = before[1]


def compile_one(source, architecture, includes, flags, out):
    """Compile one C file; return the object file."""
    made = out / (source.replace("/", "-") + ".o")
    made.parent.mkdir(parents=True, exist_ok=True)
    found = [f"-I{folder}" for folder in includes]
    subprocess.run([compiler(architecture), *FLAGS, *flags, *found, "-c", source, "-o", made], check=True, cwd=ROOT)
    return made


@functools.lru_cache(maxsize=None)
def kernel_objects(architecture):
    """Compile, once for every Python, what is plain C; return the object file of each source."""
    jobs = [(source, ext) for ext in extensions() for source in ext.sources if source.startswith("ext/src/")]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        futures = {
            source: pool.submit(
                compile_one, source, architecture, ext.include_dirs, ext.extra_compile_args, BUILD / architecture
            )
            for source, ext in jobs
        }
    return {source: future.result() for source, future in futures.items()}


def link(ext, architecture, version, includes, tree):
    """Compile what is left of an extension, and put the module into the tree."""
    ready = kernel_objects(architecture)
    out = BUILD / architecture / version
    objects = [
        ready.get(source)
        or compile_one(source, architecture, [*ext.include_dirs, *includes], ext.extra_compile_args, out)
        for source in ext.sources
    ]
    suffix = f".cpython-{version.replace('.', '')}-{architecture}-linux-gnu.so"
    module = tree / (ext.name.replace(".", "/") + suffix)
    subprocess.run([compiler(architecture), "-shared", "-s", *objects, "-o", module], check=True)
    return module


def glibc(modules):
    """Return the newest version of glibc that a symbol of the modules comes from."""
    told = subprocess.run(["readelf", "-W", "--version-info", *modules], stdout=subprocess.PIPE, text=True, check=True)
    return max((int(major), int(minor)) for major, minor in re.findall(r"GLIBC_(\d+)\.(\d+)", told.stdout))


@functools.lru_cache(maxsize=1)
def python_part():
    """Build the wheel without extensions, once for all; return its path."""
    shutil.rmtree(BUILD / "python", ignore_errors=True)
    (BUILD / "python").mkdir(parents=True)
    command = [sys.executable, "-W", "ignore", "setup.py", "-q", "egg_info", "--egg-base", BUILD / "python"]
    command += ["build", "--build-base", BUILD / "python/base", "bdist_wheel", "--dist-dir", BUILD / "python"]
    subprocess.run(command, cwd=ROOT, env={**os.environ, "EDGE_SDK_PURE": "1"}, check=True)
    (path,) = (BUILD / "python").glob("*.whl")
    return path


def build(architecture, version, out, cache=CACHE, includes=None):
    """Build the wheel of one architecture and Python; return its path.

    Parameters
    ----------
    architecture
        A key of ``ARCHITECTURES``.
    version
        Of Python, such as "3.11".
    out
        Folder that the wheel is put into.
    cache
        Folder where downloads are kept.
    includes
        Folders of that Python's headers, where they are at hand.

    Raises
    ------
    MissingError
        A compiler or headers are not there.
    """
    compiler(architecture)
    includes = includes or headers(architecture, version, cache)
    for name in ("wheel", "Cython"):
        __import__(name)
    with tempfile.TemporaryDirectory() as folder:
        wheel = [sys.executable, "-m", "wheel"]
        subprocess.run([*wheel, "unpack", "-d", folder, python_part()], check=True, stdout=subprocess.DEVNULL)
        (tree,) = Path(folder).iterdir()
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            modules = list(pool.map(lambda ext: link(ext, architecture, version, includes, tree), extensions()))
        needs = glibc(modules)
        if needs > NEWEST:
            raise SystemExit(f"edge-sdk: error: the extensions need glibc {needs}, newer than {NEWEST}")
        python = "cp" + version.replace(".", "")
        tag = f"{python}-{python}-manylinux_{'_'.join(map(str, max(needs, OLDEST)))}_{architecture}"
        (facts,) = tree.glob("*.dist-info/WHEEL")
        kept = [line for line in facts.read_text().splitlines() if not line.startswith(("Root-Is-Purelib", "Tag"))]
        facts.write_text("\n".join([*filter(None, kept), "Root-Is-Purelib: false", f"Tag: {tag}", ""]))
        Path(out).mkdir(parents=True, exist_ok=True)
        packed = {**os.environ, "SOURCE_DATE_EPOCH": os.environ.get("SOURCE_DATE_EPOCH", "315532800")}
        subprocess.run([*wheel, "pack", "-d", folder, tree], check=True, stdout=subprocess.DEVNULL, env=packed)
        (made,) = Path(folder).glob("*.whl")
        return Path(shutil.move(made, Path(out) / made.name))


def sdist(out):
    """Build the source distribution; return its path."""
    command = [sys.executable, "-P", "-m", "build", "--sdist", "--no-isolation", "--outdir", out, ROOT]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return max(Path(out).glob("*.tar.gz"), key=lambda path: path.stat().st_mtime)


def check(paths):
    """Hold what was built against what others expect of it, and against our own limits of size."""
    wheels = [path for path in paths if path.suffix == ".whl"]
    subprocess.run([sys.executable, "-m", "twine", "check", "--strict", *paths], check=True)
    subprocess.run([sys.executable, "-m", "check_wheel_contents", *wheels], check=True)
    for path in wheels:
        show = [sys.executable, "-m", "auditwheel", "show", path]
        told = subprocess.run(show, check=True, stdout=subprocess.PIPE, text=True).stdout
        tag = path.stem.rsplit("-", 1)[1]
        if f'"{tag}"' not in told:
            raise SystemExit(f"edge-sdk: error: auditwheel does not agree that {path.name} is {tag}:\n{told}")
        with zipfile.ZipFile(path) as archive:
            largest = max(info.file_size for info in archive.infolist())
        print(f"{path.stat().st_size:9,} bytes, its largest file {largest:9,}: {path.name}")
        if path.stat().st_size >= MOST_BYTES[0] or largest >= MOST_BYTES[1]:
            raise SystemExit(f"edge-sdk: error: more than {MOST_BYTES[0]:,} or, of one file, {MOST_BYTES[1]:,} bytes")


def main():
    """Build what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--architecture", nargs="+", choices=ARCHITECTURES, default=list(ARCHITECTURES))
    parser.add_argument("--python", nargs="+", choices=PYTHONS, default=list(PYTHONS), metavar="VERSION")
    parser.add_argument("--out", type=Path, default=ROOT / "dist", help="folder (default: dist)")
    parser.add_argument("--cache", type=Path, default=CACHE, help="keeps downloads (default: build/cache)")
    parser.add_argument("--all", action="store_true", help="the source distribution, too, and check everything")
    arguments = parser.parse_args()
    made, missing = [], []
    if arguments.all:
        shutil.rmtree(arguments.out, ignore_errors=True)
        made.append(sdist(arguments.out))
    for architecture in arguments.architecture:
        for version in arguments.python:
            try:
                made.append(build(architecture, version, arguments.out, arguments.cache))
                print(made[-1], flush=True)
            except MissingError as reason:
                missing.append(f"no wheel for {architecture} and Python {version}: {reason}")
    if arguments.all:
        check(made)
    if missing:
        sys.exit("\n".join(f"edge-sdk: error: {line}" for line in missing))


if __name__ == "__main__":
    try:
        main()
    except subprocess.CalledProcessError as failed:
        sys.exit(f"edge-sdk: error: failed: {' '.join(map(str, failed.cmd))}")
