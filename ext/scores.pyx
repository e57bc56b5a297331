"""Probabilities from the outputs of a classifier."""

import math

import numpy as np

from edge_sdk.errors import InputError

__all__ = ["softmax"]

cdef extern from "scores_kernel.h" nogil:
    int edge_softmax(const float *x, float *out, size_t rows, size_t classes, double temperature, size_t *bad_row)


def softmax(x, out=None, temperature=1.0):
    """Probabilities ``exp(x / temperature)``, normalised over the last axis.

    Safe for logits of any finite size; an entry of ``-inf`` has probability 0. Releases the GIL.

    Parameters
    ----------
    x : ndarray of float32, shape (C,) or (n, C)
        Logits.
    out : ndarray of float32, C-contiguous, same shape as `x`, optional
        Filled and returned; may be `x` itself. A new array by default.
    temperature
        Finite and above 0; larger is less sure.

    Returns
    -------
    ndarray of float32, same shape as `x`
        Each row sums to 1 within float32 rounding.

    Raises
    ------
    InputError
        Wrong dtype, rank or `out`, an empty array, a bad temperature, or a row whose largest
        value is not finite (NaN, +inf, or nothing but -inf).
    """
    cdef const float[:, ::1] logits
    cdef float[:, ::1] filled
    cdef size_t rows, classes, bad_row = 0
    cdef double divisor
    cdef int status

    if not isinstance(x, np.ndarray) or x.dtype != np.float32 or x.ndim not in (1, 2) or x.size == 0:
        kind = f"{x.dtype} of shape {x.shape}" if isinstance(x, np.ndarray) else type(x).__name__
        raise InputError(f"x: need float32 of shape (C,) or (n, C), not empty, not {kind}")
    divisor = _temperature(temperature)
    if out is None:
        out = np.empty(x.shape, np.float32)
    elif not isinstance(out, np.ndarray) or out.dtype != np.float32 or out.shape != x.shape:
        kind = f"{out.dtype} of shape {out.shape}" if isinstance(out, np.ndarray) else type(out).__name__
        raise InputError(f"out: need float32 of shape {x.shape}, not {kind}")
    elif not out.flags.c_contiguous or not out.flags.writeable:
        raise InputError("out: need a writeable C-contiguous array")
    elif out is not x and np.may_share_memory(out, x):
        x = x.copy()
    shape = (1, x.shape[0]) if x.ndim == 1 else x.shape
    logits = np.ascontiguousarray(x).reshape(shape)
    filled = out.reshape(shape)
    rows, classes = shape
    with nogil:
        status = edge_softmax(&logits[0, 0], &filled[0, 0], rows, classes, divisor, &bad_row)
    if status != 0:
        raise InputError(f"x: row {bad_row} has no finite largest value (NaN, +inf, or nothing but -inf)")
    return out


cdef double _temperature(value) except -1.0:
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise InputError(f"temperature: need a number, not {type(value).__name__}") from None
    if not (math.isfinite(number) and number > 0.0):
        raise InputError(f"temperature: need a finite number above 0, not {number}")
    return number
