/* What a path of the image kernel consists of, and the arithmetic that all paths share.
 *
 * A level is a grey level from 0 to 255. Between the steps a row holds levels as float32 in units
 * of EDGE_UNIT: minus, because the 15-bit weights are negated so that a weight of exactly 1 fits
 * int16 (-32768), and 2^22, because blending adds 7 bits and then 15.
 */
#ifndef EDGE_SDK_IMAGE_OPS_H
#define EDGE_SDK_IMAGE_OPS_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define EDGE_UNIT (-4194304.0f)

/* Luma of ITU-R BT.601. */
#define LUMA_R 0.299f
#define LUMA_G 0.587f
#define LUMA_B 0.114f

/* Adding and taking away 1.5 * 2^23 rounds |x| < 2^22 half to even on every ISA. */
#define ROUNDER 12582912.0f

/* Scratch rows are this many elements longer than a multiple of it. */
#define BLOCK 16

/* Where eight output columns are, side by side in memory because a loop has few registers for addresses. */
typedef struct {
    uint8_t near[4][32]; /* byte shuffles for each four columns: see `make_near` */
    int32_t even[8], odd[8]; /* the weights of columns 0 1 0 1 and 2 3 2 3 of each four */
    int32_t weights[8];      /* two negated int16: left, right */
    int32_t offsets[8];
} edge_eight;

/* How output columns read one plane. Columns from `tail` on would read past the end of a row: the
 * offsets of those count from `base`, and they read a padded copy of the rows' ends. */
typedef struct {
    int rows;       /* values a pixel: 1, 2 or 3 */
    int load;       /* bytes a load takes, 4 or 8; all values of a pixel pair are in them */
    int reach;      /* bytes from a column's offset on that may be read: `load`, or 16 where `is_near` */
    int is_near;    /* columns share loads of 16 bytes: see `make_near` */
    int step;       /* bytes from a pixel to the next */
    uint8_t first[3], second[3]; /* where the values of the left and the right pixel are in a load */
    uint8_t table[4][16];        /* byte shuffles made of these: see `make_tables` */
    size_t tail;    /* a multiple of BLOCK */
    size_t base, tail_bytes;
    edge_eight *eights; /* [padded width / 8] */
} edge_columns;

static inline int *edge_offset(const edge_columns *columns, size_t x)
{
    return &columns->eights[x / 8].offsets[x % 8];
}

/* One output row: blend rows `a` and `b`, then columns [from, to), into rows[c][from..to). What is stored
 * are levels, or, with a `gain`, what `to_float` makes of them. */
typedef struct {
    float *rows[3];
    const float *offset, *gain; /* [3] or NULL */
    const uint8_t *a, *b;
    ptrdiff_t ahead; /* bytes to the rows that come next */
    int weight;      /* of row b, 15 bits */
    size_t from, to;
} edge_row_job;

typedef struct {
    void (*sample)(const edge_columns *columns, const edge_row_job *job);
    void (*yuv)(float *const rows[3], const float *yuv, size_t count);
    void (*luma)(float *const rows[3], size_t count);
    void (*to_float)(float *to, const float *row, float offset, float gain, size_t count);
    void (*to_half)(uint16_t *to, const float *row, size_t count);
    /* the low bytes of integers between low and high, plus zero */
    void (*to_byte)(uint8_t *to, const float *row, float offset, float gain, float low, float high, int zero,
                    size_t count);
    void (*weave_float)(float *to, const float *r, const float *g, const float *b, size_t count);
    void (*weave_byte)(uint8_t *to, const uint8_t *r, const uint8_t *g, const uint8_t *b, size_t count);
} edge_image_ops;

/* Scalar arithmetic: the other paths' answer, and their last few columns. */

static inline int blended(int a, int b, int weight)
{
    return (a << 7) + (((b - a) * 128 * weight + 16384) >> 15);
}

static inline float one_float(float level, float offset, float gain) { return (offset - level) * gain; }

static inline uint8_t one_byte(float level, float offset, float gain, float low, float high, int zero)
{
    float value = (offset - level) * gain;
    value = value > low ? value : low; /* saturating first keeps the rounder in its range; NaN becomes low */
    value = value < high ? value : high;
    return (uint8_t)((int)((value + ROUNDER) - ROUNDER) + zero);
}

static inline uint16_t one_half(float value)
{
    uint32_t bits, sign, magnitude;
    memcpy(&bits, &value, sizeof bits);
    sign = bits >> 16 & 0x8000u;
    magnitude = bits & 0x7fffffffu;
    if (magnitude > 0x7f800000u) /* NaN stays quiet, with the first bits of its payload */
        return (uint16_t)(sign | 0x7e00u | (magnitude >> 13 & 0x3ffu));
    if (magnitude >= 0x47800000u) /* 65536 and above */
        return (uint16_t)(sign | 0x7c00u);
    if (magnitude < 0x38800000u) { /* a subnormal half: a float of unit 2^-24 rounds it half to even */
        float small;
        uint32_t steps;
        memcpy(&small, &magnitude, sizeof small);
        small += 0.5f;
        memcpy(&steps, &small, sizeof steps);
        return (uint16_t)(sign | (steps - 0x3f000000u));
    }
    magnitude += 0xfffu + (magnitude >> 13 & 1u);
    return (uint16_t)(sign | (magnitude - 0x38000000u) >> 13);
}

static inline float clipped(float level)
{
    level = level > 255.0f * EDGE_UNIT ? level : 255.0f * EDGE_UNIT;
    return level < 0.0f ? level : 0.0f;
}

static inline void one_yuv(float *r, float *g, float *b, const float *k)
{
    float y = (*r - k[0] * EDGE_UNIT) * k[1], u = *g - 128.0f * EDGE_UNIT, v = *b - 128.0f * EDGE_UNIT;
    *r = clipped(y + v * k[2]);
    *g = clipped((y + u * k[3]) + v * k[4]);
    *b = clipped(y + u * k[5]);
}

static inline float one_luma(float r, float g, float b) { return (LUMA_R * r + LUMA_G * g) + LUMA_B * b; }

#endif
