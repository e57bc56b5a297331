"""Affine quantization, ``real = scale * (q - zero_point)``, as TFLite and ONNX define it.

With one scale and zero point for a tensor, or with one for each channel: each index of one axis.
"""

from libc.stdint cimport int8_t, int32_t, uint8_t

import math

import numpy as np

from edge_sdk.errors import InputError

__all__ = ["dequantize", "quantize"]

cdef extern from "quantization_kernel.h" nogil:
    ctypedef struct edge_affine:
        size_t outer, channels, inner
        const float *scales
        const int32_t *zero_points

    int edge_quantize_int8(const float *x, int8_t *out, const edge_affine *a)
    int edge_quantize_uint8(const float *x, uint8_t *out, const edge_affine *a)
    void edge_dequantize_int8(const int8_t *x, float *out, const edge_affine *a)
    void edge_dequantize_uint8(const uint8_t *x, float *out, const edge_affine *a)
    void edge_dequantize_int32(const int32_t *x, float *out, const edge_affine *a)

include "buffers.pxi"

cdef object INT8 = np.dtype(np.int8)
cdef object UINT8 = np.dtype(np.uint8)
cdef object INT32 = np.dtype(np.int32)
cdef object FLOAT32 = np.dtype(np.float32)
cdef dict LIMITS = {INT8: (-128, 127), UINT8: (0, 255), INT32: (-(2**31), 2**31 - 1)}


def quantize(x, scale, zero_point, out=None, *, dtype=np.int8, axis=None):
    """``saturate(round_half_even(x / scale) + zero_point)``, element-wise.

    Infinities saturate. Releases the GIL.

    Parameters
    ----------
    x : ndarray of float32, any shape
    scale
        Finite and above 0 as float32. With `axis`: one for each of its indices, shape (C,).
    zero_point
        Within the range of the output type. With `axis`: one for all, or shape (C,).
    out : ndarray of int8 or uint8, C-contiguous, same shape as `x`, optional
        Filled and returned. A new array of `dtype` by default.
    dtype
        int8 or uint8; only read where `out` is not given.
    axis
        Of the channels, negative from the last. One scale for the whole tensor by default.

    Returns
    -------
    ndarray of int8 or uint8, same shape as `x`

    Raises
    ------
    InputError
        Wrong dtype, an empty or mismatched array, a bad axis, scale or zero point, or a NaN in `x`
        (an `out` given then holds no meaningful values).
    """
    cdef const float *source
    cdef void *filled
    cdef _Affine affine
    cdef int status

    _check_array("x", x, (FLOAT32,))
    if out is None:
        out = np.empty(x.shape, _byte_type(dtype))
    else:
        _check_out(out, x, (INT8, UINT8))
    affine = _Affine(x.shape, out.dtype, scale, zero_point, axis)
    x = np.ascontiguousarray(x)
    source, filled = <const float *>_source(x), _target(out)
    if out.dtype == INT8:
        with nogil:
            status = edge_quantize_int8(source, <int8_t *>filled, &affine.it)
    else:
        with nogil:
            status = edge_quantize_uint8(source, <uint8_t *>filled, &affine.it)
    if status != 0:
        raise InputError("x: holds NaN, which has no quantized value")
    return out


def dequantize(x, scale, zero_point, out=None, *, axis=None):
    """``(x - zero_point) * scale``, element-wise, rounded to float32 once. Releases the GIL.

    Parameters
    ----------
    x : ndarray of int8, uint8 or int32, any shape
        int32 is what the biases of a quantized layer are.
    scale
        Finite and above 0 as float32. With `axis`: one for each of its indices, shape (C,).
    zero_point
        Within the range of `x`'s type. With `axis`: one for all, or shape (C,).
    out : ndarray of float32, C-contiguous, same shape as `x`, optional
        Filled and returned. A new array by default.
    axis
        Of the channels, negative from the last. One scale for the whole tensor by default.

    Returns
    -------
    ndarray of float32, same shape as `x`

    Raises
    ------
    InputError
        Wrong dtype, an empty or mismatched array, or a bad axis, scale or zero point.
    """
    cdef const void *source
    cdef float *filled
    cdef _Affine affine

    _check_array("x", x, (INT8, UINT8, INT32))
    if out is None:
        out = np.empty(x.shape, np.float32)
    else:
        _check_out(out, x, (FLOAT32,))
    affine = _Affine(x.shape, x.dtype, scale, zero_point, axis)
    x = np.ascontiguousarray(x)
    source, filled = _source(x), <float *>_target(out)
    if x.dtype == INT8:
        with nogil:
            edge_dequantize_int8(<const int8_t *>source, filled, &affine.it)
    elif x.dtype == UINT8:
        with nogil:
            edge_dequantize_uint8(<const uint8_t *>source, filled, &affine.it)
    else:
        with nogil:
            edge_dequantize_int32(<const int32_t *>source, filled, &affine.it)
    return out


