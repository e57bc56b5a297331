"""Bytecode of the modules there: to compile them anew in each process, under emulation, was most of what tests took."""

import compileall
import sys

__all__ = ["compile_modules"]


def compile_modules(folder, inside, python):
    """Compile the modules of a folder, which is called ``inside`` there, if this Python is of the version there."""
    if python == f"{sys.version_info.major}.{sys.version_info.minor}":
        compileall.compile_dir(folder, quiet=2, stripdir=str(folder), prependdir=f"/{inside}", workers=0)
