/* Plain C in loops that compilers turn into vectors. Sums run in LANES lanes that are brought together
 * in a fixed order at the end, so every instruction set gives the same bits.
 */
#include "scores_kernel.h"

#include <math.h>
#include <string.h>

#define LANES 8
#define CHUNK 256   /* exponentials that are at hand at once */
#define SEARCHED 32 /* scores that are passed over at once */

/* Wider vectors where the loader can choose between two versions of a function. */
#if defined(__GNUC__) && !defined(__clang__) && defined(__x86_64__) && defined(__gnu_linux__)
#define CLONES __attribute__((target_clones("avx2", "default")))
#else
#define CLONES
#endif

/* 2^x for LEAST <= x <= 0. There and below, the float32 is 0.
 *
 * x = k + f with |f| <= 1/2, in double; 2^f by the polynomial of degree 6 with the least relative
 * error, 1.9e-9, so that nearly all of the error is the rounding to float32. */
#define LEAST -150.05
#define LOG2_E 1.4426950408889634
#define LN_2 0.6931471805599453
#define ROUNDER 6755399441055744.0 /* 1.5 * 2^52: adding it leaves an integer in the low bits */

static inline double power_of_2(double x)
{
    double shifted = x + ROUNDER, f = x - (shifted - ROUNDER), p, power;
    int64_t bits;
    p = 0x1.41d3336e09953p-13;
    p = p * f + 0x1.5f456a8aca002p-10;
    p = p * f + 0x1.3b2dbbc0f95eap-7;
    p = p * f + 0x1.c6aed4b950e87p-5;
    p = p * f + 0x1.ebfbdadcb0c31p-3;
    p = p * f + 0x1.62e430c7e9237p-1;
    p = p * f + 0x1.0000000261500p+0;
    memcpy(&bits, &shifted, sizeof bits);
    bits = (int64_t)((uint64_t)(bits + 1023) << 52); /* 2^k; the rounder's bits are shifted out */
    memcpy(&power, &bits, sizeof power);
    return p * power;
}

/* The largest value of a row; NaN where there is one. In integers that have the order of floats,
 * because only their maximum may be taken in any order. */
CLONES static float largest(const float *x, size_t count)
{
    int32_t most = INT32_MIN, unordered = 0;
    float found;
    for (size_t i = 0; i < count; i++) {
        int32_t bits;
        memcpy(&bits, x + i, sizeof bits);
        bits ^= (bits >> 31) & INT32_MAX;
        most = bits > most ? bits : most;
        unordered |= x[i] != x[i]; /* a comparison alone would step over a NaN */
    }
    most ^= (most >> 31) & INT32_MAX;
    memcpy(&found, &most, sizeof found);
    return unordered ? NAN : found;
}

/* Exponentials of a row, their sum, and their sum weighed by the exponents. */
typedef struct {
    double total, weighed;
} sums;

CLONES static sums exponentials(const float *x, float *out, size_t count, double top, double inverse)
{
    double rate = inverse * LOG2_E;
    double total[LANES] = {0}, weighed[LANES] = {0}, gaps[CHUNK], e[CHUNK];
    sums all = {0.0, 0.0};
    for (size_t from = 0; from < count; from += CHUNK) {
        size_t part = count - from < CHUNK ? count - from : CHUNK;
        for (size_t i = 0; i < part; i++) {
            /* The difference in double: it neither overflows nor loses small gaps. */
            double gap = ((double)x[from + i] - top) * rate;
            gaps[i] = gap > LEAST ? gap : LEAST;
        }
        for (size_t i = 0; i < part; i++) /* loops of their own: compilers make no vectors of them in one */
            e[i] = power_of_2(gaps[i]);
        for (size_t i = 0; i < part; i++)
            out[from + i] = (float)e[i];
        for (size_t i = 0; i < part; i++) {
            total[i % LANES] += e[i];
            weighed[i % LANES] += e[i] * gaps[i];
        }
    }
    for (int j = 0; j < LANES; j++) {
        all.total += total[j];
        all.weighed += weighed[j] * LN_2;
    }
    return all;
}

CLONES static void scaled(float *x, size_t count, float factor)
{
    for (size_t i = 0; i < count; i++)
        x[i] *= factor;
}

/* Put class `c` among the `held` best so far, of at most `top`; equal ones stay in order. */
static inline size_t put(const float *x, int64_t *best, size_t held, size_t top, size_t c)
{
    size_t at = held < top ? held : top - 1;
    if (held == top && !(x[c] > x[best[at]]))
        return held;
    for (; at > 0 && x[c] > x[best[at - 1]]; at--)
        best[at] = best[at - 1];
    best[at] = (int64_t)c;
    return held < top ? held + 1 : held;
}

/* Whether any of a chunk's values is above a bound. */
static inline int any_above(const float *x, float bound)
{
    int found = 0;
    for (int j = 0; j < SEARCHED; j++)
        found |= x[j] > bound;
    return found;
}

