"""Builds the kernels with other compilers, for other processors and under sanitizers, and tests what comes out.

A driver (kernels.c) runs every kernel on made-up inputs and prints hashes of the results, which must be those of
the ordinary build. What is not installed is skipped, and said.

example:
  python tools/kernels.py arm64
"""

import argparse
import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
BUILD = ROOT / "build" / "kernels"
FLAGS = ["-O3", "-std=c11", "-ffp-contract=off", "-fno-math-errno", "-Wall", "-Wextra", "-Werror"]
SANITIZERS = ["-fsanitize=address,undefined", "-fno-sanitize-recover=undefined", "-fno-omit-frame-pointer", "-g"]
PROCESSORS = ("cortex-a53", "cortex-a72", "cortex-a76")  # Raspberry Pi 3, 4 and 5
DEBIAN = {
    "aarch64-linux-gnu-gcc": "gcc-aarch64-linux-gnu libc6-dev-arm64-cross",
    "qemu-aarch64-static": "qemu-user-static",
    "clang": "clang",
    "gcc": "gcc",
}


def needed(*commands: str) -> None:
    """End, successfully, where one is not installed."""
    for command in commands:
        if shutil.which(command) is None:
            print(f"skipped: there is no {command}; on Debian: apt-get install {DEBIAN[command]}")
            sys.exit(0)


def hashes(name: str, compiler: str, flags: list[str], runner: list[str] | None = None) -> str:
    """Compile and run the driver; return what it prints."""
    BUILD.mkdir(parents=True, exist_ok=True)
    program = BUILD / name
    sources = [ROOT / "tools" / "kernels.c", *sorted((ROOT / "ext" / "src").glob("*.c"))]
    command = [compiler, *FLAGS, *flags, f"-I{ROOT / 'ext' / 'src'}", *sources, "-lm", "-o", program]
    subprocess.run(command, check=True)
    return subprocess.run([*(runner or []), program], check=True, stdout=subprocess.PIPE, text=True).stdout


def compare(what: str, expected: str, got: str) -> None:
    """End, unsuccessfully, where a hash differs."""
    if got != expected:
        sys.exit(f"{what} gives other bits.\nexpected:\n{expected}got:\n{got}")
    print(f"{what}: the same bits")


def extensions(name: str, flags: list[str], compiler: str) -> Path:
    """Build the package with its extensions into a folder of their own; return it."""
    tree, text = BUILD / f"{name}-tree", " ".join(flags)
    environment = {**os.environ, "CC": compiler, "LDSHARED": f"{compiler} -shared", "CFLAGS": text, "LDFLAGS": text}
    command = [sys.executable, "setup.py", "-q", "build_py", "--build-lib", tree, "build_ext", "--build-lib", tree]
    command += ["--build-temp", BUILD / f"{name}-temp"]
    subprocess.run(command, cwd=ROOT, env=environment, check=True)
    return tree


def run_tests(tree: Path, environment: dict[str, str], arguments: list[str]) -> None:
    """Run the kernels' tests on a tree."""
    environment = {**os.environ, "PYTHONPATH": str(tree), "EDGE_SDK_PURE": "0", **environment}
    check = f"import edge_sdk.ext.image as i; assert i.__file__.startswith({str(tree)!r}), i.__file__"
    subprocess.run([sys.executable, "-P", "-c", check], env=environment, check=True)
    command = [
        sys.executable,
        "-P",
        "-m",
        "pytest",
        "-q",
        "-s",
        "-p",
        "no:cacheprovider",
        *(arguments or ["tests/ext"]),
    ]
    subprocess.run(command, cwd=ROOT, env=environment, check=True)


def arm64(arguments: list[str]) -> None:
    """Compare with aarch64, under emulation of the Raspberry Pi's processors."""
    needed("gcc", "aarch64-linux-gnu-gcc", "qemu-aarch64-static")
    expected = hashes("native", "gcc", [])
    for processor in PROCESSORS:
        runner = ["qemu-aarch64-static", "-cpu", processor]
        compare(processor, expected, hashes("arm64", "aarch64-linux-gnu-gcc", ["-static"], runner))


def portable(arguments: list[str]) -> None:
    """Compare with what a compiler makes that the sources have never heard of."""
    needed("gcc")
    unknown = ["-include", str(ROOT / "tools" / "unknown_compiler.h")]
    compare("an unknown compiler", hashes("native", "gcc", []), hashes("portable", "gcc", unknown))


def clang(arguments: list[str]) -> None:
    """Compare with clang's, and run the tests on it."""
    needed("gcc", "clang")
    compare("clang", hashes("native", "gcc", []), hashes("clang", "clang", []))
    run_tests(extensions("clang", [], "clang"), {}, arguments)


def asan(arguments: list[str]) -> None:
    """Run driver, tests and fuzzer with AddressSanitizer and UndefinedBehaviorSanitizer in the kernels."""
    needed("gcc")
    compare("the sanitized build", hashes("native", "gcc", []), hashes("asan", "gcc", SANITIZERS))
    tree = extensions("asan", SANITIZERS, "gcc")
    asked = [["gcc", f"-print-file-name={name}"] for name in ("libasan.so", "libubsan.so")]
    libraries = [subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout for command in asked]
    # Python keeps what it allocates, and says so at its end; numpy's own allocator must not hide a byte too many
    options = {
        "LD_PRELOAD": ":".join(map(str.strip, libraries)),
        "ASAN_OPTIONS": "detect_leaks=0",
        "PYTHONMALLOC": "malloc",
    }
    run_tests(tree, options, arguments)
    fuzzer = [sys.executable, "-P", "tools/fuzz.py", "--seconds", "20", "kernels"]
    subprocess.run(fuzzer, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(tree), **options}, check=True)


JOBS = {job.__name__: job for job in (arm64, portable, clang, asan)}


def main() -> None:
    """Run the job named on the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("job", choices=JOBS, help="; ".join(f"{name}: {job.__doc__}" for name, job in JOBS.items()))
    parser.add_argument("tests", nargs="*", help="arguments for pytest (default: tests/ext)")
    arguments = parser.parse_args()
    JOBS[arguments.job](arguments.tests)


if __name__ == "__main__":
    try:
        main()
    except subprocess.CalledProcessError as failed:
        sys.exit(f"failed: {' '.join(map(str, failed.cmd))}")
