/* The work on LANES frames side by side: every frame is a lane of its own, so the bits of a frame do not
 * depend on its neighbours, on the width of vectors, or on how a recording was cut.
 *
 * Included once for each instruction set, with NAME, TARGET, LANES, the vector type V and
 * its unaligned like U.
 *
 *   1. load: samples times window, turned so that lanes lie side by side; even samples are the real
 *      parts of half as many complex numbers, odd ones the imaginary parts;
 *   2. transform: radix 4 (and one stage of radix 2 where the length asks for it), decimation in
 *      frequency, in place; nothing is moved back into order, `places` says where things are;
 *   3. split: the spectrum of the real samples from that of the pairs, and its power;
 *   4. bands: sparse sums;
 *   5. logarithm, cepstrum, and turning back.
 */
#define AT(p, i) (*(V *)((p) + (i) * LANES))
#define PART(p, i) (*(const U *)((p) + (i)))
#define RE(i) AT(z, 2 * (i))
#define IM(i) AT(z, 2 * (i) + 1)

/* Of as many samples of each frame as there are lanes, times window: the same turned, and stored. Without
 * loops, which some compilers would not keep in registers. */
#if defined(SHUFFLE) && LANES == 8
TARGET static inline void NAME(load_square)(const float *const rows[8], const float *window, size_t i, float *z)
{
    V w = PART(window, i);
#define PAIRS(x, y) (SHUFFLE(x, y, 0, 8, 1, 9, 4, 12, 5, 13)), (SHUFFLE(x, y, 2, 10, 3, 11, 6, 14, 7, 15))
#define FOURS(x, y) (SHUFFLE(x, y, 0, 1, 8, 9, 4, 5, 12, 13)), (SHUFFLE(x, y, 2, 3, 10, 11, 6, 7, 14, 15))
    V a[2] = {PAIRS(PART(rows[0], i) * w, PART(rows[1], i) * w)};
    V b[2] = {PAIRS(PART(rows[2], i) * w, PART(rows[3], i) * w)};
    V c[2] = {PAIRS(PART(rows[4], i) * w, PART(rows[5], i) * w)};
    V d[2] = {PAIRS(PART(rows[6], i) * w, PART(rows[7], i) * w)};
    V e[4] = {FOURS(a[0], b[0]), FOURS(a[1], b[1])}, f[4] = {FOURS(c[0], d[0]), FOURS(c[1], d[1])};
    AT(z, i) = SHUFFLE(e[0], f[0], 0, 1, 2, 3, 8, 9, 10, 11);
    AT(z, i + 1) = SHUFFLE(e[1], f[1], 0, 1, 2, 3, 8, 9, 10, 11);
    AT(z, i + 2) = SHUFFLE(e[2], f[2], 0, 1, 2, 3, 8, 9, 10, 11);
    AT(z, i + 3) = SHUFFLE(e[3], f[3], 0, 1, 2, 3, 8, 9, 10, 11);
    AT(z, i + 4) = SHUFFLE(e[0], f[0], 4, 5, 6, 7, 12, 13, 14, 15);
    AT(z, i + 5) = SHUFFLE(e[1], f[1], 4, 5, 6, 7, 12, 13, 14, 15);
    AT(z, i + 6) = SHUFFLE(e[2], f[2], 4, 5, 6, 7, 12, 13, 14, 15);
    AT(z, i + 7) = SHUFFLE(e[3], f[3], 4, 5, 6, 7, 12, 13, 14, 15);
#undef PAIRS
#undef FOURS
}
#elif defined(SHUFFLE) && LANES == 4
TARGET static inline void NAME(load_square)(const float *const rows[4], const float *window, size_t i, float *z)
{
    V w = PART(window, i);
    V a = PART(rows[0], i) * w, b = PART(rows[1], i) * w, c = PART(rows[2], i) * w, d = PART(rows[3], i) * w;
    V e = SHUFFLE(a, b, 0, 4, 1, 5), f = SHUFFLE(a, b, 2, 6, 3, 7);
    V g = SHUFFLE(c, d, 0, 4, 1, 5), h = SHUFFLE(c, d, 2, 6, 3, 7);
    AT(z, i) = SHUFFLE(e, g, 0, 1, 4, 5);
    AT(z, i + 1) = SHUFFLE(e, g, 2, 3, 6, 7);
    AT(z, i + 2) = SHUFFLE(f, h, 0, 1, 4, 5);
    AT(z, i + 3) = SHUFFLE(f, h, 2, 3, 6, 7);
}
#else
TARGET static inline void NAME(load_square)(const float *const rows[LANES], const float *window, size_t i, float *z)
{
    for (size_t j = i; j < i + LANES; j++)
        for (size_t l = 0; l < LANES; l++)
            z[j * LANES + l] = rows[l][j] * window[j];
}
#endif

