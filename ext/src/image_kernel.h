/* One fused pass from a uint8 frame to a model's input tensor. See image_kernel.c. */
#ifndef EDGE_SDK_IMAGE_KERNEL_H
#define EDGE_SDK_IMAGE_KERNEL_H

#include <stddef.h>
#include <stdint.h>

enum edge_image_type { EDGE_IMAGE_FLOAT32 = 0, EDGE_IMAGE_INT8 = 1, EDGE_IMAGE_UINT8 = 2, EDGE_IMAGE_FLOAT16 = 3 };

/* What the bytes of a frame are. */
enum edge_image_format {
    EDGE_IMAGE_GREY = 0,
    EDGE_IMAGE_RGB = 1,
    EDGE_IMAGE_BGR = 2,
    EDGE_IMAGE_RGBA = 3, /* alpha is dropped */
    EDGE_IMAGE_BGRA = 4,
    EDGE_IMAGE_NV12 = 5, /* plane 0: Y; plane 1: U and V in turns, half as many rows and columns, rounded up */
    EDGE_IMAGE_YUYV = 6, /* Y U Y V for two pixels; the width is even */
    EDGE_IMAGE_FORMATS = 7
};

/* Which code runs. All give the same bits. */
enum edge_image_path {
    EDGE_IMAGE_SCALAR = 0,
    EDGE_IMAGE_SSE41 = 1,
    EDGE_IMAGE_AVX2 = 2,
    EDGE_IMAGE_NEON = 3,
    EDGE_IMAGE_PATHS = 4
};

typedef struct {
    const uint8_t *planes[2]; /* first pixel; pixels of a row are contiguous */
    ptrdiff_t strides[2];     /* bytes from a row to the next, may be negative */
} edge_image_frame;

typedef struct {
    enum edge_image_format format;
    int height, width;        /* of the frame */
    int top, left, window_height, window_width; /* the part of the frame that is sampled */
    int out_height, out_width, out_channels;    /* channels: 1 or 3 */
    int inner_top, inner_left, inner_height, inner_width; /* the part of the tensor it is sampled to */
    float fill;        /* grey level of the rest of the tensor */
    int nearest;       /* 0: bilinear, 1: nearest */
    int antialias;     /* 1: a triangle as wide as the pixels it makes one of; not for YUV formats, not nearest */
    const float *yuv;  /* [6]: offset and gain of Y, then V to R, U to G, V to G, U to B; read for YUV formats */
    const float *mean; /* [out_channels], in grey levels */
    const float *gain; /* [out_channels]: value = (level - mean) * gain */
    int planar;        /* 0: rows of interleaved channels (HWC), 1: planes (CHW) */
    int zero_point;    /* added after rounding; only read for the integer types */
    enum edge_image_type type; /* of the tensor's elements */
} edge_image_job;

/* All of a job that does not depend on the pixels. Never changes: any number of threads may run one plan. */
typedef struct edge_image_plan edge_image_plan;

/* Whether this processor runs a path that this compiler could build. */
int edge_image_has(enum edge_image_path path);

/* The fastest path that runs here. */
enum edge_image_path edge_image_best(void);

/* Plan a job, of which nothing is kept; NULL where there is no memory. */
edge_image_plan *edge_image_plan_new(const edge_image_job *job);

void edge_image_plan_free(edge_image_plan *plan);

/* Run a plan on a frame into a contiguous tensor, by a path that this processor has.
 * Returns 0, or -1 where there is no memory for the few rows of scratch. */
int edge_image_run(const edge_image_plan *plan, enum edge_image_path path, const edge_image_frame *frame, void *out);

#endif
