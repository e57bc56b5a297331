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
 * the touched pixels is read. Weights have 15 bits, so levels are off by at most 3/256: rounding of
 * the two weights and of the blended row costs 1/256 each.
 *
 * Every step exists in plain C and in the vectors of some instruction sets, with the same bits.
 */
#include "image_kernel.h"

#include <stdlib.h>

#include "image_paths.h"

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

static void make_columns(edge_columns *columns, const source *from, const axis *axis_x, size_t width, size_t padded)
{
    size_t row_bytes = (size_t)((axis_x->size + from->halved_x) >> from->halved_x) * (size_t)from->step;
    columns->rows = from->rows;
    columns->load = from->load;
    columns->step = from->step;
    memcpy(columns->first, from->first, sizeof columns->first);
    memcpy(columns->second, from->second, sizeof columns->second);
    make_tables(columns);
    axis along = *axis_x;
    along.halved = from->halved_x;
    for (size_t x = 0; x < padded; x++) {
        tap t = axis_tap(&along, (int)(x < width ? x : width - 1));
        uint32_t left = (uint32_t)(t.weight - 32768) & 0xffffu, right = (uint32_t)-t.weight & 0xffffu;
        columns->offsets[x] = t.first * from->step;
        columns->weights[x] = (int32_t)(left | right << 16);
    }
    for (size_t x = 0; x < padded; x++) {
        columns->even[x] = columns->weights[(x & ~(size_t)3) + (x & 1)];
        columns->odd[x] = columns->weights[(x & ~(size_t)3) + 2 + (x & 1)];
    }
    columns->tail = 0;
    while (columns->tail < padded &&
           (size_t)columns->offsets[columns->tail + BLOCK - 1] + (size_t)columns->load <= row_bytes)
        columns->tail += BLOCK;
    columns->base = columns->tail < padded ? (size_t)columns->offsets[columns->tail] : row_bytes;
    columns->tail_bytes = row_bytes - columns->base;
    for (size_t x = columns->tail; x < padded; x++)
        columns->offsets[x] -= (int)columns->base;
}

/* For antialias: the source positions that an output position averages, `wide` weights each. */
typedef struct {
    int wide;
    int *first, *count;
    float *weights;
} averages;

/* Everything a run needs, in one block of memory. */
typedef struct {
    const edge_image_job *job;
    const edge_image_ops *ops;
    enum edge_image_type type;
    size_t padded, item, row_items; /* columns with padding, bytes an element, elements of an output row */
    float *rows[3];   /* levels in EDGE_UNIT */
    float *values[3]; /* normalised */
    uint8_t *bytes[3];
    uint8_t *fill;    /* an output row of nothing but fill */
    uint8_t *tails[2]; /* copies of the ends of two rows, with padding */
    float offset[3], gain[3];
    edge_columns columns[2];
    averages down, across; /* for antialias, with a row of sums */
    float *sum;
} run;

static size_t aligned(size_t bytes) { return (bytes + 63) & ~(size_t)63; }

/* Normalise and store `count` columns of rows to `out`; planes are `plane` elements apart. */
static void finish(const run *r, float *const rows[3], uint8_t *out, size_t plane, size_t count)
{
    const edge_image_job *job = r->job;
    const edge_image_ops *ops = r->ops;
    int channels = job->out_channels, woven = channels == 3 && !job->planar;
    int zero = job->zero_point, least = r->type == EDGE_IMAGE_INT8 ? -128 : 0;
    for (int c = 0; c < channels; c++) {
        uint8_t *to = out + (size_t)c * plane * r->item;
        if (r->type == EDGE_IMAGE_FLOAT32) {
            ops->to_float(woven ? r->values[c] : (float *)to, rows[c], r->offset[c], r->gain[c], count);
        } else if (r->type == EDGE_IMAGE_FLOAT16) {
            ops->to_float(r->values[c], rows[c], r->offset[c], r->gain[c], count);
            if (!woven)
                ops->to_half((uint16_t *)to, r->values[c], count);
        } else {
            float low = (float)(least - zero), high = (float)(least + 255 - zero);
            ops->to_byte(woven ? r->bytes[c] : to, rows[c], r->offset[c], r->gain[c], low, high, zero, count);
        }
    }
    if (!woven)
        return;
    if (r->type == EDGE_IMAGE_FLOAT32) {
        ops->weave_float((float *)out, r->values[0], r->values[1], r->values[2], count);
    } else if (r->type == EDGE_IMAGE_FLOAT16) {
        float *row = (float *)r->bytes[0]; /* three rows long */
        ops->weave_float(row, r->values[0], r->values[1], r->values[2], count);
        ops->to_half((uint16_t *)out, row, 3 * count);
    } else {
        ops->weave_byte(out, r->bytes[0], r->bytes[1], r->bytes[2], count);
    }
}

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

