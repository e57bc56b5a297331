"""Rows of numbers to what a model takes: gaps, bounds, standardising and lookups in one pass."""

from libc.stdint cimport int8_t, uint8_t
from libc.stdlib cimport calloc, free

import numpy as np

from edge_sdk.errors import InputError

__all__ = ["TablePlan"]

cdef extern from "tables_kernel.h" nogil:
    enum edge_column_kind:
        EDGE_NUMBER
        EDGE_INDEX
        EDGE_ONE_HOT

    ctypedef struct edge_column:
        edge_column_kind kind
        double fill, low, high, mean, gain
        size_t codes, count

    ctypedef struct edge_table:
        size_t rows, columns
        const edge_column *column
        const float *codes
        int zero_point

    enum:
        EDGE_TABLE_DONE
        EDGE_TABLE_TOO_LARGE

    ptrdiff_t edge_table_f32_f32(const float *x, float *out, const edge_table *t)
    ptrdiff_t edge_table_f32_i8(const float *x, int8_t *out, const edge_table *t)
    ptrdiff_t edge_table_f32_u8(const float *x, uint8_t *out, const edge_table *t)
    ptrdiff_t edge_table_f64_f32(const double *x, float *out, const edge_table *t)
    ptrdiff_t edge_table_f64_i8(const double *x, int8_t *out, const edge_table *t)
    ptrdiff_t edge_table_f64_u8(const double *x, uint8_t *out, const edge_table *t)

include "buffers.pxi"

# of rows and of columns: no product of two overflows
cdef Py_ssize_t MOST = 1 << 24

cdef object FLOAT32 = np.dtype(np.float32)
cdef object FLOAT64 = np.dtype(np.float64)
cdef object INT8 = np.dtype(np.int8)
cdef object UINT8 = np.dtype(np.uint8)


cdef class TablePlan:
    """What becomes of each column of a row. Never changes after it is made: threads may share it.

    Parameters
    ----------
    rows
        Of an input.
    columns : sequence
        For each column either its numbers (fill, low, high, mean, gain), where a value becomes
        ``(clip(value) - mean) * gain`` and `fill` stands for NaN unless it is one; or its lookup (codes,
        one_hot, gain), where a value becomes `gain` times its place: 0 for one that is unknown, else 1 and
        up; or, with `one_hot`, one feature a place. Values are compared as float32.
    zero_point
        Added to what is rounded, half to even, to int8 or uint8, and saturated.
    """

    cdef edge_table table
    cdef edge_column *column
    cdef object codes
    cdef readonly Py_ssize_t features

    def __cinit__(self, Py_ssize_t rows, columns, int zero_point=0):
        cdef Py_ssize_t at = 0
        codes = [np.zeros(1, np.float32)]
        first = 1
        if not 1 <= rows <= MOST or not 1 <= len(columns) <= MOST:
            raise InputError(f"rows and columns: need 1 to {MOST} of each")
        if not -128 <= zero_point <= 255:
            raise InputError(f"zero_point: need -128 to 255, not {zero_point}")
        self.column = <edge_column *>calloc(len(columns), sizeof(edge_column))
        if self.column == NULL:
            raise MemoryError
        for at, one in enumerate(columns):
            if len(one) == 5:
                self.column[at].kind = EDGE_NUMBER
                self.column[at].fill, self.column[at].low, self.column[at].high = one[0], one[1], one[2]
                self.column[at].mean, self.column[at].gain = one[3], one[4]
                self.features += 1
                continue
            known, one_hot, gain = one
            known = np.ascontiguousarray(known, np.float32).reshape(-1)
            self.column[at].kind = EDGE_ONE_HOT if one_hot else EDGE_INDEX
            self.column[at].gain = gain
            self.column[at].codes, self.column[at].count = first, known.size
            self.features += 1 + known.size if one_hot else 1
            codes.append(known)
            first += known.size
        self.codes = np.concatenate(codes)
        self.table.rows, self.table.columns = rows, len(columns)
        self.table.column, self.table.codes = self.column, <const float *>_source(self.codes)
        self.table.zero_point = zero_point

    def __dealloc__(self):
        free(self.column)

    def __call__(self, x, out):
        """Process one input. Releases the GIL.

        Parameters
        ----------
        x : ndarray of float32 or float64, shape (columns,) or (rows, columns), C-contiguous
        out : ndarray of float32, int8 or uint8, with rows * features elements, C-contiguous
            Filled.

        Returns
        -------
        int
            -1; or -2 where a value leaves float32; or which element of `x`, row by row, is infinite, or
            is a NaN without a fill. `out` is of no use then.

        Raises
        ------
        InputError
            Wrong dtype, size or strides.
        """
        cdef ptrdiff_t result
        cdef const void *given
        cdef void *filled
        cdef bint double_ = False
        if not isinstance(x, np.ndarray) or x.size != self.table.rows * self.table.columns:
            raise InputError(f"x: need {self.table.rows} x {self.table.columns} numbers")
        if not isinstance(out, np.ndarray) or out.size != <Py_ssize_t>self.table.rows * self.features:
            raise InputError(f"out: need {self.table.rows} x {self.features} elements")
        if not x.flags.c_contiguous or not out.flags.c_contiguous or not out.flags.writeable:
            raise InputError("x and out: need C-contiguous arrays, and out a writeable one")
        if x.dtype == FLOAT64:
            double_ = True
        elif x.dtype != FLOAT32:
            raise InputError(f"x: need float32 or float64, not {x.dtype}")
        given, filled = _source(x), _target(out)
        if out.dtype == FLOAT32:
            with nogil:
                result = (edge_table_f64_f32(<const double *>given, <float *>filled, &self.table) if double_
                          else edge_table_f32_f32(<const float *>given, <float *>filled, &self.table))
        elif out.dtype == INT8:
            with nogil:
                result = (edge_table_f64_i8(<const double *>given, <int8_t *>filled, &self.table) if double_
                          else edge_table_f32_i8(<const float *>given, <int8_t *>filled, &self.table))
        elif out.dtype == UINT8:
            with nogil:
                result = (edge_table_f64_u8(<const double *>given, <uint8_t *>filled, &self.table) if double_
                          else edge_table_f32_u8(<const float *>given, <uint8_t *>filled, &self.table))
        else:
            raise InputError(f"out: need float32, int8 or uint8, not {out.dtype}")
        return result
