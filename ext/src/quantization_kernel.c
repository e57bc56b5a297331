#include "quantization_kernel.h"

/* Adding and taking away 1.5 * 2^23 rounds |x| < 2^22 half to even, on every ISA, in vector code. */
#define ROUNDER 12582912.0f

static inline int rounded(float x, float scale, float low, float high)
{
    float value = x / scale;
    value = value > low ? value : low; /* saturating first keeps the rounder in its range; NaN becomes low */
    value = value < high ? value : high;
    return (int)((value + ROUNDER) - ROUNDER);
}

int edge_quantize_int8(const float *x, int8_t *out, size_t count, float scale, int zero_point)
{
    float low = (float)(-128 - zero_point), high = (float)(127 - zero_point);
    int unordered = 0;
    for (size_t i = 0; i < count; i++) {
        unordered |= x[i] != x[i];
        out[i] = (int8_t)(rounded(x[i], scale, low, high) + zero_point);
    }
    return -unordered;
}

int edge_quantize_uint8(const float *x, uint8_t *out, size_t count, float scale, int zero_point)
{
    float low = (float)(0 - zero_point), high = (float)(255 - zero_point);
    int unordered = 0;
    for (size_t i = 0; i < count; i++) {
        unordered |= x[i] != x[i];
        out[i] = (uint8_t)(rounded(x[i], scale, low, high) + zero_point);
    }
    return -unordered;
}

void edge_dequantize_int8(const int8_t *x, float *out, size_t count, float scale, int zero_point)
{
    for (size_t i = 0; i < count; i++)
        out[i] = (float)((int)x[i] - zero_point) * scale;
}

void edge_dequantize_uint8(const uint8_t *x, float *out, size_t count, float scale, int zero_point)
{
    for (size_t i = 0; i < count; i++)
        out[i] = (float)((int)x[i] - zero_point) * scale;
}