cdef _byte_type(dtype):
    try:
        kind = np.dtype(dtype)
    except TypeError:
        raise InputError("dtype: need int8 or uint8") from None
    if kind not in (INT8, UINT8):
        raise InputError(f"dtype: need int8 or uint8, not {kind}")
    return kind


cdef class _Affine:
    # The kernel's parameters, and the memory they point to.
    cdef edge_affine it
    cdef float scale
    cdef int32_t zero_point
    cdef object scales, zero_points

    def __cinit__(self, shape, dtype, scale, zero_point, axis):
        self.it.outer = self.it.channels = 1
        self.it.inner = math.prod(shape)
        self.it.scales = &self.scale
        self.it.zero_points = &self.zero_point
        if axis is None:
            self.scale = _scale(scale)
            self.zero_point = _zero_point(zero_point, dtype)
            return
        along = _axis(axis, len(shape))
        channels = shape[along]
        self.scales = _scales(scale, channels)
        self.zero_points = _zero_points(zero_point, dtype, channels)
        self.it.outer = math.prod(shape[:along])
        self.it.channels = channels
        self.it.inner = math.prod(shape[along + 1:])
        self.it.scales = <const float *>_source(self.scales)
        self.it.zero_points = <const int32_t *>_source(self.zero_points)


cdef _kind(value):
    if isinstance(value, np.ndarray):
        return f"{value.dtype} of shape {value.shape}"
    return type(value).__name__


cdef _check_array(name, value, dtypes):
    if not isinstance(value, np.ndarray) or value.dtype not in dtypes or value.size == 0:
        wanted = " or ".join(str(d) for d in dtypes)
        raise InputError(f"{name}: need an array of {wanted} that is not empty, not {_kind(value)}")


cdef _check_out(out, x, dtypes):
    _check_array("out", out, dtypes)
    if out.shape != x.shape:
        raise InputError(f"out: need shape {x.shape}, not {out.shape}")
    if not out.flags.c_contiguous or not out.flags.writeable:
        raise InputError("out: need a writeable C-contiguous array")
    if np.may_share_memory(out, x):
        raise InputError("out: shares memory with x")


cdef float _scale(value) except -1.0:
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise InputError(f"scale: need a number, not {type(value).__name__}") from None
    cdef float single = <float>number
    if not (math.isfinite(single) and single > 0.0):
        raise InputError(f"scale: need a finite float32 above 0, not {number}")
    return single


cdef int _zero_point(value, dtype) except? -1:
    try:
        number = value.__index__()
    except AttributeError:
        raise InputError(f"zero_point: need an integer, not {type(value).__name__}") from None
    low, high = LIMITS[dtype]
    if not low <= number <= high:
        raise InputError(f"zero_point: {number} is not within {low}..{high} of {dtype}")
    return number


cdef int _axis(axis, int rank) except -1:
    try:
        number = axis.__index__()
    except AttributeError:
        raise InputError(f"axis: need an integer, not {type(axis).__name__}") from None
    if not -rank <= number < rank:
        raise InputError(f"axis: {number} is not one of the {rank} axes of x")
    return number % rank


cdef _scales(values, count):
    try:
        with np.errstate(over="ignore"):
            singles = np.array(values, FLOAT32)
    except (TypeError, ValueError):
        raise InputError("scale: need numbers") from None
    if singles.shape != (count,):
        raise InputError(f"scale: need {count} along axis, not shape {singles.shape}")
    if not (np.isfinite(singles).all() and (singles > 0.0).all()):
        raise InputError("scale: need finite float32 above 0 for every channel")
    return singles


cdef _zero_points(values, dtype, count):
    if np.ndim(values) == 0:
        return np.full(count, _zero_point(values, dtype), INT32)
    whole = np.asarray(values)
    if whole.shape != (count,) or whole.dtype.kind not in "iu":
        raise InputError(f"zero_point: need {count} integers along axis, not {_kind(whole)}")
    low, high = LIMITS[dtype]
    if whole.min() < low or whole.max() > high:
        raise InputError(f"zero_point: {whole.min()}..{whole.max()} is not within {low}..{high} of {dtype}")
    return whole.astype(INT32)
