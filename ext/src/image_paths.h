/* Every path of the image kernel: plain C, and image_simd.h in the words of each instruction set. */
#ifndef EDGE_SDK_IMAGE_PATHS_H
#define EDGE_SDK_IMAGE_PATHS_H

#include "image_ops.h"

#if (defined(__GNUC__) || defined(__clang__)) && defined(__x86_64__)
#define EDGE_X86 1
#include <cpuid.h>
#include <immintrin.h>
#elif (defined(__GNUC__) || defined(__clang__)) && defined(__aarch64__) && !defined(__AARCH64EB__)
#define EDGE_NEON 1
#include <arm_neon.h>
#endif

/* Plain C. */

static void scalar_sample(const edge_columns *columns, const edge_row_job *job)
{
    for (size_t x = job->from; x < job->to; x++) {
        const edge_eight *eight = &columns->eights[x / 8];
        const uint8_t *a = job->a + eight->offsets[x % 8], *b = job->b + eight->offsets[x % 8];
        int right = (int)((uint32_t)eight->weights[x % 8] >> 16);
        right = right == 0 ? 0 : right - 65536;
        int left = -32768 - right;
        for (int c = 0; c < columns->rows; c++) {
            size_t first = columns->first[c], second = columns->second[c];
            int level = blended(a[first], b[first], job->weight) * left;
            level += blended(a[second], b[second], job->weight) * right;
            job->rows[c][x] = job->gain ? one_float((float)level, job->offset[c], job->gain[c]) : (float)level;
        }
    }
}

static void scalar_yuv(float *const rows[3], const float *k, size_t count)
{
    for (size_t x = 0; x < count; x++)
        one_yuv(rows[0] + x, rows[1] + x, rows[2] + x, k);
}

static void scalar_luma(float *const rows[3], size_t count)
{
    for (size_t x = 0; x < count; x++)
        rows[0][x] = one_luma(rows[0][x], rows[1][x], rows[2][x]);
}

static void scalar_to_float(float *to, const float *row, float offset, float gain, size_t count)
{
    for (size_t x = 0; x < count; x++)
        to[x] = one_float(row[x], offset, gain);
}

static void scalar_to_half(uint16_t *to, const float *row, size_t count)
{
    for (size_t x = 0; x < count; x++)
        to[x] = one_half(row[x]);
}

static void scalar_to_byte(uint8_t *to, const float *row, float offset, float gain, float low, float high, int zero,
                           size_t count)
{
    for (size_t x = 0; x < count; x++)
        to[x] = one_byte(row[x], offset, gain, low, high, zero);
}

static void scalar_weave_float(float *to, const float *r, const float *g, const float *b, size_t count)
{
    for (size_t x = 0; x < count; x++) {
        to[3 * x] = r[x];
        to[3 * x + 1] = g[x];
        to[3 * x + 2] = b[x];
    }
}

static void scalar_weave_byte(uint8_t *to, const uint8_t *r, const uint8_t *g, const uint8_t *b, size_t count)
{
    for (size_t x = 0; x < count; x++) {
        to[3 * x] = r[x];
        to[3 * x + 1] = g[x];
        to[3 * x + 2] = b[x];
    }
}

static const edge_image_ops scalar_ops = {
    scalar_sample,  scalar_yuv,     scalar_luma,        scalar_to_float,
    scalar_to_half, scalar_to_byte, scalar_weave_float, scalar_weave_byte,
};

#ifdef EDGE_X86

#define SSE static inline __attribute__((always_inline, target("sse4.1")))

SSE __m128i sse_load4(const uint8_t *from)
{
    int bits;
    memcpy(&bits, from, sizeof bits);
    return _mm_cvtsi32_si128(bits);
}

SSE __m128i sse_gather4(const uint8_t *row, const int *at)
{
    __m128i a = _mm_unpacklo_epi32(sse_load4(row + at[0]), sse_load4(row + at[1]));
    __m128i b = _mm_unpacklo_epi32(sse_load4(row + at[2]), sse_load4(row + at[3]));
    return _mm_unpacklo_epi64(a, b);
}

