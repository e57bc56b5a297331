/* Sums, products and square roots only, each rounded by itself, and functions made of them: the same bits
 * on every processor, with every compiler that is told not to contract them.
 */
#include "audio_kernel.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "audio_plan.h"

/* The natural logarithm of a normal number above 0, within 1 ulp.
 *
 * x = 2^e (1 + f) with 1 + f between the roots of 1/2 and 2; log(1 + f) = f - f^2 / 2 + f^3 p(f), where p
 * has degree 7 and the least relative error of the whole, 5.9e-9. log 2 is in two parts, of which the
 * first has so few digits that its product with e is exact. */
static inline float one_log(float x)
{
    int32_t bits, exponent;
    float f, p, e, square;
    memcpy(&bits, &x, sizeof bits);
    exponent = (bits - 0x3f3504f3) >> 23;
    bits -= (int32_t)((uint32_t)exponent << 23);
    memcpy(&f, &bits, sizeof f);
    f -= 1.0f;
    e = (float)exponent;
    p = -0x1.41edeep-4f;
    p = p * f + 0x1.07d0eep-3f;
    p = p * f - 0x1.0ce080p-3f;
    p = p * f + 0x1.226e4ap-3f;
    p = p * f - 0x1.547890p-3f;
    p = p * f + 0x1.99a596p-3f;
    p = p * f - 0x1.000220p-2f;
    p = p * f + 0x1.55554ap-2f;
    square = f * f;
    return e * 0x1.62ep-1f + (f + ((f * square * p + e * 0x1.0bfbe8p-15f) - 0.5f * square));
}

#define MOST_LANES 8

#if defined(__GNUC__) || defined(__clang__)
#if defined(__has_builtin)
#if __has_builtin(__builtin_shufflevector)
#define SHUFFLE __builtin_shufflevector
#endif
#endif
typedef float four __attribute__((vector_size(16), may_alias));
typedef float any_four __attribute__((vector_size(16), may_alias, aligned(4)));
#define V four
#define U any_four
#define LANES 4
#else /* a frame at a time */
#define V float
#define U float
#define LANES 1
#endif
#define TARGET
#define NAME(x) portable_##x
#include "audio_lanes.h"
#undef V
#undef U
#undef LANES
#undef TARGET
#undef NAME

#if (defined(__GNUC__) || defined(__clang__)) && defined(__x86_64__)
#define EDGE_X86 1
typedef float eight __attribute__((vector_size(32), may_alias));
typedef float any_eight __attribute__((vector_size(32), may_alias, aligned(4)));
#define V eight
#define U any_eight
#define LANES 8
#define TARGET __attribute__((target("avx2")))
#define NAME(x) avx2_##x
#include "audio_lanes.h"
#undef V
#undef U
#undef LANES
#undef TARGET
#undef NAME
#endif

int edge_audio_has(enum edge_audio_path path)
{
#ifdef EDGE_X86
    if (path == EDGE_AUDIO_AVX2)
        return __builtin_cpu_supports("avx2") != 0;
#endif
    return path == EDGE_AUDIO_PORTABLE;
}

enum edge_audio_path edge_audio_best(void)
{
    return edge_audio_has(EDGE_AUDIO_AVX2) ? EDGE_AUDIO_AVX2 : EDGE_AUDIO_PORTABLE;
}

/* Tables are made in double, by functions of our own: libraries differ in last digits. */

#define PI 3.14159265358979323846

/* cos and sin of `at` / `whole` of a full turn, to 1e-16. */
static void turn(size_t at, size_t whole, double *cosine, double *sine)
{
    at %= whole;
    size_t eighths = 8 * at / whole; /* lengths are far below the range of size_t / 8 */
    size_t quarters = (eighths + 1) / 2 % 4;
    double angle = 2.0 * PI * ((double)at - (double)((eighths + 1) / 2) * (double)whole / 4.0) / (double)whole;
    double square = angle * angle, c = 0.0, s = 0.0;
    for (int k = 18; k > 0; k -= 2) { /* 1 - x^2/2! (1 - ...) */
        c = (1.0 - c) * square / (double)(k * (k - 1));
        s = (1.0 - s) * square / (double)(k * (k + 1));
    }
    c = 1.0 - c;
    s = angle * (1.0 - s);
    *cosine = quarters == 0 ? c : quarters == 1 ? -s : quarters == 2 ? -c : s;
    *sine = quarters == 0 ? s : quarters == 1 ? c : quarters == 2 ? -s : -c;
}

