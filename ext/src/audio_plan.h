/* What is known before any sample comes. */
#ifndef EDGE_SDK_AUDIO_PLAN_H
#define EDGE_SDK_AUDIO_PLAN_H

#include "audio_kernel.h"

typedef struct {
    float cosine, sine;
} edge_turn;

struct edge_audio_plan {
    edge_audio_options options;
    float *window;    /* [frame_length]; halved, which the split of the transform wants */
    edge_turn *turns; /* of every stage: w^j, w^2j, w^3j for j in 1 .. a quarter of its length */
    edge_turn *split; /* [fft_length / 4 + 1] */
    uint32_t *places; /* [fft_length / 2]: where the transform leaves each of its outputs */
    uint32_t *first;  /* [mels]: first bin of each band */
    uint32_t *ends;   /* [mels]: end of its weights in `weights`; they begin where the last band's end */
    float *weights;
    float *cosines; /* [mfcc, mels] */
};

#endif
