/* Signals of class probabilities: how far to trust them. What each is stands in cascade/signals.py. */
#ifndef EDGE_SDK_SIGNALS_KERNEL_H
#define EDGE_SDK_SIGNALS_KERNEL_H

#include <stddef.h>

enum { EDGE_MAX_PROBABILITY, EDGE_MARGIN, EDGE_ENTROPY, EDGE_ENERGY, EDGE_LEARNED };

/* What is wrong with a row. */
enum { EDGE_NOT_FINITE = 1, EDGE_NEGATIVE, EDGE_SUM };

#define EDGE_TOP 5             /* of the features of the learned signal */
#define EDGE_MOST_CLASSES 256  /* that the learned signal takes */

/* `weights` are for EDGE_LEARNED alone: of "the edge is right" and then of "the cloud is right", each with
 * one for every feature and last the bias. */
typedef struct {
    int kind;
    double inverse; /* 1 / temperature */
    const double *weights;
} edge_signal;

/* Probabilities are [rows, classes], double where `wide` and else float; neither count is 0. A row is good if it
 * holds no NaN, infinity or negative number, and its sum is above 0 and within `tolerance` of 1. These
 * return 0, or at the first row that is not good what is wrong with it; `*bad_row` and `*total` then name it. */

int edge_check(const void *p, int wide, size_t rows, size_t classes, double tolerance, size_t *bad_row, double *total);

/* Into `values` the signal of each row, and into `confidences`, unless NULL, its max_probability. */
int edge_signals(const void *p, int wide, size_t rows, size_t classes, const edge_signal *signal, double tolerance,
                 double *values, double *confidences, size_t *bad_row, double *total);

/* Number of features of the learned signal, and the features [rows, edge_feature_count(classes)]: ln p with p
 * at least 1/512, the root of p, the largest EDGE_TOP, margin, entropy, and which class leads and which is second. */
size_t edge_feature_count(size_t classes);
int edge_features(const void *p, int wide, size_t rows, size_t classes, double *out, size_t *bad_row, double *total);

#endif