static edge_turn backwards(size_t at, size_t whole)
{
    double cosine, sine;
    turn(at, whole, &cosine, &sine);
    edge_turn t = {(float)cosine, (float)-sine};
    return t;
}

/* log of a number of at least 1, to 1e-16. */
static double log_of(double x)
{
    double halvings = 0.0;
    for (; x > 1.4142135623730951; x *= 0.5)
        halvings += 1.0;
    double s = (x - 1.0) / (x + 1.0), square = s * s, sum = 0.0;
    for (int k = 25; k > 0; k -= 2)
        sum = sum * square + 1.0 / (double)k;
    return halvings * 0.69314718055994530942 + 2.0 * s * sum;
}

static double mel_of(double hz)
{
    return 1127.0 * log_of(1.0 + hz / 700.0);
}

static void make_turns(edge_audio_plan *plan)
{
    size_t count = plan->options.fft_length / 2;
    edge_turn *turns = plan->turns;
    for (size_t n = count; n >= 4; n /= 4)
        for (size_t j = 1; j < n / 4; j++)
            for (size_t times = 1; times <= 3; times++)
                *turns++ = backwards(times * j, n);
    for (size_t k = 0; k <= count / 2; k++)
        plan->split[k] = backwards(k, 2 * count);
    for (size_t k = 0; k < count; k++) {
        size_t place = 0, rest = k, n = count;
        for (; n >= 4; n /= 4, rest /= 4)
            place += rest % 4 * (n / 4);
        plan->places[k] = (uint32_t)(place + (n == 2 ? rest % 2 : 0));
    }
}

static void make_window(edge_audio_plan *plan)
{
    size_t length = plan->options.frame_length;
    size_t period = length % 2 == 0 ? length : length - 1; /* tf.signal: odd lengths are symmetric all the same */
    for (size_t i = 0; i < length; i++) {
        double cosine = 0.0, sine;
        if (length > 1)
            turn(i, period, &cosine, &sine);
        plan->window[i] = 0.5f * (float)(length > 1 ? 0.5 - 0.5 * cosine : 1.0);
    }
}

/* Fills first and ends, and weights unless it is NULL; returns how many weights there are. `mel` is that of
 * each bin. */
static size_t make_bands(const edge_audio_plan *plan, const double *mel, float *weights)
{
    const edge_audio_options *o = &plan->options;
    size_t bins = o->fft_length / 2, used = 0;
    double low = mel_of(o->low_hz), width = (mel_of(o->high_hz) - low) / (double)(o->mels + 1);
    for (size_t m = 0; m < o->mels; m++) {
        double left = low + width * (double)m, middle = low + width * (double)(m + 1);
        double right = low + width * (double)(m + 2);
        plan->first[m] = 0;
        for (size_t k = 1; k < bins; k++) {
            double up = (mel[k] - left) / (middle - left), down = (right - mel[k]) / (right - middle);
            float weight = (float)(up < down ? up : down);
            if (!(weight > 0.0f))
                continue;
            if (plan->first[m] == 0)
                plan->first[m] = (uint32_t)k;
            if (weights != NULL)
                weights[used] = weight;
            used++;
        }
        plan->ends[m] = (uint32_t)used;
    }
    return used;
}

static void make_cosines(edge_audio_plan *plan)
{
    size_t mels = plan->options.mels;
    double scale = 2.0 / sqrt(2.0 * (double)mels);
    for (size_t c = 0; c < plan->options.mfcc; c++)
        for (size_t m = 0; m < mels; m++) {
            double cosine, sine;
            turn(c * (2 * m + 1), 4 * mels, &cosine, &sine);
            plan->cosines[c * mels + m] = (float)(cosine * scale);
        }
}

