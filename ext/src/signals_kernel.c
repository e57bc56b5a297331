/* Float64 throughout, and nothing but + - * / and square roots, which IEEE 754 fixes to the last bit:
 * logarithm and exponential are polynomials of our own, sums run in LANES lanes that are brought
 * together in a fixed order at the end, and nothing is contracted. So a decision that one machine
 * wrote down is found again on any other.
 */
#include "signals_kernel.h"

#include <float.h>
#include <math.h>
#include <stdint.h>
#include <string.h>

#define LANES 8
#define CHUNK 1024 /* classes that are at hand at once; a multiple of LANES */

/* Wider vectors where the loader can choose between two versions of a function. */
#if defined(__GNUC__) && !defined(__clang__) && defined(__x86_64__) && defined(__gnu_linux__)
#define CLONES __attribute__((target_clones("avx2", "default")))
#else
#define CLONES
#endif

#define FLOOR (1.0 / 512.0) /* half a step of int8 probabilities */
#define LOG2_E 0x1.71547652b82fep+0
#define LN_2_HIGH 0x1.62e42fee00000p-1 /* times an exponent, without rounding */
#define LN_2_LOW 0x1.a39ef35793c76p-33
#define ROUNDER 0x1.8p52        /* adding it leaves an integer in the low bits */
#define LEAST -708.0            /* e to it is still a normal number */
#define ROOT_HALF 0x3fe6a09e667f3bcdu /* bits of the root of 1/2 */
#define ONE 0x3ff0000000000000u
#define EXPONENT 0xfff0000000000000u

/* ln x of a normal x > 0, within 1 ulp.
 *
 * x = 2^k (1 + f) with 1 + f in [sqrt 1/2, sqrt 2), s = f / (2 + f):
 * ln(1 + f) = 2 atanh s = 2s + s z Q(z) with z = s^2, and 2s = f - s f, where f is exact. Q is of degree 6,
 * off by less than 2^-57 of the logarithm. */
static inline double ln(double x)
{
    uint64_t bits, shifted, biased;
    double m, k, f, s, z, q;
    memcpy(&bits, &x, sizeof bits);
    shifted = bits - ROOT_HALF + ONE;
    biased = (shifted >> 52) | 0x4330000000000000u; /* 2^52 + (k + 1023): a conversion for any vector unit */
    memcpy(&k, &biased, sizeof k);
    k -= 0x1.0p52 + 1023.0;
    bits = bits - (shifted & EXPONENT) + ONE;
    memcpy(&m, &bits, sizeof m);
    f = m - 1.0;
    s = f / (2.0 + f);
    z = s * s;
    q = 0x1.2b5f68a50d903p-3;
    q = q * z + 0x1.39fdcceb4bb45p-3;
    q = q * z + 0x1.7462b91b8df65p-3;
    q = q * z + 0x1.c71c62d5e53e0p-3;
    q = q * z + 0x1.2492492dfd86cp-2;
    q = q * z + 0x1.9999999995273p-2;
    q = q * z + 0x1.5555555555558p-1;
    return k * LN_2_HIGH + (k * LN_2_LOW + (f - s * (f - z * q)));
}

/* e^x for LEAST <= x <= 0, within 1 ulp and never above 1.
 *
 * x = k ln 2 + r with |r| <= ln 2 / 2, and e^r = 1 + (r + r^2 P(r)) with P of degree 9, off by 2^-56. */
static inline double power_of_e(double x)
{
    double shifted = x * LOG2_E + ROUNDER, k = shifted - ROUNDER, r, p, power;
    uint64_t bits;
    r = (x - k * LN_2_HIGH) - k * LN_2_LOW;
    p = 0x1.af38a9b0ec855p-26;
    p = p * r + 0x1.289185613a3d6p-22;
    p = p * r + 0x1.71de0dae63bb3p-19;
    p = p * r + 0x1.a019b90d2ae7ap-16;
    p = p * r + 0x1.a01a01a7c41d5p-13;
    p = p * r + 0x1.6c16c1788bd90p-10;
    p = p * r + 0x1.11111111109b3p-7;
    p = p * r + 0x1.5555555553d63p-5;
    p = p * r + 0x1.5555555555556p-3;
    p = p * r + 0x1.0000000000001p-1;
    p = 1.0 + (r + r * r * p);
    memcpy(&bits, &shifted, sizeof bits);
    bits = (bits + 1023) << 52; /* 2^k; the rounder's bits are shifted out */
    memcpy(&power, &bits, sizeof power);
    return p * power;
}

