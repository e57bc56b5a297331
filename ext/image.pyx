"""One fused pass from a uint8 frame to a model's input tensor."""

from cpython.buffer cimport PyBUF_ND, PyBUF_STRIDED_RO
from libc.stdint cimport uint8_t

import operator

import numpy as np

from edge_sdk.errors import InputError

__all__ = ["ImagePlan", "image_to_tensor", "path", "paths", "use_path"]

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

    ctypedef struct edge_image_frame:
        const uint8_t *planes[2]
        Py_ssize_t strides[2]

    ctypedef struct edge_image_job:
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
        edge_image_type type

    ctypedef struct edge_image_plan:
        pass

    int edge_image_has(edge_image_path path)
    edge_image_path edge_image_best()
    edge_image_plan *edge_image_plan_new(const edge_image_job *job)
    void edge_image_plan_free(edge_image_plan *plan)
    int edge_image_run(const edge_image_plan *plan, edge_image_path path, const edge_image_frame *frame, void *out)


include "buffers.pxi"

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


cdef class ImagePlan:
    """`image_to_tensor` for many frames of one shape: where to read and with what weights is worked out once.

    Nothing of it changes, so any number of threads may call one plan.

    Parameters
    ----------
    frame, out
        Arrays like those to come: their shapes, and the dtype of `out`, are what is planned for. `out` may have a
        leading axis of 1.
    mean, gain, planar, zero_point, pixels, window, inner, fill, nearest, antialias, yuv
        As for `image_to_tensor`.

    Raises
    ------
    InputError
        As for `image_to_tensor`.
    """

    cdef edge_image_plan *plan
    cdef Py_ssize_t shapes[2][3]
    cdef Py_ssize_t out_shape[4]
    cdef int out_ndim
    cdef object out_dtype
    cdef int planes

    def __init__(
        self,
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
        cdef edge_image_job job
        cdef Py_ssize_t height, width, channels

        arrays = _read_frame(&job, frame, pixels)
        if isinstance(out, np.ndarray) and out.ndim == 4 and out.shape[0] == 1:
            self.out_ndim = 4
            self.out_shape = out.shape
            out = out[0]
        _check_out(out)
        if self.out_ndim == 0:
            self.out_ndim = 3
            self.out_shape[0], self.out_shape[1], self.out_shape[2] = out.shape
        number, low, high = TYPES[out.dtype]
        job.type = <edge_image_type><int>number
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
            job.yuv = <const float *>_source(matrix)

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
        job.mean = <const float *>_source(means)
        job.gain = <const float *>_source(gains)
        job.planar = planar
        job.zero_point = zero_point
        if self.plan != NULL:
            raise TypeError("ImagePlan.__init__ is called once")
        self.plan = edge_image_plan_new(&job)
        if self.plan == NULL:
            raise MemoryError("no memory for the tables of an ImagePlan")
        self.planes = 2 if job.format == EDGE_IMAGE_NV12 else 1
        for index, array in enumerate(arrays):
            self.shapes[index] = array.shape[0], array.shape[1], 1 if array.ndim == 2 else array.shape[2]
        self.out_dtype = out.dtype

    def __dealloc__(self):
        edge_image_plan_free(self.plan)

    def fill(self, frame, out):
        """Fill `out` from a frame.

        Parameters
        ----------
        frame : as planned
            Its rows may have another stride.
        out : as planned

        Returns
        -------
        bool
            False where `frame` or `out` is not as planned; nothing is done then.
        """
        cdef edge_image_frame source
        cdef void *target = NULL
        cdef edge_image_path path = current
        cdef int status

        if not self._out_fits(out, &target) or not self._frame_fits(frame, &source):
            return False
        with nogil:
            status = edge_image_run(self.plan, path, &source, target)
        if status != 0:
            raise MemoryError("no memory for the scratch rows of an ImagePlan")
        return True

    cdef bint _out_fits(self, out, void **target) except -1:
        cdef Py_buffer view
        cdef bint fits
        if not isinstance(out, np.ndarray) or (out.dtype is not self.out_dtype and out.dtype != self.out_dtype):
            return False
        try:  # a buffer tells in one call what else takes as long as a tenth of the work
            PyObject_GetBuffer(out, &view, PyBUF_ND | PyBUF_WRITABLE)
        except (BufferError, ValueError):
            return False
        fits = view.ndim == self.out_ndim
        for i in range(self.out_ndim):
            fits = fits and view.shape[i] == self.out_shape[i]
        target[0] = view.buf
        PyBuffer_Release(&view)  # the caller holds the array, so its memory outlives the buffer
        return fits

    cdef bint _frame_fits(self, frame, edge_image_frame *source) except -1:
        cdef Py_ssize_t height = self.shapes[0][0], width = self.shapes[0][1]
        if self.planes == 1:
            return _plane_fits(frame, height, width, self.shapes[0][2], source, 0)
        if isinstance(frame, tuple):
            return (
                len(frame) == 2
                and _plane_fits(frame[0], height, width, 1, source, 0)
                and _plane_fits(frame[1], self.shapes[1][0], self.shapes[1][1], 2, source, 1)
            )
        if height % 2 or width % 2 or not _plane_fits(frame, height // 2 * 3, width, 1, source, 0):
            return False
        source.planes[1] = source.planes[0] + height * source.strides[0]
        source.strides[1] = source.strides[0]
        return True


cdef bint _plane_fits(
    plane, Py_ssize_t height, Py_ssize_t width, Py_ssize_t channels, edge_image_frame *source, int index
) except -1:
    cdef Py_buffer view
    cdef bint fits
    if not isinstance(plane, np.ndarray) or (plane.dtype is not UINT8 and plane.dtype != UINT8):
        return False
    try:
        PyObject_GetBuffer(plane, &view, PyBUF_STRIDED_RO)
    except (BufferError, ValueError):
        return False
    if view.ndim == 3:
        fits = view.shape[2] == channels and (channels == 1 or view.strides[2] == 1)
    else:
        fits = view.ndim == 2 and channels == 1
    fits = fits and view.shape[0] == height and view.shape[1] == width and (width == 1 or view.strides[1] == channels)
    if fits:
        source.planes[index] = <const uint8_t *>view.buf
        source.strides[index] = view.strides[0]
    PyBuffer_Release(&view)
    return fits


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
    _check_out(out)
    plan = ImagePlan(
        frame,
        out,
        mean=mean,
        gain=gain,
        planar=planar,
        zero_point=zero_point,
        pixels=pixels,
        window=window,
        inner=inner,
        fill=fill,
        nearest=nearest,
        antialias=antialias,
        yuv=yuv,
    )
    plan.fill(frame, out)
    return out


cdef int _check_out(out) except -1:
    if not isinstance(out, np.ndarray) or out.ndim != 3 or out.size == 0:
        raise InputError(f"out: need an array of rank 3 that is not empty, not {_kind(out)}")
    if not out.flags.c_contiguous or not out.flags.writeable:
        raise InputError("out: need a writeable C-contiguous array")
    if out.dtype not in TYPES:
        raise InputError(f"out: need dtype float32, float16, int8 or uint8, not {out.dtype}")
    return 0


cdef _kind(value):
    if isinstance(value, np.ndarray):
        return f"{value.dtype} of shape {value.shape}"
    return type(value).__name__


cdef tuple _read_frame(edge_image_job *job, frame, pixels):
    name = pixels if isinstance(pixels, str) else ""
    if name == "nv12":
        return _read_nv12(job, frame)
    _check_plane("frame", frame)
    if name == "yuyv":
        if frame.ndim != 3 or frame.shape[2] != 2 or frame.shape[1] % 2:
            raise InputError(f"frame: need shape (H, W, 2) with an even W, not {frame.shape}")
        job.format = EDGE_IMAGE_YUYV
    elif name in CHANNELS:
        channels = 1 if frame.ndim == 2 else frame.shape[2]
        if channels not in CHANNELS[pixels]:
            wanted = "(H, W) or (H, W, 1|3|4)" if pixels == "rgb" else "(H, W, 3|4)"
            raise InputError(f"frame: need shape {wanted}, not {frame.shape}")
        job.format = <edge_image_format><int>CHANNELS[pixels][channels]
    else:
        raise InputError(f"pixels: need rgb, bgr, nv12 or yuyv, not {pixels!r}")
    job.height, job.width = frame.shape[:2]
    return (frame,)


cdef tuple _read_nv12(edge_image_job *job, frame):
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
        luma, chroma = frame[:height], frame[height:].reshape(height // 2, frame.shape[1] // 2, 2)
    job.format = EDGE_IMAGE_NV12
    job.height, job.width = luma.shape
    return luma, chroma


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


cdef _constants(name, value, count):
    if not isinstance(value, np.ndarray) or value.dtype != FLOAT32 or value.shape != (count,):
        raise InputError(f"{name}: need float32 of shape ({count},), not {_kind(value)}")
    return np.ascontiguousarray(value)


cdef _part(name, part, height, width):
    if part is None:
        return 0, 0, height, width
    try:
        top, left, tall, wide = (operator.index(value) for value in part)
    except (TypeError, ValueError):
        raise InputError(f"{name}: need (top, left, height, width) in whole pixels") from None
    if not (0 <= top and 0 <= left and 0 < tall <= height - top and 0 < wide <= width - left):
        raise InputError(f"{name}: ({top}, {left}, {tall}, {wide}) is not within {height} x {width}")
    return top, left, tall, wide
