"""Boxes from the outputs of a detector: decode, threshold and non-maximum suppression in one pass.

Each anchor has one class: its best, the first of equals. Anchors whose score reaches the threshold
are taken by score, then by index. One is left out where it overlaps a box of its class that was
taken before by more than the IoU threshold. An integer tensor gives exactly what its dequantised
float32 tensor gives; only survivors are dequantised.

A NaN score is never the best. A box that is not finite, or that has no area, is left out.
`edge_sdk.ext.pure.detection` computes the same in NumPy.
"""

from libc.stdint cimport int32_t

import math

import numpy as np

from edge_sdk.errors import InputError

__all__ = ["decode_ssd", "decode_yolo"]

cdef extern from "detection_kernel.h" nogil:
    ctypedef enum edge_detection_type:
        EDGE_DETECTION_FLOAT32
        EDGE_DETECTION_INT8
        EDGE_DETECTION_UINT8

    ctypedef enum edge_detection_form:
        EDGE_DETECTION_CENTRES
        EDGE_DETECTION_CORNERS
        EDGE_DETECTION_OFFSETS

    ctypedef struct edge_detection_values:
        const void *data
        edge_detection_type type
        float scale
        int zero_point

    ctypedef struct edge_detection_job:
        edge_detection_values boxes, scores
        size_t anchors, classes, first
        int planar
        edge_detection_form form
        int swapped
        const float *priors
        double variances[2]
        double width, height
        float score_threshold
        double iou_threshold
        size_t limit

    ctypedef struct edge_detection_found:
        float *boxes
        float *scores
        int32_t *classes
        int32_t *anchors

    Py_ssize_t edge_detection_run(const edge_detection_job *job, const edge_detection_found *found)

include "buffers.pxi"

cdef object FLOAT32 = np.dtype(np.float32)
cdef object INT32 = np.dtype(np.int32)
cdef dict TYPES = {
    FLOAT32: (<int>EDGE_DETECTION_FLOAT32, 0, 0),
    np.dtype(np.int8): (<int>EDGE_DETECTION_INT8, -128, 127),
    np.dtype(np.uint8): (<int>EDGE_DETECTION_UINT8, 0, 255),
}
cdef Py_ssize_t MAX_COUNT = 0x7FFFFFFF
cdef double LARGEST = float(np.finfo(np.float32).max)


def decode_yolo(
    x,
    *,
    score_threshold=0.25,
    iou_threshold=0.45,
    max_detections=300,
    size=None,
    quantization=None,
    out=None,
):
    """Detections of a YOLO-style output: centre, size and class scores of each anchor.

    Releases the GIL. Needs 12 bytes an anchor beside what it returns. An `x` that is not
    C-contiguous is copied.

    Parameters
    ----------
    x : ndarray of float32, int8 or uint8, shape (4 + C, n) or (1, 4 + C, n)
        Rows 0 to 3 are centre x, centre y, width and height; the others a score for each class,
        the sigmoid already taken.
    score_threshold
        From 0 to 1, as float32; a score that equals it passes.
    iou_threshold
        From 0 to 1: 0 suppresses every overlap within a class, 1 nothing.
    max_detections
        Most that are returned, at least 1.
    size : (height, width), optional
        Boxes are multiplied by it: for models whose boxes are fractions of their input.
    quantization : (scale, zero_point)
        Of an integer `x`, and only there: ``real = scale * (q - zero_point)``.
    out : (boxes, scores, classes, anchors), optional
        Arrays of the types below, C-contiguous, for at least `max_detections`; the results are
        views of their beginnings.

    Returns
    -------
    boxes : ndarray of float32, shape (k, 4)
        Left, top, right and bottom in pixels of the model's input, not clipped.
    scores : ndarray of float32, shape (k,)
        Descending.
    classes : ndarray of int32, shape (k,)
    anchors : ndarray of int32, shape (k,)
        Which columns of `x` they were.

    Raises
    ------
    InputError
        Wrong dtype, rank, size or `out`, or a number out of range.
    """
    cdef edge_detection_job job
    cdef Py_ssize_t rows

    _check_tensor("x", x)
    if x.ndim == 3 and x.shape[0] == 1:
        x = x[0]
    if x.ndim != 2 or x.shape[0] < 5 or max(x.shape) > MAX_COUNT:
        raise InputError(f"x: need shape (4 + classes, anchors) or (1, 4 + classes, anchors), not {x.shape}")
    rows = x.shape[0]
    job.anchors = x.shape[1]
    job.classes = rows - 4
    job.first = 0
    job.planar = 1
    job.form = EDGE_DETECTION_CENTRES
    job.swapped = 0
    job.priors = NULL
    x = np.ascontiguousarray(x)
    boxes, scores = x[:4], x[4:]
    _read_values(&job.boxes, "quantization", boxes, quantization)
    _read_values(&job.scores, "quantization", scores, quantization)
    _read_limits(&job, score_threshold, iou_threshold, max_detections, size)
    return _run(&job, out)