/* One output row of averages; `sum` is a row of the window in float. */
static void average(const run *r, int y, float *restrict sum)
{
    const edge_image_job *job = r->job;
    const source *from = &FORMATS[job->format].sources[0];
    size_t step = (size_t)from->step, start = (size_t)job->left * step, bytes = (size_t)job->window_width * step;
    memset(sum, 0, bytes * sizeof *sum);
    for (int j = 0; j < r->down.count[y]; j++) {
        const uint8_t *row = job->planes[0] + (ptrdiff_t)(r->down.first[y] + j) * job->strides[0] + start;
        float weight = r->down.weights[(size_t)y * (size_t)r->down.wide + (size_t)j];
        for (size_t i = 0; i < bytes; i++)
            sum[i] += weight * (float)row[i];
    }
    for (int x = 0; x < job->inner_width; x++) {
        const float *pixels = sum + (size_t)(r->across.first[x] - job->left) * step;
        const float *weights = r->across.weights + (size_t)x * (size_t)r->across.wide;
        for (int c = 0; c < from->rows; c++) {
            float level = 0.0f;
            for (int j = 0; j < r->across.count[x]; j++)
                level += weights[j] * pixels[(size_t)j * step + from->first[c]];
            r->rows[c][x] = level * EDGE_UNIT;
        }
    }
}

/* Sample one output row from rows of one plane. */
static void sample(const run *r, int index, float *const rows[3], const tap *t)
{
    const edge_columns *columns = &r->columns[index];
    const source *from = &FORMATS[r->job->format].sources[index];
    ptrdiff_t stride = r->job->strides[from->plane];
    const uint8_t *plane = r->job->planes[from->plane];
    edge_row_job part = {{rows[0], rows[1], rows[2]}, plane + t->first * stride, plane + t->second * stride,
                         t->weight, 0, columns->tail};
    r->ops->sample(columns, &part);
    if (columns->tail < r->padded) {
        memcpy(r->tails[0], part.a + columns->base, columns->tail_bytes);
        memcpy(r->tails[1], part.b + columns->base, columns->tail_bytes);
        part.a = r->tails[0];
        part.b = r->tails[1];
        part.from = columns->tail;
        part.to = r->padded;
        r->ops->sample(columns, &part);
    }
}

static void change_colour(const run *r)
{
    const edge_image_job *job = r->job;
    if (job->format == EDGE_IMAGE_NV12 || job->format == EDGE_IMAGE_YUYV)
        r->ops->yuv(r->rows, job->yuv, r->padded);
    if (job->format != EDGE_IMAGE_GREY && job->out_channels == 1)
        r->ops->luma(r->rows, r->padded);
}

static void fill_row(const run *r)
{
    size_t plane = (size_t)r->job->out_width; /* the planes of one row follow one another here */
    for (size_t x = 0; x < r->padded; x++)
        r->rows[0][x] = r->job->fill * EDGE_UNIT;
    float *const grey[3] = {r->rows[0], r->rows[0], r->rows[0]};
    finish(r, grey, r->fill, plane, plane);
}

