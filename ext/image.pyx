"""One fused pass from a uint8 frame to a model's input tensor."""

from cpython.buffer cimport PyBUF_STRIDED_RO, PyBuffer_Release, PyObject_GetBuffer
from libc.stdint cimport uint8_t

import numpy as np

from edge_sdk.errors import InputError

__all__ = ["image_to_tensor", "path", "paths", "use_path"]

cdef extern from "image_kernel.h" nogil:
    enum edge_image_type:
        EDGE_IMAGE_FLOAT32
        EDGE_IMAGE_INT8
        EDGE_IMAGE_UINT8
        EDGE_IMAGE_FLOAT16

    enum edge_image_format:
        EDGE_IMAGE_GREY
        EDGE_IMAGE_RGB
        EDGE_IMAGE_BGR
        EDGE_IMAGE_RGBA
        EDGE_IMAGE_BGRA
        EDGE_IMAGE_NV12
        EDGE_IMAGE_YUYV

    enum edge_image_path:
        EDGE_IMAGE_PATHS

    ctypedef struct edge_image_job:
        const uint8_t *planes[2]
        Py_ssize_t strides[2]
        edge_image_format format
        int height, width
        int top, left, window_height, window_width
        int out_height, out_width, out_channels
        int inner_top, inner_left, inner_height, inner_width
        float fill
        int nearest
        int antialias
        const float *yuv
        const float *mean
        const float *gain
        int planar
        int zero_point
        edge_image_path path

    int edge_image_has(edge_image_path path)
    edge_image_path edge_image_best()
    int edge_image_run(const edge_image_job *job, void *out, edge_image_type type)


# The kernel's column tables hold 32-bit offsets.
cdef Py_ssize_t MAX_SIDE = 1 << 24

cdef object FLOAT32 = np.dtype(np.float32)
cdef object UINT8 = np.dtype(np.uint8)
cdef dict TYPES = {
    np.dtype(np.float32): (<int>EDGE_IMAGE_FLOAT32, 0, 0),
    np.dtype(np.float16): (<int>EDGE_IMAGE_FLOAT16, 0, 0),
    np.dtype(np.int8): (<int>EDGE_IMAGE_INT8, -128, 127),
    np.dtype(np.uint8): (<int>EDGE_IMAGE_UINT8, 0, 255),
}
cdef dict CHANNELS = {
    "rgb": {1: <int>EDGE_IMAGE_GREY, 3: <int>EDGE_IMAGE_RGB, 4: <int>EDGE_IMAGE_RGBA},
    "bgr": {3: <int>EDGE_IMAGE_BGR, 4: <int>EDGE_IMAGE_BGRA},
}
cdef tuple PATHS = ("scalar", "sse4.1", "avx2", "neon")
cdef edge_image_path current = edge_image_best()


def path():
    """Name of the code that runs; every path gives the same bits."""
    return PATHS[<int>current]


def paths():
    """Names of the paths that this processor runs and that the compiler could build."""
    return tuple(name for index, name in enumerate(PATHS) if edge_image_has(<edge_image_path>index))


def use_path(name):
    """Run another path from now on, in this process: for tests and measurements."""
    global current
    if name not in paths():
        raise InputError(f"path: there are {', '.join(paths())} here, not {name!r}")
    current = <edge_image_path>PATHS.index(name)


