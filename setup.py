"""Build script: maps the top-level folders into one import namespace and compiles the kernels."""

from __future__ import annotations

from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension, find_packages, setup

ROOT = Path(__file__).parent

# folder at the top of the repository -> the package it is imported as
ROOMS = {
    "edge_sdk": "edge_sdk",
    "ext": "edge_sdk.ext",
    "cascade": "edge_sdk.cascade",
    "compression": "edge_sdk.compression",
    "cloud": "edge_sdk.cloud",
    "examples": "edge_sdk.examples",
}

# -ffp-contract=off: the same bits on every instruction set
CFLAGS = ["-O3", "-std=c11", "-ffp-contract=off", "-fvisibility=hidden"]


def packages() -> list[str]:
    """Every package of every room, under the name it is imported as."""
    found = []
    for folder, package in ROOMS.items():
        found.append(package)
        found += [f"{package}.{name}" for name in find_packages(str(ROOT / folder))]
    return found


def extensions() -> list[Extension]:
    """One extension per ``ext/*.pyx``, each with the C sources of the same stem."""
    return [
        Extension(
            f"edge_sdk.ext.{pyx.stem}",
            [f"ext/{pyx.name}", f"ext/src/{pyx.stem}_kernel.c"],
            include_dirs=["ext/src"],
            depends=[str(h.relative_to(ROOT)) for h in (ROOT / "ext/src").glob("*.h")],
            extra_compile_args=CFLAGS,
        )
        for pyx in sorted((ROOT / "ext").glob("*.pyx"))
    ]


setup(
    packages=packages(),
    package_dir={package: folder for folder, package in ROOMS.items()},
    include_package_data=False,  # the kernels' C sources are in the source distribution, not in wheels
    package_data={
        "edge_sdk": ["py.typed", "protocol/*.proto", "protocol/*.desc"],
        "edge_sdk.ext": ["*.pyi"],
    },
    ext_modules=cythonize(
        extensions(),
        build_dir="build/cython",
        compiler_directives={
            "language_level": "3",
            "boundscheck": False,
            "wraparound": False,
            "initializedcheck": False,
            "cdivision": True,
        },
    ),
)
