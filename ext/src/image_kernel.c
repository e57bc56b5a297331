/* Fused colour, bilinear resize, normalise, quantise and layout.
 *
 * Sampling: half-pixel centres, edges clamped, no antialias, and no rounding before the end.
 *
 * Each output row goes through three short loops over rows that stay in the L1 cache:
 *   1. blend two source rows vertically (long contiguous loop, vectorises);
 *   2. blend columns by the precomputed tables, and change colour;
 *   3. normalise, round and store (contiguous, vectorises).
 * Vertical first, because the expensive step 2 then runs once an output pixel and not twice.
 */
#include "image_kernel.h"

#include <stdlib.h>
#include <string.h>

/* From this ratio on, blending only the columns that are read is cheaper than whole rows. */
#define SPARSE_RATIO 5

/* Luma of ITU-R BT.601. */
#define LUMA_R 0.299f
#define LUMA_G 0.587f
#define LUMA_B 0.114f

/* Adding and taking away 1.5 * 2^23 rounds |x| < 2^22 half to even, on every ISA, in vector code. */
#define ROUNDER 12582912.0f

typedef struct {
    int first, second; /* source positions, second = min(first + 1, size - 1) */
    float weight;      /* of the second */
} tap;

static tap tap_at(int position, int in_size, int out_size)
{
    double at = ((double)position + 0.5) * (double)in_size / (double)out_size - 0.5;
    tap t;
    if (at < 0.0)
        at = 0.0;
    if (at > (double)(in_size - 1))
        at = (double)(in_size - 1);
    t.first = (int)at;
    t.second = t.first + 1 < in_size ? t.first + 1 : t.first;
    t.weight = (float)(at - (double)t.first);
    return t;
}

static void blend_rows(float *restrict to, const uint8_t *restrict a, const uint8_t *restrict b, float weight,
                       size_t count)
{
    if (weight == 0.0f) {
        for (size_t i = 0; i < count; i++)
            to[i] = (float)a[i];
        return;
    }
    for (size_t i = 0; i < count; i++) {
        float low = (float)a[i];
        to[i] = low + ((float)b[i] - low) * weight;
    }
}

static inline void blend_pixel(float *to, const uint8_t *a, const uint8_t *b, float weight, int channels)
{
    for (int c = 0; c < channels; c++) {
        float low = (float)a[c];
        to[c] = low + ((float)b[c] - low) * weight;
    }
}

/* As blend_rows, but only the columns that `columns` reads, packed in pairs. */
static void blend_columns(float *restrict to, const uint8_t *restrict a, const uint8_t *restrict b, float weight,
                          const tap *restrict columns, int width, int channels)
{
    for (int x = 0; x < width; x++) {
        size_t first = (size_t)columns[x].first * (size_t)channels;
        size_t second = (size_t)columns[x].second * (size_t)channels;
        blend_pixel(to, a + first, b + first, weight, channels);
        blend_pixel(to + channels, a + second, b + second, weight, channels);
        to += 2 * channels;
    }
}

/* Step 2 for one pair of channel counts. Pixel x, channel c goes to row[x * step + c * plane]. */
static inline void resample(float *restrict row, const float *restrict blended, const tap *restrict reads, int width,
                            size_t step, size_t plane, int in_channels, int out_channels, int same_width)
{
    for (int x = 0; x < width; x++) {
        float level[3];
        int used = in_channels == 1 ? 1 : 3;
        if (same_width) {
            const float *pixel = blended + (size_t)x * (size_t)in_channels;
            for (int c = 0; c < used; c++)
                level[c] = pixel[c];
        } else {
            const float *left = blended + reads[x].first;
            const float *right = blended + reads[x].second;
            for (int c = 0; c < used; c++)
                level[c] = left[c] + (right[c] - left[c]) * reads[x].weight;
        }
        float *to = row + (size_t)x * step;
        if (out_channels == 1)
            to[0] = in_channels == 1 ? level[0] : LUMA_R * level[0] + LUMA_G * level[1] + LUMA_B * level[2];
        else
            for (int c = 0; c < 3; c++)
                to[(size_t)c * plane] = level[in_channels == 1 ? 0 : c];
    }
}

/* Constant channel counts let the compiler unroll the loops of `resample`. */
static void resample_row(const edge_image_job *job, float *row, const float *blended, const tap *reads)
{
    int width = job->out_width;
    int same = job->in_width == job->out_width;
    size_t step = job->planar ? 1 : (size_t)job->out_channels;
    size_t plane = job->planar ? (size_t)width : 1;

#define RESAMPLE(in, out)                                                           \
    do {                                                                            \
        if (same)                                                                   \
            resample(row, blended, reads, width, step, plane, in, out, 1);          \
        else                                                                        \
            resample(row, blended, reads, width, step, plane, in, out, 0);          \
    } while (0)

    if (job->in_channels == 1 && job->out_channels == 1)
        RESAMPLE(1, 1);
    else if (job->in_channels == 1)
        RESAMPLE(1, 3);
    else if (job->in_channels == 3 && job->out_channels == 1)
        RESAMPLE(3, 1);
    else if (job->in_channels == 3)
        RESAMPLE(3, 3);
    else if (job->out_channels == 1)
        RESAMPLE(4, 1);
    else
        RESAMPLE(4, 3);
#undef RESAMPLE
}