def image_to_tensor(
    frame,
    out,
    *,
    mean,
    gain,
    bint planar=False,
    int zero_point=0,
    pixels="rgb",
    window=None,
    inner=None,
    float fill=0.0,
    bint nearest=False,
    bint antialias=False,
    yuv=None,
):
    """Colour, resize, normalise and quantise a frame into a tensor, in one pass.

    Half-pixel centres, no antialias unless asked for, nothing rounded to grey levels before the end; a level is
    within 3/256 of the exact one. Grey is the BT.601 luma. Every element is
    ``(level - mean[c]) * gain[c]``; for integer outputs that is rounded half to even,
    ``zero_point`` is added, and the sum saturates. Releases the GIL; the frame is not copied.

    Parameters
    ----------
    frame : ndarray of uint8, or a pair of them
        By `pixels`. Rows may have any stride; the pixels of one row must be contiguous.

        - ``"rgb"``: (H, W) or (H, W, C) with C of 1 (grey), 3 (RGB) or 4 (RGBA; alpha is dropped);
        - ``"bgr"``: (H, W, C) with C of 3 (BGR) or 4 (BGRA);
        - ``"nv12"``: a pair of Y (H, W) and UV (ceil(H/2), ceil(W/2), 2), or both in one array
          of shape (H * 3/2, W) with even H and W;
        - ``"yuyv"``: (H, W, 2) with an even W.
    out : ndarray of float32, float16, int8 or uint8, C-contiguous
        Filled. Shape (h, w, c), or (c, h, w) where `planar`; c of 1 or 3. Its size is the size
        to resize to, its channels the colour to convert to.
    mean, gain : ndarray of float32, shape (c,)
        Constants of each output channel.
    planar
        True for a channels-first `out`.
    zero_point
        Of an integer `out`; within its range.
    pixels
        What the bytes of the frame are.
    window : (top, left, height, width), optional
        Part of the frame to sample, in pixels. All of it by default.
    inner : (top, left, height, width), optional
        Part of `out` that it is resized to. All of it by default.
    fill
        Grey level of the rest of `out`, before normalisation.
    nearest
        Take the nearest pixel; bilinear otherwise.
    antialias
        Where a side shrinks, average over a triangle that reaches as far as the pixels are apart.
        Not with `nearest`, and not for ``"nv12"`` and ``"yuyv"``.
    yuv : ndarray of float32, shape (6,)
        Needed for ``"nv12"`` and ``"yuyv"``: level of black, gain of Y, then how much of V goes to
        R, of U to G, of V to G and of U to B. Colours are clipped to 0..255.

    Returns
    -------
    ndarray
        `out`.

    Raises
    ------
    InputError
        Wrong type, dtype, rank, channel count, stride or size of an array, or a number out of
        range.
    """
    cdef edge_image_job job
    cdef const float[::1] means, gains, matrix
    cdef Py_ssize_t height, width, channels
    cdef void *target
    cdef edge_image_type kind
    cdef int status

    _read_frame(&job, frame, pixels)
    if not isinstance(out, np.ndarray) or out.ndim != 3 or out.size == 0:
        raise InputError(f"out: need an array of rank 3 that is not empty, not {_kind(out)}")
    if not out.flags.c_contiguous or not out.flags.writeable:
        raise InputError("out: need a writeable C-contiguous array")
    if out.dtype not in TYPES:
        raise InputError(f"out: need dtype float32, float16, int8 or uint8, not {out.dtype}")
    number, low, high = TYPES[out.dtype]
    kind = <edge_image_type><int>number
    if low < high and not low <= zero_point <= high:
        raise InputError(f"zero_point: {zero_point} is not within {low}..{high}")
    height, width, channels = (out.shape[1], out.shape[2], out.shape[0]) if planar else out.shape
    if channels != 1 and channels != 3:
        raise InputError(f"out: need 1 or 3 channels, not {channels} (shape {out.shape}, planar={planar})")
    if height > MAX_SIDE or width > MAX_SIDE:
        raise InputError(f"out: {height} x {width} is too large")
    means = _constants("mean", mean, channels)
    gains = _constants("gain", gain, channels)
    job.yuv = NULL
    if job.format == EDGE_IMAGE_NV12 or job.format == EDGE_IMAGE_YUYV:
        matrix = _constants("yuv", yuv, 6)
        job.yuv = &matrix[0]

    job.top, job.left, job.window_height, job.window_width = _part("window", window, job.height, job.width)
    job.inner_top, job.inner_left, job.inner_height, job.inner_width = _part("inner", inner, height, width)
    job.out_height = <int>height
    job.out_width = <int>width
    job.out_channels = <int>channels
    job.fill = fill
    job.nearest = nearest
    job.antialias = antialias
    if antialias and (nearest or job.yuv != NULL):
        raise InputError("antialias: is for bilinear sampling of rgb and bgr frames")
    job.mean = &means[0]
    job.gain = &gains[0]
    job.planar = planar
    job.zero_point = zero_point
    job.path = current
    target = _address(out)
    with nogil:
        status = edge_image_run(&job, target, kind)
    if status != 0:
        raise MemoryError("no memory for the scratch rows of image_to_tensor")
    return out


cdef void *_address(array) except NULL:
    # The caller holds the array, so its memory outlives the buffer.
    cdef Py_buffer buffer
    PyObject_GetBuffer(array, &buffer, PyBUF_STRIDED_RO)
    cdef void *start = buffer.buf
    PyBuffer_Release(&buffer)
    return start


