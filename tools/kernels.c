/* Runs every kernel on made-up inputs and prints one hash of each one's results: equal hashes are equal bits.
 * tools/kernels.py compiles it for other compilers and processors, and under sanitizers. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "audio_kernel.h"
#include "detection_kernel.h"
#include "image_kernel.h"
#include "quantization_kernel.h"
#include "scores_kernel.h"
#include "signals_kernel.h"
#include "tables_kernel.h"

static uint64_t state = 88172645463325252u;

static uint32_t number(void) /* xorshift */
{
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return (uint32_t)(state >> 16);
}

static float real(float low, float high)
{
    return low + (high - low) * (float)(number() >> 8) * (1.0f / 16777216.0f);
}

static void *memory(size_t bytes) /* exactly so many, so that a sanitizer sees one too many */
{
    void *got = malloc(bytes);
    if (got == NULL)
        exit(2);
    return got;
}

static uint64_t hashed(uint64_t hash, const void *data, size_t bytes) /* FNV-1a */
{
    const unsigned char *at = data;
    for (size_t i = 0; i < bytes; i++)
        hash = (hash ^ at[i]) * 1099511628211u;
    return hash;
}

#define START 14695981039346656037u

static void told(const char *name, uint64_t hash)
{
    printf("%-14s %016llx\n", name, (unsigned long long)hash);
}

static void quantization(void)
{
    uint64_t hash = START;
    for (int round = 0; round < 60; round++) {
        size_t outer = 1 + number() % 5, channels = 1 + number() % 40, inner = round % 3 ? 1 + number() % 70 : 1;
        size_t count = outer * channels * inner;
        float *x = memory(count * sizeof *x), *back = memory(count * sizeof *back);
        float *scales = memory(channels * sizeof *scales);
        int32_t *zeros = memory(channels * sizeof *zeros), *wide = memory(count * sizeof *wide);
        int8_t *q = memory(count);
        uint8_t *u = memory(count);
        for (size_t i = 0; i < count; i++) {
            x[i] = real(-300, 300);
            wide[i] = (int32_t)number();
        }
        for (size_t i = 0; i < channels; i++) {
            scales[i] = real(0.01f, 3);
            zeros[i] = (int32_t)(number() % 128);
        }
        edge_affine affine = {outer, channels, inner, scales, zeros};
        edge_quantize_int8(x, q, &affine);
        edge_quantize_uint8(x, u, &affine);
        hash = hashed(hashed(hash, q, count), u, count);
        edge_dequantize_int8(q, back, &affine);
        hash = hashed(hash, back, count * sizeof *back);
        edge_dequantize_uint8(u, back, &affine);
        hash = hashed(hash, back, count * sizeof *back);
        edge_dequantize_int32(wide, back, &affine);
        hash = hashed(hash, back, count * sizeof *back);
        free(x), free(back), free(scales), free(zeros), free(wide), free(q), free(u);
    }
    told("quantization", hash);
}

static void scores(void)
{
    uint64_t hash = START;
    for (int round = 0; round < 90; round++) {
        size_t rows = 1 + number() % 3, classes = 1 + number() % 1500, top = 1 + number() % 7;
        size_t count = rows * classes, bad = 0;
        edge_scores x = {NULL, (edge_scores_type)(round % 3), rows, classes, 0.1f, 3};
        void *data = memory(count * (round % 3 ? 1 : sizeof(float)));
        float *out = memory(count * sizeof *out), *facts = memory(rows * 3 * sizeof *facts);
        top = top < classes ? top : classes;
        int64_t *indices = memory(rows * top * sizeof *indices);
        for (size_t i = 0; i < count; i++) {
            if (round % 3)
                ((uint8_t *)data)[i] = (uint8_t)number();
            else
                ((float *)data)[i] = real(-30, 30);
        }
        x.data = data;
        if (edge_summarize(&x, out, 1.0 + round % 4, top, indices, facts, &bad) != 0)
            exit(3);
        hash = hashed(hashed(hash, out, count * sizeof *out), facts, rows * 3 * sizeof *facts);
        hash = hashed(hash, indices, rows * top * sizeof *indices);
        edge_softmax(&x, out, 0.7, &bad);
        hash = hashed(hash, out, count * sizeof *out);
        free(data), free(out), free(facts), free(indices);
    }
    told("scores", hash);
}

