"""Build script: maps the top-level folders into one import namespace and compiles the kernels.

With ``EDGE_SDK_PURE=1`` in the environment nothing is compiled; what is installed then runs with the same setting.
"""

from __future__ import annotations

import os
import platform
import sys
from pathlib import Path

from setuptools import Extension, find_packages, setup
from setuptools.command.build_ext import build_ext
from setuptools.errors import CCompilerError, ExecError, PlatformError

ROOT = Path(__file__).parent
PURE = os.environ.get("EDGE_SDK_PURE", "0") not in ("", "0")

if sys.maxsize < 2**32:
    kernel = "; its kernel is a 64-bit one, the rest is not" if platform.machine() in ("aarch64", "x86_64") else ""
    raise SystemExit(
        f"edge-sdk: error: this is a 32-bit system ({platform.machine()}{kernel}), for which NumPy, LiteRT and ONNX "
        "Runtime have no wheels. Install a 64-bit one: on a Raspberry Pi 3, 4, 5 or Zero 2, Raspberry Pi OS (64-bit)"
    )

# folder at the top of the repository -> the package it is imported as
ROOMS = {
    "edge_sdk": "edge_sdk",
    "ext": "edge_sdk.ext",
    "cascade": "edge_sdk.cascade",
    "compression": "edge_sdk.compression",
    "cloud": "edge_sdk.cloud",
    "examples": "edge_sdk.examples",
}

# -ffp-contract=off: the same bits on every instruction set; -fno-math-errno: square roots in vectors
CFLAGS = ["-O3", "-std=c11", "-ffp-contract=off", "-fno-math-errno", "-fvisibility=hidden"]


def packages() -> list[str]:
    """Every package of every room, under the name it is imported as."""
    found = []
    for folder, package in ROOMS.items():
        found.append(package)
        found += [f"{package}.{name}" for name in find_packages(str(ROOT / folder))]
    return found


def extensions() -> list[Extension]:
    """One extension per ``ext/*.pyx``, each with the C sources of the same stem, and per ``cloud/server/*.pyx``."""
    if PURE:
        return []
    from Cython.Build import cythonize

    found = [
        Extension(
            f"edge_sdk.ext.{pyx.stem}",
            [f"ext/{pyx.name}", f"ext/src/{pyx.stem}_kernel.c"],
            include_dirs=["ext/src"],
            depends=[str(h.relative_to(ROOT)) for h in (ROOT / "ext/src").glob("*.h")],
            extra_compile_args=CFLAGS,
        )
        for pyx in sorted((ROOT / "ext").glob("*.pyx"))
    ]
    found += [
        Extension(f"edge_sdk.cloud.server.{pyx.stem}", [f"cloud/server/{pyx.name}"], extra_compile_args=CFLAGS)
        for pyx in sorted((ROOT / "cloud/server").glob("*.pyx"))
    ]
    directives = {
        "language_level": "3",
        "boundscheck": False,
        "wraparound": False,
        "initializedcheck": False,
        "cdivision": True,
    }
    compiled: list[Extension] = cythonize(found, build_dir="build/cython", compiler_directives=directives)
    return compiled


class BuildKernels(build_ext):
    """Compiles the kernels, or says what to do where that cannot be."""

    def run(self) -> None:
        """Compile."""
        try:
            super().run()
        except (CCompilerError, ExecError, PlatformError, OSError) as error:
            raise SystemExit(
                f"edge-sdk: error: the kernels cannot be compiled ({error}). Install a C compiler and the headers of "
                "Python (on Debian: apt-get install gcc libc6-dev python3-dev), or set EDGE_SDK_PURE=1 for this "
                "installation and for what runs with it, to compute in NumPy, slower"
            ) from error


setup(
    packages=packages(),
    package_dir={package: folder for folder, package in ROOMS.items()},
    include_package_data=False,  # the kernels' C sources are in the source distribution, not in wheels
    package_data={
        "edge_sdk": ["py.typed", "protocol/*.proto", "protocol/*.desc"],
        "edge_sdk.ext": ["*.pyi"],
        "edge_sdk.cloud.server": ["*.pyi"],
    },
    ext_modules=extensions(),
    cmdclass={"build_ext": BuildKernels},
)
