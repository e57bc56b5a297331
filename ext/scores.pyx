"""Probabilities from the outputs of a classifier."""

import math

from libc.stdint cimport int64_t

import numpy as np

from edge_sdk.errors import InputError
from edge_sdk.ext.records import Summary

__all__ = ["Summary", "softmax", "summarize"]

include "buffers.pxi"

cdef object FLOAT32 = np.dtype(np.float32)
cdef object INT64 = np.dtype(np.int64)
cdef object _tuple = tuple.__new__  # what a named tuple's constructor calls

cdef extern from "scores_kernel.h" nogil:
    ctypedef enum edge_scores_type:
        EDGE_SCORES_FLOAT32
        EDGE_SCORES_INT8
        EDGE_SCORES_UINT8

    ctypedef struct edge_scores:
        const void *data
        edge_scores_type type
        size_t rows, classes
        float scale
        int zero_point

    int edge_softmax(const edge_scores *x, float *out, double temperature, size_t *bad_row)
    int edge_summarize(
        const edge_scores *x, float *out, double temperature, size_t top, int64_t *indices, float *facts,
        size_t *bad_row,
    )

cdef object INT8 = np.dtype(np.int8)
cdef object UINT8 = np.dtype(np.uint8)
# values that take some microseconds: a thread that lets go of the GIL for less may wait long to have it back
cdef size_t _WORTH_RELEASING = 4096
cdef double LARGEST = float(np.finfo(np.float32).max)


def softmax(x, out=None, temperature=1.0, *, quantization=None):
    """Probabilities ``exp(x / temperature)``, normalised over the last axis.

    Safe for logits of any finite size; an entry of ``-inf`` has probability 0. Releases the GIL where that pays.

    Parameters
    ----------
    x : ndarray of float32, int8 or uint8, shape (C,) or (n, C)
        Logits. Integers give the bits that their dequantised float32 would give.
    out : ndarray of float32, C-contiguous, same shape as `x`, optional
        Filled and returned; may be `x` itself. A new array by default.
    temperature
        Finite and above 0; larger is less sure.
    quantization : (scale, zero_point)
        Of an integer `x`, and only there: ``real = scale * (q - zero_point)``.

    Returns
    -------
    ndarray of float32, same shape as `x`
        Each row sums to 1 within float32 rounding.

    Raises
    ------
    InputError
        Wrong dtype, rank or `out`, an empty array, a bad temperature or quantization, or a row
        whose largest value is not finite (NaN, +inf, or nothing but -inf).
    """
    cdef edge_scores scores
    cdef size_t bad_row = 0
    cdef double divisor
    cdef float *filled
    cdef int status

    _read(&scores, x, quantization)
    divisor = _temperature(temperature)
    if out is None:
        out = np.empty(x.shape, FLOAT32)
    elif not isinstance(out, np.ndarray) or out.dtype != FLOAT32 or out.shape != x.shape:
        kind = f"{out.dtype} of shape {out.shape}" if isinstance(out, np.ndarray) else type(out).__name__
        raise InputError(f"out: need float32 of shape {x.shape}, not {kind}")
    elif out is not x and np.may_share_memory(out, x):
        x = x.copy()
    filled = <float *>_address(out, PyBUF_C_CONTIGUOUS | PyBUF_WRITABLE)
    if filled == NULL:
        raise InputError("out: need a writeable C-contiguous array")
    x = np.ascontiguousarray(x)
    scores.data = _address(x, PyBUF_C_CONTIGUOUS)
    if scores.rows * scores.classes < _WORTH_RELEASING:
        status = edge_softmax(&scores, filled, divisor, &bad_row)
    else:
        with nogil:
            status = edge_softmax(&scores, filled, divisor, &bad_row)
    if status != 0:
        raise InputError(f"x: row {bad_row} has no finite largest value (NaN, +inf, or nothing but -inf)")
    return out