SSE __m128i sse_gather8(const uint8_t *row, const int *at)
{
    return _mm_unpacklo_epi64(_mm_loadl_epi64((const __m128i *)(row + at[0])),
                              _mm_loadl_epi64((const __m128i *)(row + at[1])));
}

SSE void sse_store_bytes(uint8_t *to, __m128i a, __m128i b, __m128i c, __m128i d)
{
    __m128i byte = _mm_set1_epi32(255);
    a = _mm_packs_epi32(_mm_and_si128(a, byte), _mm_and_si128(b, byte));
    c = _mm_packs_epi32(_mm_and_si128(c, byte), _mm_and_si128(d, byte));
    _mm_storeu_si128((__m128i *)to, _mm_packus_epi16(a, c));
}

SSE void sse_store3(float *to, const float *red, const float *green, const float *blue)
{
    __m128 r = _mm_loadu_ps(red), g = _mm_loadu_ps(green), b = _mm_loadu_ps(blue);
    __m128 rg = _mm_unpacklo_ps(r, g);                              /* r0 g0 r1 g1 */
    __m128 br = _mm_shuffle_ps(b, r, _MM_SHUFFLE(1, 1, 0, 0));      /* b0 b0 r1 r1 */
    __m128 gb = _mm_shuffle_ps(g, b, _MM_SHUFFLE(1, 1, 1, 1));      /* g1 g1 b1 b1 */
    __m128 rg2 = _mm_unpackhi_ps(r, g);                             /* r2 g2 r3 g3 */
    __m128 br3 = _mm_shuffle_ps(b, r, _MM_SHUFFLE(3, 3, 2, 2));     /* b2 b2 r3 r3 */
    __m128 gb3 = _mm_shuffle_ps(g, b, _MM_SHUFFLE(3, 3, 3, 3));     /* g3 g3 b3 b3 */
    _mm_storeu_ps(to, _mm_shuffle_ps(rg, br, _MM_SHUFFLE(2, 0, 1, 0)));
    _mm_storeu_ps(to + 4, _mm_shuffle_ps(gb, rg2, _MM_SHUFFLE(1, 0, 2, 0)));
    _mm_storeu_ps(to + 8, _mm_shuffle_ps(br3, gb3, _MM_SHUFFLE(2, 0, 2, 0)));
}

SSE void sse_store3_bytes(uint8_t *to, const uint8_t *red, const uint8_t *green, const uint8_t *blue)
{
    __m128i r = _mm_loadu_si128((const __m128i *)red), g = _mm_loadu_si128((const __m128i *)green);
    __m128i b = _mm_loadu_si128((const __m128i *)blue);
    /* each table: where the bytes of one colour go in 16 bytes of the result; -1 leaves a gap */
#define SPREAD(x, ...) _mm_shuffle_epi8(x, _mm_setr_epi8(__VA_ARGS__))
#define STORE(at, x, y, z) _mm_storeu_si128((__m128i *)(to + (at)), _mm_or_si128(_mm_or_si128(x, y), z))
    STORE(0, SPREAD(r, 0, -1, -1, 1, -1, -1, 2, -1, -1, 3, -1, -1, 4, -1, -1, 5),
          SPREAD(g, -1, 0, -1, -1, 1, -1, -1, 2, -1, -1, 3, -1, -1, 4, -1, -1),
          SPREAD(b, -1, -1, 0, -1, -1, 1, -1, -1, 2, -1, -1, 3, -1, -1, 4, -1));
    STORE(16, SPREAD(r, -1, -1, 6, -1, -1, 7, -1, -1, 8, -1, -1, 9, -1, -1, 10, -1),
          SPREAD(g, 5, -1, -1, 6, -1, -1, 7, -1, -1, 8, -1, -1, 9, -1, -1, 10),
          SPREAD(b, -1, 5, -1, -1, 6, -1, -1, 7, -1, -1, 8, -1, -1, 9, -1, -1));
    STORE(32, SPREAD(r, -1, 11, -1, -1, 12, -1, -1, 13, -1, -1, 14, -1, -1, 15, -1, -1),
          SPREAD(g, -1, -1, 11, -1, -1, 12, -1, -1, 13, -1, -1, 14, -1, -1, 15, -1),
          SPREAD(b, 10, -1, -1, 11, -1, -1, 12, -1, -1, 13, -1, -1, 14, -1, -1, 15));
#undef SPREAD
#undef STORE
}

