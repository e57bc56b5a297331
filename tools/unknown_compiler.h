/* Makes the kernels believe that an unknown compiler compiles them: plain C must do. Included before everything. */
#include <limits.h>
#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#undef __GNUC__
#undef __clang__
