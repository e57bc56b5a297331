/* The image kernel's steps in vectors: included once for each instruction set, which has defined
 * V, F (vectors of bytes and of float32), WIDE (floats in F), TARGET, NAME and the v_ functions.
 * All of them work within lanes of 128 bits, so a lane of 4 columns is all there is to think about.
 */

/* Rows of pixels with one byte in the upper half of each 16 bits: blend them to 7 more bits, then
 * pairs of columns to 15 more. */
TARGET static inline F NAME(blend)(V a, V b, V weight, V columns)
{
    V low = v_halve(a);
    V level = v_add16(low, v_scale(v_sub16(v_halve(b), low), weight));
    return v_float(v_pairs(level, columns));
}

TARGET static void NAME(sample8)(const edge_columns *columns, const edge_row_job *job)
{
    V weight = v_set16(job->weight);
    V both = v_table(columns->table[0]), low = v_table(columns->table[1]), high = v_table(columns->table[2]);
    int three = columns->rows == 3;
    for (size_t x = job->from; x < job->to; x += WIDE) {
        const int *at = columns->offsets + x;
        /* four columns a lane: 0 1, then 2 3 */
        V a0 = v_gather8(job->a, at), b0 = v_gather8(job->b, at);
        V a1 = v_gather8(job->a, at + 2), b1 = v_gather8(job->b, at + 2);
        F even = NAME(blend)(v_shuffle(a0, both), v_shuffle(b0, both), weight, v_load(columns->even + x));
        F odd = NAME(blend)(v_shuffle(a1, both), v_shuffle(b1, both), weight, v_load(columns->odd + x));
        f_store(job->rows[0] + x, f_low(even, odd));
        f_store(job->rows[1] + x, f_high(even, odd));
        if (three) {
            V a = v_or(v_shuffle(a0, low), v_shuffle(a1, high)), b = v_or(v_shuffle(b0, low), v_shuffle(b1, high));
            f_store(job->rows[2] + x, NAME(blend)(a, b, weight, v_load(columns->weights + x)));
        }
    }
}

TARGET static void NAME(sample4)(const edge_columns *columns, const edge_row_job *job)
{
    V weight = v_set16(job->weight);
    V first = v_table(columns->table[0]), second = v_table(columns->table[1]);
    int two = columns->rows == 2;
    for (size_t x = job->from; x < job->to; x += WIDE) {
        V a = v_gather4(job->a, columns->offsets + x), b = v_gather4(job->b, columns->offsets + x);
        V pairs = v_load(columns->weights + x);
        f_store(job->rows[0] + x, NAME(blend)(v_shuffle(a, first), v_shuffle(b, first), weight, pairs));
        if (two)
            f_store(job->rows[1] + x, NAME(blend)(v_shuffle(a, second), v_shuffle(b, second), weight, pairs));
    }
}

TARGET static void NAME(sample)(const edge_columns *columns, const edge_row_job *job)
{
    if (columns->load == 8)
        NAME(sample8)(columns, job);
    else
        NAME(sample4)(columns, job);
}

TARGET static inline F NAME(clipped)(F level)
{
    return f_min(f_max(level, f_set(255.0f * EDGE_UNIT)), f_set(0.0f));
}

TARGET static void NAME(yuv)(float *const rows[3], const float *k, size_t count)
{
    F black = f_set(k[0] * EDGE_UNIT), middle = f_set(128.0f * EDGE_UNIT);
    F luma = f_set(k[1]), vr = f_set(k[2]), ug = f_set(k[3]), vg = f_set(k[4]), ub = f_set(k[5]);
    for (size_t x = 0; x < count; x += WIDE) { /* rows are padded */
        F y = f_mul(f_sub(f_load(rows[0] + x), black), luma);
        F u = f_sub(f_load(rows[1] + x), middle), v = f_sub(f_load(rows[2] + x), middle);
        f_store(rows[0] + x, NAME(clipped)(f_add(y, f_mul(v, vr))));
        f_store(rows[1] + x, NAME(clipped)(f_add(f_add(y, f_mul(u, ug)), f_mul(v, vg))));
        f_store(rows[2] + x, NAME(clipped)(f_add(y, f_mul(u, ub))));
    }
}

TARGET static void NAME(luma)(float *const rows[3], size_t count)
{
    F r = f_set(LUMA_R), g = f_set(LUMA_G), b = f_set(LUMA_B);
    for (size_t x = 0; x < count; x += WIDE)
        f_store(rows[0] + x, f_add(f_add(f_mul(r, f_load(rows[0] + x)), f_mul(g, f_load(rows[1] + x))),
                                   f_mul(b, f_load(rows[2] + x))));
}

TARGET static void NAME(to_float)(float *to, const float *row, float offset, float gain, size_t count)
{
    F o = f_set(offset), g = f_set(gain);
    size_t x = 0;
    for (; x + WIDE <= count; x += WIDE)
        f_store(to + x, f_mul(f_sub(o, f_load(row + x)), g));
    for (; x < count; x++)
        to[x] = one_float(row[x], offset, gain);
}

TARGET static void NAME(to_half)(uint16_t *to, const float *row, size_t count)
{
    size_t x = 0;
#ifdef HALF_WIDE
    for (; x + WIDE <= count; x += WIDE)
        f_store_half(to + x, f_load(row + x));
#endif
    for (; x < count; x++)
        to[x] = one_half(row[x]);
}

TARGET static void NAME(to_byte)(uint8_t *to, const float *row, float offset, float gain, float low, float high,
                                 int zero, size_t count)
{
    F o = f_set(offset), g = f_set(gain), least = f_set(low), most = f_set(high);
    V shift = v_set32(zero);
    size_t x = 0;
    for (; x + 4 * WIDE <= count; x += 4 * WIDE) {
        V q[4];
        for (int i = 0; i < 4; i++) {
            F value = f_mul(f_sub(o, f_load(row + x + i * WIDE)), g);
            q[i] = v_add32(v_round(f_min(f_max(value, least), most)), shift);
        }
        v_store_bytes(to + x, q[0], q[1], q[2], q[3]);
    }
    for (; x < count; x++)
        to[x] = one_byte(row[x], offset, gain, low, high, zero);
}

TARGET static void NAME(weave_float)(float *to, const float *r, const float *g, const float *b, size_t count)
{
    size_t x = 0;
    for (; x + 4 <= count; x += 4)
        f4_store3(to + 3 * x, r + x, g + x, b + x);
    for (; x < count; x++) {
        to[3 * x] = r[x];
        to[3 * x + 1] = g[x];
        to[3 * x + 2] = b[x];
    }
}

TARGET static void NAME(weave_byte)(uint8_t *to, const uint8_t *r, const uint8_t *g, const uint8_t *b, size_t count)
{
    size_t x = 0;
    for (; x + 16 <= count; x += 16)
        v16_store3(to + 3 * x, r + x, g + x, b + x);
    for (; x < count; x++) {
        to[3 * x] = r[x];
        to[3 * x + 1] = g[x];
        to[3 * x + 2] = b[x];
    }
}

static const edge_image_ops NAME(ops) = {
    NAME(sample),  NAME(yuv),     NAME(luma),        NAME(to_float),
    NAME(to_half), NAME(to_byte), NAME(weave_float), NAME(weave_byte),
};

#undef V
#undef F
#undef WIDE
#undef TARGET
#undef NAME
#undef HALF_WIDE
