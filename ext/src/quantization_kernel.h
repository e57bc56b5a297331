/* Per-tensor affine quantization: real = scale * (q - zero_point). */
#ifndef EDGE_SDK_QUANTIZATION_KERNEL_H
#define EDGE_SDK_QUANTIZATION_KERNEL_H

#include <stddef.h>
#include <stdint.h>

/* q = saturate(round_half_even(x / scale) + zero_point). Return -1 where a NaN was met, else 0. */
int edge_quantize_int8(const float *x, int8_t *out, size_t count, float scale, int zero_point);
int edge_quantize_uint8(const float *x, uint8_t *out, size_t count, float scale, int zero_point);

void edge_dequantize_int8(const int8_t *x, float *out, size_t count, float scale, int zero_point);
void edge_dequantize_uint8(const uint8_t *x, float *out, size_t count, float scale, int zero_point);

#endif
