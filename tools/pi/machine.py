"""An emulated Raspberry Pi: folders of a Debian and of packages, and commands that run in them."""

import contextlib
import fcntl
import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import box
import debian
import packages

__all__ = ["PROCESSORS", "ROOT", "Pi", "SkippedError"]

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).resolve().parent
SOURCES = "/src"
PROCESSORS = tuple(box.CPUINFO)
NEEDED = {
    box.QEMU: "qemu-user-static",
    packages.COMPILER: "gcc-aarch64-linux-gnu libc6-dev-arm64-cross",
    "apt-get": "apt",
    "dpkg-deb": "dpkg",
    "tar": "tar",
}


class SkippedError(Exception):
    """Why an emulated Raspberry Pi is not to be had here."""


class Pi:
    """An emulated Raspberry Pi.

    Parameters
    ----------
    cache
        Folder that everything is kept in.
    system
        A `debian.System`.
    lines
        What pip fetches for it; by default what the tests need.
    ours
        Whether our own wheel is there.

    Raises
    ------
    SkippedError
        Something is missing here, or cannot be fetched.
    """

    def __init__(self, cache, system=debian.BOOKWORM, lines=None, *, ours=True):
        reason = missing()
        if reason:
            raise SkippedError(reason)
        cache.mkdir(parents=True, exist_ok=True)
        self.name = f"Debian {system.release}, Python {system.python}"
        try:
            with alone(cache / f"lock-{system.release}"):
                self.root = told(f"a root of {self.name}", debian.make_root, cache, system)
                others = told("packages of others", packages.fetch_others, cache, lines, system)
        except subprocess.CalledProcessError as error:
            raise SkippedError(
                f"{error.cmd[0]} could not fetch what is needed (exit code {error.returncode})"
            ) from error
        self.binds = [(others, system.site), (ROOT, SOURCES), *tracer()]
        if ours:
            with alone(cache / "lock-ours"):
                made = told("our own package", packages.build_ours, cache, self.root, system)
            self.binds.append((made, debian.MINE))

    def run(self, command, processor, *, binds=(), **options):
        """Run a command; further options are those of `subprocess.run`."""
        description = {
            "root": str(self.root),
            "binds": [[str(source), target] for source, target in (*self.binds, *binds)],
            "processor": processor,
            "folder": SOURCES,
            "command": [str(word) for word in command],
            "environment": {
                "HOME": "/root",
                "LANG": "C.UTF-8",
                "PATH": "/usr/local/bin:/usr/bin:/usr/sbin",
                "HYPOTHESIS_STORAGE_DIRECTORY": "/tmp/.hypothesis",  # noqa: S108 - this one is the box's own
                "PYTHONDONTWRITEBYTECODE": "1",
                "PYTHONPATH": f"{SOURCES}/tools/pi",
                "PYTHONSAFEPATH": "1",
            },
        }
        with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
            json.dump(description, file)
            file.flush()
            return subprocess.run([sys.executable, HERE / "box.py", file.name], check=False, **options)


def missing():
    """Return what is not to be had on this machine, or None."""
    for command, package in NEEDED.items():
        if shutil.which(command) is None:
            return f"there is no {command}; on Debian: apt-get install {package}"
    if not debian.KEYS.exists():
        return f"there is no {debian.KEYS}; on Debian: apt-get install debian-archive-keyring"
    done = subprocess.run([sys.executable, HERE / "box.py", "--probe"], capture_output=True, text=True, check=False)
    if done.returncode:
        reason = done.stderr.strip().removeprefix("edge-sdk: error: ")
        return f"no namespaces with binary formats of their own, which need Linux 6.7 or newer and the right ({reason})"
    return None


def tracer():
    """Return what to bind for strace: this machine's, which sees the calls that QEMU makes for an emulated process."""
    found, libraries = shutil.which("strace"), [Path("/usr/lib/x86_64-linux-gnu"), Path("/lib64")]
    if found is None or not all(path.is_dir() for path in libraries):
        return []
    return [(found, "usr/local/bin/strace"), *((path, str(path)) for path in libraries)]


@contextlib.contextmanager
def alone(path):
    """Hold a lock, as another run may be making the same."""
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def told(what, make, *arguments):
    """Call a function; say what it made if that took a while."""
    start = time.monotonic()
    made = make(*arguments)
    if (taken := time.monotonic() - start) > 1:
        print(f"{what}: {taken:.0f} s", flush=True)
    return made
