/* One fused pass from a uint8 frame to a model's input tensor. See image_kernel.c. */
#ifndef EDGE_SDK_IMAGE_KERNEL_H
#define EDGE_SDK_IMAGE_KERNEL_H

#include <stddef.h>
#include <stdint.h>

enum edge_image_type { EDGE_IMAGE_FLOAT32 = 0, EDGE_IMAGE_INT8 = 1, EDGE_IMAGE_UINT8 = 2 };

typedef struct {
    const uint8_t *frame; /* first pixel; pixels of a row are contiguous */
    ptrdiff_t row_stride; /* bytes from a row to the next, may be negative */
    int in_height, in_width, in_channels;    /* channels: 1, 3 or 4 (alpha is dropped) */
    int out_height, out_width, out_channels; /* channels: 1 or 3 */
    const float *mean; /* [out_channels], in grey levels */
    const float *gain; /* [out_channels]: value = (level - mean) * gain */
    int planar;        /* 0: rows of interleaved channels (HWC), 1: planes (CHW) */
    int zero_point;    /* added after rounding; only read for the integer types */
} edge_image_job;

/* Run `job` into the contiguous tensor `out` of element type `type`.
 * Returns 0, or -1 where there is no memory for the few rows of scratch. */
int edge_image_run(const edge_image_job *job, void *out, enum edge_image_type type);

#endif