#define V __m128i
#define F __m128
#define WIDE 4
#define TARGET __attribute__((target("sse4.1")))
#define INLINE SSE
#define NAME(x) sse41_##x
#define v_table(bytes) _mm_loadu_si128((const __m128i *)(bytes))
#define v_load(words) _mm_loadu_si128((const __m128i *)(words))
#define v_set16(x) _mm_set1_epi16((short)(x))
#define v_set32(x) _mm_set1_epi32(x)
#define v_near(row, at) _mm_loadu_si128((const __m128i *)((row) + *(at)))
#define v_gather4 sse_gather4
#define v_gather8 sse_gather8
#define v_shuffle _mm_shuffle_epi8
#define v_or _mm_or_si128
#define v_halve(x) _mm_srli_epi16(x, 1)
#define v_add16 _mm_add_epi16
#define v_sub16 _mm_sub_epi16
#define v_add32 _mm_add_epi32
#define v_scale _mm_mulhrs_epi16
#define v_pairs _mm_madd_epi16
#define v_float _mm_cvtepi32_ps
#define v_round _mm_cvtps_epi32
#define v_store_bytes sse_store_bytes
#define f_set _mm_set1_ps
#define f_load _mm_loadu_ps
#define f_store _mm_storeu_ps
#define f_add _mm_add_ps
#define f_sub _mm_sub_ps
#define f_mul _mm_mul_ps
#define f_min _mm_min_ps
#define f_max _mm_max_ps
#define f_low(a, b) _mm_movelh_ps(a, b)
#define f_high(a, b) _mm_movehl_ps(b, a)
#define f4_store3 sse_store3
#define v16_store3 sse_store3_bytes
#include "image_simd.h"
#undef v_table
#undef v_load
#undef v_set16
#undef v_set32
#undef v_near
#undef v_gather4
#undef v_gather8
#undef v_shuffle
#undef v_or
#undef v_halve
#undef v_add16
#undef v_sub16
#undef v_add32
#undef v_scale
#undef v_pairs
#undef v_float
#undef v_round
#undef v_store_bytes
#undef f_set
#undef f_load
#undef f_store
#undef f_add
#undef f_sub
#undef f_mul
#undef f_min
#undef f_max
#undef f_low
#undef f_high

#define AVX static inline __attribute__((always_inline, target("avx2,f16c")))

/* Broadcast and blend, because inserting into a vector competes with the shuffles for one port. */
AVX __m256i avx_gather4(const uint8_t *row, const int *at)
{
#define AT(i) _mm256_broadcastd_epi32(sse_load4(row + at[i]))
    __m256i a = _mm256_blend_epi32(AT(0), AT(1), 0x02), b = _mm256_blend_epi32(AT(2), AT(3), 0x08);
    __m256i c = _mm256_blend_epi32(AT(4), AT(5), 0x20), d = _mm256_blend_epi32(AT(6), AT(7), 0x80);
#undef AT
    return _mm256_blend_epi32(_mm256_blend_epi32(a, b, 0x0c), _mm256_blend_epi32(c, d, 0xc0), 0xf0);
}

AVX __m256i avx_gather8(const uint8_t *row, const int *at)
{
#define AT(i) _mm256_broadcastq_epi64(_mm_loadl_epi64((const __m128i *)(row + at[i])))
    __m256i low = _mm256_blend_epi32(AT(0), AT(1), 0x0c), high = _mm256_blend_epi32(AT(4), AT(5), 0xc0);
#undef AT
    return _mm256_blend_epi32(low, high, 0xf0);
}