CLONES static void find_top(const float *x, size_t count, size_t top, int64_t *best)
{
    size_t held = 0, c = 0;
    for (; c < top; c++)
        held = put(x, best, held, top, c);
    while (c < count) {
        size_t part = count - c < SEARCHED ? count - c : SEARCHED;
        if (part < SEARCHED || any_above(x + c, x[best[top - 1]]))
            for (size_t j = c; j < c + part; j++)
                put(x, best, held, top, j);
        c += part;
    }
}

/* Of 8-bit rows as long as this (measured), the exponential of each of the 256 values there are is taken once. */
#define TABLED 1024

static inline float real(const edge_scores *x, uint8_t byte)
{
    int q = x->type == EDGE_SCORES_INT8 ? (int8_t)byte : byte;
    return (float)(q - x->zero_point) * x->scale;
}

/* What `exponentials` does, in the same order, so that the bits are the same. */
static sums tabled(const edge_scores *x, const uint8_t *row, float *out, double top, double inverse)
{
    double rate = inverse * LOG2_E;
    double total[LANES] = {0}, weighed[LANES] = {0}, gaps[256], e[256];
    float rounded[256];
    sums all = {0.0, 0.0};
    for (int byte = 0; byte < 256; byte++) {
        double gap = ((double)real(x, (uint8_t)byte) - top) * rate;
        gap = gap > LEAST ? gap : LEAST;
        gaps[byte] = gap < 0.0 ? gap : 0.0; /* what is above the largest is not there */
    }
    for (int byte = 0; byte < 256; byte++)
        e[byte] = power_of_2(gaps[byte]);
    for (int byte = 0; byte < 256; byte++) {
        rounded[byte] = (float)e[byte];
        gaps[byte] *= e[byte];
    }
    for (size_t i = 0; i < x->classes; i++) {
        total[i % LANES] += e[row[i]];
        weighed[i % LANES] += gaps[row[i]];
        out[i] = rounded[row[i]];
    }
    for (int j = 0; j < LANES; j++) {
        all.total += total[j];
        all.weighed += weighed[j] * LN_2;
    }
    return all;
}

CLONES static void dequantized(const edge_scores *x, const uint8_t *row, float *out)
{
    if (x->type == EDGE_SCORES_INT8)
        for (size_t i = 0; i < x->classes; i++)
            out[i] = (float)((int)(int8_t)row[i] - x->zero_point) * x->scale;
    else
        for (size_t i = 0; i < x->classes; i++)
            out[i] = (float)((int)row[i] - x->zero_point) * x->scale;
}

/* A row as float32: itself, or made in `out`. */
static const float *reals(const edge_scores *x, size_t r, float *out)
{
    if (x->type == EDGE_SCORES_FLOAT32)
        return (const float *)x->data + r * x->classes;
    dequantized(x, (const uint8_t *)x->data + r * x->classes, out);
    return out;
}

static sums powers(const edge_scores *x, size_t r, const float *row, float *out, double top, double inverse)
{
    if (x->type == EDGE_SCORES_FLOAT32 || x->classes < TABLED)
        return exponentials(row, out, x->classes, top, inverse);
    return tabled(x, (const uint8_t *)x->data + r * x->classes, out, top, inverse);
}

int edge_softmax(const edge_scores *x, float *out, double temperature, size_t *bad_row)
{
    double inverse = 1.0 / temperature;
    for (size_t r = 0; r < x->rows; r++, out += x->classes) {
        const float *row = reals(x, r, out);
        float top = largest(row, x->classes);
        if (!isfinite(top)) {
            *bad_row = r;
            return -1;
        }
        sums all = powers(x, r, row, out, (double)top, inverse);
        scaled(out, x->classes, (float)(1.0 / all.total)); /* total >= 1: the largest contributes exp(0) */
    }
    return 0;
}

int edge_summarize(const edge_scores *x, float *out, double temperature, size_t top, int64_t *indices, float *facts,
                   size_t *bad_row)
{
    double inverse = 1.0 / temperature;
    size_t classes = x->classes;
    for (size_t r = 0; r < x->rows; r++, out += classes, indices += top, facts += 3) {
        const float *row = reals(x, r, out);
        float most = largest(row, classes);
        if (!isfinite(most)) {
            *bad_row = r;
            return -1;
        }
        int64_t two[2] = {0, 0};
        size_t needed = classes < 2 ? classes : 2;
        if (top >= needed) {
            find_top(row, classes, top, indices);
            memcpy(two, indices, needed * sizeof *two);
        } else {
            find_top(row, classes, needed, two);
            indices[0] = two[0];
        }
        double gap = ((double)row[two[1]] - (double)most) * inverse * LOG2_E; /* before `out`, maybe the row, is filled */
        sums all = powers(x, r, row, out, (double)most, inverse);
        double log_total = log(all.total);
        facts[0] = needed < 2 ? 1.0f : (float)((1.0 - power_of_2(gap > LEAST ? gap : LEAST)) / all.total);
        double entropy = log_total - all.weighed / all.total;
        facts[1] = (float)(entropy > 0.0 ? entropy : 0.0);
        facts[2] = (float)-((double)most + temperature * log_total);
        scaled(out, classes, (float)(1.0 / all.total));
    }
    return 0;
}