static inline double together(const double *lanes)
{
    double all = 0.0;
    for (int j = 0; j < LANES; j++)
        all += lanes[j];
    return all;
}

/* Probabilities from `from` on, in double: in `room` unless they are already. */
static inline const double *doubles(const void *p, int wide, size_t from, size_t part, double *room)
{
    if (wide)
        return (const double *)p + from;
    for (size_t i = 0; i < part; i++)
        room[i] = ((const float *)p)[from + i];
    return room;
}

/* What a row must be asked first. */
typedef struct {
    double most, second, least, total;
} survey;

static inline void look(double v, double *most, double *second, double *least, double *total)
{
    double lower = v < *most ? v : *most;
    *second = lower > *second ? lower : *second;
    *most = v > *most ? v : *most;
    *least = v < *least ? v : *least;
    *total += v;
}

CLONES static survey surveyed(const void *p, int wide, size_t classes)
{
    double most[LANES], second[LANES], least[LANES], total[LANES] = {0}, room[CHUNK];
    survey all;
    for (int j = 0; j < LANES; j++) {
        most[j] = second[j] = -INFINITY;
        least[j] = INFINITY;
    }
    for (size_t from = 0; from < classes; from += CHUNK) {
        size_t part = classes - from < CHUNK ? classes - from : CHUNK, i = 0;
        const double *v = doubles(p, wide, from, part, room);
        for (; i + LANES <= part; i += LANES)
            for (int j = 0; j < LANES; j++)
                look(v[i + j], most + j, second + j, least + j, total + j);
        for (int j = 0; i < part; i++, j++)
            look(v[i], most + j, second + j, least + j, total + j);
    }
    all = (survey){most[0], second[0], least[0], together(total)};
    for (int j = 1; j < LANES; j++) {
        double lower = most[j] < all.most ? most[j] : all.most;
        all.second = lower > all.second ? lower : all.second;
        all.second = second[j] > all.second ? second[j] : all.second;
        all.most = most[j] > all.most ? most[j] : all.most;
        all.least = least[j] < all.least ? least[j] : all.least;
    }
    return all;
}

static int fault(const survey *row, double tolerance)
{
    /* a comparison would step over a NaN, which the sum keeps */
    if (row->total != row->total || row->most > DBL_MAX || row->least < -DBL_MAX)
        return EDGE_NOT_FINITE;
    if (row->least < 0.0)
        return EDGE_NEGATIVE;
    return row->total > 0.0 && fabs(row->total - 1.0) <= tolerance ? 0 : EDGE_SUM;
}

/* r = (v / most)^inverse, and l = ln r where `logs` or the inverse asks for it; below DBL_MIN r is 0. */
static inline void ratios(const double *v, size_t part, double most, double inverse, int logs, double *r, double *l)
{
    for (size_t i = 0; i < part; i++)
        r[i] = v[i] / most;
    if (!logs && inverse == 1.0)
        return;
    for (size_t i = 0; i < part; i++) /* loops of their own: compilers make no vectors of them in one */
        l[i] = r[i] > DBL_MIN ? r[i] : DBL_MIN;
    for (size_t i = 0; i < part; i++)
        l[i] = ln(l[i]) * inverse;
    for (size_t i = 0; i < part; i++)
        l[i] = l[i] > LEAST ? l[i] : LEAST;
    if (inverse == 1.0)
        return;
    for (size_t i = 0; i < part; i++)
        r[i] = r[i] < DBL_MIN ? 0.0 : 1.0;
    for (size_t i = 0; i < part; i++)
        r[i] *= power_of_e(l[i]);
}

/* Of a row: the sum of r, and where `logs` that of r ln r. */
typedef struct {
    double total, weighted;
} sums;

/* `r` and `l` have room for CHUNK numbers and hold the last chunk when this returns. */
CLONES static sums summed(const void *p, int wide, size_t classes, double most, double inverse, int logs, double *r,
                          double *l)
{
    double total[LANES] = {0}, weighted[LANES] = {0}, room[CHUNK];
    for (size_t from = 0; from < classes; from += CHUNK) {
        size_t part = classes - from < CHUNK ? classes - from : CHUNK, i = 0;
        ratios(doubles(p, wide, from, part, room), part, most, inverse, logs, r, l);
        for (; i + LANES <= part; i += LANES)
            for (int j = 0; j < LANES; j++)
                total[j] += r[i + j];
        for (int j = 0; i < part; i++, j++)
            total[j] += r[i];
        if (!logs)
            continue;
        for (i = 0; i + LANES <= part; i += LANES)
            for (int j = 0; j < LANES; j++)
                weighted[j] += r[i + j] * l[i + j];
        for (int j = 0; i < part; i++, j++)
            weighted[j] += r[i] * l[i];
    }
    return (sums){together(total), together(weighted)};
}

