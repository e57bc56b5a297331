/* Where output rows and columns read a frame, and with what weights: what a plan holds. */
#ifndef EDGE_SDK_IMAGE_PLAN_H
#define EDGE_SDK_IMAGE_PLAN_H

#include <stdlib.h>

#include "image_kernel.h"
#include "image_ops.h"

static size_t aligned(size_t bytes) { return (bytes + 63) & ~(size_t)63; }

typedef struct {
    int first, second; /* source positions, second = first + 1 where there is one */
    int weight;        /* of the second, 15 bits, below 1 */
} tap;

static tap tap_at(double at, int low, int high)
{
    tap t;
    at = at > (double)low ? at : (double)low;
    at = at < (double)high ? at : (double)high;
    t.first = (int)at;
    t.weight = (int)((at - (double)t.first) * 32768.0 + 0.5);
    if (t.weight == 32768) {
        t.first++;
        t.weight = 0;
    }
    t.second = t.first < high ? t.first + 1 : high;
    return t;
}

/* One axis of a job: where `count` output positions sample a window of it. `halved` for chroma, which
 * has one sample for two pixels. */
typedef struct {
    int count, low, extent, size, nearest, halved;
    double scale; /* extent / count */
} axis;

static tap axis_tap(const axis *from, int at)
{
    if (from->nearest) { /* in integers, because half a pixel is often met exactly */
        int first = from->low + (int)((2 * (int64_t)at + 1) * from->extent / (2 * (int64_t)from->count));
        tap t = {first >> from->halved, first >> from->halved, 0};
        return t;
    }
    double pixel = (double)from->low + ((double)at + 0.5) * from->scale - 0.5;
    if (from->halved)
        return tap_at((pixel + 0.5) / 2.0 - 0.5, 0, (from->size - 1) / 2);
    return tap_at(pixel, from->low, from->low + from->extent - 1);
}

/* What a format's planes are made of: bytes to the next pixel, and the place of each value. */
typedef struct {
    int plane, rows, load, step, halved_x, halved_y;
    uint8_t first[3], second[3];
} source;

typedef struct {
    int count;
    source sources[2];
} sources;

static const sources FORMATS[EDGE_IMAGE_FORMATS] = {
    [EDGE_IMAGE_GREY] = {1, {{0, 1, 4, 1, 0, 0, {0}, {1}}}},
    [EDGE_IMAGE_RGB] = {1, {{0, 3, 8, 3, 0, 0, {0, 1, 2}, {3, 4, 5}}}},
    [EDGE_IMAGE_BGR] = {1, {{0, 3, 8, 3, 0, 0, {2, 1, 0}, {5, 4, 3}}}},
    [EDGE_IMAGE_RGBA] = {1, {{0, 3, 8, 4, 0, 0, {0, 1, 2}, {4, 5, 6}}}},
    [EDGE_IMAGE_BGRA] = {1, {{0, 3, 8, 4, 0, 0, {2, 1, 0}, {6, 5, 4}}}},
    [EDGE_IMAGE_NV12] = {2, {{0, 1, 4, 1, 0, 0, {0}, {1}}, {1, 2, 4, 2, 1, 1, {0, 1}, {2, 3}}}},
    [EDGE_IMAGE_YUYV] = {2, {{0, 1, 4, 2, 0, 0, {0}, {2}}, {0, 2, 8, 4, 1, 0, {1, 3}, {5, 7}}}},
};

/* Byte shuffles that bring a value of both pixels side by side, each into the upper half of 16 bits. */
static void make_tables(edge_columns *columns)
{
    memset(columns->table, 0x80, sizeof columns->table); /* 0x80: a zero */
    for (int pixel = 0; pixel < (columns->load == 8 ? 2 : 4); pixel++)
        for (int c = 0; c < columns->rows; c++)
            for (int side = 0; side < 2; side++) {
                int from = columns->load * pixel + (side ? columns->second[c] : columns->first[c]);
                if (columns->load == 4) /* a table for each value: four columns */
                    columns->table[c][4 * pixel + 2 * side + 1] = (uint8_t)from;
                else if (c < 2) /* two values of two columns */
                    columns->table[0][8 * c + 4 * pixel + 2 * side + 1] = (uint8_t)from;
                else { /* the third, of columns 0 1 and of columns 2 3 */
                    columns->table[1][4 * pixel + 2 * side + 1] = (uint8_t)from;
                    columns->table[2][8 + 4 * pixel + 2 * side + 1] = (uint8_t)from;
                }
            }
}

