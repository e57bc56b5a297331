/* Decode and class-aware greedy non-maximum suppression.
 *
 * Nearly all of the time goes into finding the best class of every anchor, for most of which it is
 * below the threshold. So the maximum is taken alone, in vectors, in the tensor's own type; which
 * class it is, what it is as a real number and where its box lies is found out for survivors only.
 *
 * Decisions are made in double from boxes rounded to float32, in the reference's order of operations.
 */
#include "detection_kernel.h"

#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#if (defined(__GNUC__) || defined(__clang__)) && defined(__x86_64__)
#define EDGE_AVX2 __attribute__((target("avx2")))
#endif
#if defined(__GNUC__) || defined(__clang__)
#define EDGE_INLINE static inline __attribute__((always_inline))
#else
#define EDGE_INLINE static inline
#endif

#define BLOCK 256 /* bytes of a plane that are looked at before the next plane: 80 of them stay in the L1 cache */
#define LANES 64  /* bytes of a row that are compared at once */

typedef struct {
    uint64_t *keys;   /* heap of survivors; the smallest has the highest score, then the lowest anchor */
    int32_t *classes; /* by anchor, for survivors only */
    size_t count;
} survivors;

typedef struct {
    double left, top, right, bottom, area;
    int32_t cls;
} box;

static float real_value(const edge_detection_values *values, size_t at)
{
    switch (values->type) {
    case EDGE_DETECTION_INT8:
        return (float)(((const int8_t *)values->data)[at] - values->zero_point) * values->scale;
    case EDGE_DETECTION_UINT8:
        return (float)(((const uint8_t *)values->data)[at] - values->zero_point) * values->scale;
    default:
        return ((const float *)values->data)[at];
    }
}

static void survive(survivors *s, float score, size_t anchor, size_t cls)
{
    float positive = score + 0.0f; /* not -0, whose bits are not in order */
    uint32_t bits;
    memcpy(&bits, &positive, sizeof bits);
    s->keys[s->count++] = (uint64_t)~bits << 32 | (uint64_t)anchor;
    s->classes[anchor] = (int32_t)cls;
}

/* Anchors whose best class reaches `threshold`. `x > top ? x : top` steps over NaN. */

#define DEFINE_SCANS(NAME, TYPE, LOWEST, TARGET)                                                                       \
    TARGET EDGE_INLINE void NAME##_block(const TYPE *x, size_t anchors, size_t classes, TYPE *top, size_t width)       \
    {                                                                                                                  \
        size_t c = 0;                                                                                                  \
        for (size_t i = 0; i < width; i++)                                                                             \
            top[i] = LOWEST;                                                                                           \
        for (; c + 4 <= classes; c += 4, x += 4 * anchors) {                                                           \
            const TYPE *x1 = x + anchors, *x2 = x1 + anchors, *x3 = x2 + anchors;                                      \
            for (size_t i = 0; i < width; i++) {                                                                       \
                TYPE m = top[i];                                                                                       \
                m = x[i] > m ? x[i] : m;                                                                               \
                m = x1[i] > m ? x1[i] : m;                                                                             \
                m = x2[i] > m ? x2[i] : m;                                                                             \
                m = x3[i] > m ? x3[i] : m;                                                                             \
                top[i] = m;                                                                                            \
            }                                                                                                          \
        }                                                                                                              \
        for (; c < classes; c++, x += anchors)                                                                         \
            for (size_t i = 0; i < width; i++)                                                                         \
                top[i] = x[i] > top[i] ? x[i] : top[i];                                                                \
    }                                                                                                                  \
    TARGET static void NAME##_planar(const edge_detection_job *job, TYPE threshold, survivors *s)                      \
    {                                                                                                                  \
        enum { WIDTH = BLOCK / sizeof(TYPE) };                                                                         \
        const TYPE *scores = (const TYPE *)job->scores.data + job->first * job->anchors;                               \
        size_t anchors = job->anchors, classes = job->classes - job->first;                                            \
        TYPE top[WIDTH];                                                                                               \
        for (size_t from = 0; from < anchors; from += WIDTH) {                                                         \
            const TYPE *x = scores + from;                                                                             \
            size_t width = anchors - from < WIDTH ? anchors - from : WIDTH;                                            \
            if (width == WIDTH)                                                                                        \
                NAME##_block(x, anchors, classes, top, WIDTH); /* a constant makes better vectors */                   \
            else                                                                                                       \
                NAME##_block(x, anchors, classes, top, width);                                                         \
            for (size_t i = 0; i < width; i++) {                                                                       \
                size_t c = 0;                                                                                          \
                if (!(top[i] >= threshold))                                                                            \
                    continue;                                                                                          \
                while (x[c * anchors + i] != top[i])                                                                   \
                    c++;                                                                                               \
                survive(s, real_value(&job->scores, (job->first + c) * anchors + from + i), from + i, job->first + c); \
            }                                                                                                          \
        }                                                                                                              \
    }                                                                                                                  \
    TARGET static void NAME##_rows(const edge_detection_job *job, TYPE threshold, survivors *s)                        \
    {                                                                                                                  \
        enum { WIDTH = LANES / sizeof(TYPE) };                                                                         \
        const TYPE *x = (const TYPE *)job->scores.data + job->first;                                                   \
        size_t classes = job->classes - job->first;                                                                    \
        for (size_t anchor = 0; anchor < job->anchors; anchor++, x += job->classes) {                                  \
            TYPE top[WIDTH], best = LOWEST;                                                                            \
            size_t c = 0;                                                                                              \
            for (size_t i = 0; i < WIDTH; i++)                                                                         \
                top[i] = LOWEST;                                                                                       \
            for (; c + WIDTH <= classes; c += WIDTH)                                                                   \
                for (size_t i = 0; i < WIDTH; i++)                                                                     \
                    top[i] = x[c + i] > top[i] ? x[c + i] : top[i];                                                    \
            for (; c < classes; c++)                                                                                   \
                best = x[c] > best ? x[c] : best;                                                                      \
            for (size_t i = 0; i < WIDTH; i++)                                                                         \
                best = top[i] > best ? top[i] : best;                                                                  \
            if (!(best >= threshold))                                                                                  \
                continue;                                                                                              \
            for (c = 0; x[c] != best; c++)                                                                             \
                ;                                                                                                      \
            c += job->first;                                                                                           \
            survive(s, real_value(&job->scores, anchor * job->classes + c), anchor, c);                                \
        }                                                                                                              \
    }