static void store_float32(float *restrict to, const float *restrict row, const float *restrict mean,
                          const float *restrict gain, size_t count)
{
    for (size_t i = 0; i < count; i++)
        to[i] = (row[i] - mean[i]) * gain[i];
}

static inline int rounded(float level, float mean, float gain, float low, float high)
{
    float value = (level - mean) * gain;
    value = value > low ? value : low; /* saturating first keeps the rounder in its range; NaN becomes low */
    value = value < high ? value : high;
    return (int)((value + ROUNDER) - ROUNDER);
}

static void store_int8(int8_t *restrict to, const float *restrict row, const float *restrict mean,
                       const float *restrict gain, int zero_point, size_t count)
{
    float low = (float)(-128 - zero_point);
    float high = (float)(127 - zero_point);
    for (size_t i = 0; i < count; i++)
        to[i] = (int8_t)(rounded(row[i], mean[i], gain[i], low, high) + zero_point);
}

static void store_uint8(uint8_t *restrict to, const float *restrict row, const float *restrict mean,
                        const float *restrict gain, int zero_point, size_t count)
{
    float low = (float)(0 - zero_point);
    float high = (float)(255 - zero_point);
    for (size_t i = 0; i < count; i++)
        to[i] = (uint8_t)(rounded(row[i], mean[i], gain[i], low, high) + zero_point);
}

static void store(const edge_image_job *job, void *out, enum edge_image_type type, size_t at, const float *row,
                  const float *mean, const float *gain, size_t count)
{
    if (type == EDGE_IMAGE_FLOAT32)
        store_float32((float *)out + at, row, mean, gain, count);
    else if (type == EDGE_IMAGE_INT8)
        store_int8((int8_t *)out + at, row, mean, gain, job->zero_point, count);
    else
        store_uint8((uint8_t *)out + at, row, mean, gain, job->zero_point, count);
}

int edge_image_run(const edge_image_job *job, void *out, enum edge_image_type type)
{
    size_t width = (size_t)job->out_width;
    size_t channels = (size_t)job->in_channels;
    size_t row_count = width * (size_t)job->out_channels;
    int sparse = job->in_width / job->out_width >= SPARSE_RATIO;
    size_t blended_count = sparse ? 2 * width * channels : (size_t)job->in_width * channels;

    tap *columns = malloc(2 * width * sizeof *columns);
    float *blended = malloc((blended_count + 3 * row_count) * sizeof *blended);
    if (columns == NULL || blended == NULL) {
        free(columns);
        free(blended);
        return -1;
    }
    tap *reads = columns + width; /* as `columns`, but offsets into `blended` */
    float *row = blended + blended_count;
    float *mean = row + row_count; /* the channel's constants in the order of `row` */
    float *gain = mean + row_count;

    for (size_t x = 0; x < width; x++) {
        columns[x] = tap_at((int)x, job->in_width, job->out_width);
        reads[x] = columns[x];
        reads[x].first = (int)(sparse ? 2 * x * channels : (size_t)columns[x].first * channels);
        reads[x].second = (int)(sparse ? (2 * x + 1) * channels : (size_t)columns[x].second * channels);
        for (size_t c = 0; c < (size_t)job->out_channels; c++) {
            size_t at = job->planar ? c * width + x : x * (size_t)job->out_channels + c;
            mean[at] = job->mean[c];
            gain[at] = job->gain[c];
        }
    }

    tap previous = {-1, -1, 0.0f};
    for (int y = 0; y < job->out_height; y++) {
        tap t = tap_at(y, job->in_height, job->out_height);
        /* Clamped edges repeat a row: it is still in `row`. */
        if (t.first != previous.first || t.weight != previous.weight) {
            const uint8_t *a = job->frame + (ptrdiff_t)t.first * job->row_stride;
            const uint8_t *b = job->frame + (ptrdiff_t)t.second * job->row_stride;
            if (sparse)
                blend_columns(blended, a, b, t.weight, columns, job->out_width, job->in_channels);
            else
                blend_rows(blended, a, b, t.weight, blended_count);
            resample_row(job, row, blended, reads);
            previous = t;
        }
        if (job->planar) {
            size_t plane = (size_t)job->out_height * width;
            for (size_t c = 0; c < (size_t)job->out_channels; c++)
                store(job, out, type, c * plane + (size_t)y * width, row + c * width, mean + c * width,
                      gain + c * width, width);
        } else {
            store(job, out, type, (size_t)y * row_count, row, mean, gain, row_count);
        }
    }
    free(columns);
    free(blended);
    return 0;
}
