"""Trying a model out in a process of its own: a damaged file may end the process that runs it.

Runtimes check a model file only in part before they run it. A bundle's digests keep damage out
later; this keeps it out of the bundle.
"""

from __future__ import annotations

import contextlib
import sys
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_sdk.children import ask
from edge_sdk.errors import EdgeSdkError, ModelError
from edge_sdk.runtime.opening import open_session
from edge_sdk.types import TensorSpec

__all__ = ["run_once", "try_out"]

_SECONDS = 300.0


def try_out(model: bytes, runtime: str) -> None:
    """Load a model and run it on noise, in another process.

    Parameters
    ----------
    model
        The bytes of a model file.
    runtime
        As for `edge_sdk.runtime.open_session`.

    Raises
    ------
    ModelError
        The model ends the process that tries it, or keeps it for 5 minutes. What a runtime says of a
        model that it refuses is not repeated here.
    """
    try:
        ended = ask("edge_sdk.runtime.trial:run_once", runtime, seconds=_SECONDS, given=model, quiet=True)
    except TimeoutError as error:
        raise ModelError(f"the model does not answer within {_SECONDS:g} s") from error
    if ended.code != 0:
        raise ModelError(f"the model is damaged: {runtime} crashed on it ({ended})")


def _noise(spec: TensorSpec) -> NDArray[Any]:
    shape, dtype = tuple(max(1, extent) for extent in spec.shape), np.dtype(spec.dtype)
    rng = np.random.default_rng(0)
    if dtype.kind == "f":
        return rng.normal(size=shape).astype(dtype)
    if dtype.kind not in "iu":
        return np.zeros(shape, dtype)
    if dtype.itemsize > 1:  # indices, more often than not
        return np.zeros(shape, dtype)
    return rng.integers(np.iinfo(dtype).min, np.iinfo(dtype).max, shape, dtype, endpoint=True)


def run_once(runtime: str) -> bytes:
    """Run the model of standard input once; what `try_out` calls in the other process."""
    with contextlib.suppress(EdgeSdkError):  # the caller will meet it too, and say it
        session = open_session(sys.stdin.buffer.read(), runtime)
        session.run(_noise(session.inputs[0]))
    return b""
