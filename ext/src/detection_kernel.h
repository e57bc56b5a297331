/* Boxes, scores and classes from the outputs of a detector, without its overlapping boxes. */
#ifndef EDGE_SDK_DETECTION_KERNEL_H
#define EDGE_SDK_DETECTION_KERNEL_H

#include <stddef.h>
#include <stdint.h>

typedef enum {
    EDGE_DETECTION_FLOAT32,
    EDGE_DETECTION_INT8,
    EDGE_DETECTION_UINT8,
} edge_detection_type;

/* What the four numbers of a box are. */
typedef enum {
    EDGE_DETECTION_CENTRES, /* centre x, centre y, width, height */
    EDGE_DETECTION_CORNERS, /* left, top, right, bottom */
    EDGE_DETECTION_OFFSETS, /* how far from an anchor, see below */
} edge_detection_form;

/* A tensor; real = scale * (q - zero_point) where it holds integers. */
typedef struct {
    const void *data;
    edge_detection_type type;
    float scale;
    int zero_point;
} edge_detection_values;

typedef struct {
    edge_detection_values boxes, scores;
    size_t anchors; /* at most INT32_MAX */
    size_t classes; /* at most INT32_MAX, at least 1 */
    size_t first;   /* classes below it are not looked at */
    int planar;     /* boxes [4][anchors] and scores [classes][anchors]; else [anchors][4] and [anchors][classes] */
    edge_detection_form form;
    int swapped; /* y before x, height before width, in boxes and in priors */
    /* Of EDGE_DETECTION_OFFSETS, priors [anchors][4] being the anchors' centres and sizes:
     * centre = prior centre + offset * variances[0] * prior size, size = prior size * exp(offset * variances[1]) */
    const float *priors;
    double variances[2];
    double width, height; /* boxes are multiplied by them: 1 where they are in pixels */
    float score_threshold; /* 0 or above; a score that equals it passes */
    double iou_threshold;  /* boxes of one class that overlap by more are one object */
    size_t limit;          /* most detections, at least 1 */
} edge_detection_job;

typedef struct {
    float *boxes; /* [limit][4]: left, top, right, bottom */
    float *scores;
    int32_t *classes;
    int32_t *anchors;
} edge_detection_found;

/* Return how many were found, best first, or -1 where there is no memory. */
ptrdiff_t edge_detection_run(const edge_detection_job *job, const edge_detection_found *found);

#endif
