#include "tables_kernel.h"

#include <float.h>
#include <math.h>

/* Adding and taking away 1.5 * 2^52 rounds what is near zero half to even, on every processor. */
#define ROUNDER 6755399441055744.0

static inline int real_f32(double y, float *out, int zero_point)
{
    (void)zero_point;
    *out = (float)y;
    return fabs(y) <= FLT_MAX;
}

static inline double saturated(double y, double low, double high)
{
    y = y > low ? y : low;
    y = y < high ? y : high;
    return (y + ROUNDER) - ROUNDER;
}

static inline int real_i8(double y, int8_t *out, int zero_point)
{
    *out = (int8_t)((int)saturated(y, -128 - zero_point, 127 - zero_point) + zero_point);
    return 1;
}

static inline int real_u8(double y, uint8_t *out, int zero_point)
{
    *out = (uint8_t)((int)saturated(y, -zero_point, 255 - zero_point) + zero_point);
    return 1;
}

static size_t place_of(float value, const float *codes, size_t count)
{
    for (size_t i = 0; i < count; i++)
        if (codes[i] == value)
            return i + 1;
    return 0;
}

#define TABLE(name, from, to, store)                                                                                   \
    ptrdiff_t name(const from *x, to *out, const edge_table *t)                                                        \
    {                                                                                                                  \
        int fits = 1;                                                                                                  \
        for (size_t i = 0, row = 0; row < t->rows; row++) {                                                            \
            for (size_t at = 0; at < t->columns; at++, i++) {                                                          \
                const edge_column *c = t->column + at;                                                                 \
                double v = x[i];                                                                                       \
                if (isinf(v))                                                                                          \
                    return (ptrdiff_t)i;                                                                               \
                if (c->kind == EDGE_NUMBER) {                                                                          \
                    if (isnan(v)) {                                                                                    \
                        if (isnan(c->fill))                                                                            \
                            return (ptrdiff_t)i;                                                                       \
                        v = c->fill;                                                                                   \
                    }                                                                                                  \
                    v = v > c->low ? v : c->low;                                                                       \
                    v = v < c->high ? v : c->high;                                                                     \
                    fits &= store((v - c->mean) * c->gain, out++, t->zero_point);                                      \
                    continue;                                                                                          \
                }                                                                                                      \
                size_t place = place_of((float)v, t->codes + c->codes, c->count);                                      \
                if (c->kind == EDGE_INDEX) {                                                                           \
                    fits &= store((double)place * c->gain, out++, t->zero_point);                                      \
                    continue;                                                                                          \
                }                                                                                                      \
                for (size_t one = 0; one <= c->count; one++)                                                           \
                    fits &= store(one == place ? c->gain : 0.0, out++, t->zero_point);                                 \
            }                                                                                                          \
        }                                                                                                              \
        return fits ? EDGE_TABLE_DONE : EDGE_TABLE_TOO_LARGE;                                                          \
    }

TABLE(edge_table_f32_f32, float, float, real_f32)
TABLE(edge_table_f32_i8, float, int8_t, real_i8)
TABLE(edge_table_f32_u8, float, uint8_t, real_u8)
TABLE(edge_table_f64_f32, double, float, real_f32)
TABLE(edge_table_f64_i8, double, int8_t, real_i8)
TABLE(edge_table_f64_u8, double, uint8_t, real_u8)
