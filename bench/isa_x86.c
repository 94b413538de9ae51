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
            skvi_expand_two_avx2(h, 1, q, q + 16 * h, kind, 0, to); \
    }
#define ATTEND(rows) \
    AVX2 void score_##rows##_avx2(const signed char *x, const signed char *q, uint32_t n, \
                                  int32_t *acc); \
    AVX2 void score_##rows##_avx2(const signed char *x, const signed char *q, uint32_t n, \
                                  int32_t *acc) \
    { \
        skvi_score_rows_avx2(rows, x, q, n, acc); \
    } \
    AVX2 void value_##rows##_avx2(const signed char *x, const unsigned char *w, int32_t *acc); \
    AVX2 void value_##rows##_avx2(const signed char *x, const unsigned char *w, int32_t *acc) \
    { \
        skvi_value_pairs_avx2(rows, 2, x, w, acc); \
    }
/* AVX-512 expands and multiplies in one loop; here for one gang. */
#define AT_ONCE(rows) \
    SKVI_AVX512 void score_##rows##_avx512(const skvi_joint *from, const float *q, float *s); \
    SKVI_AVX512 void score_##rows##_avx512(const skvi_joint *from, const float *q, float *s) \
    { \
        skvi_joint j = *from; \
        j.kept = 0; \
        j.levels = NULL; \
        skvi_keys_rows_avx512(rows, &j, q, s); \
    } \
    SKVI_AVX512 \
    void value_##rows##_avx512(const skvi_joint *from, const unsigned char *w, float *o); \
    SKVI_AVX512 \
    void value_##rows##_avx512(const skvi_joint *from, const unsigned char *w, float *o) \
    { \
        skvi_joint j = *from; \
        j.kept = 0; \
        j.levels = NULL; \
        skvi_values_rows_avx512(rows, &j, w, o); \
    }

EXPAND(4)
EXPAND(8)
ATTEND(3)
ATTEND(4)
AT_ONCE(3)
AT_ONCE(4)
