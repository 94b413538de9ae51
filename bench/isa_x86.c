/* isa_x86.c: the inner loops of AVX2 and AVX-512 with their constants, one to a function, for
 * tools/count_x86.py, which reads the machine code. Not run. */
#define SKV_STATIC
#define SPECTRAL_KV_IMPLEMENTATION
#include "spectral_kv.h"

#define AVX2 __attribute__((target("avx2")))
#define EXPAND(h) \
    AVX2 void expand_##h##_avx2(const unsigned char *q, int kind, uint32_t n, signed char *to); \
    AVX2 void expand_##h##_avx2(const unsigned char *q, int kind, uint32_t n, signed char *to) \
    { \
        for (; n; n--, q += 32 * h, to += SKVI_PAIR_BYTES) \
            skvi_expand_two_avx2(h, 1, q, q + 16 * h, kind, 0, to, to + 16); \
    } \
    SKVI_AVX512 \
    void expand_##h##_avx512(const unsigned char *q, int kind, uint32_t n, signed char *to); \
    SKVI_AVX512 \
    void expand_##h##_avx512(const unsigned char *q, int kind, uint32_t n, signed char *to) \
    { \
        skvi_expand_run_avx512(q, h, kind, 0, n, to); \
    }
#define ATTEND(attribute, set, rows, pairs) \
    attribute void score_##rows##_##set(const signed char *x, const signed char *q, uint32_t n, \
                                        int32_t *acc); \
    attribute void score_##rows##_##set(const signed char *x, const signed char *q, uint32_t n, \
                                        int32_t *acc) \
    { \
        skvi_score_rows_##set(rows, x, q, n, acc); \
    } \
    attribute void value_##rows##_##set(const signed char *x, const unsigned char *w, \
                                        int32_t *acc); \
    attribute void value_##rows##_##set(const signed char *x, const unsigned char *w, \
                                        int32_t *acc) \
    { \
        skvi_value_pairs_##set(rows, pairs, x, w, acc); \
    }

EXPAND(4)
EXPAND(8)
ATTEND(AVX2, avx2, 3, 2)
ATTEND(AVX2, avx2, 4, 2)
ATTEND(SKVI_AVX512, avx512, 3, 4)
ATTEND(SKVI_AVX512, avx512, 4, 4)