cdef _kind(value):
    if isinstance(value, np.ndarray):
        return f"{value.dtype} of shape {value.shape}"
    return type(value).__name__


cdef int _read_frame(edge_image_job *job, frame, pixels) except -1:
    if pixels == "nv12":
        return _read_nv12(job, frame)
    _check_plane("frame", frame)
    if pixels == "yuyv":
        if frame.ndim != 3 or frame.shape[2] != 2 or frame.shape[1] % 2:
            raise InputError(f"frame: need shape (H, W, 2) with an even W, not {frame.shape}")
        job.format = EDGE_IMAGE_YUYV
    elif pixels in CHANNELS:
        channels = 1 if frame.ndim == 2 else frame.shape[2]
        if channels not in CHANNELS[pixels]:
            wanted = "(H, W) or (H, W, 1|3|4)" if pixels == "rgb" else "(H, W, 3|4)"
            raise InputError(f"frame: need shape {wanted}, not {frame.shape}")
        job.format = <edge_image_format><int>CHANNELS[pixels][channels]
    else:
        raise InputError(f"pixels: need rgb, bgr, nv12 or yuyv, not {pixels!r}")
    _plane(job, 0, frame)
    job.height, job.width = frame.shape[:2]
    return 0


cdef int _read_nv12(edge_image_job *job, frame) except -1:
    if isinstance(frame, tuple) and len(frame) == 2:
        luma, chroma = frame
        _check_plane("frame[0]", luma)
        _check_plane("frame[1]", chroma)
        if luma.ndim != 2:
            raise InputError(f"frame[0]: need shape (H, W), not {luma.shape}")
        shape = ((luma.shape[0] + 1) // 2, (luma.shape[1] + 1) // 2, 2)
        if chroma.shape != shape:
            raise InputError(f"frame[1]: need shape {shape}, not {chroma.shape}")
    else:
        _check_plane("frame", frame)
        if frame.ndim != 2 or frame.shape[0] % 3 or frame.shape[1] % 2 or frame.shape[0] // 3 * 2 % 2:
            raise InputError(f"frame: need shape (H * 3/2, W) with even H and W, or a pair Y, UV, not {frame.shape}")
        height = frame.shape[0] // 3 * 2
        luma, chroma = frame[:height], frame[height:]
    job.format = EDGE_IMAGE_NV12
    job.height, job.width = luma.shape
    _plane(job, 0, luma)
    _plane(job, 1, chroma)
    return 0


cdef int _check_plane(name, plane) except -1:
    if not isinstance(plane, np.ndarray) or plane.dtype != UINT8:
        raise InputError(f"{name}: need a uint8 array, not {_kind(plane)}")
    if plane.ndim != 2 and plane.ndim != 3:
        raise InputError(f"{name}: need shape (H, W) or (H, W, C), not {plane.shape}")
    if plane.size == 0:
        raise InputError(f"{name}: is empty (shape {plane.shape})")
    if plane.shape[0] > MAX_SIDE or plane.shape[1] > MAX_SIDE:
        raise InputError(f"{name}: {plane.shape[0]} x {plane.shape[1]} is too large")
    channels = 1 if plane.ndim == 2 else plane.shape[2]
    gaps = channels > 1 and plane.strides[2] != 1 or plane.shape[1] > 1 and plane.strides[1] != channels
    if gaps:
        raise InputError(f"{name}: the pixels of a row are not contiguous; pass numpy.ascontiguousarray({name})")
    return 0


cdef int _plane(edge_image_job *job, int index, plane) except -1:
    job.planes[index] = <const uint8_t *>_address(plane)
    job.strides[index] = plane.strides[0]
    return 0


cdef _constants(name, value, count):
    if not isinstance(value, np.ndarray) or value.dtype != FLOAT32 or value.shape != (count,):
        raise InputError(f"{name}: need float32 of shape ({count},), not {_kind(value)}")
    return np.ascontiguousarray(value)


cdef _part(name, part, height, width):
    if part is None:
        return 0, 0, height, width
    try:
        top, left, tall, wide = (int(value) for value in part)
    except (TypeError, ValueError):
        raise InputError(f"{name}: need (top, left, height, width) in whole pixels") from None
    if not (0 <= top and 0 <= left and 0 < tall <= height - top and 0 < wide <= width - left):
        raise InputError(f"{name}: ({top}, {left}, {tall}, {wide}) is not within {height} x {width}")
    return top, left, tall, wide
