"""What is held to this machine's results on an emulated Raspberry Pi, and how tests are run there.

Each check returns whether all was well, and what there is to say of it.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from machine import ROOT

__all__ = ["check_answers", "check_bits", "check_newer", "check_sources", "run_tests"]

HASHES, GOLDEN = "tools/pi/hashes.py", "tools/pi/golden.py"
READING = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}


def compare(there):
    """Compare the kernels' hashes, as `hashes.py` printed them there, with those of this machine."""
    told = subprocess.run([sys.executable, HASHES], cwd=ROOT, check=True, stdout=subprocess.PIPE).stdout
    here, there = json.loads(told), json.loads(there)
    lines = []
    for name, digest in there["hashes"].items():
        same = "the same bits" if digest == here["hashes"][name] else f"other bits than {here['hashes'][name]}"
        lines.append(f"{name:11} {digest} {same}")
    found, other = there["paths"], here["paths"]
    lines.append(f"pictures by {found['image']}, on {other['machine']} by {other['image']}")
    good = there["hashes"] == here["hashes"] and found["machine"] == "aarch64" and found["image"] == "neon"
    return good, "\n".join(lines)


def check_bits(pi, processor):
    """Compare the kernels' hashes with those of this machine."""
    done = pi.run(["python3", HASHES], processor, **READING)
    return (False, done.stdout) if done.returncode else compare(done.stdout.splitlines()[-1])


def check_answers(pi, processor):
    """Verify bundles that this machine packed: their golden answers have to hold."""
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([sys.executable, GOLDEN, "make", folder], cwd=ROOT, check=True)
        done = pi.run(["python3", GOLDEN, "check", "/bundles"], processor, binds=[(folder, "bundles")], **READING)
    return done.returncode == 0, done.stdout


def run_tests(arguments, pi, processor):
    """Run tests."""
    command = ["python3", "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "emulated", "--durations=0", "-rfE"]
    command.append("--timeout=600")  # a processor is emulated, and others may be at work here
    done = pi.run([*command, *arguments], processor, **READING)
    return done.returncode == 0, done.stdout


def check_sources(pi, processor):
    """Install the source distribution with a compiler, there, and hold it to bits and answers."""
    sys.path.insert(0, str(ROOT / "tools"))
    import wheels

    install = "python3 -m pip install -q --no-index --no-deps --no-build-isolation --no-compile --target /tmp/.site"
    steps = (
        f"printf '[build_ext]\\nparallel = {os.cpu_count()}\\n' > /tmp/.side-by-side.cfg",
        "export DIST_EXTRA_CONFIG=/tmp/.side-by-side.cfg CFLAGS=-g0",
        "gcc --version | head -n 1",
        f"{install} /sources/*.tar.gz",
        f"PYTHONPATH=/tmp/.site python3 {GOLDEN} check /bundles",
        f"PYTHONPATH=/tmp/.site python3 {HASHES}",
    )
    with tempfile.TemporaryDirectory() as folder:
        bundles, sources = Path(folder) / "bundles", Path(folder) / "sources"
        bundles.mkdir()
        subprocess.run([sys.executable, GOLDEN, "make", bundles], cwd=ROOT, check=True)
        wheels.sdist(sources)
        binds = [(bundles, "bundles"), (sources, "sources")]
        done = pi.run(["sh", "-c", " && ".join(steps)], processor, binds=binds, **READING)
    if done.returncode:
        return False, done.stdout
    *said, hashes = done.stdout.splitlines()
    good, bits = compare(hashes)
    return good, "\n".join([f"from the source distribution, on {pi.name}", *said, bits])


def check_newer(pi, processor):
    """Hold our wheel for another Python to bits and answers."""
    results = [check(pi, processor) for check in (check_bits, check_answers)]
    return all(good for good, _ in results), "\n".join([f"our wheel on {pi.name}", *(said for _, said in results)])
