/* Probabilities from logits, and what is to be known of them. */
#ifndef EDGE_SDK_SCORES_KERNEL_H
#define EDGE_SDK_SCORES_KERNEL_H

#include <stddef.h>
#include <stdint.h>

/* Row-wise softmax(x / temperature) of [rows, classes] into `out`, which may be `x` itself.
 * Returns 0, or -1 at a row whose largest value is not finite (NaN, +inf, or nothing but -inf);
 * `*bad_row` then names it. */
int edge_softmax(const float *x, float *out, size_t rows, size_t classes, double temperature, size_t *bad_row);

/* As edge_softmax, and for each row: the `top` most probable classes, most probable first and of equal
 * ones the lower first, [rows, top]; and [rows, 3] of `facts`: margin between the two most probable
 * (1 for a single class), entropy in nats, and energy -temperature * log(sum(exp(x / temperature))). */
int edge_summarize(const float *x, float *out, size_t rows, size_t classes, double temperature, size_t top,
                   int64_t *indices, float *facts, size_t *bad_row);

#endif
