"""Tests the device side on an emulated Raspberry Pi: Debian for 64-bit ARM and its Python, on processors made by QEMU.

Everything that is fetched or built is kept in one folder. Nothing else of this machine is changed, and root is not
needed. What is missing here is said, and the test skipped. Emulation shows what is right, never how fast it is.

example:
  python tools/pi test --processor cortex-a72
  python tools/pi run edge-sdk doctor
"""

import argparse
import functools
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import box
import debian
import packages

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
# What runs on a device, in parts that run side by side. TensorFlow and SciPy are not there: what asks for them skips.
ROOMS = ("client", "ota", "model", "ext", "processing", "bundle", "runtime", "protocol", "pi")
ALL = tuple([f"tests/{room}"] for room in ROOMS)
# minutes, not an hour: where processes are started again and again, some of the tests
SUITE = (
    ["tests/ota/test_power.py", "-k", "not any_moment"],
    ["tests/client/test_hybrid.py", "-k", "not nan and not too_many and not labels and not model and not encodings"],
    ["tests/ext"],
    ["tests/processing", "tests/model/test_model.py", "tests/model/test_frames.py"],
    ["tests/bundle", "tests/runtime", "tests/protocol", "tests/pi"],
)
SHORT = (["tests/runtime", "tests/pi"],)


class SkippedError(Exception):
    """Why an emulated Raspberry Pi is not to be had here."""


class Pi:
    """An emulated Raspberry Pi.

    Parameters
    ----------
    cache
        Folder that everything is kept in.

    Raises
    ------
    SkippedError
        Something is missing here, or cannot be fetched.
    """

    def __init__(self, cache):
        reason = missing()
        if reason:
            raise SkippedError(reason)
        cache.mkdir(parents=True, exist_ok=True)
        try:
            self.root = told("a root of Debian 12", debian.make_root, cache)
            others = told("packages of others", packages.fetch_others, cache)
        except subprocess.CalledProcessError as error:
            raise SkippedError(
                f"{error.cmd[0]} could not fetch what is needed (exit code {error.returncode})"
            ) from error
        ours = told("our own package", packages.build_ours, cache, self.root)
        self.binds = [(others, debian.SITE), (ours, debian.MINE), (ROOT, SOURCES), *tracer()]

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


def told(what, make, *arguments):
    """Call a function; say what it made if that took a while."""
    start = time.monotonic()
    made = make(*arguments)
    if (taken := time.monotonic() - start) > 1:
        print(f"{what}: {taken:.0f} s", flush=True)
    return made


def check_bits(pi, processor):
    """Compare the kernels' hashes with those of this machine; return whether they are the same."""
    program = "tools/pi/hashes.py"
    here = json.loads(subprocess.run([sys.executable, program], cwd=ROOT, check=True, stdout=subprocess.PIPE).stdout)
    done = pi.run(["python3", program], processor, stdout=subprocess.PIPE)
    if done.returncode:
        return False
    there = json.loads(done.stdout)
    for name, digest in there["hashes"].items():
        same = "the same bits" if digest == here["hashes"][name] else f"other bits than {here['hashes'][name]}"
        print(f"{processor}: {name:11} {digest} {same}", flush=True)
    found, other = there["paths"], here["paths"]
    print(f"{processor}: pictures by {found['image']}, on {other['machine']} by {other['image']}", flush=True)
    return there["hashes"] == here["hashes"] and found["machine"] == "aarch64" and found["image"] == "neon"


def check_answers(pi, processor):
    """Verify bundles that this machine packed; return whether their golden answers hold."""
    with tempfile.TemporaryDirectory() as folder:
        program = "tools/pi/golden.py"
        subprocess.run([sys.executable, program, "make", folder], cwd=ROOT, check=True)
        return pi.run(["python3", program, "check", "/bundles"], processor, binds=[(folder, "bundles")]).returncode == 0


def run_tests(pi, processor, arguments):
    """Run tests; return whether they passed, and what pytest said."""
    command = ["python3", "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "emulated", "--durations=0", "-rfE"]
    done = pi.run([*command, *arguments], processor, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    return done.returncode == 0, done.stdout


def test(pi, args):
    """Run everything, and return an exit code."""
    good = True
    for number, processor in enumerate(args.processor or PROCESSORS):
        start = time.monotonic()
        good &= check_bits(pi, processor)
        good &= check_answers(pi, processor)
        usual = ALL if args.all else SUITE
        parts = [args.arguments] if args.arguments else SHORT if args.short or number else usual
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            for passed, said in pool.map(functools.partial(run_tests, pi, processor), parts):
                good &= passed
                print(said, flush=True)
        print(f"{processor}: {'good' if good else 'FAILED'}, {time.monotonic() - start:.0f} s", flush=True)
    return 0 if good else 1


def main():
    """Do what the command line says."""
    parser = argparse.ArgumentParser(
        prog="tools/pi", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    parser.add_argument("--cache", type=Path, default=home / "edge-sdk" / "pi", help="(default: %(default)s)")
    commands = parser.add_subparsers(dest="command", required=True)
    testing = commands.add_parser("test", help="compare bits and answers with this machine's, and run the tests")
    testing.add_argument("--processor", action="append", choices=PROCESSORS, help="(default: all)")
    extent = testing.add_mutually_exclusive_group()
    extent.add_argument("--short", action="store_true", help="bits, answers and the tests of runtimes only")
    extent.add_argument(
        "--all", action="store_true", help="every test of the device side, on the first processor; takes long"
    )
    testing.add_argument("arguments", nargs="*", help="arguments for pytest")
    running = commands.add_parser("run", help="run a command there")
    running.add_argument("--processor", choices=PROCESSORS, default="cortex-a72", help="(default: %(default)s)")
    running.add_argument("arguments", nargs=argparse.REMAINDER, help="the command and its arguments")
    args = parser.parse_args()
    start = time.monotonic()
    try:
        pi = Pi(args.cache.resolve())
    except SkippedError as reason:
        print(f"skipped: {reason}")
        return 0 if args.command == "test" else 1
    if args.command == "run":
        return pi.run(args.arguments or ["sh"], args.processor).returncode
    print(f"set up: {time.monotonic() - start:.0f} s", flush=True)
    return test(pi, args)


if __name__ == "__main__":
    sys.exit(main())