static void detection(void)
{
    static const edge_detection_type types[] = {EDGE_DETECTION_FLOAT32, EDGE_DETECTION_INT8, EDGE_DETECTION_UINT8};
    uint64_t hash = START;
    for (int round = 0; round < 60; round++) {
        size_t anchors = 1 + number() % 700, classes = 1 + number() % 90, limit = 1 + number() % 50;
        size_t size = round % 3 ? 1 : sizeof(float);
        void *boxes = memory(anchors * 4 * size), *of_classes = memory(anchors * classes * size);
        float *priors = memory(anchors * 4 * sizeof *priors);
        for (size_t i = 0; i < anchors * 4; i++) {
            priors[i] = real(0.05f, 0.9f);
            if (round % 3)
                ((uint8_t *)boxes)[i] = (uint8_t)number();
            else
                ((float *)boxes)[i] = real(0, 1);
        }
        for (size_t i = 0; i < anchors * classes; i++) {
            if (round % 3)
                ((uint8_t *)of_classes)[i] = (uint8_t)number();
            else
                ((float *)of_classes)[i] = real(0, 1);
        }
        edge_detection_job job = {
            .boxes = {boxes, types[round % 3], 0.004f, 0},
            .scores = {of_classes, types[round % 3], 0.004f, 0},
            .anchors = anchors,
            .classes = classes,
            .planar = round % 2,
            .form = round % 2 ? EDGE_DETECTION_CENTRES : EDGE_DETECTION_OFFSETS,
            .priors = priors,
            .variances = {0.1, 0.2},
            .width = 320,
            .height = 300,
            .score_threshold = 0.45f,
            .iou_threshold = 0.4,
            .limit = limit,
        };
        edge_detection_found found = {
            memory(limit * 4 * sizeof(float)),
            memory(limit * sizeof(float)),
            memory(limit * sizeof(int32_t)),
            memory(limit * sizeof(int32_t)),
        };
        ptrdiff_t count = edge_detection_run(&job, &found);
        if (count < 0)
            exit(2);
        hash = hashed(hash, &count, sizeof count);
        hash = hashed(hash, found.boxes, (size_t)count * 4 * sizeof(float));
        hash = hashed(hash, found.scores, (size_t)count * sizeof(float));
        hash = hashed(hash, found.classes, (size_t)count * sizeof(int32_t));
        hash = hashed(hash, found.anchors, (size_t)count * sizeof(int32_t));
        free(boxes), free(of_classes), free(priors);
        free(found.boxes), free(found.scores), free(found.classes), free(found.anchors);
    }
    told("detection", hash);
}

static uint64_t one_image(enum edge_image_path path)
{
    static const int channels[] = {1, 3, 3, 4, 4, 1, 2};
    static const float yuv[] = {16.0f, 1.164f, 1.596f, -0.392f, -0.813f, 2.017f};
    static const float mean[] = {101.5f, 116.25f, 123.0f}, gain[] = {0.017f, -0.4f, 1.0f};
    static const size_t sizes[] = {4, 1, 1, 2};
    uint64_t hash = START;
    state = 362436069u;
    for (int round = 0; round < 420; round++) {
        enum edge_image_format format = (enum edge_image_format)(round % EDGE_IMAGE_FORMATS);
        int height = 1 + (int)(number() % 50), width = 1 + (int)(number() % 90);
        width += format == EDGE_IMAGE_YUYV && width % 2;
        int out_height = 1 + (int)(number() % 40), out_width = 1 + (int)(number() % 60);
        int video = format == EDGE_IMAGE_NV12 || format == EDGE_IMAGE_YUYV, of_out = number() % 2 ? 3 : 1;
        int nearest = number() % 3 == 0, antialias = !nearest && !video && number() % 3 == 0;
        enum edge_image_type type = (enum edge_image_type)(number() % 4);
        size_t stride = (size_t)width * (size_t)channels[format], count = (size_t)out_height * out_width * of_out;
        int half_height = (height + 1) / 2, half_width = (width + 1) / 2;
        uint8_t *plane = memory(stride * height), *chroma = memory((size_t)half_height * half_width * 2);
        for (size_t i = 0; i < stride * height; i++)
            plane[i] = (uint8_t)number();
        for (size_t i = 0; i < (size_t)half_height * half_width * 2; i++)
            chroma[i] = (uint8_t)number();
        edge_image_job job = {
            .format = format,
            .height = height,
            .width = width,
            .window_height = height,
            .window_width = width,
            .out_height = out_height,
            .out_width = out_width,
            .out_channels = of_out,
            .inner_height = out_height,
            .inner_width = out_width,
            .fill = 114.0f,
            .nearest = nearest,
            .antialias = antialias,
            .yuv = yuv,
            .mean = mean,
            .gain = gain,
            .planar = (int)(number() % 2),
            .zero_point = 5,
            .type = type,
        };
        edge_image_frame frame = {{plane, chroma}, {(ptrdiff_t)stride, half_width * 2}};
        if (round % 4 == 0) { /* a part of each */
            job.top = (int)(number() % (unsigned)height), job.window_height = height - job.top;
            job.left = (int)(number() % (unsigned)width), job.window_width = width - job.left;
            job.inner_top = (int)(number() % (unsigned)out_height), job.inner_height = out_height - job.inner_top;
        }
        void *out = memory(count * sizes[type]);
        edge_image_plan *plan = edge_image_plan_new(&job);
        if (plan == NULL || edge_image_run(plan, path, &frame, out) != 0)
            exit(2);
        hash = hashed(hash, out, count * sizes[type]);
        edge_image_plan_free(plan);
        free(plane), free(chroma), free(out);
    }
    return hash;
}

