"""Per-tensor affine quantization, ``real = scale * (q - zero_point)``, as TFLite and ONNX define it."""

from libc.stdint cimport int8_t, uint8_t

import math

import numpy as np

from edge_sdk.errors import InputError

__all__ = ["dequantize", "quantize"]

cdef extern from "quantization_kernel.h" nogil:
    int edge_quantize_int8(const float *x, int8_t *out, size_t count, float scale, int zero_point)
    int edge_quantize_uint8(const float *x, uint8_t *out, size_t count, float scale, int zero_point)
    void edge_dequantize_int8(const int8_t *x, float *out, size_t count, float scale, int zero_point)
    void edge_dequantize_uint8(const uint8_t *x, float *out, size_t count, float scale, int zero_point)

cdef object INT8 = np.dtype(np.int8)
cdef object UINT8 = np.dtype(np.uint8)
cdef object FLOAT32 = np.dtype(np.float32)


def quantize(x, scale, zero_point, out=None, *, dtype=np.int8):
    """``saturate(round_half_even(x / scale) + zero_point)``, element-wise.

    Infinities saturate. Releases the GIL.

    Parameters
    ----------
    x : ndarray of float32, any shape
    scale
        Finite and above 0 as float32.
    zero_point
        Within the range of the output type.
    out : ndarray of int8 or uint8, C-contiguous, same shape as `x`, optional
        Filled and returned. A new array of `dtype` by default.
    dtype
        int8 or uint8; only read where `out` is not given.

    Returns
    -------
    ndarray of int8 or uint8, same shape as `x`

    Raises
    ------
    InputError
        Wrong dtype, an empty or mismatched array, a bad scale or zero point, or a NaN in `x`
        (an `out` given then holds no meaningful values).
    """
    cdef const float[::1] source
    cdef int8_t[::1] signed
    cdef uint8_t[::1] unsigned
    cdef size_t count
    cdef float step
    cdef int zero, status

    _check_array("x", x, (FLOAT32,))
    if out is None:
        kind = np.dtype(dtype)
        if kind not in (INT8, UINT8):
            raise InputError(f"dtype: need int8 or uint8, not {kind}")
        out = np.empty(x.shape, kind)
    else:
        _check_out(out, x, (INT8, UINT8))
    step = _scale(scale)
    zero = _zero_point(zero_point, out.dtype)
    source = np.ascontiguousarray(x).reshape(-1)
    count = source.shape[0]
    if out.dtype == INT8:
        signed = out.reshape(-1)
        with nogil:
            status = edge_quantize_int8(&source[0], &signed[0], count, step, zero)
    else:
        unsigned = out.reshape(-1)
        with nogil:
            status = edge_quantize_uint8(&source[0], &unsigned[0], count, step, zero)
    if status != 0:
        raise InputError("x: holds NaN, which has no quantized value")
    return out


def dequantize(x, scale, zero_point, out=None):
    """``(x - zero_point) * scale`` in float32, element-wise. Releases the GIL.

    Parameters
    ----------
    x : ndarray of int8 or uint8, any shape
    scale
        Finite and above 0 as float32.
    zero_point
        Within the range of `x`'s type.
    out : ndarray of float32, C-contiguous, same shape as `x`, optional
        Filled and returned. A new array by default.

    Returns
    -------
    ndarray of float32, same shape as `x`

    Raises
    ------
    InputError
        Wrong dtype, an empty or mismatched array, or a bad scale or zero point.
    """
    cdef const int8_t[::1] signed
    cdef const uint8_t[::1] unsigned
    cdef float[::1] filled
    cdef size_t count
    cdef float step
    cdef int zero

    _check_array("x", x, (INT8, UINT8))
    if out is None:
        out = np.empty(x.shape, np.float32)
    else:
        _check_out(out, x, (FLOAT32,))
    step = _scale(scale)
    zero = _zero_point(zero_point, x.dtype)
    flat = np.ascontiguousarray(x).reshape(-1)
    filled = out.reshape(-1)
    count = filled.shape[0]
    if x.dtype == INT8:
        signed = flat
        with nogil:
            edge_dequantize_int8(&signed[0], &filled[0], count, step, zero)
    else:
        unsigned = flat
        with nogil:
            edge_dequantize_uint8(&unsigned[0], &filled[0], count, step, zero)
    return out


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
    low, high = (-128, 127) if dtype == INT8 else (0, 255)
    if not low <= number <= high:
        raise InputError(f"zero_point: {number} is not within {low}..{high} of {dtype}")
    return number