def decode_ssd(
    boxes,
    scores,
    *,
    anchors=None,
    variances=(0.1, 0.2),
    order="xy",
    bint background=False,
    score_threshold=0.25,
    iou_threshold=0.45,
    max_detections=300,
    size=None,
    boxes_quantization=None,
    scores_quantization=None,
    out=None,
):
    """Detections of an SSD-style pair of outputs: boxes, and class scores of each anchor.

    Releases the GIL. Needs 12 bytes an anchor beside what it returns. Arrays that are not
    C-contiguous are copied.

    Parameters
    ----------
    boxes : ndarray of float32, int8 or uint8, shape (n, 4) or (1, n, 4)
        Without `anchors`: left, top, right and bottom. With them: offsets of centre x, centre y,
        width and height, so that the centre is ``anchor + offset * variances[0] * anchor size``
        and the size ``anchor size * exp(offset * variances[1])``.
    scores : ndarray of float32, int8 or uint8, shape (n, C) or (1, n, C)
        Softmax or sigmoid already taken.
    anchors : ndarray of float32, shape (n, 4), optional
        Centre x, centre y, width and height.
    variances
        Of centres and of sizes; TensorFlow's box coder names their inverses, 10 and 5.
    order
        ``"yx"`` where y comes before x and height before width, in `boxes` and in `anchors`, as
        TensorFlow has them.
    background
        Whether class 0 is the background: never the best, but still counted.
    score_threshold, iou_threshold, max_detections, size, out
        As `decode_yolo`.
    boxes_quantization, scores_quantization : (scale, zero_point)
        Of integer `boxes` and `scores`, and only there.

    Returns
    -------
    boxes, scores, classes, anchors
        As `decode_yolo`; anchors are rows of `boxes`.

    Raises
    ------
    InputError
        Wrong dtype, rank, size or `out`, or a number out of range.
    """
    cdef edge_detection_job job

    _check_tensor("boxes", boxes)
    _check_tensor("scores", scores)
    if boxes.ndim == 3 and boxes.shape[0] == 1:
        boxes = boxes[0]
    if scores.ndim == 3 and scores.shape[0] == 1:
        scores = scores[0]
    if boxes.ndim != 2 or boxes.shape[1] != 4 or boxes.shape[0] > MAX_COUNT:
        raise InputError(f"boxes: need shape (n, 4) or (1, n, 4), not {boxes.shape}")
    if scores.ndim != 2 or scores.shape[0] != boxes.shape[0] or not background < scores.shape[1] <= MAX_COUNT:
        wanted = "at least 2 classes, the first being the background" if background else "at least 1 class"
        raise InputError(f"scores: need shape ({boxes.shape[0]}, C) and {wanted}, not {scores.shape}")
    if order not in ("xy", "yx"):
        raise InputError(f"order: need 'xy' or 'yx', not {order!r}")
    job.anchors = boxes.shape[0]
    job.classes = scores.shape[1]
    job.first = background
    job.planar = 0
    job.form = EDGE_DETECTION_CORNERS
    job.swapped = order == "yx"
    job.priors = NULL
    if anchors is not None:
        if not isinstance(anchors, np.ndarray) or anchors.dtype != FLOAT32 or anchors.shape != boxes.shape:
            raise InputError(f"anchors: need float32 of shape {boxes.shape}, not {_kind(anchors)}")
        anchors = np.ascontiguousarray(anchors)
        job.priors = <const float *>_source(anchors)
        job.form = EDGE_DETECTION_OFFSETS
        job.variances = _pair("variances", variances)
    boxes, scores = np.ascontiguousarray(boxes), np.ascontiguousarray(scores)
    _read_values(&job.boxes, "boxes_quantization", boxes, boxes_quantization)
    _read_values(&job.scores, "scores_quantization", scores, scores_quantization)
    _read_limits(&job, score_threshold, iou_threshold, max_detections, size)
    return _run(&job, out)