#define NOTHING /* no attribute */
DEFINE_SCANS(float32, float, -FLT_MAX, NOTHING)
DEFINE_SCANS(int8, int8_t, INT8_MIN, NOTHING)
DEFINE_SCANS(uint8, uint8_t, 0, NOTHING)
#define RUN(NAME) (job->planar ? NAME##_planar : NAME##_rows)
#ifdef EDGE_AVX2
/* For bytes only: floats come from memory no faster than SSE2 compares them. */
DEFINE_SCANS(int8_avx2, int8_t, INT8_MIN, EDGE_AVX2)
DEFINE_SCANS(uint8_avx2, uint8_t, 0, EDGE_AVX2)
#define RUN_BYTES(NAME) (__builtin_cpu_supports("avx2") ? RUN(NAME##_avx2) : RUN(NAME))
#else
#define RUN_BYTES(NAME) RUN(NAME)
#endif

static void scan(const edge_detection_job *job, survivors *s)
{
    const edge_detection_values *scores = &job->scores;
    int low = scores->type == EDGE_DETECTION_INT8 ? INT8_MIN : 0, high = low + 255;
    if (scores->type == EDGE_DETECTION_FLOAT32) {
        RUN(float32)(job, job->score_threshold, s);
        return;
    }
    /* the lowest integer that reaches the threshold: as real numbers they are in the same order */
    while (low <= high && !((float)(low - scores->zero_point) * scores->scale >= job->score_threshold))
        low++;
    if (low > high)
        return;
    if (scores->type == EDGE_DETECTION_INT8)
        RUN_BYTES(int8)(job, (int8_t)low, s);
    else
        RUN_BYTES(uint8)(job, (uint8_t)low, s);
}

/* A heap, because seldom are all survivors needed in order. */

/* The lesser child goes up all the way to a leaf, then the key as far as it must: after `pop` it came
 * from a leaf and mostly returns to one, and going down without asking is not mispredicted. */