static void image(void)
{
    uint64_t hash = one_image(EDGE_IMAGE_SCALAR);
    for (int path = 0; path < EDGE_IMAGE_PATHS; path++)
        if (edge_image_has((enum edge_image_path)path) && one_image((enum edge_image_path)path) != hash) {
            fprintf(stderr, "image: path %d gives other bits than plain C\n", path);
            exit(1);
        }
    told("image", hash);
}

static void audio(void)
{
    uint64_t hash = START;
    for (int round = 0; round < 8; round++) {
        edge_audio_options options = {
            .frame_length = 200 + 40 * (size_t)round,
            .frame_step = 160,
            .fft_length = 512,
            .mels = 20 + 5 * (size_t)round,
            .mfcc = round % 2 ? 13 : 0,
            .sample_rate = 16000,
            .low_hz = 60,
            .high_hz = 7600,
            .floor = 1e-6f,
            .magnitude = round % 4 < 2,
        };
        size_t frames = 1 + number() % 20, columns = options.mfcc ? options.mfcc : options.mels;
        size_t samples = options.frame_length + (frames - 1) * options.frame_step;
        float *x = memory(samples * sizeof *x), *out = memory(frames * columns * sizeof *out);
        for (size_t i = 0; i < samples; i++)
            x[i] = real(-1, 1);
        edge_audio_plan *plan = edge_audio_make(&options);
        if (plan == NULL)
            exit(2);
        void *scratch = memory(edge_audio_scratch(plan));
        uint64_t first = 0;
        for (int path = 0; path < EDGE_AUDIO_PATHS; path++)
            if (edge_audio_has((enum edge_audio_path)path)) {
                edge_audio_run(plan, (enum edge_audio_path)path, x, NULL, frames, scratch, out);
                uint64_t this = hashed(START, out, frames * columns * sizeof *out);
                first = first ? first : this;
                if (this != first) {
                    fprintf(stderr, "audio: path %d gives other bits than the first\n", path);
                    exit(1);
                }
            }
        hash = hashed(hash, &first, sizeof first);
        edge_audio_free(plan);
        free(x), free(out), free(scratch);
    }
    told("audio", hash);
}