/* Where all that a lane loads lies within 16 bytes, one load does it: of `wide` columns of one or two values,
 * or of two columns of three. The shuffles then differ from lane to lane. */
static void make_near(edge_columns *columns, size_t padded)
{
    size_t wide = columns->load == 8 ? 2 : 4;
    int span = 0;
    for (int c = 0; c < columns->rows; c++)
        span = columns->second[c] < span ? span : columns->second[c] + 1;
    columns->is_near = 1;
    for (size_t x = 0; x < padded; x += wide)
        if (*edge_offset(columns, x + wide - 1) - *edge_offset(columns, x) + span > 16)
            columns->is_near = 0;
    if (!columns->is_near)
        return;
    columns->reach = 16;
    for (size_t x = 0; x < padded; x++) {
        int apart = *edge_offset(columns, x) - *edge_offset(columns, x & ~(wide - 1));
        size_t at = 4 * (x % 8), lane = at & ~(size_t)15, pixel = x & 1, odd = x >> 1 & 1;
        uint8_t(*tables)[32] = columns->eights[x / 8].near;
        if (x % 8 == 0)
            memset(tables, 0x80, sizeof columns->eights->near);
        for (int c = 0; c < columns->rows; c++)
            for (size_t side = 0; side < 2; side++) {
                uint8_t from = (uint8_t)(apart + (side ? columns->second[c] : columns->first[c]));
                if (columns->load == 4)
                    tables[c][at + 2 * side + 1] = from;
                else if (c < 2)
                    tables[odd][lane + 8 * (size_t)c + 4 * pixel + 2 * side + 1] = from;
                else
                    tables[2 + odd][at + 2 * side + 1] = from;
            }
    }
}

static void make_columns(edge_columns *columns, const source *from, const axis *axis_x, size_t width, size_t padded)
{
    size_t row_bytes = (size_t)((axis_x->size + from->halved_x) >> from->halved_x) * (size_t)from->step;
    columns->rows = from->rows;
    columns->load = from->load;
    columns->reach = from->load;
    columns->step = from->step;
    memcpy(columns->first, from->first, sizeof columns->first);
    memcpy(columns->second, from->second, sizeof columns->second);
    make_tables(columns);
    axis along = *axis_x;
    along.halved = from->halved_x;
    for (size_t x = 0; x < padded; x++) {
        tap t = axis_tap(&along, (int)(x < width ? x : width - 1));
        uint32_t left = (uint32_t)(t.weight - 32768) & 0xffffu, right = (uint32_t)-t.weight & 0xffffu;
        *edge_offset(columns, x) = t.first * from->step;
        columns->eights[x / 8].weights[x % 8] = (int32_t)(left | right << 16);
    }
    for (size_t x = 0; x < padded; x++) {
        edge_eight *eight = &columns->eights[x / 8];
        eight->even[x % 8] = eight->weights[(x % 8 & 4) + (x & 1)];
        eight->odd[x % 8] = eight->weights[(x % 8 & 4) + 2 + (x & 1)];
    }
    make_near(columns, padded);
    columns->tail = 0;
    while (columns->tail < padded &&
           (size_t)*edge_offset(columns, columns->tail + BLOCK - 1) + (size_t)columns->reach <= row_bytes)
        columns->tail += BLOCK;
    columns->base = columns->tail < padded ? (size_t)*edge_offset(columns, columns->tail) : row_bytes;
    columns->tail_bytes = row_bytes - columns->base;
    for (size_t x = columns->tail; x < padded; x++)
        *edge_offset(columns, x) -= (int)columns->base;
}

/* For antialias: the source positions that an output position averages, `wide` weights each. */
typedef struct {
    int wide;
    int *first, *count;
    float *weights;
} averages;

static int triangle_width(const axis *along)
{
    return 2 * (int)(along->scale > 1.0 ? along->scale : 1.0) + 4;
}

static size_t averages_bytes(const axis *along)
{
    return aligned((size_t)along->count * (2 + (size_t)triangle_width(along)) * sizeof(float));
}