static void sink(uint64_t *keys, size_t count, size_t from)
{
    uint64_t key = keys[from];
    size_t at = from;
    for (size_t child; (child = 2 * at + 2) < count; at = child) {
        child -= keys[child - 1] < keys[child];
        keys[at] = keys[child];
    }
    if (2 * at + 1 < count) {
        keys[at] = keys[2 * at + 1];
        at = 2 * at + 1;
    }
    for (; at > from && keys[(at - 1) / 2] > key; at = (at - 1) / 2)
        keys[at] = keys[(at - 1) / 2];
    keys[at] = key;
}

static uint64_t pop(survivors *s)
{
    uint64_t key = s->keys[0];
    s->keys[0] = s->keys[--s->count];
    if (s->count > 0)
        sink(s->keys, s->count, 0);
    return key;
}

/* Left, top, right and bottom; false where the box is not finite or has no area. */
static int decode(const edge_detection_job *job, size_t anchor, float corners[4])
{
    double v[4];
    for (size_t j = 0; j < 4; j++)
        v[j] = (double)real_value(&job->boxes, job->planar ? j * job->anchors + anchor : 4 * anchor + j);
    if (job->form == EDGE_DETECTION_OFFSETS) {
        const float *prior = job->priors + 4 * anchor;
        for (size_t j = 0; j < 2; j++) {
            double size = (double)prior[j + 2];
            v[j] = (double)prior[j] + v[j] * job->variances[0] * size;
            v[j + 2] = size * exp(v[j + 2] * job->variances[1]);
        }
    }
    if (job->form != EDGE_DETECTION_CORNERS) {
        for (size_t j = 0; j < 2; j++) {
            double centre = v[j], half = v[j + 2] * 0.5;
            v[j] = centre - half;
            v[j + 2] = centre + half;
        }
    }
    for (size_t j = 0; j < 4; j++) {
        double corner = v[job->swapped ? j ^ 1 : j] * (j % 2 == 0 ? job->width : job->height);
        if (!(fabs(corner) <= FLT_MAX)) /* beyond it the conversion is not defined */
            return 0;
        corners[j] = (float)corner;
    }
    return corners[2] > corners[0] && corners[3] > corners[1];
}

static int overlaps(const box *a, const box *b, double threshold)
{
    double left = a->left > b->left ? a->left : b->left, right = a->right < b->right ? a->right : b->right;
    double top = a->top > b->top ? a->top : b->top, bottom = a->bottom < b->bottom ? a->bottom : b->bottom;
    double width = right - left, height = bottom - top;
    if (!(width > 0.0 && height > 0.0))
        return 0;
    double shared = width * height;
    return shared > threshold * (a->area + b->area - shared);
}

static size_t suppress(const edge_detection_job *job, survivors *s, box *kept, const edge_detection_found *found)
{
    size_t count = 0;
    for (size_t i = s->count / 2; i-- > 0;)
        sink(s->keys, s->count, i);
    while (s->count > 0 && count < job->limit) {
        uint64_t key = pop(s);
        size_t anchor = (size_t)(key & UINT32_MAX), other = 0;
        uint32_t bits = ~(uint32_t)(key >> 32);
        float corners[4];
        if (!decode(job, anchor, corners))
            continue;
        box one = {(double)corners[0], (double)corners[1], (double)corners[2], (double)corners[3], 0.0,
                   s->classes[anchor]};
        one.area = (one.right - one.left) * (one.bottom - one.top);
        while (other < count && !(kept[other].cls == one.cls && overlaps(&kept[other], &one, job->iou_threshold)))
            other++;
        if (other < count)
            continue;
        kept[count] = one;
        memcpy(found->boxes + 4 * count, corners, sizeof corners);
        memcpy(found->scores + count, &bits, sizeof bits);
        found->classes[count] = one.cls;
        found->anchors[count] = (int32_t)anchor;
        count++;
    }
    return count;
}

ptrdiff_t edge_detection_run(const edge_detection_job *job, const edge_detection_found *found)
{
    survivors s = {malloc(job->anchors * sizeof *s.keys), malloc(job->anchors * sizeof *s.classes), 0};
    ptrdiff_t count = -1;
    if (s.keys != NULL && s.classes != NULL) {
        scan(job, &s);
        size_t most = s.count < job->limit ? s.count : job->limit;
        box *kept = most > 0 ? malloc(most * sizeof *kept) : NULL;
        if (kept != NULL)
            count = (ptrdiff_t)suppress(job, &s, kept, found);
        else if (most == 0)
            count = 0;
        free(kept);
    }
    free(s.keys);
    free(s.classes);
    return count;
}