static void run_rows(const run *r, uint8_t *out)
{
    const edge_image_job *job = r->job;
    const sources *planes = &FORMATS[job->format];
    size_t width = (size_t)job->out_width, item = r->item;
    size_t pixel = job->planar ? item : item * (size_t)job->out_channels;
    size_t parts = job->planar ? (size_t)job->out_channels : 1; /* of a row: planes */
    size_t plane = width * (size_t)job->out_height;
    size_t left = (size_t)job->inner_left, right = left + (size_t)job->inner_width;
    float *const grey[3] = {r->rows[0], r->rows[0], r->rows[0]};
    float *const *rows = job->format == EDGE_IMAGE_GREY ? grey : r->rows;
    tap previous[2] = {{-1, -1, 0}, {-1, -1, 0}};
    axis along = {job->inner_height, job->top, job->window_height, job->height, job->nearest, 0,
                  (double)job->window_height / (double)job->inner_height};

    for (int y = 0; y < job->out_height; y++) {
        int inner = y - job->inner_top;
        int outside = inner < 0 || inner >= job->inner_height;
        size_t from = outside ? width : left, to = outside ? width : right;
        for (size_t part = 0; part < parts && from + (width - to) > 0; part++) {
            uint8_t *row = out + (part * plane + (size_t)y * width) * pixel;
            const uint8_t *fill = r->fill + part * width * pixel;
            memcpy(row, fill, from * pixel);
            memcpy(row + to * pixel, fill + to * pixel, (width - to) * pixel);
        }
        if (outside)
            continue;
        if (job->antialias) {
            average(r, inner, r->sum);
            change_colour(r);
            finish(r, rows, out + ((size_t)y * width + left) * pixel, plane, right - left);
            continue;
        }
        int again = 1; /* clamped edges repeat a row: it is still there */
        for (int index = 0; index < planes->count; index++) {
            along.halved = planes->sources[index].halved_y;
            tap t = axis_tap(&along, inner);
            again = again && t.first == previous[index].first && t.weight == previous[index].weight;
            previous[index] = t;
        }
        if (!again) {
            sample(r, 0, r->rows, &previous[0]);
            if (planes->count == 2) {
                float *const chroma[3] = {r->rows[1], r->rows[2], NULL};
                sample(r, 1, chroma, &previous[1]);
            }
            change_colour(r);
        }
        finish(r, rows, out + ((size_t)y * width + left) * pixel, plane, right - left);
    }
}

int edge_image_run(const edge_image_job *job, void *out, enum edge_image_type type)
{
    static const size_t ITEMS[] = {4, 1, 1, 2};
    const sources *planes = &FORMATS[job->format];
    run r = {.job = job, .ops = ops_of(job->path), .type = type, .item = ITEMS[type]};
    size_t inner = (size_t)job->inner_width, width = (size_t)job->out_width;
    r.padded = (width + BLOCK - 1) / BLOCK * BLOCK;

    size_t row = aligned(r.padded * sizeof(float)), fill = aligned(width * (size_t)job->out_channels * r.item);
    size_t tail = aligned((size_t)job->width * 4 + 16);
    axis along = {job->inner_width, job->left, job->window_width, job->width, job->nearest, 0,
                  (double)job->window_width / (double)job->inner_width};
    axis down = {job->inner_height, job->top, job->window_height, job->height, job->nearest, 0,
                 (double)job->window_height / (double)job->inner_height};
    size_t sum = aligned((size_t)job->window_width * 4 * sizeof(float));
    size_t more = job->antialias ? sum + averages_bytes(&down) + averages_bytes(&along) : 0;
    char *memory = malloc(9 * row + fill + 2 * tail + (size_t)planes->count * 4 * row + more + 64);
    if (memory == NULL)
        return -1;
    char *next = (char *)(((uintptr_t)memory + 63) & ~(uintptr_t)63);
    for (int c = 0; c < 3; c++, next += row)
        r.rows[c] = (float *)next;
    for (int c = 0; c < 3; c++, next += row)
        r.values[c] = (float *)next;
    for (int c = 0; c < 3; c++, next += row)
        r.bytes[c] = (uint8_t *)next;
    r.fill = (uint8_t *)next;
    next += fill;
    for (int i = 0; i < 2; i++, next += tail)
        r.tails[i] = (uint8_t *)next;
    for (int i = 0; i < planes->count; i++) {
        edge_columns *columns = &r.columns[i];
        columns->offsets = (int *)next;
        columns->weights = (int32_t *)(next + row);
        columns->even = (int32_t *)(next + 2 * row);
        columns->odd = (int32_t *)(next + 3 * row);
        next += 4 * row;
        make_columns(columns, &planes->sources[i], &along, inner, r.padded);
        for (int t = 0; t < 2; t++) /* what lies past a row's end has no weight, but is loaded */
            memset(r.tails[t] + columns->tail_bytes, 0, 16);
    }
    if (job->antialias) {
        r.sum = (float *)next;
        r.down = make_averages(&down, next + sum);
        r.across = make_averages(&along, next + sum + averages_bytes(&down));
        for (int c = 0; c < 3; c++) /* the padding is worked on, too */
            memset(r.rows[c], 0, row);
    }
    for (int c = 0; c < job->out_channels; c++) {
        r.offset[c] = 0.0f - job->mean[c] * -EDGE_UNIT;
        r.gain[c] = job->gain[c] / -EDGE_UNIT;
    }
    if (job->inner_height < job->out_height || job->inner_width < job->out_width)
        fill_row(&r);
    run_rows(&r, out);
    free(memory);
    return 0;
}