cdef tuple _run(edge_detection_job *job, out):
    cdef edge_detection_found found
    cdef Py_ssize_t count
    cdef size_t rows = min(job.limit, job.anchors)

    if out is None:
        out = (np.empty((rows, 4), FLOAT32), np.empty(rows, FLOAT32), np.empty(rows, INT32), np.empty(rows, INT32))
    else:
        _check_out(out, job.limit)
    boxes, scores, classes, anchors = out
    found.boxes = <float *>_target(boxes)
    found.scores = <float *>_target(scores)
    found.classes = <int32_t *>_target(classes)
    found.anchors = <int32_t *>_target(anchors)
    with nogil:
        count = edge_detection_run(job, &found)
    if count < 0:
        raise MemoryError
    return out[0][:count], out[1][:count], out[2][:count], out[3][:count]


cdef _kind(value):
    if isinstance(value, np.ndarray):
        return f"{value.dtype} of shape {value.shape}"
    return type(value).__name__


cdef _check_tensor(name, value):
    if not isinstance(value, np.ndarray) or value.dtype not in TYPES or value.size == 0:
        wanted = "need an array of float32, int8 or uint8 that is not empty"
        raise InputError(f"{name}: {wanted}, not {_kind(value)}")


cdef _check_out(out, size_t rows):
    if not isinstance(out, (tuple, list)) or len(out) != 4:
        raise InputError("out: need four arrays: boxes, scores, classes and anchors")
    names = ("boxes", "scores", "classes", "anchors")
    dtypes = (FLOAT32, FLOAT32, INT32, INT32)
    for name, dtype, tail, array in zip(names, dtypes, ((4,), (), (), ()), out, strict=True):
        if (
            not isinstance(array, np.ndarray)
            or array.dtype != dtype
            or array.ndim != 1 + len(tail)
            or array.shape[1:] != tail
            or array.shape[0] < rows
        ):
            shape = ", ".join(map(str, (rows, *tail)))
            raise InputError(f"out: {name} needs {dtype} of shape ({shape}) or longer, not {_kind(array)}")
        if not array.flags.c_contiguous or not array.flags.writeable:
            raise InputError(f"out: {name} needs a writeable C-contiguous array")


cdef _read_values(edge_detection_values *values, name, array, quantization):
    kind, low, high = TYPES[array.dtype]
    values.type = <edge_detection_type><int>kind
    values.scale = 1.0
    values.zero_point = 0
    values.data = _source(array)
    if low == high:
        if quantization is not None:
            raise InputError(f"{name}: float32 has none")
        return
    try:
        scale, zero_point = quantization
        number = float(scale)
        zero = zero_point.__index__()
    except (AttributeError, TypeError, ValueError):
        raise InputError(f"{name}: {array.dtype} needs a pair of scale and integer zero point") from None
    values.scale = <float>number if number <= LARGEST else math.inf
    if not (values.scale > 0.0 and 255.0 * values.scale <= LARGEST):
        raise InputError(f"{name}: need a scale above 0 and below 2**120 as float32, not {number}")
    if not low <= zero <= high:
        raise InputError(f"{name}: zero point {zero} is not within {low}..{high} of {array.dtype}")
    values.zero_point = zero


cdef _read_limits(edge_detection_job *job, score_threshold, iou_threshold, max_detections, size):
    job.score_threshold = <float>_fraction("score_threshold", score_threshold)
    job.iou_threshold = _fraction("iou_threshold", iou_threshold)
    try:
        limit = max_detections.__index__()
    except AttributeError:
        raise InputError(f"max_detections: need an integer, not {type(max_detections).__name__}") from None
    if not 1 <= limit <= MAX_COUNT:
        raise InputError(f"max_detections: need 1 to {MAX_COUNT}, not {limit}")
    job.limit = limit
    job.height, job.width = (1.0, 1.0) if size is None else _pair("size", size)


cdef double _fraction(name, value) except -1.0:
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise InputError(f"{name}: need a number, not {type(value).__name__}") from None
    if not 0.0 <= number <= 1.0:
        raise InputError(f"{name}: need a number from 0 to 1, not {number}")
    return number


cdef _pair(name, value):
    try:
        first, second = map(float, value)
    except (TypeError, ValueError):
        raise InputError(f"{name}: need a pair of numbers") from None
    if not (0.0 < first < math.inf and 0.0 < second < math.inf):
        raise InputError(f"{name}: need finite numbers above 0, not {first} and {second}")
    return first, second
