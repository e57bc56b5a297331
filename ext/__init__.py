"""Kernels: Cython over plain C. No policy, no input or output.

Each has a twin in NumPy and float64 in `edge_sdk.ext.pure`: its oracle and documentation. With the
environment variable ``EDGE_SDK_PURE=1`` the twins stand in for the kernels under the kernels' names,
slower, on systems for which nothing can be compiled.
"""

from __future__ import annotations

import importlib
import os
from typing import Literal

from edge_sdk.errors import KernelError

__all__ = ["backend"]

_PURE = os.environ.get("EDGE_SDK_PURE", "0") not in ("", "0")


def backend() -> Literal["compiled", "pure"]:
    """Return what computes in this process: the compiled kernels, or their twins in NumPy."""
    return "pure" if _PURE else "compiled"


if _PURE:
    __path__.insert(0, os.path.join(__path__[0], "pure"))  # noqa: PTH118 - pathlib is loaded later, or never
else:
    try:
        importlib.import_module("edge_sdk.ext.quantization")  # the smallest; all are built together
    except ImportError as error:
        raise KernelError(str(error)) from error