AVX __m256i avx_near(const uint8_t *row, const int *at)
{
    __m256i low = _mm256_castsi128_si256(_mm_loadu_si128((const __m128i *)(row + at[0])));
    return _mm256_inserti128_si256(low, _mm_loadu_si128((const __m128i *)(row + at[4])), 1);
}

AVX void avx_store_bytes(uint8_t *to, __m256i a, __m256i b, __m256i c, __m256i d)
{
    __m256i byte = _mm256_set1_epi32(255);
    a = _mm256_packs_epi32(_mm256_and_si256(a, byte), _mm256_and_si256(b, byte));
    c = _mm256_packs_epi32(_mm256_and_si256(c, byte), _mm256_and_si256(d, byte));
    /* packing works within lanes: a b c d of the low, then of the high lane */
    a = _mm256_permutevar8x32_epi32(_mm256_packus_epi16(a, c), _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
    _mm256_storeu_si256((__m256i *)to, a);
}

AVX __m256 avx_low(__m256 a, __m256 b)
{
    return _mm256_castpd_ps(_mm256_unpacklo_pd(_mm256_castps_pd(a), _mm256_castps_pd(b)));
}

AVX __m256 avx_high(__m256 a, __m256 b)
{
    return _mm256_castpd_ps(_mm256_unpackhi_pd(_mm256_castps_pd(a), _mm256_castps_pd(b)));
}

#define V __m256i
#define F __m256
#define WIDE 8
#define TARGET __attribute__((target("avx2,f16c")))
#define INLINE AVX
#define NAME(x) avx2_##x
#define HALF_WIDE 8
#define v_table(bytes) _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *)(bytes)))
#define v_load(words) _mm256_loadu_si256((const __m256i *)(words))
#define v_set16(x) _mm256_set1_epi16((short)(x))
#define v_set32(x) _mm256_set1_epi32(x)
#define v_near avx_near
#define v_gather4 avx_gather4
#define v_gather8 avx_gather8
#define v_shuffle _mm256_shuffle_epi8
#define v_or _mm256_or_si256
#define v_halve(x) _mm256_srli_epi16(x, 1)
#define v_add16 _mm256_add_epi16
#define v_sub16 _mm256_sub_epi16
#define v_add32 _mm256_add_epi32
#define v_scale _mm256_mulhrs_epi16
#define v_pairs _mm256_madd_epi16
#define v_float _mm256_cvtepi32_ps
#define v_round _mm256_cvtps_epi32
#define v_store_bytes avx_store_bytes
#define f_set _mm256_set1_ps
#define f_load _mm256_loadu_ps
#define f_store _mm256_storeu_ps
#define f_store_half(to, x) _mm_storeu_si128((__m128i *)(to), _mm256_cvtps_ph(x, 0))
#define f_add _mm256_add_ps
#define f_sub _mm256_sub_ps
#define f_mul _mm256_mul_ps
#define f_min _mm256_min_ps
#define f_max _mm256_max_ps
#define f_low avx_low
#define f_high avx_high
#include "image_simd.h"

#endif

#ifdef EDGE_NEON

#define ARM static inline __attribute__((always_inline))

ARM uint8x16_t neon_gather4(const uint8_t *row, const int *at)
{
    uint32_t words[4];
    for (int i = 0; i < 4; i++)
        memcpy(words + i, row + at[i], sizeof *words);
    return vreinterpretq_u8_u32(vld1q_u32(words));
}

ARM uint8x16_t neon_gather8(const uint8_t *row, const int *at)
{
    return vcombine_u8(vld1_u8(row + at[0]), vld1_u8(row + at[1]));
}

ARM uint8x16_t neon_pairs(uint8x16_t level, uint8x16_t columns)
{
    int16x8_t a = vreinterpretq_s16_u8(level), b = vreinterpretq_s16_u8(columns);
    int32x4_t low = vmull_s16(vget_low_s16(a), vget_low_s16(b));
    return vreinterpretq_u8_s32(vpaddq_s32(low, vmull_high_s16(a, b)));
}

ARM void neon_store_bytes(uint8_t *to, uint8x16_t a, uint8x16_t b, uint8x16_t c, uint8x16_t d)
{
    uint16x8_t low = vcombine_u16(vmovn_u32(vreinterpretq_u32_u8(a)), vmovn_u32(vreinterpretq_u32_u8(b)));
    uint16x8_t high = vcombine_u16(vmovn_u32(vreinterpretq_u32_u8(c)), vmovn_u32(vreinterpretq_u32_u8(d)));
    vst1q_u8(to, vcombine_u8(vmovn_u16(low), vmovn_u16(high)));
}

ARM void neon_store3(float *to, const float *r, const float *g, const float *b)
{
    float32x4x3_t three = {{vld1q_f32(r), vld1q_f32(g), vld1q_f32(b)}};
    vst3q_f32(to, three);
}

ARM void neon_store3_bytes(uint8_t *to, const uint8_t *r, const uint8_t *g, const uint8_t *b)
{
    uint8x16x3_t three = {{vld1q_u8(r), vld1q_u8(g), vld1q_u8(b)}};
    vst3q_u8(to, three);
}

ARM float32x4_t neon_low(float32x4_t a, float32x4_t b) { return vcombine_f32(vget_low_f32(a), vget_low_f32(b)); }

ARM float32x4_t neon_high(float32x4_t a, float32x4_t b) { return vcombine_f32(vget_high_f32(a), vget_high_f32(b)); }

#define S16 vreinterpretq_s16_u8
#define S32 vreinterpretq_s32_u8
#define V uint8x16_t
#define F float32x4_t
#define WIDE 4
#define TARGET
#define INLINE ARM
#define NAME(x) neon_##x
#define HALF_WIDE 4
#define v_table vld1q_u8
#define v_load(words) vld1q_u8((const uint8_t *)(words))
#define v_set16(x) vreinterpretq_u8_s16(vdupq_n_s16((int16_t)(x)))
#define v_set32(x) vreinterpretq_u8_s32(vdupq_n_s32(x))
#define v_near(row, at) vld1q_u8((row) + *(at))
#define v_gather4 neon_gather4
#define v_gather8 neon_gather8
#define v_shuffle vqtbl1q_u8
#define v_or vorrq_u8
#define v_halve(x) vreinterpretq_u8_u16(vshrq_n_u16(vreinterpretq_u16_u8(x), 1))
#define v_add16(a, b) vreinterpretq_u8_s16(vaddq_s16(S16(a), S16(b)))
#define v_sub16(a, b) vreinterpretq_u8_s16(vsubq_s16(S16(a), S16(b)))
#define v_add32(a, b) vreinterpretq_u8_s32(vaddq_s32(S32(a), S32(b)))
#define v_scale(a, b) vreinterpretq_u8_s16(vqrdmulhq_s16(S16(a), S16(b)))
#define v_pairs neon_pairs
#define v_float(x) vcvtq_f32_s32(S32(x))
#define v_round(x) vreinterpretq_u8_s32(vcvtnq_s32_f32(x))
#define v_store_bytes neon_store_bytes
#define f_set vdupq_n_f32
#define f_load vld1q_f32
#define f_store vst1q_f32
#define f_store_half(to, x) vst1_u16(to, vreinterpret_u16_f16(vcvt_f16_f32(x)))
#define f_add vaddq_f32
#define f_sub vsubq_f32
#define f_mul vmulq_f32
#define f_min vminnmq_f32
#define f_max vmaxnmq_f32
#define f_low neon_low
#define f_high neon_high
#define f4_store3 neon_store3
#define v16_store3 neon_store3_bytes
#include "image_simd.h"

#endif

#endif
