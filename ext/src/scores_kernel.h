/* Probabilities from logits, and what is to be known of them. */
#ifndef EDGE_SDK_SCORES_KERNEL_H
#define EDGE_SDK_SCORES_KERNEL_H

#include <stddef.h>
#include <stdint.h>

typedef enum { EDGE_SCORES_FLOAT32, EDGE_SCORES_INT8, EDGE_SCORES_UINT8 } edge_scores_type;

/* Logits of [rows, classes]; real = scale * (q - zero_point) of the 8-bit types. */
typedef struct {
    const void *data;
    edge_scores_type type;
    size_t rows, classes;
    float scale;
    int zero_point;
} edge_scores;

/* Row-wise softmax(x / temperature) of `x` into `out`, which may be the memory of float32 `x` itself.
 * 8-bit logits give the bits that their dequantised float32 would give.
 * Returns 0, or -1 at a row whose largest value is not finite (NaN, +inf, or nothing but -inf);
 * `*bad_row` then names it. */
int edge_softmax(const edge_scores *x, float *out, double temperature, size_t *bad_row);

/* As edge_softmax, and for each row: the `top` most probable classes, most probable first and of equal
 * ones the lower first, [rows, top]; and [rows, 3] of `facts`: margin between the two most probable
 * (1 for a single class), entropy in nats, and energy -temperature * log(sum(exp(x / temperature))). */
int edge_summarize(const edge_scores *x, float *out, double temperature, size_t top, int64_t *indices, float *facts,
                   size_t *bad_row);

#endif
