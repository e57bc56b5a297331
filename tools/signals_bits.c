/* Writes the values of every signal of ext/src/signals_kernel.c for inputs of its own: the bytes whose SHA-256 stands in
 * tests/ext/test_signals.py. To see that a compiler or processor keeps to them:
 *
 *   gcc -O3 -std=c11 -ffp-contract=off -Iext/src tools/signals_bits.c ext/src/signals_kernel.c -lm -o build/bits
 *   build/bits | sha256sum
 */
#include "signals_kernel.h"

#include <stdio.h>

#define ROWS 8
#define MOST 1500

static double wide[ROWS * MOST];
static float narrow[ROWS * MOST];

static void write(size_t classes, edge_signal signal)
{
    double values[ROWS], total;
    size_t bad_row;
    for (int is_wide = 1; is_wide >= 0; is_wide--) {
        const void *p = is_wide ? (const void *)wide : (const void *)narrow;
        if (edge_signals(p, is_wide, ROWS, classes, &signal, 1.0, values, NULL, &bad_row, &total))
            fprintf(stderr, "row %zu of %zu classes is refused\n", bad_row, classes);
        fwrite(values, sizeof *values, ROWS, stdout);
    }
}

int main(void)
{
    static const size_t counts[] = {1, 2, 10, 100, 256, 1500};
    static const double temperatures[] = {1.0, 0.3, 2.7};
    static double weights[2 * (4 * EDGE_MOST_CLASSES + EDGE_TOP + 3)];
    for (size_t c = 0; c < sizeof counts / sizeof *counts; c++) {
        size_t classes = counts[c];
        for (size_t row = 0; row < ROWS; row++) {
            double total = 0.0, *p = wide + row * classes;
            for (size_t at = 0; at < classes; at++) {
                double level = (double)((at * at * 31 + at * 7 + row * 13 + 1) % 251);
                p[at] = at % 5 == 4 ? 0.0 : level * level * level;
                total += p[at];
            }
            for (size_t at = 0; at < classes; at++) {
                p[at] /= total;
                narrow[row * classes + at] = (float)p[at];
            }
        }
        for (size_t t = 0; t < sizeof temperatures / sizeof *temperatures; t++)
            for (int kind = EDGE_MAX_PROBABILITY; kind < EDGE_LEARNED; kind++)
                write(classes, (edge_signal){kind, 1.0 / temperatures[t], NULL});
        if (classes > EDGE_MOST_CLASSES)
            continue;
        for (size_t n = 0; n < 2 * (edge_feature_count(classes) + 1); n++)
            weights[n] = ((double)(n * 37 % 101) - 50.0) / 64.0;
        write(classes, (edge_signal){EDGE_LEARNED, 1.0, weights});
    }
    return 0;
}
