/* Rows of numbers to what a model takes: gaps, bounds, standardising and lookups in one pass. */
#ifndef EDGE_SDK_TABLES_KERNEL_H
#define EDGE_SDK_TABLES_KERNEL_H

#include <stddef.h>
#include <stdint.h>

enum edge_column_kind { EDGE_NUMBER, EDGE_INDEX, EDGE_ONE_HOT };

/* A number v becomes (clip(v) - mean) * gain, with `fill` in place of a NaN unless it is one itself.
 * A lookup becomes gain times its place: 0, or 1 + the first code that equals (float)v; or one of count + 1. */
typedef struct {
    enum edge_column_kind kind;
    double fill, low, high, mean, gain;
    size_t codes, count; /* the first in the table of codes, and how many */
} edge_column;

typedef struct {
    size_t rows, columns;
    const edge_column *column;
    const float *codes;
    int zero_point; /* added to what is rounded to int8 or uint8, half to even and saturated */
} edge_table;

enum { EDGE_TABLE_DONE = -1, EDGE_TABLE_TOO_LARGE = -2 };

/* Fill `out`, row by row, from x [rows, columns]. Return EDGE_TABLE_DONE; EDGE_TABLE_TOO_LARGE where a value
 * leaves float32; or which element of x is infinite, or a NaN for which there is nothing. */
ptrdiff_t edge_table_f32_f32(const float *x, float *out, const edge_table *t);
ptrdiff_t edge_table_f32_i8(const float *x, int8_t *out, const edge_table *t);
ptrdiff_t edge_table_f32_u8(const float *x, uint8_t *out, const edge_table *t);
ptrdiff_t edge_table_f64_f32(const double *x, float *out, const edge_table *t);
ptrdiff_t edge_table_f64_i8(const double *x, int8_t *out, const edge_table *t);
ptrdiff_t edge_table_f64_u8(const double *x, uint8_t *out, const edge_table *t);

#endif
