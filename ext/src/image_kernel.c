/* Fused colour, resize, normalise, quantise and layout.
 *
 * Sampling: half-pixel centres, edges clamped, no antialias, and no rounding to grey levels before
 * the end. Chroma of NV12 and YUYV lies in the middle of the pixels that share it and is sampled as
 * smoothly as the luma; colour is made of it afterwards.
 *
 * Each output row goes through a few short loops over rows that stay in the L1 cache:
 *   1. for each output column, load the two pixels it lies between from two source rows, blend the
 *      rows in 16 bits (7 more than a level), then the columns in 32 (15 more);
 *   2. change colour;
 *   3. normalise, round and store.
 * Rows are blended first because that is half the multiplications: both pixels at once. Nothing but
 * the touched pixels is read, and what lies between two or four columns that are near one another. Weights have 15 bits, so levels are off by at most 3/256: rounding of
 * the two weights and of the blended row costs 1/256 each.
 *
 * Float32 planes that need no other colour are stored by step 1 right away.
 *
 * Every step exists in plain C and in the vectors of some instruction sets, with the same bits.
 */
#include "image_kernel.h"

#include <stdlib.h>

#include "image_paths.h"
#include "image_plan.h"

static const edge_image_ops *ops_of(enum edge_image_path path)
{
    switch (path) {
#ifdef EDGE_X86
    case EDGE_IMAGE_SSE41:
        return &sse41_ops;
    case EDGE_IMAGE_AVX2:
        return &avx2_ops;
#endif
#ifdef EDGE_NEON
    case EDGE_IMAGE_NEON:
        return &neon_ops;
#endif
    default:
        return &scalar_ops;
    }
}

#ifdef EDGE_X86
/* Some compilers know no name for this feature. */
static int has_f16c(void)
{
    unsigned a, b, c, d;
    return __get_cpuid(1, &a, &b, &c, &d) && (c & bit_F16C) != 0;
}
#endif

int edge_image_has(enum edge_image_path path)
{
    switch (path) {
    case EDGE_IMAGE_SCALAR:
        return 1;
#ifdef EDGE_X86
    case EDGE_IMAGE_SSE41:
        return __builtin_cpu_supports("sse4.1") != 0;
    case EDGE_IMAGE_AVX2:
        return __builtin_cpu_supports("avx2") != 0 && has_f16c();
#endif
#ifdef EDGE_NEON
    case EDGE_IMAGE_NEON:
        return 1;
#endif
    default:
        return 0;
    }
}

enum edge_image_path edge_image_best(void)
{
    for (int path = EDGE_IMAGE_PATHS - 1; path > EDGE_IMAGE_SCALAR; path--)
        if (edge_image_has((enum edge_image_path)path))
            return (enum edge_image_path)path;
    return EDGE_IMAGE_SCALAR;
}

/* A plan at work, with the scratch of one run. */
typedef struct {
    const edge_image_plan *plan;
    const edge_image_job *job; /* the plan's */
    const edge_image_frame *frame;
    const edge_image_ops *ops;
    float *rows[3];   /* levels in EDGE_UNIT */
    float *values[3]; /* normalised */
    uint8_t *bytes[3];
    uint8_t *tails[2]; /* copies of the ends of two rows, with padding */
    float *sum;        /* for antialias: a row of sums */
} run;

/* Normalise and store `count` columns of rows to `out`; planes are `plane` elements apart. */
static void finish(const run *r, float *const rows[3], uint8_t *out, size_t plane, size_t count)
{
    const edge_image_job *job = r->job;
    const edge_image_ops *ops = r->ops;
    int channels = job->out_channels, woven = channels == 3 && !job->planar;
    int zero = job->zero_point, least = job->type == EDGE_IMAGE_INT8 ? -128 : 0;
    for (int c = 0; c < channels; c++) {
        uint8_t *to = out + (size_t)c * plane * r->plan->item;
        if (job->type == EDGE_IMAGE_FLOAT32) {
            ops->to_float(woven ? r->values[c] : (float *)to, rows[c], r->plan->offset[c], r->plan->gain[c], count);
        } else if (job->type == EDGE_IMAGE_FLOAT16) {
            ops->to_float(r->values[c], rows[c], r->plan->offset[c], r->plan->gain[c], count);
            if (!woven)
                ops->to_half((uint16_t *)to, r->values[c], count);
        } else {
            float low = (float)(least - zero), high = (float)(least + 255 - zero);
            ops->to_byte(woven ? r->bytes[c] : to, rows[c], r->plan->offset[c], r->plan->gain[c], low, high, zero, count);
        }
    }
    if (!woven)
        return;
    if (job->type == EDGE_IMAGE_FLOAT32) {
        ops->weave_float((float *)out, r->values[0], r->values[1], r->values[2], count);
    } else if (job->type == EDGE_IMAGE_FLOAT16) {
        float *row = (float *)r->bytes[0]; /* three rows long */
        ops->weave_float(row, r->values[0], r->values[1], r->values[2], count);
        ops->to_half((uint16_t *)out, row, 3 * count);
    } else {
        ops->weave_byte(out, r->bytes[0], r->bytes[1], r->bytes[2], count);
    }
}