static double margin(const survey *row, size_t classes, double inverse, double total)
{
    double r, l;
    if (classes == 1)
        return 1.0;
    ratios(&row->second, 1, row->most, inverse, 0, &r, &l);
    return (1.0 - r) / total;
}

static double entropy(sums of, size_t classes)
{
    double value;
    if (classes == 1)
        return 1.0;
    value = 1.0 - (ln(of.total) - of.weighted / of.total) / ln((double)classes);
    return value < 0.0 ? 0.0 : value > 1.0 ? 1.0 : value;
}

/* Of the classes whose share, r / total, is above FLOOR: the sum of r, and of the logarithms of the shares less what
 * they are at indifference; and how many the others are. Counted, since adding up one number rounds to one side. */
typedef struct {
    double total[LANES], logs[LANES], few[LANES];
} parts;

CLONES static void above_floor(const double *r, double *l, size_t part, double floor, double shift, parts *of)
{
    parts all = *of;
    size_t i = 0;
    for (; i < part; i++)
        l[i] -= shift;
    for (i = 0; i + LANES <= part; i += LANES)
        for (int j = 0; j < LANES; j++) {
            all.total[j] += r[i + j] > floor ? r[i + j] : 0.0;
            all.logs[j] += r[i + j] > floor ? l[i + j] : 0.0;
            all.few[j] += r[i + j] > floor ? 0.0 : 1.0;
        }
    for (int j = 0; i < part; i++, j++) {
        all.total[j] += r[i] > floor ? r[i] : 0.0;
        all.logs[j] += r[i] > floor ? l[i] : 0.0;
        all.few[j] += r[i] > floor ? 0.0 : 1.0;
    }
    *of = all;
}

static double energy(const void *p, int wide, size_t classes, const survey *row, double inverse, sums of, double *r,
                     double *l)
{
    parts all = {{0}, {0}, {0}};
    double room[CHUNK], of_one = ln((double)classes), shift = ln(of.total) - of_one, few, total, logs, value;
    for (size_t from = 0; from < classes; from += CHUNK) {
        size_t part = classes - from < CHUNK ? classes - from : CHUNK;
        if (classes > CHUNK) /* else they are at hand */
            ratios(doubles(p, wide, from, part, room), part, row->most, inverse, 1, r, l);
        above_floor(r, l, part, FLOOR * of.total, shift, &all);
    }
    few = together(all.few);
    total = together(all.total) / of.total + few * FLOOR;
    logs = together(all.logs) + few * (ln(FLOOR) + of_one);
    value = ln(total) - logs / (double)classes;
    return value > 0.0 ? value : 0.0;
}

size_t edge_feature_count(size_t classes)
{
    return 4 * classes + (classes < EDGE_TOP ? classes : EDGE_TOP) + 2;
}

/* The largest `top` of a row, largest first and of equal ones the lower class first. */
static void find_top(const double *v, size_t count, size_t from, size_t top, double *best, size_t *classes, size_t *held)
{
    for (size_t i = 0; i < count; i++) {
        size_t at = *held < top ? *held : top - 1;
        if (*held == top && !(v[i] > best[at]))
            continue;
        for (; at > 0 && v[i] > best[at - 1]; at--) {
            best[at] = best[at - 1];
            classes[at] = classes[at - 1];
        }
        best[at] = v[i];
        classes[at] = from + i;
        *held += *held < top;
    }
}

CLONES static void logs_and_roots(const double *v, size_t part, double *logs, double *roots)
{
    for (size_t i = 0; i < part; i++)
        logs[i] = v[i] > FLOOR ? v[i] : FLOOR;
    for (size_t i = 0; i < part; i++)
        logs[i] = ln(logs[i]);
    for (size_t i = 0; i < part; i++)
        roots[i] = sqrt(v[i]);
}

