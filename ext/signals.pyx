"""Signals of class probabilities, checked and computed in one pass: the same bits on every machine."""

from libc.stdint cimport uintptr_t

import numpy as np

from edge_sdk.errors import InputError

__all__ = ["KINDS", "MOST_CLASSES", "Signal", "check", "features"]

include "buffers.pxi"

cdef object FLOAT32 = np.dtype(np.float32)
cdef object FLOAT64 = np.dtype(np.float64)

cdef extern from "signals_kernel.h" nogil:
    enum:
        EDGE_NOT_FINITE
        EDGE_NEGATIVE
        EDGE_MOST_CLASSES
    ctypedef struct edge_signal:
        int kind
        double inverse
        const double *weights
    int edge_check(
        const void *p, int wide, size_t rows, size_t classes, double tolerance, size_t *bad_row, double *total,
    )
    int edge_signals(
        const void *p, int wide, size_t rows, size_t classes, const edge_signal *signal, double tolerance,
        double *values, double *confidences, size_t *bad_row, double *total,
    )
    size_t edge_feature_count(size_t classes)
    int edge_features(
        const void *p, int wide, size_t rows, size_t classes, double *out, size_t *bad_row, double *total,
    )

KINDS = ("max_probability", "margin", "entropy", "energy", "learned")  # in the order of the kernel's enum
MOST_CLASSES = EDGE_MOST_CLASSES

ctypedef struct span:  # probabilities, row after row
    const void *start
    int wide
    size_t rows
    size_t classes

cdef double SUM_TOLERANCE = 1e-2  # int8 probabilities have steps of 1/256
cdef double ANY_SUM = float("inf")


cdef class Signal:
    """One signal at one temperature; its values are those of `edge_sdk.cascade.signals`.

    Parameters
    ----------
    kind
        One of `KINDS`.
    temperature
        Finite and above 0; larger is less sure. Of ``learned`` it scales only the confidence.
    classes, edge, cloud
        For ``learned`` alone: how many classes there are, and the weights of their `features`, last
        the bias, of "the edge is right" and of "the cloud is right".

    Raises
    ------
    InputError
        An argument is not one of these.
    """

    cdef edge_signal signal
    cdef size_t classes
    cdef object weights, arguments

    def __init__(self, kind, temperature=1.0, *, classes=0, edge=(), cloud=()):
        if kind not in KINDS:
            raise InputError(f"kind: need one of {', '.join(KINDS)}, not {kind!r}")
        try:
            divisor = float(temperature)
        except (TypeError, ValueError):
            raise InputError(f"temperature: need a number, not {type(temperature).__name__}") from None
        if not 0.0 < divisor < ANY_SUM:
            raise InputError(f"temperature: need a finite number above 0, not {divisor}")
        cdef Py_ssize_t size = 0
        if kind == "learned":
            if not isinstance(classes, int) or not 1 <= classes <= MOST_CLASSES:
                raise InputError(f"classes: need 1 to {MOST_CLASSES}, not {classes!r}")
            size = edge_feature_count(classes) + 1
        if len(edge) != size or len(cloud) != size:
            raise InputError(f"edge, cloud: need {size} weights each, not {len(edge)} and {len(cloud)}")
        self.arguments = (kind, divisor, classes, tuple(edge), tuple(cloud))
        self.classes = classes
        self.weights = np.array([*edge, *cloud], FLOAT64)
        self.signal.kind = KINDS.index(kind)
        self.signal.inverse = min(1.0 / divisor, 1e300)  # that of the smallest numbers would be infinite
        self.signal.weights = <const double *>_address(self.weights, PyBUF_C_CONTIGUOUS)

    def __reduce__(self):
        return _again, self.arguments

    def one(self, scores):
        """Return the signal of one input, and its calibrated confidence, which is its ``max_probability``.

        Parameters
        ----------
        scores : array of numbers, shape (C,)
            Probabilities. Float32 and float64 are read in place where they are contiguous.

        Returns
        -------
        value, confidence : float

        Raises
        ------
        InputError
            Another shape or number of classes, a NaN, an infinity or a negative number, or the sum
            is not 1 within 0.01.
        """
        cdef double value, confidence, total
        cdef size_t row
        cdef span of
        _held = _open(scores, 1, "scores", &of)
        self._check_classes(of.classes)
        cdef int wrong = edge_signals(
            of.start, of.wide, 1, of.classes, &self.signal, SUM_TOLERANCE, &value, &confidence, &row, &total,
        )
        if wrong:
            raise _refusal("the row of scores", wrong, total)
        return value, confidence

    def values(self, scores, normalized=True):
        """Return the signal of each input. Releases the GIL.

        Parameters
        ----------
        scores : array of numbers, shape (n, C)
            As in `one`.
        normalized
            Whether rows must sum to 1; otherwise to anything above 0.

        Returns
        -------
        ndarray of float64, shape (n,)

        Raises
        ------
        InputError
            As in `one`; the message names the first such row.
        """
        cdef double total, tolerance = SUM_TOLERANCE if normalized else ANY_SUM
        cdef size_t row
        cdef span of
        cdef int wrong
        _held = _open(scores, 2, "scores", &of)
        self._check_classes(of.classes)
        out = np.empty(of.rows, FLOAT64)
        cdef double *filled = <double *>_address(out, PyBUF_C_CONTIGUOUS | PyBUF_WRITABLE)
        with nogil:
            wrong = edge_signals(
                of.start, of.wide, of.rows, of.classes, &self.signal, tolerance, filled, NULL, &row, &total,
            )
        if wrong:
            raise _refusal(f"scores: row {row}", wrong, total)
        return out

    cdef int _check_classes(self, size_t classes) except -1:
        if self.classes != 0 and classes != self.classes:
            raise InputError(f"scores have {classes} classes; the deferral head was fitted to {self.classes}")
        return 0