static averages make_averages(const axis *along, char *memory)
{
    averages a = {triangle_width(along), (int *)memory, (int *)memory + along->count, NULL};
    double reach = along->scale > 1.0 ? along->scale : 1.0;
    a.weights = (float *)(a.count + along->count);
    for (int i = 0; i < along->count; i++) {
        double centre = ((double)i + 0.5) * along->scale, total = 0.0, from = centre - reach - 0.5;
        int first = from > 0.0 ? (int)from : 0; /* one too early has no weight */
        float *weights = a.weights + (size_t)i * (size_t)a.wide;
        a.first[i] = along->low + first;
        a.count[i] = 0;
        for (int pass = 0; pass < 2; pass++) /* the sum first, then the weights */
            for (int j = first; j < along->extent && j - first < a.wide; j++) {
                double away = (double)j + 0.5 - centre;
                double weight = 1.0 - (away < 0.0 ? -away : away) / reach;
                if (weight <= 0.0 && away > 0.0)
                    break;
                weight = weight > 0.0 ? weight : 0.0;
                if (pass == 0) {
                    total += weight;
                } else {
                    weights[j - first] = (float)(weight / total);
                    a.count[i] = j - first + 1;
                }
            }
    }
    return a;
}

struct edge_image_plan {
    edge_image_job job; /* its pointers lead to nowhere */
    float offset[3], gain[3], yuv[6];
    size_t item, sampled, row; /* bytes an element, columns with padding, bytes of a scratch row */
    int at_once;    /* sampling stores the tensor's elements itself */
    tap *rows[2];   /* [inner_height + 1] for each source */
    edge_columns columns[2];
    averages down, across; /* for antialias */
    uint8_t *fill;         /* an output row of nothing but fill */
};

static void make_rows(tap *rows, const source *from, const axis *axis_y)
{
    axis along = *axis_y;
    along.halved = from->halved_y;
    for (int y = 0; y < along.count; y++)
        rows[y] = axis_tap(&along, y);
    rows[along.count] = rows[along.count - 1]; /* nothing comes next */
}

/* All but the fill, in one block of memory. */
static edge_image_plan *make_plan(const edge_image_job *job)
{
    static const size_t ITEMS[] = {4, 1, 1, 2};
    const sources *planes = &FORMATS[job->format];
    size_t item = ITEMS[job->type], count = (size_t)planes->count;
    size_t sampled = ((size_t)job->inner_width + BLOCK - 1) / BLOCK * BLOCK;
    size_t padded = ((size_t)job->out_width + BLOCK - 1) / BLOCK * BLOCK;
    size_t eights = sampled / 8 * sizeof(edge_eight), taps = aligned(((size_t)job->inner_height + 1) * sizeof(tap));
    size_t fill = aligned((size_t)job->out_width * (size_t)job->out_channels * item);
    axis across = {job->inner_width, job->left, job->window_width, job->width, job->nearest, 0,
                   (double)job->window_width / (double)job->inner_width};
    axis down = {job->inner_height, job->top, job->window_height, job->height, job->nearest, 0,
                 (double)job->window_height / (double)job->inner_height};
    size_t weights = job->antialias ? averages_bytes(&down) + averages_bytes(&across) : 0;
    edge_image_plan *plan = malloc(sizeof *plan + count * (eights + taps) + fill + weights + 64);
    if (plan == NULL)
        return NULL;
    char *next = (char *)aligned((size_t)(uintptr_t)(plan + 1));
    memset(plan, 0, sizeof *plan);
    plan->job = *job;
    plan->item = item;
    plan->sampled = sampled;
    plan->row = aligned(padded * sizeof(float));
    plan->at_once = job->type == EDGE_IMAGE_FLOAT32 && (job->planar || job->out_channels == 1) && !job->antialias &&
                    count == 1 && planes->sources[0].rows == job->out_channels;
    for (int c = 0; c < job->out_channels; c++) {
        plan->offset[c] = 0.0f - job->mean[c] * -EDGE_UNIT;
        plan->gain[c] = job->gain[c] / -EDGE_UNIT;
    }
    if (job->yuv != NULL)
        memcpy(plan->yuv, job->yuv, sizeof plan->yuv);
    for (size_t i = 0; i < count; i++) {
        edge_columns *columns = &plan->columns[i];
        columns->eights = (edge_eight *)next;
        next += eights;
        make_columns(columns, &planes->sources[i], &across, (size_t)job->inner_width, sampled);
        plan->rows[i] = (tap *)next;
        next += taps;
        make_rows(plan->rows[i], &planes->sources[i], &down);
    }
    plan->fill = (uint8_t *)next;
    if (job->antialias) {
        plan->down = make_averages(&down, next + fill);
        plan->across = make_averages(&across, next + fill + averages_bytes(&down));
    }
    return plan;
}

#endif