TARGET static void NAME(load)(const edge_audio_plan *plan, const float *const rows[LANES], float *z)
{
    size_t length = plan->options.frame_length, i = 0;
    const float *window = plan->window;
    for (; i + LANES <= length; i += LANES)
        NAME(load_square)(rows, window, i, z);
    for (; i < length; i++)
        for (size_t l = 0; l < LANES; l++)
            z[i * LANES + l] = rows[l][i] * window[i];
    memset(z + length * LANES, 0, (plan->options.fft_length - length) * LANES * sizeof *z);
}

TARGET static void NAME(transform)(const edge_audio_plan *plan, float *z)
{
    size_t count = plan->options.fft_length / 2, n = count;
    const edge_turn *turns = plan->turns;
    for (; n >= 4; n /= 4) {
        size_t q = n / 4;
        for (size_t j = 0; j < q; j++) {
            edge_turn one = {1.0f, 0.0f}, two = one, three = one;
            if (j > 0) {
                one = turns[0];
                two = turns[1];
                three = turns[2];
                turns += 3;
            }
            for (size_t at = j; at < count; at += n) {
                V a = RE(at), b = RE(at + q), c = RE(at + 2 * q), d = RE(at + 3 * q);
                V e = IM(at), f = IM(at + q), g = IM(at + 2 * q), h = IM(at + 3 * q);
                V s = a + c, t = b + d, u = e + g, v = f + h;
                RE(at) = s + t;
                IM(at) = u + v;
                V even_re = s - t, even_im = u - v;
                s = a - c, u = e - g;
                t = f - h, v = d - b; /* -i (b + i f - d - i h) = t + i v */
                V up_re = s + t, up_im = u + v, down_re = s - t, down_im = u - v;
                if (j == 0) {
                    RE(at + q) = up_re;
                    IM(at + q) = up_im;
                    RE(at + 2 * q) = even_re;
                    IM(at + 2 * q) = even_im;
                    RE(at + 3 * q) = down_re;
                    IM(at + 3 * q) = down_im;
                } else {
                    RE(at + q) = up_re * one.cosine - up_im * one.sine;
                    IM(at + q) = up_re * one.sine + up_im * one.cosine;
                    RE(at + 2 * q) = even_re * two.cosine - even_im * two.sine;
                    IM(at + 2 * q) = even_re * two.sine + even_im * two.cosine;
                    RE(at + 3 * q) = down_re * three.cosine - down_im * three.sine;
                    IM(at + 3 * q) = down_re * three.sine + down_im * three.cosine;
                }
            }
        }
    }
    if (n == 2)
        for (size_t at = 0; at < count; at += 2) {
            V a = RE(at), b = RE(at + 1), e = IM(at), f = IM(at + 1);
            RE(at) = a + b;
            IM(at) = e + f;
            RE(at + 1) = a - b;
            IM(at + 1) = e - f;
        }
}

/* Leaves the power of bin k where the real part of output k was. Bins 0 and fft_length / 2 are not made:
 * no band has them. */
