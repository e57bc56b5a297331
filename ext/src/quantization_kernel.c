#include "quantization_kernel.h"

/* Wider vectors where the loader can choose between two versions of a function. */
#if defined(__GNUC__) && !defined(__clang__) && defined(__x86_64__) && defined(__gnu_linux__)
#define CLONES __attribute__((target_clones("avx2", "default")))
#else
#define CLONES
#endif

/* Adding and taking away 1.5 * 2^23 rounds |x| < 2^22 half to even, on every ISA, in vector code. */
#define ROUNDER 12582912.0f

static inline int rounded(float x, float scale, float low, float high)
{
    float value = x / scale;
    value = value > low ? value : low; /* saturating first keeps the rounder in its range; NaN becomes low */
    value = value < high ? value : high;
    return (int)((value + ROUNDER) - ROUNDER);
}

/* Steps between 8-bit values are whole in float32. Those of int32 are not: hence the double. */
static inline float real_8(int q, int32_t zero_point, float scale)
{
    return (float)(q - zero_point) * scale;
}

static inline float real_32(int32_t q, int32_t zero_point, float scale)
{
    return (float)(((double)q - (double)zero_point) * (double)scale);
}

/* One scale for a run of elements, or one for each of them. int8_t may alias anything, hence the restrict. */
#define QUANTIZE(name, type, least, most)                                                                              \
    CLONES static int name##_run(const float *restrict x, type *restrict out, size_t count, float scale, int zero)     \
    {                                                                                                                  \
        float low = (float)(least - zero), high = (float)(most - zero);                                                \
        int unordered = 0;                                                                                             \
        for (size_t i = 0; i < count; i++) {                                                                           \
            unordered |= x[i] != x[i];                                                                                 \
            out[i] = (type)(rounded(x[i], scale, low, high) + zero);                                                   \
        }                                                                                                              \
        return unordered;                                                                                              \
    }                                                                                                                  \
    CLONES static int name##_each(const float *restrict x, type *restrict out, size_t count, const float *restrict scales,\
                           const int32_t *restrict zeros)                                                              \
    {                                                                                                                  \
        int unordered = 0;                                                                                             \
        for (size_t i = 0; i < count; i++) {                                                                           \
            float low = (float)(least - zeros[i]), high = (float)(most - zeros[i]);                                    \
            unordered |= x[i] != x[i];                                                                                 \
            out[i] = (type)(rounded(x[i], scales[i], low, high) + zeros[i]);                                           \
        }                                                                                                              \
        return unordered;                                                                                              \
    }                                                                                                                  \
    int name(const float *x, type *out, const edge_affine *a)                                                          \
    {                                                                                                                  \
        int unordered = 0;                                                                                             \
        if (a->inner == 1 && a->channels > 1)                                                                          \
            for (size_t r = 0; r < a->outer; r++, x += a->channels, out += a->channels)                                \
                unordered |= name##_each(x, out, a->channels, a->scales, a->zero_points);                              \
        else                                                                                                           \
            for (size_t r = 0; r < a->outer; r++)                                                                      \
                for (size_t c = 0; c < a->channels; c++, x += a->inner, out += a->inner)                               \
                    unordered |= name##_run(x, out, a->inner, a->scales[c], a->zero_points[c]);                        \
        return -unordered;                                                                                             \
    }

#define DEQUANTIZE(name, type, real)                                                                                   \
    CLONES static void name##_run(const type *restrict x, float *restrict out, size_t count, float scale, int32_t zero)\
    {                                                                                                                  \
        for (size_t i = 0; i < count; i++)                                                                             \
            out[i] = real(x[i], zero, scale);                                                                          \
    }                                                                                                                  \
    CLONES static void name##_each(const type *restrict x, float *restrict out, size_t count, const float *restrict scales,\
                            const int32_t *restrict zeros)                                                             \
    {                                                                                                                  \
        for (size_t i = 0; i < count; i++)                                                                             \
            out[i] = real(x[i], zeros[i], scales[i]);                                                                  \
    }                                                                                                                  \
    void name(const type *x, float *out, const edge_affine *a)                                                         \
    {                                                                                                                  \
        if (a->inner == 1 && a->channels > 1)                                                                          \
            for (size_t r = 0; r < a->outer; r++, x += a->channels, out += a->channels)                                \
                name##_each(x, out, a->channels, a->scales, a->zero_points);                                           \
        else                                                                                                           \
            for (size_t r = 0; r < a->outer; r++)                                                                      \
                for (size_t c = 0; c < a->channels; c++, x += a->inner, out += a->inner)                               \
                    name##_run(x, out, a->inner, a->scales[c], a->zero_points[c]);                                     \
    }

QUANTIZE(edge_quantize_int8, int8_t, -128, 127)
QUANTIZE(edge_quantize_uint8, uint8_t, 0, 255)
DEQUANTIZE(edge_dequantize_int8, int8_t, real_8)
DEQUANTIZE(edge_dequantize_uint8, uint8_t, real_8)
DEQUANTIZE(edge_dequantize_int32, int32_t, real_32)