static void features(const void *p, int wide, size_t classes, const survey *row, double *out)
{
    double r[CHUNK], l[CHUNK], best[EDGE_TOP];
    size_t leading[EDGE_TOP], held = 0, top = classes < EDGE_TOP ? classes : EDGE_TOP;
    sums of = summed(p, wide, classes, row->most, 1.0, 1, r, l);
    double *one = out + 2 * classes;
    for (size_t from = 0; from < classes; from += CHUNK) {
        size_t part = classes - from < CHUNK ? classes - from : CHUNK;
        const double *v = doubles(p, wide, from, part, r);
        logs_and_roots(v, part, out + from, out + classes + from);
        find_top(v, part, from, top, best, leading, &held);
    }
    memcpy(one, best, top * sizeof *one);
    one += top;
    *one++ = margin(row, classes, 1.0, of.total);
    *one++ = entropy(of, classes);
    for (size_t i = 0; i < 2 * classes; i++)
        one[i] = 0.0;
    one[leading[0]] = 1.0;
    if (classes > 1)
        one[classes + leading[1]] = 1.0;
}

CLONES static double product(const double *a, const double *b, size_t count)
{
    double total[LANES] = {0};
    size_t i = 0;
    for (; i + LANES <= count; i += LANES)
        for (int j = 0; j < LANES; j++)
            total[j] += a[i + j] * b[i + j];
    for (int j = 0; i < count; i++, j++)
        total[j] += a[i] * b[i];
    return together(total);
}

static double logistic(double x)
{
    double gap = x < 0.0 ? x : -x, small = power_of_e(gap > LEAST ? gap : LEAST);
    return (x < 0.0 ? small : 1.0) / (1.0 + small);
}

static double learned(const void *p, int wide, size_t classes, const survey *row, const double *weights)
{
    double made[4 * EDGE_MOST_CLASSES + EDGE_TOP + 2];
    size_t count = edge_feature_count(classes);
    const double *cloud = weights + count + 1;
    features(p, wide, classes, row, made);
    return logistic(product(made, weights, count) + weights[count]) -
           logistic(product(made, cloud, count) + cloud[count]);
}

static const void *row_of(const void *p, int wide, size_t classes, size_t row)
{
    return (const char *)p + row * classes * (wide ? sizeof(double) : sizeof(float));
}

int edge_check(const void *p, int wide, size_t rows, size_t classes, double tolerance, size_t *bad_row, double *total)
{
    for (size_t n = 0; n < rows; n++) {
        survey row = surveyed(row_of(p, wide, classes, n), wide, classes);
        int wrong = fault(&row, tolerance);
        if (wrong) {
            *bad_row = n;
            *total = row.total;
            return wrong;
        }
    }
    return 0;
}

int edge_signals(const void *p, int wide, size_t rows, size_t classes, const edge_signal *signal, double tolerance,
                 double *values, double *confidences, size_t *bad_row, double *total)
{
    int logs = signal->kind == EDGE_ENTROPY || signal->kind == EDGE_ENERGY;
    double r[CHUNK], l[CHUNK];
    for (size_t n = 0; n < rows; n++) {
        const void *x = row_of(p, wide, classes, n);
        survey row = surveyed(x, wide, classes);
        int wrong = fault(&row, tolerance);
        sums of = {1.0, 0.0};
        if (wrong) {
            *bad_row = n;
            *total = row.total;
            return wrong;
        }
        if (signal->kind != EDGE_LEARNED || confidences)
            of = summed(x, wide, classes, row.most, signal->inverse, logs, r, l);
        if (confidences)
            confidences[n] = 1.0 / of.total;
        switch (signal->kind) {
        case EDGE_MARGIN:
            values[n] = margin(&row, classes, signal->inverse, of.total);
            break;
        case EDGE_ENTROPY:
            values[n] = entropy(of, classes);
            break;
        case EDGE_ENERGY:
            values[n] = energy(x, wide, classes, &row, signal->inverse, of, r, l);
            break;
        case EDGE_LEARNED:
            values[n] = learned(x, wide, classes, &row, signal->weights);
            break;
        default:
            values[n] = 1.0 / of.total;
        }
    }
    return 0;
}

int edge_features(const void *p, int wide, size_t rows, size_t classes, double *out, size_t *bad_row, double *total)
{
    for (size_t n = 0; n < rows; n++, out += edge_feature_count(classes)) {
        const void *x = row_of(p, wide, classes, n);
        survey row = surveyed(x, wide, classes);
        int wrong = fault(&row, INFINITY);
        if (wrong) {
            *bad_row = n;
            *total = row.total;
            return wrong;
        }
        features(x, wide, classes, &row, out);
    }
    return 0;
}