static void signals(void)
{
    uint64_t hash = START;
    for (int round = 0; round < 60; round++) {
        int wide = round % 2;
        size_t rows = 1 + number() % 4, classes = 1 + number() % (round % 3 ? EDGE_MOST_CLASSES : 1500), bad_row = 0;
        size_t count = rows * classes, features = edge_feature_count(classes);
        double *p = memory(count * sizeof *p), *weights = memory(2 * (features + 1) * sizeof *weights), sum = 0;
        double *values = memory(rows * sizeof *values), *confidences = memory(rows * sizeof *confidences);
        double *described = memory(rows * features * sizeof *described);
        float *narrow = memory(count * sizeof *narrow);
        for (size_t row = 0; row < rows; row++) {
            double total = 0;
            for (size_t i = row * classes; i < (row + 1) * classes; i++) {
                double level = number() % 7 ? real(0.0f, 1.0f) : 0.0;
                p[i] = i % classes ? level * level * level : 0.125;
                total += p[i];
            }
            for (size_t i = row * classes; i < (row + 1) * classes; i++)
                narrow[i] = (float)(p[i] /= total);
        }
        for (size_t i = 0; i < 2 * (features + 1); i++)
            weights[i] = real(-0.8f, 0.8f);
        const void *x = wide ? (const void *)p : (const void *)narrow;
        for (int kind = EDGE_MAX_PROBABILITY; kind <= (classes > EDGE_MOST_CLASSES ? EDGE_ENERGY : EDGE_LEARNED); kind++) {
            edge_signal signal = {kind, kind == EDGE_LEARNED ? 1.0 : 1.0 / (0.5 + round % 4), weights};
            if (edge_signals(x, wide, rows, classes, &signal, 1e-3, values, confidences, &bad_row, &sum))
                exit(3);
            hash = hashed(hashed(hash, values, rows * sizeof *values), confidences, rows * sizeof *confidences);
        }
        if (classes <= EDGE_MOST_CLASSES) {
            if (edge_features(x, wide, rows, classes, described, &bad_row, &sum))
                exit(3);
            hash = hashed(hash, described, rows * features * sizeof *described);
        }
        p[count - 1] = -1.0;
        if (edge_check(p, 1, rows, classes, 1e-3, &bad_row, &sum) != EDGE_NEGATIVE || bad_row != rows - 1)
            exit(3);
        free(p), free(weights), free(values), free(confidences), free(described), free(narrow);
    }
    told("signals", hash);
}

static void tables(void)
{
    uint64_t hash = START;
    for (int round = 0; round < 90; round++) {
        size_t rows = 1 + number() % 40, columns = 1 + number() % 12, features = 0, coded = 0;
        edge_column *column = memory(columns * sizeof *column);
        float *codes = memory(columns * 5 * sizeof *codes);
        for (size_t i = 0; i < columns; i++) {
            enum edge_column_kind kind = (enum edge_column_kind)(number() % 3);
            size_t count = kind == EDGE_NUMBER ? 0 : 1 + number() % 5;
            column[i] = (edge_column){kind, 0.5, -40, 60, real(-3, 3), real(0.01f, 2), coded, count};
            for (size_t k = 0; k < count; k++)
                codes[coded++] = (float)(number() % 9);
            features += kind == EDGE_ONE_HOT ? count + 1 : 1;
        }
        double *x = memory(rows * columns * sizeof *x);
        float *narrow = memory(rows * columns * sizeof *narrow), *out = memory(rows * features * sizeof *out);
        int8_t *q = memory(rows * features);
        uint8_t *u = memory(rows * features);
        for (size_t i = 0; i < rows * columns; i++) {
            x[i] = column[i % columns].kind == EDGE_NUMBER ? (double)real(-90, 90) : (double)(number() % 9);
            x[i] = number() % 9 ? x[i] : strtod("nan", NULL);
            narrow[i] = (float)x[i];
        }
        edge_table table = {rows, columns, column, codes, 3};
        ptrdiff_t bad = edge_table_f64_f32(x, out, &table);
        hash = hashed(hashed(hash, out, rows * features * sizeof *out), &bad, sizeof bad);
        bad = edge_table_f32_f32(narrow, out, &table);
        hash = hashed(hashed(hash, out, rows * features * sizeof *out), &bad, sizeof bad);
        if (edge_table_f64_i8(x, q, &table) != bad || edge_table_f64_u8(x, u, &table) != bad)
            exit(3);
        hash = hashed(hashed(hash, q, rows * features), u, rows * features);
        if (edge_table_f32_i8(narrow, q, &table) != bad || edge_table_f32_u8(narrow, u, &table) != bad)
            exit(3);
        hash = hashed(hashed(hash, q, rows * features), u, rows * features);
        free(column), free(codes), free(x), free(narrow), free(out), free(q), free(u);
    }
    told("tables", hash);
}

int main(void)
{
    quantization();
    scores();
    detection();
    image();
    audio();
    signals();
    tables();
    return 0;
}