def summarize(x, *, top=5, temperature=1.0, out=None, quantization=None):
    """Probabilities and their top classes, margin, entropy and energy, in one pass.

    Releases the GIL where that pays.

    Parameters
    ----------
    x : ndarray of float32, int8 or uint8, shape (C,) or (n, C)
        Logits, as for `softmax`.
    top
        How many classes to name: at least 1; at most C are.
    temperature
        Finite and above 0; larger is less sure.
    out : ndarray of float32, C-contiguous, same shape as `x`, optional
        Filled with the probabilities; does not share memory with `x`. A new array by default.
    quantization : (scale, zero_point)
        Of an integer `x`, and only there.

    Returns
    -------
    Summary

    Raises
    ------
    InputError
        As `softmax`, or `top` is not an integer of at least 1.
    """
    cdef edge_scores scores
    cdef size_t named, bad_row = 0
    cdef double divisor
    cdef const char *begin
    cdef const char *end
    cdef float *filled
    cdef float *facts
    cdef float single[3]
    cdef int64_t *best
    cdef int status

    _read(&scores, x, quantization)
    divisor = _temperature(temperature)
    if type(top) is not int and (isinstance(top, bool) or not isinstance(top, (int, np.integer))) or top < 1:
        raise InputError(f"top: need an integer of at least 1, not {top!r}")
    if out is None:
        out = np.empty(x.shape, FLOAT32)
    elif not isinstance(out, np.ndarray) or out.dtype != FLOAT32 or out.shape != x.shape:
        kind = f"{out.dtype} of shape {out.shape}" if isinstance(out, np.ndarray) else type(out).__name__
        raise InputError(f"out: need float32 of shape {x.shape}, not {kind}")
    source = x
    scores.data = _address(x, PyBUF_C_CONTIGUOUS)
    if scores.data == NULL:
        source = np.ascontiguousarray(x)
        scores.data = _address(source, PyBUF_C_CONTIGUOUS)
    filled = <float *>_address(out, PyBUF_C_CONTIGUOUS | PyBUF_WRITABLE)
    begin = <const char *>scores.data
    end = begin + scores.rows * scores.classes * <size_t>x.itemsize
    if filled == NULL or <const char *>filled < end and begin < <const char *>(filled + scores.rows * scores.classes):
        raise InputError("out: need a writeable C-contiguous array that does not share memory with x")
    named = min(top, scores.classes)
    facts = single
    if x.ndim == 1:
        indices = np.empty(named, INT64)
    else:
        indices = np.empty((scores.rows, named), INT64)
        numbers = np.empty((scores.rows, 3), FLOAT32)
        facts = <float *>_address(numbers, PyBUF_C_CONTIGUOUS | PyBUF_WRITABLE)
    best = <int64_t *>_address(indices, PyBUF_C_CONTIGUOUS | PyBUF_WRITABLE)
    if scores.rows * scores.classes < _WORTH_RELEASING:
        status = edge_summarize(&scores, filled, divisor, named, best, facts, &bad_row)
    else:
        with nogil:
            status = edge_summarize(&scores, filled, divisor, named, best, facts, &bad_row)
    if status != 0:
        raise InputError(f"x: row {bad_row} has no finite largest value (NaN, +inf, or nothing but -inf)")
    if x.ndim == 1:
        return _tuple(Summary, (out, indices, single[0], single[1], single[2]))
    return Summary(out, indices, *numbers.T)


cdef int _read(edge_scores *scores, x, quantization) except -1:
    # All but the address.
    if not isinstance(x, np.ndarray) or x.dtype not in (FLOAT32, INT8, UINT8) or x.ndim not in (1, 2) or x.size == 0:
        kind = f"{x.dtype} of shape {x.shape}" if isinstance(x, np.ndarray) else type(x).__name__
        raise InputError(f"x: need float32, int8 or uint8 of shape (C,) or (n, C), not empty, not {kind}")
    scores.classes = x.shape[x.ndim - 1]
    scores.rows = 1 if x.ndim == 1 else x.shape[0]
    scores.scale = 1.0
    scores.zero_point = 0
    if x.dtype == FLOAT32:
        scores.type = EDGE_SCORES_FLOAT32
        if quantization is not None:
            raise InputError("quantization: float32 has none")
        return 0
    scores.type = EDGE_SCORES_INT8 if x.dtype == INT8 else EDGE_SCORES_UINT8
    try:
        scale, zero_point = quantization
        number = float(scale)
        zero = zero_point.__index__()
    except (AttributeError, TypeError, ValueError):
        raise InputError(f"quantization: {x.dtype} needs a pair of scale and integer zero point") from None
    scores.scale = <float>number if number <= LARGEST else math.inf
    if not (scores.scale > 0.0 and 255.0 * scores.scale <= LARGEST):
        raise InputError(f"quantization: need a scale above 0 and below 2**120 as float32, not {number}")
    low, high = (-128, 127) if x.dtype == INT8 else (0, 255)
    if not low <= zero <= high:
        raise InputError(f"quantization: zero point {zero} is not within {low}..{high} of {x.dtype}")
    scores.zero_point = zero
    return 0


cdef double _temperature(value) except -1.0:
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise InputError(f"temperature: need a number, not {type(value).__name__}") from None
    if not (math.isfinite(number) and number > 0.0):
        raise InputError(f"temperature: need a finite number above 0, not {number}")
    return number
