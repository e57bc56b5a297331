"""Tests the device side on an emulated Raspberry Pi: Debian for 64-bit ARM and its Python, on processors made by QEMU.

Everything that is fetched or built is kept in one folder. Nothing else of this machine is changed, and root is not
needed. What is missing here is said, and the test skipped. Emulation shows what is right, never how fast it is.

example:
  python tools/pi test --processor cortex-a72
  python tools/pi run edge-sdk doctor
"""

import argparse
import functools
import os
import sys
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

import debian
import packages
from checks import check_answers, check_bits, check_newer, check_sources, run_tests
from machine import PROCESSORS, Pi, SkippedError
from suite import ALL, SHORT, USUAL


def others(cache):
    """Yield checks on systems other than the one that tests run on."""
    for system in debian.NEWER:
        yield functools.partial(check_newer, Pi(cache, system, packages.to_predict()))
    yield functools.partial(check_sources, Pi(cache, debian.COMPILING, packages.to_build(), ours=False))


def test(pi, args):
    """Run everything, and return an exit code."""
    good = True
    parts = [args.arguments] if args.arguments else SHORT if args.short else ALL if args.all else USUAL
    for number, processor in enumerate(args.processor or PROCESSORS):
        start = time.monotonic()
        jobs = [functools.partial(check, pi) for check in (check_bits, check_answers)]
        jobs += [functools.partial(run_tests, part, pi) for part in parts]
        if args.all and not number:
            jobs += others(args.cache)
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            for job in as_completed([pool.submit(job, processor) for job in jobs]):
                well, said = job.result()
                good &= well
                print("\n".join(f"{processor}: {line}" for line in said.splitlines()), flush=True)
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
        "--all", action="store_true", help="every test of the device side, newer Pythons, and from sources; takes long"
    )
    testing.add_argument("arguments", nargs="*", help="arguments for pytest")
    running = commands.add_parser("run", help="run a command there")
    running.add_argument("--processor", choices=PROCESSORS, default="cortex-a72", help="(default: %(default)s)")
    running.add_argument("arguments", nargs=argparse.REMAINDER, help="the command and its arguments")
    args = parser.parse_args()
    start, args.cache = time.monotonic(), args.cache.resolve()
    try:
        pi = Pi(args.cache)
    except SkippedError as reason:
        print(f"skipped: {reason}")
        return 0 if args.command == "test" else 1
    if args.command == "run":
        return pi.run(args.arguments or ["sh"], args.processor).returncode
    print(f"set up: {time.monotonic() - start:.0f} s", flush=True)
    return test(pi, args)


if __name__ == "__main__":
    sys.exit(main())