/* One output row of averages; `sum` is a row of the window in float. */
static void average(const run *r, int y, float *restrict sum)
{
    const edge_image_job *job = r->job;
    const source *from = &FORMATS[job->format].sources[0];
    size_t step = (size_t)from->step, start = (size_t)job->left * step, bytes = (size_t)job->window_width * step;
    memset(sum, 0, bytes * sizeof *sum);
    for (int j = 0; j < r->plan->down.count[y]; j++) {
        const uint8_t *row = r->frame->planes[0] + (ptrdiff_t)(r->plan->down.first[y] + j) * r->frame->strides[0] + start;
        float weight = r->plan->down.weights[(size_t)y * (size_t)r->plan->down.wide + (size_t)j];
        for (size_t i = 0; i < bytes; i++)
            sum[i] += weight * (float)row[i];
    }
    for (int x = 0; x < job->inner_width; x++) {
        const float *pixels = sum + (size_t)(r->plan->across.first[x] - job->left) * step;
        const float *weights = r->plan->across.weights + (size_t)x * (size_t)r->plan->across.wide;
        for (int c = 0; c < from->rows; c++) {
            float level = 0.0f;
            for (int j = 0; j < r->plan->across.count[x]; j++)
                level += weights[j] * pixels[(size_t)j * step + from->first[c]];
            r->rows[c][x] = level * EDGE_UNIT;
        }
    }
}

/* Sample columns [from, to), multiples of BLOCK, of one output row from rows of one plane. */
static void sample(const run *r, int index, edge_row_job part, const tap *t, size_t from, size_t to)
{
    const edge_columns *columns = &r->plan->columns[index];
    int plane = FORMATS[r->job->format].sources[index].plane;
    size_t tail = columns->tail < from ? from : columns->tail < to ? columns->tail : to;
    part.a = r->frame->planes[plane] + t->first * r->frame->strides[plane];
    part.b = r->frame->planes[plane] + t->second * r->frame->strides[plane];
    part.ahead = (t[1].first - t->first) * r->frame->strides[plane];
    part.weight = t->weight;
    if (from < tail) {
        part.from = from;
        part.to = tail;
        r->ops->sample(columns, &part);
    }
    if (tail < to) {
        memcpy(r->tails[0], part.a + columns->base, columns->tail_bytes);
        memcpy(r->tails[1], part.b + columns->base, columns->tail_bytes);
        for (int i = 0; i < 2; i++) /* what lies past a row's end has no weight, but is loaded */
            memset(r->tails[i] + columns->tail_bytes, 0, 16);
        part.a = r->tails[0];
        part.b = r->tails[1];
        part.ahead = 0;
        part.from = tail;
        part.to = to;
        r->ops->sample(columns, &part);
    }
}

static void change_colour(const run *r)
{
    const edge_image_job *job = r->job;
    if (job->format == EDGE_IMAGE_NV12 || job->format == EDGE_IMAGE_YUYV)
        r->ops->yuv(r->rows, r->plan->yuv, r->plan->sampled);
    if (job->format != EDGE_IMAGE_GREY && job->out_channels == 1)
        r->ops->luma(r->rows, r->plan->sampled);
}

/* An output row sampled and finished in one step; planes are `plane` elements apart. */
static void sample_finished(const run *r, const tap *t, float *out, size_t plane)
{
    size_t count = (size_t)r->job->inner_width, whole = count / BLOCK * BLOCK, sampled = r->plan->sampled;
    size_t channels = (size_t)r->job->out_channels, last = channels - 1; /* 1 or 3 */
    edge_row_job part = {.rows = {out, out + last / 2 * plane, out + last * plane}};
    part.offset = r->plan->offset;
    part.gain = r->plan->gain;
    sample(r, 0, part, t, 0, whole);
    if (whole < sampled) {
        memcpy(part.rows, r->rows, sizeof part.rows);
        sample(r, 0, part, t, whole, sampled);
        for (size_t c = 0; c < channels; c++)
            memcpy(out + c * plane + whole, r->rows[c] + whole, (count - whole) * sizeof *out);
    }
}

/* The rest of an output row, inside of which columns [from, to) are sampled. */
static void fill_around(const run *r, uint8_t *out, int y, size_t from, size_t to)
{
    const edge_image_job *job = r->job;
    size_t width = (size_t)job->out_width, parts = job->planar ? (size_t)job->out_channels : 1; /* of a row: planes */
    size_t pixel = r->plan->item * (job->planar ? 1 : (size_t)job->out_channels);
    for (size_t part = 0; part < parts && from + (width - to) > 0; part++) {
        uint8_t *row = out + (part * (size_t)job->out_height + (size_t)y) * width * pixel;
        const uint8_t *fill = r->plan->fill + part * width * pixel;
        memcpy(row, fill, from * pixel);
        memcpy(row + to * pixel, fill + to * pixel, (width - to) * pixel);
    }
}