def _again(kind, temperature, classes, edge, cloud):
    # what unpickling calls
    return Signal(kind, temperature, classes=classes, edge=edge, cloud=cloud)


def check(scores, what="scores"):
    """Check probabilities of shape (n, C) as `Signal.values` does.

    Raises
    ------
    InputError
        They are none; the message names the first such row.
    """
    cdef double total
    cdef size_t row
    cdef span of
    cdef int wrong
    _held = _open(scores, 2, what, &of)
    with nogil:
        wrong = edge_check(of.start, of.wide, of.rows, of.classes, SUM_TOLERANCE, &row, &total)
    if wrong:
        raise _refusal(f"{what}: row {row}", wrong, total)


def features(scores):
    """Return what the ``learned`` signal is a function of. Releases the GIL.

    Parameters
    ----------
    scores : array of numbers, shape (n, C)
        Probabilities; rows may sum to anything above 0.

    Returns
    -------
    ndarray of float64, shape (n, 4 C + min(5, C) + 2)
        Logarithms (of at least 1/512), square roots, the largest five, margin, entropy, and which
        class leads and which is second, each as C numbers of which one is 1.

    Raises
    ------
    InputError
        As `Signal.values`.
    """
    cdef double total
    cdef size_t row
    cdef span of
    cdef int wrong
    _held = _open(scores, 2, "scores", &of)
    out = np.empty((of.rows, edge_feature_count(of.classes)), FLOAT64)
    cdef double *filled = <double *>_address(out, PyBUF_C_CONTIGUOUS | PyBUF_WRITABLE)
    with nogil:
        wrong = edge_features(of.start, of.wide, of.rows, of.classes, filled, &row, &total)
    if wrong:
        raise _refusal(f"scores: row {row}", wrong, total)
    return out


cdef object _open(scores, int rank, what, span *of):
    # say where the scores lie, and return what holds them there
    if not isinstance(scores, np.ndarray) or (scores.dtype != FLOAT32 and scores.dtype != FLOAT64):
        try:
            scores = np.asarray(scores, FLOAT64)
        except (TypeError, ValueError):
            raise InputError(f"{what} should be numbers, not {type(scores).__name__}") from None
    if scores.ndim != rank or scores.size == 0:
        want = "[classes] with at least one" if rank == 1 else "[n, classes] with at least one of each"
        raise InputError(f"{what} should have shape {want}, not {list(scores.shape)}")
    of.start = _address(scores, PyBUF_C_CONTIGUOUS)
    if of.start == NULL or <uintptr_t>of.start % sizeof(double) and not scores.flags.aligned:
        scores = scores.copy()
        of.start = _address(scores, PyBUF_C_CONTIGUOUS)
    of.wide = scores.dtype == FLOAT64
    of.rows = 1 if rank == 1 else scores.shape[0]
    of.classes = scores.shape[rank - 1]
    return scores


cdef object _refusal(subject, int wrong, double total):
    if wrong == EDGE_NOT_FINITE:
        return InputError(f"{subject} holds a NaN or an infinity")
    if wrong == EDGE_NEGATIVE:
        return InputError(f"{subject} holds a negative probability")
    return InputError(f"{subject} sums to {total:.4g}, not 1; are these logits?")