edge_audio_plan *edge_audio_make(const edge_audio_options *options)
{
    double *mel = NULL;
    edge_audio_plan *plan = calloc(1, sizeof *plan);
    if (plan == NULL)
        return NULL;
    size_t half = options->fft_length / 2;
    plan->options = *options;
    plan->window = malloc(options->frame_length * sizeof *plan->window);
    plan->turns = malloc((half + 1) * sizeof *plan->turns); /* 3 (n/4 - 1) of each stage: less than n in all */
    plan->split = malloc((half / 2 + 1) * sizeof *plan->split);
    plan->places = malloc(half * sizeof *plan->places);
    plan->first = malloc(options->mels * sizeof *plan->first);
    plan->ends = malloc(options->mels * sizeof *plan->ends);
    plan->cosines = malloc((options->mfcc * options->mels + 1) * sizeof *plan->cosines);
    if (!plan->window || !plan->turns || !plan->split || !plan->places || !plan->first || !plan->ends || !plan->cosines)
        goto short_of_memory;
    mel = malloc(half * sizeof *mel);
    if (!mel)
        goto short_of_memory;
    for (size_t k = 0; k < half; k++)
        mel[k] = mel_of((double)k * options->sample_rate / 2.0 / (double)half);
    plan->weights = malloc((make_bands(plan, mel, NULL) + 1) * sizeof *plan->weights);
    if (!plan->weights)
        goto short_of_memory;
    make_bands(plan, mel, plan->weights);
    free(mel);
    make_window(plan);
    make_turns(plan);
    make_cosines(plan);
    return plan;
short_of_memory:
    free(mel);
    edge_audio_free(plan);
    return NULL;
}

void edge_audio_free(edge_audio_plan *plan)
{
    if (plan == NULL)
        return;
    free(plan->window);
    free(plan->turns);
    free(plan->split);
    free(plan->places);
    free(plan->first);
    free(plan->ends);
    free(plan->weights);
    free(plan->cosines);
    free(plan);
}

#define ALIGNMENT 64

size_t edge_audio_scratch(const edge_audio_plan *plan)
{
    const edge_audio_options *o = &plan->options;
    return (o->fft_length + o->mels + o->mfcc + o->frame_length) * MOST_LANES * sizeof(float) + ALIGNMENT;
}

void edge_audio_run(const edge_audio_plan *plan, enum edge_audio_path path, const float *x, const int16_t *pcm,
                    size_t frames, void *scratch, float *out)
{
    float *z = (float *)(((uintptr_t)scratch + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT);
#ifdef EDGE_X86
    if (path == EDGE_AUDIO_AVX2) {
        avx2_run(plan, x, pcm, frames, z, out);
        return;
    }
#endif
    (void)path;
    portable_run(plan, x, pcm, frames, z, out);
}

size_t edge_audio_first_bad(const float *x, size_t count)
{
    int bad = 0;
    for (size_t i = 0; i < count; i++)
        bad |= !(fabsf(x[i]) <= EDGE_AUDIO_LIMIT); /* NaN is not */
    if (!bad)
        return count;
    for (size_t i = 0; i < count; i++)
        if (!(fabsf(x[i]) <= EDGE_AUDIO_LIMIT))
            return i;
    return count;
}

void edge_audio_window(const edge_audio_plan *plan, float *out)
{
    for (size_t i = 0; i < plan->options.frame_length; i++)
        out[i] = 2.0f * plan->window[i];
}

void edge_audio_weights(const edge_audio_plan *plan, float *out)
{
    size_t mels = plan->options.mels, from = 0;
    memset(out, 0, (plan->options.fft_length / 2 + 1) * mels * sizeof *out);
    for (size_t m = 0; m < mels; m++)
        for (size_t k = plan->first[m]; from < plan->ends[m]; k++)
            out[k * mels + m] = plan->weights[from++];
}
