/* Affine quantization: real = scale * (q - zero_point). */
#ifndef EDGE_SDK_QUANTIZATION_KERNEL_H
#define EDGE_SDK_QUANTIZATION_KERNEL_H

#include <stddef.h>
#include <stdint.h>

/* An array of [outer, channels, inner] elements, with a scale and a zero point for each channel. */
typedef struct {
    size_t outer, channels, inner;
    const float *scales;
    const int32_t *zero_points;
} edge_affine;

/* q = saturate(round_half_even(x / scale) + zero_point). Return -1 where a NaN was met, else 0. */
int edge_quantize_int8(const float *x, int8_t *out, const edge_affine *a);
int edge_quantize_uint8(const float *x, uint8_t *out, const edge_affine *a);

void edge_dequantize_int8(const int8_t *x, float *out, const edge_affine *a);
void edge_dequantize_uint8(const uint8_t *x, float *out, const edge_affine *a);
void edge_dequantize_int32(const int32_t *x, float *out, const edge_affine *a);

#endif
