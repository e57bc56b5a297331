#include "scores_kernel.h"

#include <math.h>

int edge_softmax(const float *x, float *out, size_t rows, size_t classes, double temperature, size_t *bad_row)
{
    double inverse = 1.0 / temperature;
    for (size_t r = 0; r < rows; r++, x += classes, out += classes) {
        float top = x[0];
        int unordered = 0; /* a comparison alone would step over a NaN */
        for (size_t c = 0; c < classes; c++) {
            unordered |= x[c] != x[c];
            top = x[c] > top ? x[c] : top;
        }
        if (unordered || !isfinite(top)) {
            *bad_row = r;
            return -1;
        }
        double total = 0.0;
        for (size_t c = 0; c < classes; c++) {
            /* The difference in double: it neither overflows nor loses small gaps. */
            float e = expf((float)(((double)x[c] - (double)top) * inverse));
            out[c] = e;
            total += (double)e;
        }
        float scale = (float)(1.0 / total); /* total >= 1: the largest contributes exp(0) */
        for (size_t c = 0; c < classes; c++)
            out[c] *= scale;
    }
    return 0;
}
