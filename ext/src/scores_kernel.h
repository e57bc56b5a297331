/* Probabilities from logits. */
#ifndef EDGE_SDK_SCORES_KERNEL_H
#define EDGE_SDK_SCORES_KERNEL_H

#include <stddef.h>

/* Row-wise softmax(x / temperature) of [rows, classes] into `out`, which may be `x` itself.
 * Returns 0, or -1 at a row whose largest value is not finite (NaN, +inf, or nothing but -inf);
 * `*bad_row` then names it. */
int edge_softmax(const float *x, float *out, size_t rows, size_t classes, double temperature, size_t *bad_row);

#endif
