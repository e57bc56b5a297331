"""Probabilities from the outputs of a classifier."""

import math

from cpython.buffer cimport PyBUF_C_CONTIGUOUS, PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer
from libc.stdint cimport int64_t

import numpy as np

from edge_sdk.errors import InputError
from edge_sdk.ext.records import Summary

__all__ = ["Summary", "softmax", "summarize"]

cdef object FLOAT32 = np.dtype(np.float32)
cdef object INT64 = np.dtype(np.int64)
cdef object _tuple = tuple.__new__  # what a named tuple's constructor calls

cdef extern from "scores_kernel.h" nogil:
    int edge_softmax(const float *x, float *out, size_t rows, size_t classes, double temperature, size_t *bad_row)
    int edge_summarize(
        const float *x, float *out, size_t rows, size_t classes, double temperature, size_t top,
        int64_t *indices, float *facts, size_t *bad_row,
    )


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

    _check_logits(x)
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


def summarize(x, *, top=5, temperature=1.0, out=None):
    """Probabilities and their top classes, margin, entropy and energy, in one pass.

    Releases the GIL.

    Parameters
    ----------
    x : ndarray of float32, shape (C,) or (n, C)
        Logits, as for `softmax`.
    top
        How many classes to name: at least 1; at most C are.
    temperature
        Finite and above 0; larger is less sure.
    out : ndarray of float32, C-contiguous, same shape as `x`, optional
        Filled with the probabilities; does not share memory with `x`. A new array by default.

    Returns
    -------
    Summary

    Raises
    ------
    InputError
        As `softmax`, or `top` is not an integer of at least 1.
    """
    cdef size_t rows, classes, named, bad_row = 0
    cdef double divisor
    cdef const float *logits
    cdef float *filled
    cdef float *facts
    cdef float single[3]
    cdef int64_t *best
    cdef int status

    _check_logits(x)
    divisor = _temperature(temperature)
    if type(top) is not int and (isinstance(top, bool) or not isinstance(top, (int, np.integer))) or top < 1:
        raise InputError(f"top: need an integer of at least 1, not {top!r}")
    if out is None:
        out = np.empty(x.shape, FLOAT32)
    elif not isinstance(out, np.ndarray) or out.dtype != FLOAT32 or out.shape != x.shape:
        kind = f"{out.dtype} of shape {out.shape}" if isinstance(out, np.ndarray) else type(out).__name__
        raise InputError(f"out: need float32 of shape {x.shape}, not {kind}")
    source = x
    logits = <const float *>_address(x, PyBUF_C_CONTIGUOUS)
    if logits == NULL:
        source = np.ascontiguousarray(x)
        logits = <const float *>_address(source, PyBUF_C_CONTIGUOUS)
    filled = <float *>_address(out, PyBUF_C_CONTIGUOUS | PyBUF_WRITABLE)
    classes = x.shape[x.ndim - 1]
    rows = 1 if x.ndim == 1 else x.shape[0]
    if filled == NULL or filled < logits + rows * classes and logits < filled + rows * classes:
        raise InputError("out: need a writeable C-contiguous array that does not share memory with x")
    named = min(top, classes)
    facts = single
    if x.ndim == 1:
        indices = np.empty(named, INT64)
    else:
        indices = np.empty((rows, named), INT64)
        numbers = np.empty((rows, 3), FLOAT32)
        facts = <float *>_address(numbers, PyBUF_C_CONTIGUOUS | PyBUF_WRITABLE)
    best = <int64_t *>_address(indices, PyBUF_C_CONTIGUOUS | PyBUF_WRITABLE)
    with nogil:
        status = edge_summarize(logits, filled, rows, classes, divisor, named, best, facts, &bad_row)
    if status != 0:
        raise InputError(f"x: row {bad_row} has no finite largest value (NaN, +inf, or nothing but -inf)")
    if x.ndim == 1:
        return _tuple(Summary, (out, indices, single[0], single[1], single[2]))
    return Summary(out, indices, *numbers.T)


cdef void *_address(array, int kind) noexcept:
    # NULL where the array is not of that kind. The caller holds the array, so its memory outlives the buffer.
    cdef Py_buffer buffer
    cdef void *start
    try:
        PyObject_GetBuffer(array, &buffer, kind)
    except (BufferError, ValueError):
        return NULL
    start = buffer.buf
    PyBuffer_Release(&buffer)
    return start


cdef int _check_logits(x) except -1:
    if not isinstance(x, np.ndarray) or x.dtype != FLOAT32 or x.ndim not in (1, 2) or x.size == 0:
        kind = f"{x.dtype} of shape {x.shape}" if isinstance(x, np.ndarray) else type(x).__name__
        raise InputError(f"x: need float32 of shape (C,) or (n, C), not empty, not {kind}")
    return 0


cdef double _temperature(value) except -1.0:
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise InputError(f"temperature: need a number, not {type(value).__name__}") from None
    if not (math.isfinite(number) and number > 0.0):
        raise InputError(f"temperature: need a finite number above 0, not {number}")
    return number