static void run_rows(const run *r, uint8_t *out)
{
    const edge_image_plan *plan = r->plan;
    const edge_image_job *job = r->job;
    size_t width = (size_t)job->out_width, plane = width * (size_t)job->out_height;
    size_t pixel = plan->item * (job->planar ? 1 : (size_t)job->out_channels);
    size_t left = (size_t)job->inner_left, right = left + (size_t)job->inner_width;
    float *const grey[3] = {r->rows[0], r->rows[0], r->rows[0]};
    float *const *rows = job->format == EDGE_IMAGE_GREY ? grey : r->rows;
    edge_row_job first = {.rows = {r->rows[0], r->rows[1], r->rows[2]}};
    edge_row_job second = {.rows = {r->rows[1], r->rows[2], NULL}};

    for (int y = 0; y < job->out_height; y++) {
        int inner = y - job->inner_top;
        uint8_t *to = out + ((size_t)y * width + left) * pixel;
        if (inner < 0 || inner >= job->inner_height) {
            fill_around(r, out, y, width, width);
            continue;
        }
        fill_around(r, out, y, left, right);
        if (plan->at_once) {
            sample_finished(r, &plan->rows[0][inner], (float *)to, plane);
            continue;
        }
        if (job->antialias) {
            average(r, inner, r->sum);
        } else {
            sample(r, 0, first, &plan->rows[0][inner], 0, plan->sampled);
            if (FORMATS[job->format].count == 2)
                sample(r, 1, second, &plan->rows[1][inner], 0, plan->sampled);
        }
        change_colour(r);
        finish(r, rows, to, plane, right - left);
    }
}

/* An output row of nothing but fill; the planes of one row follow one another there. */
static void fill_row(const run *r)
{
    for (size_t x = 0; x < (size_t)r->job->out_width; x++)
        r->rows[0][x] = r->job->fill * EDGE_UNIT;
    float *const grey[3] = {r->rows[0], r->rows[0], r->rows[0]};
    finish(r, grey, r->plan->fill, (size_t)r->job->out_width, (size_t)r->job->out_width);
}

/* Scratch for a run of `plan`, in one block of memory that the caller frees; NULL where there is none. */
static void *prepare(run *r, const edge_image_plan *plan, enum edge_image_path path)
{
    size_t row = plan->row, tail = 0, sum = 0;
    for (int i = 0; i < FORMATS[plan->job.format].count; i++)
        if (plan->columns[i].tail_bytes > tail)
            tail = plan->columns[i].tail_bytes;
    tail = aligned(tail + 16);
    if (plan->job.antialias)
        sum = aligned((size_t)plan->job.window_width * 4 * sizeof(float));
    char *memory = malloc(9 * row + 2 * tail + sum + 64);
    if (memory == NULL)
        return NULL;
    char *next = (char *)aligned((size_t)(uintptr_t)memory);
    r->plan = plan;
    r->job = &plan->job;
    r->ops = ops_of(path);
    for (int c = 0; c < 3; c++, next += row)
        r->rows[c] = (float *)next;
    for (int c = 0; c < 3; c++, next += row)
        r->values[c] = (float *)next;
    for (int c = 0; c < 3; c++, next += row)
        r->bytes[c] = (uint8_t *)next;
    for (int i = 0; i < 2; i++, next += tail)
        r->tails[i] = (uint8_t *)next;
    r->sum = (float *)next;
    if (plan->job.antialias)
        for (int c = 0; c < 3; c++) /* the padding is worked on, too */
            memset(r->rows[c], 0, row);
    return memory;
}

edge_image_plan *edge_image_plan_new(const edge_image_job *job)
{
    edge_image_plan *plan = make_plan(job);
    if (plan == NULL || (job->inner_height == job->out_height && job->inner_width == job->out_width))
        return plan;
    run r = {0};
    void *memory = prepare(&r, plan, EDGE_IMAGE_SCALAR);
    if (memory == NULL) {
        edge_image_plan_free(plan);
        return NULL;
    }
    fill_row(&r);
    free(memory);
    return plan;
}

void edge_image_plan_free(edge_image_plan *plan) { free(plan); }

int edge_image_run(const edge_image_plan *plan, enum edge_image_path path, const edge_image_frame *frame, void *out)
{
    run r = {.frame = frame};
    void *memory = prepare(&r, plan, path);
    if (memory == NULL)
        return -1;
    run_rows(&r, out);
    free(memory);
    return 0;
}