TARGET static void NAME(split)(const edge_audio_plan *plan, float *z)
{
    size_t count = plan->options.fft_length / 2;
    for (size_t k = 1; k <= count / 2; k++) {
        size_t low = plan->places[k], high = plan->places[count - k];
        float cosine = plan->split[k].cosine, sine = plan->split[k].sine;
        V a = RE(low), b = IM(low), c = RE(high), d = IM(high);
        V even_re = a + c, even_im = b - d, odd_re = a - c, odd_im = b + d;
        /* -i (cosine + i sine) (odd_re + i odd_im) */
        V t_re = odd_re * sine + odd_im * cosine, t_im = odd_im * sine - odd_re * cosine;
        V x = even_re + t_re, y = even_im + t_im;
        RE(low) = x * x + y * y;
        x = even_re - t_re, y = even_im - t_im;
        RE(high) = x * x + y * y;
    }
    if (plan->options.magnitude)
        for (size_t k = 0; k < count; k++)
            for (size_t l = 0; l < LANES; l++)
                z[2 * k * LANES + l] = sqrtf(z[2 * k * LANES + l]);
}

TARGET static void NAME(bands)(const edge_audio_plan *plan, const float *z, float *out)
{
    const uint32_t *places = plan->places;
    const float *weights = plan->weights;
    uint32_t from = 0;
    for (size_t m = 0; m < plan->options.mels; m++) {
        const uint32_t *place = places + plan->first[m];
        uint32_t end = plan->ends[m];
        V sum = {0};
        for (; from < end; from++)
            sum += AT(z, 2 * (size_t)*place++) * weights[from];
        AT(out, m) = sum;
    }
}

TARGET static void NAME(logarithms)(float *x, size_t count, float floor)
{
    for (size_t i = 0; i < count; i++)
        x[i] = one_log(x[i] + floor);
}

TARGET static void NAME(cepstra)(const edge_audio_plan *plan, const float *x, float *out)
{
    const float *cosines = plan->cosines;
    for (size_t c = 0; c < plan->options.mfcc; c++) {
        V sum = {0};
        for (size_t m = 0; m < plan->options.mels; m++)
            sum += AT(x, m) * *cosines++;
        AT(out, c) = sum;
    }
}

TARGET static void NAME(run)(const edge_audio_plan *plan, const float *x, const int16_t *pcm, size_t frames,
                             float *z, float *out)
{
    const edge_audio_options *o = &plan->options;
    float *mels = z + o->fft_length * LANES, *cepstra = mels + o->mels * LANES;
    float *samples = cepstra + o->mfcc * LANES;
    size_t columns = o->mfcc > 0 ? o->mfcc : o->mels;
    for (size_t frame = 0; frame < frames; frame += LANES) {
        size_t lanes = frames - frame < LANES ? frames - frame : LANES;
        const float *rows[LANES];
        for (size_t l = 0; l < LANES; l++) {
            size_t from = (frame + (l < lanes ? l : lanes - 1)) * o->frame_step; /* idle lanes repeat the last */
            if (pcm == NULL) {
                rows[l] = x + from;
                continue;
            }
            if (l >= lanes) {
                rows[l] = rows[lanes - 1];
                continue;
            }
            float *row = samples + l * o->frame_length;
            for (size_t i = 0; i < o->frame_length; i++)
                row[i] = (float)pcm[from + i] * (1.0f / 32768.0f);
            rows[l] = row;
        }
        NAME(load)(plan, rows, z);
        NAME(transform)(plan, z);
        NAME(split)(plan, z);
        NAME(bands)(plan, z, mels);
        NAME(logarithms)(mels, o->mels * LANES, o->floor);
        const float *from = mels;
        if (o->mfcc > 0) {
            NAME(cepstra)(plan, mels, cepstra);
            from = cepstra;
        }
        for (size_t l = 0; l < lanes; l++, out += columns)
            for (size_t i = 0; i < columns; i++)
                out[i] = from[i * LANES + l];
    }
}

#undef AT
#undef PART
#undef RE
#undef IM
