/* Log-mel spectra and cepstra of sound, as tf.signal defines them. */
#ifndef EDGE_SDK_AUDIO_KERNEL_H
#define EDGE_SDK_AUDIO_KERNEL_H

#include <stddef.h>
#include <stdint.h>

/* Later ones are preferred. All give the same bits. */
enum edge_audio_path { EDGE_AUDIO_PORTABLE, EDGE_AUDIO_AVX2, EDGE_AUDIO_PATHS };

int edge_audio_has(enum edge_audio_path path);
enum edge_audio_path edge_audio_best(void);

/* Samples farther from zero are refused: nothing after them overflows. */
#define EDGE_AUDIO_LIMIT 1e9f

typedef struct {
    size_t frame_length, frame_step; /* samples */
    size_t fft_length;               /* a power of two, at least 4 and at least frame_length */
    size_t mels, mfcc;               /* columns of the spectrum; and of the cepstrum, 0 for none */
    double sample_rate, low_hz, high_hz;
    float floor;   /* added before the logarithm; a normal number above 0 */
    int magnitude; /* the filters weigh magnitudes, not powers */
} edge_audio_options;

/* Tables for one set of options. Never written after it is made, so threads may share it. */
typedef struct edge_audio_plan edge_audio_plan;

/* NULL where memory is short. The options are the caller's to check. */
edge_audio_plan *edge_audio_make(const edge_audio_options *options);
void edge_audio_free(edge_audio_plan *plan);

/* Bytes of scratch memory that a run needs. */
size_t edge_audio_scratch(const edge_audio_plan *plan);

/* `frames` rows of [mels] or [mfcc] from frames * frame_step samples and what the last frame has beyond.
 * Samples are floats, or int16 that stand for 1/32768 each; the other pointer is NULL. */
void edge_audio_run(const edge_audio_plan *plan, enum edge_audio_path path, const float *x, const int16_t *pcm,
                    size_t frames, void *scratch, float *out);

/* Where the first sample is that is not finite or is beyond the limit; `count` where there is none. */
size_t edge_audio_first_bad(const float *x, size_t count);

/* The tables, for who wants to see them: [frame_length], and [fft_length / 2 + 1, mels]. */
void edge_audio_window(const edge_audio_plan *plan, float *out);
void edge_audio_weights(const edge_audio_plan *plan, float *out);

#endif
