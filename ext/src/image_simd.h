/* The image kernel's steps in vectors: included once for each instruction set, which has defined
 * V, F (vectors of bytes and of float32), WIDE (floats in F), TARGET, INLINE, NAME and the v_ functions.
 * All of them work within lanes of 128 bits, so a lane of 4 columns is all there is to think about.
 */

/* Rows of pixels with one byte in the upper half of each 16 bits: blend them to 7 more bits, then
 * pairs of columns to 15 more. */
INLINE F NAME(blend)(V a, V b, V weight, V columns)
{
    V low = v_halve(a);
    V level = v_add16(low, v_scale(v_sub16(v_halve(b), low), weight));
    return v_float(v_pairs(level, columns));
}

/* Columns [from, to) of three values, or of two where not `three`. The flags are constants: each combination
 * is compiled by itself. Everything is in variables because stores could change what `job` points to. */
INLINE void NAME(wide)(const edge_columns *columns, const edge_row_job *job, int three, int is_near, int finished)
{
    V weight = v_set16(job->weight);
    V t0 = v_table(columns->table[0]), t1 = t0, t2 = v_table(columns->table[1]), t3 = v_table(columns->table[2]);
    const edge_eight *eights = columns->eights;
    const uint8_t *row_a = job->a, *row_b = job->b;
    float *to0 = job->rows[0], *to1 = job->rows[1], *to2 = three ? job->rows[2] : NULL;
    ptrdiff_t ahead = job->ahead;
    size_t end = job->to;
    F offset[3], gain[3];
    for (int c = 0; finished && c < 3; c++) {
        offset[c] = f_set(job->offset[c]);
        gain[c] = f_set(job->gain[c]);
    }
    for (size_t x = job->from; x < end; x += WIDE) {
        const edge_eight *eight = eights + x / 8;
        const size_t half = WIDE == 8 ? 0 : x % 8; /* its second four columns, where a vector takes four */
        const int32_t *at = eight->offsets + half;
        V a0, a1, b0, b1; /* four columns a lane: 0 1, then 2 3 */
        if (is_near) {
            a0 = v_near(row_a, at), b0 = v_near(row_b, at);
            a1 = v_near(row_a, at + 2), b1 = v_near(row_b, at + 2);
            t0 = v_load(eight->near[0] + 4 * half);
            t1 = v_load(eight->near[1] + 4 * half);
            t2 = v_load(eight->near[2] + 4 * half);
            t3 = v_load(eight->near[3] + 4 * half);
        } else {
            a0 = v_gather8(row_a, at), b0 = v_gather8(row_b, at);
            a1 = v_gather8(row_a, at + 2), b1 = v_gather8(row_b, at + 2);
            for (int i = 0; i < WIDE; i += 2) { /* so far apart, processors do not see what comes next */
                __builtin_prefetch(row_a + ahead + at[i]);
                __builtin_prefetch(row_b + ahead + at[i]);
            }
        }
        F even = NAME(blend)(v_shuffle(a0, t0), v_shuffle(b0, t0), weight, v_load(eight->even + half));
        F odd = NAME(blend)(v_shuffle(a1, t1), v_shuffle(b1, t1), weight, v_load(eight->odd + half));
        F first = f_low(even, odd), second = f_high(even, odd);
        f_store(to0 + x, finished ? f_mul(f_sub(offset[0], first), gain[0]) : first);
        f_store(to1 + x, finished ? f_mul(f_sub(offset[1], second), gain[1]) : second);
        if (three) {
            V a = v_or(v_shuffle(a0, t2), v_shuffle(a1, t3)), b = v_or(v_shuffle(b0, t2), v_shuffle(b1, t3));
            F third = NAME(blend)(a, b, weight, v_load(eight->weights + half));
            f_store(to2 + x, finished ? f_mul(f_sub(offset[2], third), gain[2]) : third);
        }
    }
}

/* Columns [from, to) of one value, or of two. */
INLINE void NAME(narrow)(const edge_columns *columns, const edge_row_job *job, int two, int is_near, int finished)
{
    V weight = v_set16(job->weight);
    V first = v_table(columns->table[0]), second = v_table(columns->table[1]);
    const edge_eight *eights = columns->eights;
    const uint8_t *row_a = job->a, *row_b = job->b;
    float *to0 = job->rows[0], *to1 = two ? job->rows[1] : NULL;
    size_t end = job->to;
    F offset = f_set(finished ? job->offset[0] : 0.0f), gain = f_set(finished ? job->gain[0] : 0.0f);
    for (size_t x = job->from; x < end; x += WIDE) {
        const edge_eight *eight = eights + x / 8;
        const size_t half = WIDE == 8 ? 0 : x % 8;
        const int32_t *at = eight->offsets + half;
        V a, b, pairs = v_load(eight->weights + half);
        if (is_near) {
            a = v_near(row_a, at), b = v_near(row_b, at);
            first = v_load(eight->near[0] + 4 * half);
            second = v_load(eight->near[1] + 4 * half);
        } else {
            a = v_gather4(row_a, at), b = v_gather4(row_b, at);
        }
        F level = NAME(blend)(v_shuffle(a, first), v_shuffle(b, first), weight, pairs);
        f_store(to0 + x, finished ? f_mul(f_sub(offset, level), gain) : level);
        if (two)
            f_store(to1 + x, NAME(blend)(v_shuffle(a, second), v_shuffle(b, second), weight, pairs));
    }
}

TARGET static void NAME(sample)(const edge_columns *columns, const edge_row_job *job)
{
    int finished = job->gain != NULL; /* of pictures, never of chroma */
    switch ((columns->load == 8 ? 4 : 0) + (columns->is_near ? 2 : 0) + (columns->rows != 2)) {
    case 0:
        NAME(narrow)(columns, job, 1, 0, 0);
        break;
    case 1:
        finished ? NAME(narrow)(columns, job, 0, 0, 1) : NAME(narrow)(columns, job, 0, 0, 0);
        break;
    case 2:
        NAME(narrow)(columns, job, 1, 1, 0);
        break;
    case 3:
        finished ? NAME(narrow)(columns, job, 0, 1, 1) : NAME(narrow)(columns, job, 0, 1, 0);
        break;
    case 4:
        NAME(wide)(columns, job, 0, 0, 0);
        break;
    case 5:
        finished ? NAME(wide)(columns, job, 1, 0, 1) : NAME(wide)(columns, job, 1, 0, 0);
        break;
    case 6:
        NAME(wide)(columns, job, 0, 1, 0);
        break;
    default:
        finished ? NAME(wide)(columns, job, 1, 1, 1) : NAME(wide)(columns, job, 1, 1, 0);
    }
}

INLINE F NAME(clipped)(F level)
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
#undef INLINE
#undef NAME
#undef HALF_WIDE
