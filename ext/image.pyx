"""One fused pass from a uint8 frame to a model's input tensor."""

from libc.stdint cimport int8_t, uint8_t

import numpy as np

from edge_sdk.errors import InputError

__all__ = ["image_to_tensor"]

cdef extern from "image_kernel.h" nogil:
    enum edge_image_type:
        EDGE_IMAGE_FLOAT32
        EDGE_IMAGE_INT8
        EDGE_IMAGE_UINT8

    ctypedef struct edge_image_job:
        const uint8_t *frame
        Py_ssize_t row_stride
        int in_height, in_width, in_channels
        int out_height, out_width, out_channels
        const float *mean
        const float *gain
        int planar
        int zero_point

    int edge_image_run(const edge_image_job *job, void *out, edge_image_type type)


# The kernel's column tables hold 32-bit offsets.
cdef Py_ssize_t MAX_SIDE = 1 << 24

cdef object FLOAT32 = np.dtype(np.float32)
cdef object INT8 = np.dtype(np.int8)
cdef object UINT8 = np.dtype(np.uint8)


def image_to_tensor(frame, out, *, mean, gain, bint planar=False, int zero_point=0):
    """Colour, resize, normalise and quantise a frame into a tensor, in one pass.

    Bilinear with half-pixel centres, no antialias, nothing rounded before the end. Grey is the
    BT.601 luma. Every element is ``(level - mean[c]) * gain[c]``; for integer outputs that is
    rounded half to even, ``zero_point`` is added, and the sum saturates. Releases the GIL.

    Parameters
    ----------
    frame : ndarray of uint8, shape (H, W) or (H, W, C) with C of 1, 3 (RGB) or 4 (RGBA)
        Rows may have any stride; the pixels of one row must be contiguous. Alpha is dropped.
    out : ndarray of float32, int8 or uint8, C-contiguous
        Filled. Shape (h, w, c), or (c, h, w) where `planar`; c of 1 or 3. Its size is the size
        to resize to, its channels the colour to convert to.
    mean, gain : ndarray of float32, shape (c,)
        Constants of each output channel.
    planar
        True for a channels-first `out`.
    zero_point
        Of an integer `out`; within its range.

    Returns
    -------
    ndarray
        `out`.

    Raises
    ------
    InputError
        Wrong type, dtype, rank, channel count, stride or size of an array, or a zero point out
        of range.
    """
    cdef edge_image_job job
    cdef const uint8_t[:, :, :] pixels
    cdef const float[::1] means, gains
    cdef float[:, :, ::1] out_float
    cdef int8_t[:, :, ::1] out_int8
    cdef uint8_t[:, :, ::1] out_uint8
    cdef void *target
    cdef edge_image_type kind
    cdef Py_ssize_t height, width, channels
    cdef int status

    _check_frame(frame)
    pixels = frame if frame.ndim == 3 else frame[:, :, None]
    channels = pixels.shape[2]
    if channels > 1 and pixels.strides[2] != 1 or pixels.shape[1] > 1 and pixels.strides[1] != channels:
        raise InputError("frame: the pixels of a row are not contiguous; pass numpy.ascontiguousarray(frame)")

    if not isinstance(out, np.ndarray) or out.ndim != 3 or out.size == 0:
        raise InputError(f"out: need an array of rank 3 that is not empty, not {_kind(out)}")
    if not out.flags.c_contiguous or not out.flags.writeable:
        raise InputError("out: need a writeable C-contiguous array")
    if out.dtype == FLOAT32:
        kind = EDGE_IMAGE_FLOAT32
        out_float = out
        target = &out_float[0, 0, 0]
    elif out.dtype == INT8:
        kind = EDGE_IMAGE_INT8
        out_int8 = out
        target = &out_int8[0, 0, 0]
    elif out.dtype == UINT8:
        kind = EDGE_IMAGE_UINT8
        out_uint8 = out
        target = &out_uint8[0, 0, 0]
    else:
        raise InputError(f"out: need dtype float32, int8 or uint8, not {out.dtype}")
    if kind != EDGE_IMAGE_FLOAT32:
        low, high = (-128, 127) if kind == EDGE_IMAGE_INT8 else (0, 255)
        if not low <= zero_point <= high:
            raise InputError(f"zero_point: {zero_point} is not within {low}..{high}")
    height, width, channels = (out.shape[1], out.shape[2], out.shape[0]) if planar else out.shape
    if channels != 1 and channels != 3:
        raise InputError(f"out: need 1 or 3 channels, not {channels} (shape {out.shape}, planar={planar})")
    if height > MAX_SIDE or width > MAX_SIDE:
        raise InputError(f"out: {height} x {width} is too large")
    means = _constants("mean", mean, channels)
    gains = _constants("gain", gain, channels)

    job.frame = &pixels[0, 0, 0]
    job.row_stride = pixels.strides[0]
    job.in_height = <int>pixels.shape[0]
    job.in_width = <int>pixels.shape[1]
    job.in_channels = <int>pixels.shape[2]
    job.out_height = <int>height
    job.out_width = <int>width
    job.out_channels = <int>channels
    job.mean = &means[0]
    job.gain = &gains[0]
    job.planar = planar
    job.zero_point = zero_point
    with nogil:
        status = edge_image_run(&job, target, kind)
    if status != 0:
        raise MemoryError("no memory for the scratch rows of image_to_tensor")
    return out


cdef _kind(value):
    if isinstance(value, np.ndarray):
        return f"{value.dtype} of shape {value.shape}"
    return type(value).__name__


cdef _check_frame(frame):
    if not isinstance(frame, np.ndarray) or frame.dtype != UINT8:
        raise InputError(f"frame: need a uint8 array, not {_kind(frame)}")
    if frame.ndim != 2 and (frame.ndim != 3 or frame.shape[2] not in (1, 3, 4)):
        raise InputError(f"frame: need shape (H, W) or (H, W, 1|3|4), not {frame.shape}")
    if frame.size == 0:
        raise InputError(f"frame: is empty (shape {frame.shape})")
    if frame.shape[0] > MAX_SIDE or frame.shape[1] > MAX_SIDE:
        raise InputError(f"frame: {frame.shape[0]} x {frame.shape[1]} is too large")


cdef _constants(name, value, channels):
    if not isinstance(value, np.ndarray) or value.dtype != FLOAT32 or value.shape != (channels,):
        raise InputError(f"{name}: need float32 of shape ({channels},), not {_kind(value)}")
    return np.ascontiguousarray(value)
